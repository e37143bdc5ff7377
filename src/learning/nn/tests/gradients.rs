use dfdx::nn::modules::Linear;
use dfdx::nn::{BuildModule, LoadFromSafetensors, SaveToSafetensors};
use dfdx::prelude::*;

use super::{map, noise};
use crate::learning::nn::tape::{self, Taped, values};
use crate::learning::nn::*;

/// A weighted sum of the sines of the outputs. Each output has a different weight, and the sines make the gradients
/// vary.
fn objective(y: &[f32]) -> f64 {
    y.iter().enumerate().map(|(i, v)| f64::from(*v).sin() * (1.0 + (i % 7) as f64 / 7.0)).sum()
}

/// The gradient of the objective, with which the backward pass starts.
fn objective_gradient(y: &[f32]) -> Vec<f32> {
    y.iter().enumerate().map(|(i, v)| (f64::from(*v).cos() * (1.0 + (i % 7) as f64 / 7.0)) as f32).collect()
}

/// Puts the objective of `y` on the tape, and runs the backward pass.
fn judge<S: Shape>(y: Tensor<S, f32, Cpu, Taped>) -> Gradients<f32, Cpu> {
    let (y, tape) = y.split_tape();
    let points = values(&y);
    let loss =
        tape::record(y.device(), tape, vec![objective(&points) as f32], (), vec![tape::accumulate(&y)], move |g| {
            vec![objective_gradient(&points).iter().map(|v| v * g[0]).collect()]
        });
    loss.unwrap().backward()
}

