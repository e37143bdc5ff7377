//! Kernels against naive references, and every op by finite differences.

use dfdx::nn::{BuildModule, LoadFromSafetensors, SaveToSafetensors, ZeroGrads};
use dfdx::prelude::*;
use proptest::prelude::*;

use super::conv::{Packed, channel_sums, convolve, weight_gradient};
use super::kernels::Simd;
use super::tape::{Map, Taped, values};
use super::*;

/// Values between -1 and 1 that look random.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn map(shape: (usize, usize, usize, usize), seed: u64) -> FeatureMap {
    FeatureMap::new(shape, noise(shape.0 * shape.1 * shape.2 * shape.3, seed))
}

/// Calls `visit(image, output row, column, output channel, input place, weight place)` for every product.
fn products(x: &FeatureMap, outputs: usize, kernel: usize, mut visit: impl FnMut(usize, usize, usize)) {
    let border = kernel / 2;
    for n in 0..x.batch {
        for (row, column, o) in
            (0..x.height).flat_map(|r| (0..x.width).flat_map(move |c| (0..outputs).map(move |o| (r, c, o))))
        {
            for (dr, dc, i) in
                (0..kernel).flat_map(|r| (0..kernel).flat_map(move |c| (0..x.channels).map(move |i| (r, c, i))))
            {
                let (r, c) = ((row + dr).wrapping_sub(border), (column + dc).wrapping_sub(border));
                if r < x.height && c < x.width {
                    let y = ((n * x.height + row) * x.width + column) * outputs + o;
                    let input = ((n * x.height + r) * x.width + c) * x.channels + i;
                    visit(y, input, ((o * x.channels + i) * kernel + dr) * kernel + dc);
                }
            }
        }
    }
}

fn close(found: &[f32], expected: &[f64]) -> bool {
    let scale = expected.iter().fold(1.0f64, |most, value| most.max(value.abs()));
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 2e-6 * scale)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn convolutions_agree_with_a_naive_reference_on_every_path(
        batch in 1usize..4, height in 1usize..11, width in 1usize..19, inputs in 1usize..40, outputs in 1usize..40,
        wide in any::<bool>(), seed in any::<u64>(),
    ) {
        let kernel = if wide { 3 } else { 1 };
        let (x, weight) = (map((batch, height, width, inputs), seed), noise(outputs * inputs * kernel * kernel, seed ^ 1));
        let g = map((batch, height, width, outputs), seed ^ 2);
        let bias = noise(outputs, seed ^ 3);
        let mut y: Vec<f64> = (0..g.values.len()).map(|place| f64::from(bias[place % outputs])).collect();
        let (mut for_x, mut for_weight) = (vec![0.0f64; x.values.len()], vec![0.0f64; weight.len()]);
        products(&x, outputs, kernel, |at, input, w| {
            let (value, factor, gradient) = (f64::from(x.values[input]), f64::from(weight[w]), f64::from(g.values[at]));
            y[at] += value * factor;
            for_x[input] += factor * gradient;
            for_weight[w] += value * gradient;
        });
        let mut first: Option<(FeatureMap, FeatureMap, Vec<f32>)> = None;
        for simd in Simd::available() {
            let found = (
                convolve(simd, &x, &Packed::forward(&weight, inputs, outputs, kernel), &bias),
                convolve(simd, &g, &Packed::backward(&weight, inputs, outputs, kernel), &vec![0.0; inputs]),
                weight_gradient(simd, &x, &g, kernel),
            );
            prop_assert!(close(&found.0.values, &y), "forward, {:?}", simd);
            prop_assert!(close(&found.1.values, &for_x), "input gradient, {:?}", simd);
            prop_assert!(close(&found.2, &for_weight), "weight gradient, {:?}", simd);
            prop_assert_eq!(first.get_or_insert(found.clone()), &found, "the bits of {:?}", simd);
        }
    }

    #[test]
    fn pooling_takes_the_largest_and_gives_it_the_gradient(
        batch in 1usize..3, height in 2usize..8, width in 2usize..8, channels in 1usize..5, seed in any::<u64>(),
    ) {
        let x = map((batch, height, width, channels), seed);
        let (y, winners) = pool::max_pool(&x);
        let g = map((batch, height / 2, width / 2, channels), seed ^ 1);
        let back = pool::max_pool_backward(&g, &winners, (height, width));
        let at = |n: usize, r: usize, c: usize, i: usize| ((n * height + r) * width + c) * channels + i;
        let mut expected = vec![0.0; x.values.len()];
        for place in 0..y.values.len() {
            let (i, rest) = (place % channels, place / channels);
            let (c, rest) = (rest % (width / 2), rest / (width / 2));
            let (r, n) = (rest % (height / 2), rest / (height / 2));
            let four = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(dr, dc)| at(n, 2 * r + dr, 2 * c + dc, i));
            let best = four.into_iter().reduce(|a, b| if x.values[b] > x.values[a] { b } else { a }).unwrap();
            prop_assert_eq!(y.values[place], x.values[best]);
            expected[best] = g.values[place];
        }
        prop_assert_eq!(back.values, expected);
    }
}

