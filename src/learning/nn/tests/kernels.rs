use dfdx::prelude::*;
use proptest::prelude::*;

use super::{map, noise};
use crate::base::simd::Simd;
use crate::learning::nn::FeatureMap;
use crate::learning::nn::conv::{Shape, Weights};
use crate::learning::nn::frame::Frame;
use crate::learning::nn::passes::{backward, forward};
use crate::learning::nn::pointwise::{self, Affine, Slope, Unpooled};

/// Calls `visit(output place, input place, weight place)` for every product of a convolution.
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

/// The largest error of `found`, and its root mean square error, as shares of the largest expected value.
fn errors(found: &[f32], expected: &[f64]) -> (f64, f64) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0f64, |most, value| most.max(value.abs()));
    let off: Vec<f64> = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs() / scale).collect();
    // NaN counts as the largest error.
    let worst = off.iter().copied().max_by(f64::total_cmp).unwrap_or_default();
    (worst, (off.iter().map(|off| off * off).sum::<f64>() / off.len() as f64).sqrt())
}

fn close(found: &[f32], expected: &[f64]) -> bool {
    errors(found, expected).0 < 1e-5
}

/// Returns the outputs, and the gradients of inputs, weights and bias for the outputs' gradient `g`.
fn convolve(
    simd: Simd,
    (x, g): (&FeatureMap, &FeatureMap),
    (weight, bias): (&[f32], &[f32]),
    kernel: usize,
) -> [Vec<f32>; 4] {
    let shape = Shape { inputs: x.channels, outputs: g.channels, kernel, height: x.height, width: x.width };
    let (mut y, plain) = (vec![0.0; g.values.len()], Affine::none(x.channels));
    let weights = Weights::forward(simd, shape, weight, bias);
    let mut items: Vec<_> = (0..x.batch).map(|_| Default::default()).collect();
    forward(simd, &weights, (x, &plain), Some(&mut y), &mut items, 0, &|_, _, _, _| ());
    let turned = Weights::backward(simd, shape, weight);
    let as_it_is = Affine::none(g.channels);
    let into = |image: usize, _: &[f32], frame, to: &mut [f32]| {
        pointwise::fill(simd, g.of(image), g.channels, &as_it_is, frame, to)
    };
    let mut found = backward(simd, shape, Some(&turned), (x, &plain), &into, 0, &|_, _, _| ());
    let bias = found.parameters.pop().unwrap();
    [y, found.input.unwrap().values.to_vec(), found.parameters.pop().unwrap(), bias]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn convolutions_agree_with_a_naive_reference_on_every_path(
        batch in 1usize..4, height in 1usize..11, width in 1usize..19, inputs in 1usize..52, outputs in 1usize..52,
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
        let mut for_bias = vec![0.0; outputs];
        g.values.iter().enumerate().for_each(|(place, g)| for_bias[place % outputs] += f64::from(*g));
        let mut first = None;
        for simd in Simd::available() {
            let found = convolve(simd, (&x, &g), (&weight, &bias), kernel);
            for (what, found, expected) in [
                ("outputs", &found[0], &y),
                ("input gradient", &found[1], &for_x),
                ("weight gradient", &found[2], &for_weight),
                ("bias gradient", &found[3], &for_bias),
            ] {
                let (worst, typical) = errors(found, expected);
                // Winograd's transforms cost one digit of precision, and sometimes a little more.
                let by_tiles = kernel == 3 && inputs.min(outputs) >= 16;
                let bound = if by_tiles { 3e-5 } else { 2e-6 };
                prop_assert!(worst < bound && typical < 1e-6, "{what}, {simd:?}: off by {worst:.1e}, {typical:.1e}");
            }
            prop_assert_eq!(first.get_or_insert(found.clone()), &found, "the bits of {:?}", simd);
        }
    }

    #[test]
    fn pooling_takes_the_largest_or_smallest_and_gives_it_the_gradient(
        height in 1usize..8, width in 1usize..8, channels in 1usize..35, seed in any::<u64>(),
    ) {
        let x = map((1, height, width, channels), seed);
        let signs: Vec<f32> = noise(channels, seed ^ 1).into_iter().map(f32::signum).collect();
        let (high, wide) = (height / 2, width / 2);
        let g = noise(high * wide * channels, seed ^ 2);
        let at = |r: usize, c: usize, i: usize| (r * width + c) * channels + i;
        let (mut pooled, mut back) = (vec![0.0; g.len()], vec![0.0; x.values.len()]);
        for place in 0..g.len() {
            let (i, c, r) = (place % channels, place / channels % wide, place / channels / wide);
            let four = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(dr, dc)| at(2 * r + dr, 2 * c + dc, i));
            let better = |a: usize, b: usize| if signs[i] * x.values[b] > signs[i] * x.values[a] { b } else { a };
            let best = four.into_iter().reduce(better).unwrap();
            pooled[place] = x.values[best];
            back[best] = g[place];
        }
        for simd in Simd::available() {
            let (mut y, mut winners) = (vec![f32::NAN; g.len()], vec![9; g.len()]);
            pointwise::pool(simd, &x.values, (height, width), channels, &signs, &mut y, &mut winners);
            prop_assert_eq!(&y, &pooled);
            let g = Unpooled { g: &g, winners: &winners, height, width, channels };
            let mut to = vec![f32::NAN; back.len()];
            pointwise::unpool(simd, g, Frame::dense(height, width, channels), &mut to);
            prop_assert_eq!(&to, &back);
        }
    }

    #[test]
    fn the_pointwise_kernels_agree_with_plain_sums_on_every_path(
        height in 1usize..12, width in 1usize..12, channels in 1usize..35, relu in any::<bool>(), seed in any::<u64>(),
    ) {
        let x = map((1, height, width, channels), seed);
        let g = noise(x.values.len(), seed ^ 1);
        let [scale, offset, inverse, shift] = std::array::from_fn(|i| noise(channels, seed ^ (2 + i as u64)));
        let affine = Affine { scale, offset, relu };
        let normal = Affine { scale: inverse.clone(), offset: shift.clone(), relu: false };
        let slope = Slope { scale: inverse.clone(), slope: shift.clone(), level: affine.offset.clone() };
        let channel = |place: usize| place % channels;
        let seen = |place: usize| {
            let y = x.values[place] * affine.scale[channel(place)] + affine.offset[channel(place)];
            if relu { y.max(0.0) } else { y }
        };
        let gone = |place: usize| if relu && seen(place) <= 0.0 { 0.0 } else { g[place] };
        let sums = |term: &dyn Fn(usize) -> f32| {
            let mut sums = vec![0.0f64; channels];
            (0..g.len()).for_each(|place| sums[channel(place)] += f64::from(term(place)));
            sums
        };
        let narrow = |sums: &[f64]| sums.iter().map(|sum| *sum as f32).collect::<Vec<_>>();
        for simd in Simd::available() {
            let frame = Frame::dense(height, width, channels);
            let mut filled = vec![f32::NAN; g.len()];
            pointwise::fill(simd, &x.values, channels, &affine, frame, &mut filled);
            prop_assert_eq!(&filled, &(0..g.len()).map(seen).collect::<Vec<_>>());

            let (mut active, mut found) = (x.values.to_vec(), vec![0.0; 2 * channels]);
            pointwise::activate(simd, &mut active, channels, relu, &mut found);
            let rectified = |place: usize| if relu { x.values[place].max(0.0) } else { x.values[place] };
            prop_assert_eq!(&active, &(0..g.len()).map(rectified).collect::<Vec<_>>());
            let expected = [sums(&rectified), sums(&|place| rectified(place).powi(2))].concat();
            prop_assert!(close(&narrow(&found), &expected), "moments");

            let (mut cleared, mut found) = (g.clone(), vec![0.0; 2 * channels]);
            pointwise::norm_sums(simd, &x.values, &mut cleared, channels, &affine, &normal, &mut found);
            prop_assert_eq!(&cleared, &(0..g.len()).map(gone).collect::<Vec<_>>());
            let weighted = |place: usize| gone(place) * (x.values[place] * inverse[channel(place)] + shift[channel(place)]);
            prop_assert!(close(&narrow(&found), &[sums(&weighted), sums(&gone)].concat()), "sums of the norm");

            let mut sloped = g.clone();
            pointwise::norm_slope(simd, &x.values, &mut sloped, channels, &slope);
            let expected: Vec<f64> = (0..g.len()).map(|place| {
                let i = channel(place);
                let off = slope.slope[i] * x.values[place] + slope.level[i];
                f64::from(slope.scale[i] * g[place] - off)
            }).collect();
            prop_assert!(close(&sloped, &expected), "slope");

            let mut mean = vec![f32::NAN; channels];
            pointwise::average(simd, &x.values, channels, &affine, &mut mean);
            let expected: Vec<f64> = sums(&seen).iter().map(|sum| sum / (height * width) as f64).collect();
            prop_assert!(close(&mean, &expected), "average");
        }
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
    let (weight, bias) = (noise(40 * 20 * 9, 3), noise(40, 4));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| convolve(Simd::current(), (&x, &g), (&weight, &bias), 3))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn the_squares_of_values_far_from_zero_stay_exact() {
    let mut x: Vec<f32> = noise(4096, 1).into_iter().map(|x| 1000.0 + x).collect();
    let mut sums = [0.0; 2];
    pointwise::activate(Simd::current(), &mut x, 1, false, &mut sums);
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / 4096.0;
    let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 4096.0;
    let found = sums[1] / 4096.0 - (sums[0] / 4096.0).powi(2);
    assert!((found - variance).abs() < 1e-3 * variance, "{found} {variance}");
}