/// Compares `gradient` with finite differences. `objective_with` returns the objective with one value moved.
fn check(what: &str, gradient: &[f32], objective_with: impl Fn(usize, f32) -> f64) {
    let step = 2e-3f32;
    let mut errors: Vec<f64> = (0..gradient.len())
        .step_by((gradient.len() / 60).max(1))
        .map(|i| {
            let slope = |h: f32| (objective_with(i, h) - objective_with(i, -h)) / (2.0 * f64::from(h));
            // Richardson extrapolation: the error of order h² cancels.
            let numeric = (4.0 * slope(step / 2.0) - slope(step)) / 3.0;
            (numeric - f64::from(gradient[i])).abs() / (1.0 + numeric.abs())
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    // A ReLU or a maximum may switch within a step, so a few errors may be large, but not most.
    let (median, high) = (errors[errors.len() / 2], errors[errors.len() * 9 / 10]);
    assert!(median < 2e-3 && high < 3e-2, "{what}: median error {median:.1e}, 90th percentile {high:.1e}");
}

fn moved(x: &[f32], i: usize, h: f32) -> Vec<f32> {
    let mut x = x.to_vec();
    x[i] += h;
    x
}

/// Images → a convolution → the block → (batch, C). The gradients of the first convolution also check the gradient of
/// the block's input.
macro_rules! check_block {
    ($block:ty, $inputs:literal => $outputs:literal, |$b:ident, $x:ident, $chain:ident| $train:expr,
        [$($name:literal: $($field:ident).+),*]) => {{
        let device = Cpu::seed_from_u64(5);
        let front = Conv::<3, $inputs, 3, f32, Cpu>::build(&device);
        let block = <$block>::build(&device);
        let run = |front: &Conv<3, $inputs, 3, f32, Cpu>, block: &$block| -> Rows<$outputs> {
            let (mut $b, mut $chain) = (block.clone(), Chain::default());
            let $x = front.train("front", &map((3, 6, 7, 3), 9).into(), &mut $chain).unwrap();
            let y = $train;
            $chain.record(&device, y, Gradients::leaky()).unwrap()
        };
        let gradients = judge(run(&front, &block));
        let before = values(&front.weight);
        check("input", &values(&gradients.get(&front.weight)), |i, h| {
            let mut changed = front.clone();
            changed.weight.copy_from(&moved(&before, i, h));
            objective(&values(&run(&changed, &block)))
        });
        $({
            let before = values(&block.$($field).+);
            check($name, &values(&gradients.get(&block.$($field).+)), |i, h| {
                let mut changed = block.clone();
                changed.$($field).+.copy_from(&moved(&before, i, h));
                objective(&values(&run(&front, &changed)))
            });
        })*
    }};
}

#[test]
fn gradients_of_the_convolution_block() {
    check_block!(ConvBlock<4, 5, true, f32, Cpu>, 4 => 5,
        |b, x, chain| average_trained(&b.train("block", &x, &mut chain).unwrap(), &mut chain),
        ["weight": conv.weight, "bias": conv.bias, "scale": norm.scale, "offset": norm.offset]);
}

#[test]
fn gradients_of_the_convolution_block_by_tiles_without_pooling() {
    check_block!(ConvBlock<17, 18, false, f32, Cpu>, 17 => 18,
        |b, x, chain| average_trained(&b.train("block", &x, &mut chain).unwrap(), &mut chain),
        ["weight": conv.weight, "bias": conv.bias, "scale": norm.scale, "offset": norm.offset]);
}

#[test]
fn gradients_of_the_residual_block() {
    check_block!(ResidualBlock<4, 4, false, Identity, f32, Cpu>, 4 => 4,
        |b, x, chain| average_trained(&b.train("block", &x, &mut chain).unwrap(), &mut chain),
        ["weight 1": conv1.weight, "weight 2": conv2.weight, "bias 2": conv2.bias, "scale 1": norm1.scale,
            "offset 2": norm2.offset]);
}

#[test]
fn gradients_of_the_residual_block_with_pooling() {
    check_block!(ResidualBlock<16, 16, true, Identity, f32, Cpu>, 16 => 16,
        |b, x, chain| average_trained(&b.train("block", &x, &mut chain).unwrap(), &mut chain),
        ["weight 1": conv1.weight, "bias 1": conv1.bias, "weight 2": conv2.weight, "bias 2": conv2.bias]);
}

#[test]
fn gradients_of_the_residual_block_with_pooling_and_a_convolution_around() {
    check_block!(ResidualBlock<4, 6, true, Conv<4, 6, 1, f32, Cpu>, f32, Cpu>, 4 => 6,
        |b, x, chain| average_trained(&b.train("block", &x, &mut chain).unwrap(), &mut chain),
        ["weight 1": conv1.weight, "weight 2": conv2.weight, "shortcut": shortcut.weight, "offset 1": norm1.offset]);
}

#[test]
fn gradients_of_the_average() {
    check_block!(NormAverage<5, f32, Cpu>, 5 => 5, |b, x, chain| b.train(&x, &mut chain).unwrap(),
        ["scale": norm.scale, "offset": norm.offset]);
}

#[test]
fn the_dense_layer_and_tanh_have_their_values_and_gradients() {
    let layer = Linear::<5, 37, f32, Cpu>::build(&Cpu::seed_from_u64(3));
    let x = noise(55, 1);
    let run = |layer: &Linear<5, 37, f32, Cpu>, x: &[f32]| {
        tanh_taped(linear_taped(layer, rows(x).leaky_trace()).unwrap()).unwrap()
    };
    let (weight, bias) = (values(&layer.weight), values(&layer.bias));
    for (place, found) in values(&run(&layer, &x)).into_iter().enumerate() {
        let (n, o) = (place / 37, place % 37);
        let sum: f64 = (0..5).map(|i| f64::from(x[n * 5 + i]) * f64::from(weight[o * 5 + i])).sum();
        assert!((f64::from(found) - (sum + f64::from(bias[o])).tanh()).abs() < 1e-6);
    }
    let input = rows(&x);
    let gradients = judge(tanh_taped(linear_taped(&layer, input.leaky_trace()).unwrap()).unwrap());
    check("input", &values(&gradients.get(&input)), |i, h| objective(&values(&run(&layer, &moved(&x, i, h)))));
    check("weight", &values(&gradients.get(&layer.weight)), |i, h| {
        let mut changed = layer.clone();
        changed.weight.copy_from(&moved(&weight, i, h));
        objective(&values(&run(&changed, &x)))
    });
    check("bias", &values(&gradients.get(&layer.bias)), |i, h| {
        let mut changed = layer.clone();
        changed.bias.copy_from(&moved(&bias, i, h));
        objective(&values(&run(&changed, &x)))
    });
}

#[test]
fn values_that_are_no_numbers_end_in_an_error_that_names_the_layer() {
    let device = Cpu::seed_from_u64(1);
    let train = |spoil: &dyn Fn(&mut ResidualBlock<4, 4, true, Identity, f32, Cpu>)| {
        let (front, mut block) = (Conv::<3, 4, 3, f32, Cpu>::build(&device), ResidualBlock::build(&device));
        spoil(&mut block);
        let mut chain = Chain::default();
        let x = front.train("front", &map((3, 6, 6, 3), 9).into(), &mut chain).unwrap();
        block.train("block", &x, &mut chain).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(train(&|_| ()), Ok(()));
    let said = |layer: &str| Err(format!("the output of layer {layer} is not finite"));
    assert_eq!(train(&|block| block.conv1.weight.copy_from(&[f32::NAN; 144])), said("block.conv1"));
    assert_eq!(train(&|block| block.conv2.bias.copy_from(&[0.0, f32::INFINITY, 0.0, 0.0])), said("block.conv2"));
    let mut spoilt = map((3, 6, 6, 3), 9);
    spoilt.values[7] = f32::NAN;
    let mut block = ConvBlock::<3, 4, true, f32, Cpu>::build(&device);
    let error = block.train("block1", &spoilt.into(), &mut Chain::default()).err().unwrap();
    assert_eq!(error.to_string(), "the output of layer block1.conv is not finite");
}

fn rows(x: &[f32]) -> Tensor<(usize, Const<5>), f32, Cpu> {
    Cpu::default().tensor_from_vec(x.to_vec(), (x.len() / 5, Const))
}

#[test]
fn gradients_of_normalising() {
    let x = noise(20, 3);
    let input = rows(&x);
    let gradients = judge(normalize_taped(input.leaky_trace()).unwrap());
    check("rows", &values(&gradients.get(&input)), |i, h| {
        let mut y = moved(&x, i, h);
        crate::learning::nn::normalize(&mut y, 5);
        objective(&y)
    });
}

#[test]
fn the_triplet_loss_by_hand_and_its_gradient() {
    // d(a, p) = 1, d(a, n) = 0.5: 1 - 0.5 + 0.2.
    let line = [0.0f32, 1.0, 0.5];
    for triplets in [Triplets::Given, Triplets::All(vec![0, 0, 1])] {
        // Of all triplets, only those of anchors 0 and 1 with the negative 2 are valid.
        let value = triplet_loss(&line, 1, &triplets, 0.2);
        assert!((value.loss - 0.7).abs() < 1e-6 && value.active == 1.0, "{value:?}");
        assert_eq!((value.positives[0], value.negatives[0]), (1.0, 0.5));
    }
    for triplets in [Triplets::Given, Triplets::All(vec![0, 1, 0, 1, 2, 2])] {
        let x = noise(30, 4);
        let input = rows(&x);
        let judge = |points: &[f32]| {
            let found = triplet_loss(points, 5, &triplets, 1.5);
            (found.loss, found.gradient, ())
        };
        let (loss, ()) = tape::loss(input.leaky_trace(), judge).unwrap();
        let gradients = loss.backward();
        check("embeddings", &values(&gradients.get(&input)), |i, h| {
            triplet_loss(&moved(&x, i, h), 5, &triplets, 1.5).loss
        });
    }
}

#[test]
fn the_cross_entropy_by_hand_and_its_gradients() {
    // Cosines 1 and 0 with scale 2; lengths do not matter.
    let by_hand = (1.0 + (-2.0f64).exp()).ln();
    let sure = Mixed { labels: [0, 0], share: 1.0 };
    let entropy = cross_entropy(&[3.0, 0.0], &[0.5, 0.0, 0.0, 7.0], 2, &[sure], 2.0);
    assert!((entropy.loss - by_hand).abs() < 1e-6, "{}", entropy.loss);
    let mixed = Mixed { labels: [0, 1], share: 0.75 };
    let entropy = cross_entropy(&[3.0, 0.0], &[0.5, 0.0, 0.0, 7.0], 2, &[mixed], 2.0);
    assert!((entropy.loss - by_hand - 0.25 * 2.0).abs() < 1e-6, "{}", entropy.loss);

    let (points, proxies) = (noise(20, 4), noise(15, 6));
    let targets = [[0, 0], [1, 2], [2, 0], [1, 1]].map(|labels| Mixed { labels, share: 0.6 });
    let of = |points: &[f32], proxies: &[f32]| cross_entropy(points, proxies, 5, &targets, 4.0);
    let found = of(&points, &proxies);
    check("embeddings", &found.for_embeddings, |i, h| of(&moved(&points, i, h), &proxies).loss);
    check("proxies", &found.for_proxies, |i, h| of(&points, &moved(&proxies, i, h)).loss);
}

#[test]
fn adamw_goes_as_by_hand_and_goes_on_where_it_stopped() {
    let mut block = ConvBlock::<3, 4, true, f32, Cpu>::build(&Cpu::seed_from_u64(1));
    let mut gradients = block.alloc_grads();
    gradients.get_or_alloc_mut(&block.conv.weight).unwrap().fill(0.5);
    gradients.get_or_alloc_mut(&block.norm.scale).unwrap().fill(-0.25);
    let (weight, scale) = (values(&block.conv.weight), values(&block.norm.scale));
    let (mut optimizer, mut beside) = (AdamW::new(0.1), vec![1.0f32]);
    let mut step = |optimizer: &mut AdamW, block: &mut ConvBlock<3, 4, true, f32, Cpu>, beside: &mut [f32]| {
        optimizer.update(block, &mut gradients, Some((beside, &[2.0])), 0.01).unwrap();
    };
    step(&mut optimizer, &mut block, &mut beside);
    // The first step depends only on the sign of the gradient. Weights and additional parameters decay. Scales do not.
    let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
    assert!(near(values(&block.conv.weight)[7], weight[7] - 0.01 - 0.001 * weight[7]));
    assert!(near(values(&block.norm.scale)[2], scale[2] + 0.01) && near(beside[0], 1.0 - 0.01 - 0.001));

    let (steps, moments) = optimizer.state();
    let mut resumed = (AdamW::resumed(0.1, steps, moments), block.clone(), beside.clone());
    assert_eq!(resumed.0.state(), optimizer.state());
    for _ in 0..3 {
        step(&mut optimizer, &mut block, &mut beside);
        step(&mut resumed.0, &mut resumed.1, &mut resumed.2);
    }
    assert_eq!((values(&block.conv.weight), beside), (values(&resumed.1.conv.weight), resumed.2));
    assert_eq!(optimizer, resumed.0);
}

#[test]
fn blocks_are_saved_and_loaded_whole() {
    let mut block = ConvBlock::<3, 4, true, f32, Cpu>::build(&Cpu::seed_from_u64(1));
    let x = Signal::from(map((2, 4, 4, 3), 1));
    block.train("block", &x, &mut Chain::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("block.safetensors");
    block.save_safetensors(&path).unwrap();
    let mut other = ConvBlock::<3, 4, true, f32, Cpu>::build(&Cpu::seed_from_u64(2));
    let said = |block: &ConvBlock<3, 4, true, f32, Cpu>| average(&block.infer(&x));
    assert_ne!(said(&other), said(&block));
    other.load_safetensors(&path).unwrap();
    assert_eq!(said(&other), said(&block));
}

#[test]
fn running_statistics_come_to_what_training_sees() {
    let (device, x) = (Cpu::seed_from_u64(1), Signal::from(map((8, 6, 6, 3), 3)));
    let front = Conv::<3, 4, 3, f32, Cpu>::build(&device);
    let mut plain = ConvBlock::<3, 5, true, f32, Cpu>::build(&device);
    let mut residual = ResidualBlock::<4, 4, false, Identity, f32, Cpu>::build(&device);
    let mut norm = NormAverage::<4, f32, Cpu>::build(&device);
    let mut seen = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let mut chain = Chain::default();
        let one = average(&plain.train("plain", &x, &mut chain).unwrap());
        let two = residual.train("residual", &front.train("front", &x, &mut chain).unwrap(), &mut chain).unwrap();
        seen = (one.values.to_vec(), norm.train(&two, &mut chain).unwrap().values.to_vec());
    }
    let near = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(near(&average(&plain.infer(&x)).values, &seen.0));
    assert!(near(&norm.infer(&residual.infer(&front.infer(&x))).values, &seen.1));

    let identity = Conv::<1, 1, 1, f32, Cpu>::build(&device);
    let mut norm = NormAverage::<1, f32, Cpu>::build(&device);
    let mut chain = Chain::default();
    let x = Signal::from(FeatureMap::new((1, 1, 2, 1), vec![4.0, 6.0]));
    norm.train(&identity.train("identity", &x, &mut chain).unwrap(), &mut chain).unwrap();
    let weight = identity.weight.array()[0][0][0][0];
    let found = (norm.norm.running_mean.array()[0], norm.norm.running_variance.array()[0]);
    let expected = (0.5 * weight, 0.9 + 0.1 * weight * weight);
    assert!(
        (found.0 - expected.0).abs() < 1e-6 && (found.1 - expected.1).abs() < 1e-6,
        "nine tenths are kept: {found:?}"
    );
}