#[test]
fn dfdx_multiplies_matrices_rightly() {
    let device = Cpu::default();
    let row: Tensor<Rank2<1, 3>, f32, _> = device.tensor([[1.0, 2.0, 3.0]]);
    let column: Tensor<Rank2<3, 1>, f32, _> = device.tensor([[1.0], [10.0], [100.0]]);
    assert_eq!(row.matmul(column).array(), [[321.0]], "dfdx needs its feature `cpu`");
}

#[test]
fn sums_do_not_depend_on_the_number_of_threads() {
    let (x, g) = (map((37, 9, 9, 20), 1), map((37, 9, 9, 40), 2));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (weight_gradient(Simd::best(), &x, &g, 3), channel_sums(&g)))
    };
    assert_eq!(with(1), with(3));
}

/// Weighs the outputs so that every one of them matters, each differently; also bends, so that gradients vary.
fn objective(y: &[f32]) -> f64 {
    y.iter().enumerate().map(|(i, v)| f64::from(*v).sin() * (1.0 + (i % 7) as f64 / 7.0)).sum()
}

/// Its gradient, as the seed of the way back.
fn objective_gradient(y: &[f32]) -> Vec<f32> {
    y.iter().enumerate().map(|(i, v)| (f64::from(*v).cos() * (1.0 + (i % 7) as f64 / 7.0)) as f32).collect()
}

/// Puts the objective behind `y` on the tape.
fn judge<S: Shape>(y: Tensor<S, f32, Cpu, Taped>) -> Gradients<f32, Cpu> {
    let (y, tape) = y.split_tape();
    let points = values(&y);
    let loss =
        tape::record(y.device(), tape, vec![objective(&points) as f32], (), vec![tape::accumulate(&y)], move |g| {
            vec![objective_gradient(&points).iter().map(|v| v * g[0]).collect()]
        });
    loss.unwrap().backward()
}

