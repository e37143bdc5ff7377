//! Convolution of stride 1 with zero padding that keeps the size: forward, input gradient, weight gradient.

use dfdx::nn::tensor_collection::*;
use dfdx::prelude::*;
use rand_distr::Uniform;
use rayon::prelude::*;

use super::kernels::{self, LANES, ROWS, Simd, Window};
use super::tape::values;
use super::{FeatureMap, Number, in_parts};

/// A `K`×`K` convolution (`K` odd) from `I` to `O` channels, as a dfdx module's parameters.
#[derive(Debug, Clone)]
pub struct Conv<const I: usize, const O: usize, const K: usize, E: Dtype, D: Storage<E>> {
    pub weight: Tensor<Rank4<O, I, K, K>, E, D>,
    pub bias: Tensor<Rank1<O>, E, D>,
}

impl<const I: usize, const O: usize, const K: usize, E: Number, D: Device<E>> TensorCollection<E, D>
    for Conv<I, O, K, E, D>
{
    type To<E2: Dtype, D2: Device<E2>> = Conv<I, O, K, E2, D2>;

    /// Weights as He et al. 2015 ("Delving Deep into Rectifiers", section 2.2) in its uniform form; biases zero.
    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
        let weights = TensorOptions::reset_with(|tensor| {
            let bound = E::from_f64((6.0 / (I * K * K) as f64).sqrt()).unwrap_or(E::ONE);
            tensor.try_fill_with_distr(Uniform::new(-bound, bound))
        });
        visitor.visit_fields(
            (
                Self::tensor("weight", |s| &s.weight, |s| &mut s.weight, weights),
                Self::tensor("bias", |s| &s.bias, |s| &mut s.bias, TensorOptions::reset_to_zeros()),
            ),
            |(weight, bias)| Conv { weight, bias },
        )
    }
}

impl<const I: usize, const O: usize, const K: usize> Conv<I, O, K, f32, Cpu> {
    pub fn forward(&self, x: &FeatureMap) -> FeatureMap {
        let packed = Packed::forward(&values(&self.weight), I, O, K);
        convolve(Simd::best(), x, &packed, &values(&self.bias))
    }

    /// Gradients of the input, the weights and the bias for the output's gradient `g`.
    pub fn backward(&self, x: &FeatureMap, g: &FeatureMap) -> (FeatureMap, Vec<f32>, Vec<f32>) {
        let packed = Packed::backward(&values(&self.weight), I, O, K);
        let input = convolve(Simd::best(), g, &packed, &[0.0; I]);
        (input, weight_gradient(Simd::best(), x, g, K), channel_sums(g))
    }

    /// The gradients of weights and bias alone, where nothing before learns.
    pub fn backward_parameters(&self, x: &FeatureMap, g: &FeatureMap) -> (Vec<f32>, Vec<f32>) {
        (weight_gradient(Simd::best(), x, g, K), channel_sums(g))
    }
}

/// Weights in the order in which the kernel reads them: (output block, row, column · input + i, LANES).
pub(super) struct Packed {
    values: Vec<f32>,
    inputs: usize,
    outputs: usize,
    kernel: usize,
}

impl Packed {
    /// `weight`: (outputs, inputs, kernel, kernel)
    pub(super) fn forward(weight: &[f32], inputs: usize, outputs: usize, kernel: usize) -> Self {
        let at =
            |o: usize, i: usize, row: usize, column: usize| weight[((o * inputs + i) * kernel + row) * kernel + column];
        Self::new(inputs, outputs, kernel, at)
    }

    /// The same weights turned round: the input gradient is a convolution of the output gradient with them.
    pub(super) fn backward(weight: &[f32], inputs: usize, outputs: usize, kernel: usize) -> Self {
        let at = |o: usize, i: usize, row: usize, column: usize| {
            weight[((i * inputs + o) * kernel + (kernel - 1 - row)) * kernel + (kernel - 1 - column)]
        };
        Self::new(outputs, inputs, kernel, at)
    }

    fn new(inputs: usize, outputs: usize, kernel: usize, at: impl Fn(usize, usize, usize, usize) -> f32) -> Self {
        let mut values = vec![0.0; outputs.div_ceil(LANES) * kernel * kernel * inputs * LANES];
        for output in 0..outputs {
            let (block, lane) = (output / LANES, output % LANES);
            for row in 0..kernel {
                for column in 0..kernel {
                    for input in 0..inputs {
                        let tap = ((block * kernel + row) * kernel + column) * inputs + input;
                        values[tap * LANES + lane] = at(output, input, row, column);
                    }
                }
            }
        }
        Self { values, inputs, outputs, kernel }
    }
}

/// The layout of one image with a border of zeros; rows are long enough for whole tiles.
#[derive(Clone, Copy)]
struct Padded {
    border: usize,
    row: usize,
    length: usize,
}

impl Padded {
    fn of(x: &FeatureMap, kernel: usize) -> Self {
        let border = kernel / 2;
        let row = (x.width.next_multiple_of(ROWS) + 2 * border) * x.channels;
        // The last tile of weight rows may reach beyond the last pixel.
        Self { border, row, length: row * (x.height + 2 * border) + ROWS }
    }