/// Compares `gradient` of the parameter reached by `with` (which gives the objective with one value moved).
fn check(what: &str, gradient: &[f32], objective_with: impl Fn(usize, f32) -> f64) {
    let step = 1e-2f32;
    let mut errors: Vec<f64> = (0..gradient.len())
        .step_by((gradient.len() / 60).max(1))
        .map(|i| {
            let slope = |h: f32| (objective_with(i, h) - objective_with(i, -h)) / (2.0 * f64::from(h));
            // Richardson: the error of order h² cancels.
            let numeric = (4.0 * slope(step / 2.0) - slope(step)) / 3.0;
            (numeric - f64::from(gradient[i])).abs() / (1.0 + numeric.abs())
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    // A ReLU or a maximum may flip within a step, so a few may be off; most may not.
    let (median, high) = (errors[errors.len() / 2], errors[errors.len() * 9 / 10]);
    assert!(median < 2e-3 && high < 3e-2, "{what}: median error {median:.1e}, 90th percentile {high:.1e}");
}

fn moved(x: &[f32], i: usize, h: f32) -> Vec<f32> {
    let mut x = x.to_vec();
    x[i] += h;
    x
}

fn on_tape_of(device: &Cpu, x: &FeatureMap) -> Map<4, Taped> {
    device.tensor_from_vec(x.values.clone(), (x.batch, x.height, x.width, Const)).leaky_trace()
}

const SHAPE: (usize, usize, usize) = (3, 6, 6);

fn on_device<const C: usize>(device: &Cpu, x: &[f32]) -> Map<C> {
    device.tensor_from_vec(x.to_vec(), (SHAPE.0, SHAPE.1, SHAPE.2, Const))
}

/// Checks the gradients of a block's input and of the parameters named, by finite differences.
macro_rules! check_block {
    ($block:ty, $inputs:literal, |$b:ident, $x:ident| $train:expr, [$($name:literal: $($field:ident).+),*]) => {{
        let device = Cpu::seed_from_u64(5);
        let block = <$block>::build(&device);
        let x = noise(SHAPE.0 * SHAPE.1 * SHAPE.2 * $inputs, 9);
        let forward = |block: &$block, x: &[f32]| {
            #[allow(unused_mut)]
            let mut $b = block.clone();
            let $x = on_device::<$inputs>(&device, x).leaky_trace();
            objective(&values(&$train.unwrap()))
        };
        let input = on_device::<$inputs>(&device, &x);
        #[allow(unused_mut)]
        let mut $b = block.clone();
        let $x = input.leaky_trace();
        let gradients = judge($train.unwrap());
        check("input", &values(&gradients.get(&input)), |i, h| forward(&block, &moved(&x, i, h)));
        $({
            let before = values(&block.$($field).+);
            check($name, &values(&gradients.get(&block.$($field).+)), |i, h| {
                let mut changed = block.clone();
                changed.$($field).+.copy_from(&moved(&before, i, h));
                forward(&changed, &x)
            });
        })*
    }};
}

#[test]
fn gradients_of_the_convolution_block() {
    check_block!(ConvBlock<4, 5, true, f32, Cpu>, 4, |b, x| b.train(x, true),
        ["weight": conv.weight, "scale": norm.scale, "offset": norm.offset]);
}

#[test]
fn gradients_of_the_residual_block() {
    check_block!(ResidualBlock<4, 4, false, Identity, f32, Cpu>, 4, |b, x| b.train(x),
        ["weight 1": conv1.weight, "weight 2": conv2.weight, "bias 2": conv2.bias, "scale 1": norm1.scale, "offset 2": norm2.offset]);
}

#[test]
fn gradients_of_the_residual_block_with_pooling_and_a_convolution_around() {
    check_block!(ResidualBlock<4, 6, true, Conv<4, 6, 1, f32, Cpu>, f32, Cpu>, 4, |b, x| b.train(x),
        ["weight 1": conv1.weight, "weight 2": conv2.weight, "shortcut": shortcut.weight, "offset 1": norm1.offset]);
}

#[test]
fn gradients_of_the_average() {
    check_block!(NormAverage<5, f32, Cpu>, 5, |b, x| b.train(x), ["scale": norm.scale, "offset": norm.offset]);
}

#[test]
fn gradients_of_the_plain_average_and_of_the_stem() {
    check_block!(Conv<3, 6, 3, f32, Cpu>, 3, |b, x| global_average(probe(x, &b)), ["weight": weight, "bias": bias]);
}

/// A convolution whose input takes a gradient, for the check of the stem's parameters and the average's input.
fn probe(x: Map<3, Taped>, conv: &Conv<3, 6, 3, f32, Cpu>) -> Map<6, Taped> {
    let (x, tape) = x.split_tape();
    let input = tape::feature_map(&x);
    let conv = conv.clone();
    let y = conv.forward(&input);
    let targets = vec![tape::accumulate(&x), tape::accumulate(&conv.weight), tape::accumulate(&conv.bias)];
    let shape = (y.batch, y.height, y.width, Const);
    tape::record(x.device(), tape, y.values, shape, targets, move |g| {
        let (x, weight, bias) = conv.backward(&input, &FeatureMap::new((shape.0, shape.1, shape.2, 6), g));
        vec![x.values, weight, bias]
    })
    .unwrap()
}

#[test]
fn the_stem_has_the_gradients_of_any_convolution() {
    let device = Cpu::seed_from_u64(5);
    let conv = Conv::<3, 6, 3, f32, Cpu>::build(&device);
    let x = on_device::<3>(&device, &noise(SHAPE.0 * SHAPE.1 * SHAPE.2 * 3, 9));
    let one = judge(stem(&conv, x.leaky_trace()).unwrap());
    let two = judge(probe(x.leaky_trace(), &conv));
    assert_eq!(values(&one.get(&conv.weight)), values(&two.get(&conv.weight)));
    assert_eq!(values(&one.get(&conv.bias)), values(&two.get(&conv.bias)));
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
        super::normalize(&mut y, 5);
        objective(&y)
    });
}