    fn fill(&self, x: &FeatureMap, image: usize, padded: &mut [f32]) {
        let line = x.width * x.channels;
        let source = &x.values[image * x.image()..][..x.image()];
        for (y, source) in source.chunks_exact(line).enumerate() {
            padded[(y + self.border) * self.row + self.border * x.channels..][..line].copy_from_slice(source);
        }
    }
}

/// `x` (batch, height, width, inputs) → (batch, height, width, outputs)
pub(super) fn convolve(simd: Simd, x: &FeatureMap, weights: &Packed, bias: &[f32]) -> FeatureMap {
    assert_eq!(x.channels, weights.inputs, "the channels must be those of the weights");
    let (outputs, kernel) = (weights.outputs, weights.kernel);
    let layout = Padded::of(x, kernel);
    let taps = kernel * x.channels;
    let mut y = vec![0.0; x.pixels() * outputs];
    let image_length = (x.height * x.width * outputs).max(1);
    y.par_chunks_mut(image_length).enumerate().for_each_init(
        || vec![0.0; layout.length],
        |padded, (image, y)| {
            layout.fill(x, image, padded);
            let mut tile = [[0.0; LANES]; ROWS];
            for (block, weights) in weights.values.chunks_exact(kernel * taps * LANES).enumerate() {
                let first = block * LANES;
                let lanes = LANES.min(outputs - first);
                let bias = &bias[first..first + lanes];
                for row in 0..x.height {
                    for column in (0..x.width).step_by(ROWS) {
                        let window = Window {
                            start: row * layout.row + column * x.channels,
                            row: layout.row,
                            pixel: x.channels,
                        };
                        kernels::convolve(simd, padded, window, kernel, taps, weights, &mut tile);
                        for (p, sums) in tile.iter().enumerate().take(ROWS.min(x.width - column)) {
                            let y = &mut y[(row * x.width + column + p) * outputs + first..][..lanes];
                            for ((y, sum), bias) in y.iter_mut().zip(sums).zip(bias) {
                                *y = sum + bias;
                            }
                        }
                    }
                }
            }
        },
    );
    x.like(outputs, y)
}

/// Gradient of the weights, (outputs, inputs, kernel, kernel).
pub(super) fn weight_gradient(simd: Simd, x: &FeatureMap, g: &FeatureMap, kernel: usize) -> Vec<f32> {
    let layout = Padded::of(x, kernel);
    let taps = kernel * x.channels;
    let (blocks, tiles) = (g.channels.div_ceil(LANES), taps.div_ceil(ROWS));
    let wide = blocks * LANES;
    let parts = in_parts(x.batch, |images| {
        let mut sums = vec![[[0.0; LANES]; ROWS]; blocks * kernel * tiles];
        let mut padded = vec![0.0; layout.length];
        let mut widened = vec![0.0; if wide == g.channels { 0 } else { g.height * g.width * wide }];
        for image in images {
            layout.fill(x, image, &mut padded);
            let mut gradient = &g.values[image * g.image()..][..g.image()];
            if wide != g.channels {
                for (to, from) in widened.chunks_exact_mut(wide).zip(gradient.chunks_exact(g.channels)) {
                    to[..g.channels].copy_from_slice(from);
                }
                gradient = &widened;
            }
            for (place, tile) in sums.iter_mut().enumerate() {
                let (block, row, tap) = (place / (kernel * tiles), place / tiles % kernel, place % tiles * ROWS);
                let xs = Window { start: row * layout.row + tap, row: layout.row, pixel: x.channels };
                let gs = Window { start: block * LANES, row: g.width * wide, pixel: wide };
                kernels::correlate(simd, &padded, xs, gradient, gs, (x.height, x.width), tile);
            }
        }
        sums
    });
    let mut weight = vec![0.0; g.channels * x.channels * kernel * kernel];
    for (o, weight) in weight.chunks_exact_mut(x.channels * kernel * kernel).enumerate() {
        for row in 0..kernel {
            for tap in 0..taps {
                let (column, input) = (tap / x.channels, tap % x.channels);
                let tile = (o / LANES * kernel + row) * tiles + tap / ROWS;
                let sum = parts.iter().map(|sums| f64::from(sums[tile][tap % ROWS][o % LANES])).sum::<f64>();
                weight[(input * kernel + row) * kernel + column] = sum as f32;
            }
        }
    }
    weight
}

/// The sum over all pixels, for each channel.
pub(super) fn channel_sums(g: &FeatureMap) -> Vec<f32> {
    let parts = in_parts(g.batch, |images| {
        let mut sums = vec![0.0f64; g.channels];
        for pixel in g.values[images.start * g.image()..images.end * g.image()].chunks_exact(g.channels) {
            sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        sums
    });
    (0..g.channels).map(|channel| parts.iter().map(|sums| sums[channel]).sum::<f64>() as f32).collect()
}