#[test]
fn the_triplet_loss_by_hand_and_its_gradient() {
    // d(a, p) = 1, d(a, n) = 0.5: 1 - 0.5 + 0.2.
    let line = [0.0f32, 1.0, 0.5];
    let value = evaluate_loss(&line, 1, &Triplets::Given, 0.2);
    assert!((value.loss - 0.7).abs() < 1e-6 && value.active == 1.0, "{value:?}");
    // Anchors 0 and 1 with the negative 2 only.
    let value = evaluate_loss(&line, 1, &Triplets::All(vec![0, 0, 1]), 0.2);
    assert!((value.loss - 0.7).abs() < 1e-6 && value.active == 1.0, "{value:?}");
    for triplets in [Triplets::Given, Triplets::All(vec![0, 1, 0, 1, 2, 2])] {
        let x = noise(30, 4);
        let input = rows(&x);
        let (loss, _) = triplet_loss(input.leaky_trace(), &triplets, 1.5).unwrap();
        let gradients = loss.backward();
        check("embeddings", &values(&gradients.get(&input)), |i, h| {
            evaluate_loss(&moved(&x, i, h), 5, &triplets, 1.5).loss
        });
    }
}

#[test]
fn blocks_are_saved_and_loaded_whole() {
    let device = Cpu::seed_from_u64(1);
    let mut block = ConvBlock::<3, 4, true, f32, Cpu>::build(&device);
    let x = map((2, 4, 4, 3), 1);
    let traced: Map<3> = device.tensor_from_vec(x.values.clone(), (2, 4, 4, Const));
    block.train(traced.traced(block.alloc_grads()), false).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("block.safetensors");
    block.save_safetensors(&path).unwrap();
    let mut other = ConvBlock::<3, 4, true, f32, Cpu>::build(&Cpu::seed_from_u64(2));
    assert_ne!(other.infer(&x), block.infer(&x));
    other.load_safetensors(&path).unwrap();
    assert_eq!(other.infer(&x), block.infer(&x));
}

#[test]
fn running_statistics_come_to_what_training_sees() {
    let (device, x) = (Cpu::seed_from_u64(1), map((8, 6, 6, 4), 3));
    let traced = || on_tape_of(&device, &x);
    let mut plain = ConvBlock::<4, 5, true, f32, Cpu>::build(&device);
    let mut residual = ResidualBlock::<4, 4, false, Identity, f32, Cpu>::build(&device);
    let mut seen = (Vec::new(), Vec::new());
    for _ in 0..200 {
        seen = (values(&plain.train(traced(), true).unwrap()), values(&residual.train(traced()).unwrap()));
    }
    let near = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(near(&plain.infer(&x).values, &seen.0) && near(&residual.infer(&x).values, &seen.1));

    let mut norm = BatchNorm::<1, f32, Cpu>::build(&device);
    norm.train(&FeatureMap::new((1, 1, 2, 1), vec![4.0, 6.0]), false);
    assert_eq!((norm.running_mean.array(), norm.running_variance.array()), ([0.5], [1.0]), "nine tenths are kept");
}

#[test]
fn dfdx_linear_layers_are_right_forward_and_back() {
    let (batch, device) = (160, Cpu::seed_from_u64(3));
    let layer = dfdx::nn::modules::Linear::<128, 64, f32, Cpu>::build(&device);
    let x = noise(batch * 128, 1);
    let input: Tensor<(usize, Const<128>), f32, Cpu> = device.tensor_from_vec(x.clone(), (batch, Const));
    let y = dfdx::nn::Module::forward(&layer, input.leaky_trace());
    let (weight, bias, found) = (values(&layer.weight), values(&layer.bias), values(&y));
    let g = objective_gradient(&found);
    let gradients = judge(y);
    let mut expected: Vec<f64> = (0..batch * 64).map(|place| f64::from(bias[place % 64])).collect();
    let (mut for_x, mut for_weight, mut for_bias) = (vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; 64]);
    for n in 0..batch {
        for o in 0..64 {
            let gradient = f64::from(g[n * 64 + o]);
            for_bias[o] += gradient;
            for i in 0..128 {
                let (value, factor) = (f64::from(x[n * 128 + i]), f64::from(weight[o * 128 + i]));
                expected[n * 64 + o] += value * factor;
                for_x[n * 128 + i] += factor * gradient;
                for_weight[o * 128 + i] += value * gradient;
            }
        }
    }
    assert!(close(&found, &expected), "forward");
    assert!(close(&values(&gradients.get(&input)), &for_x), "input gradient");
    assert!(close(&values(&gradients.get(&layer.weight)), &for_weight), "weight gradient");
    assert!(close(&values(&gradients.get(&layer.bias)), &for_bias), "bias gradient");
}
