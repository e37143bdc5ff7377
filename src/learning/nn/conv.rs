//! Convolution of stride 1, with zero padding that keeps the size, of groups of images that stay in the cache.
//!
//! 3×3 kernels with at least 16 input and output channels use Winograd's algorithm. All others are computed directly.

use dfdx::nn::tensor_collection::*;
use dfdx::prelude::*;
use rand_distr::Uniform;
use rayon::prelude::*;

use super::Number;
use super::buffers::Buffer;
use super::frame::Frame;
use super::kernels::{self, LANES, ROWS, Target, Window};
use super::tape::values;
use super::winograd::{self, PLACES, SIDE, Tiles};
use crate::base::simd::Simd;

/// The parameters of a `K`×`K` convolution (`K` is 1 or 3) from `I` to `O` channels, as a dfdx module.
#[derive(Debug, Clone)]
pub struct Conv<const I: usize, const O: usize, const K: usize, E: Dtype, D: Storage<E>> {
    pub weight: Tensor<Rank4<O, I, K, K>, E, D>,
    pub bias: Tensor<Rank1<O>, E, D>,
}

impl<const I: usize, const O: usize, const K: usize, E: Number, D: Device<E>> TensorCollection<E, D>
    for Conv<I, O, K, E, D>
{
    type To<E2: Dtype, D2: Device<E2>> = Conv<I, O, K, E2, D2>;

    /// Draws weights as He et al. 2015 ("Delving Deep into Rectifiers", section 2.2), in the uniform form. Biases are
    /// zero.
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
    pub(super) fn shape(&self, (height, width): (usize, usize)) -> Shape {
        Shape { inputs: I, outputs: O, kernel: K, height, width }
    }

    /// The weights, prepared for images of this (height, width).
    pub(super) fn forward(&self, size: (usize, usize)) -> Weights {
        Weights::forward(Simd::current(), self.shape(size), &values(&self.weight), &values(&self.bias))
    }

    /// The weights, prepared for the gradient of the input.
    pub(super) fn backward(&self, size: (usize, usize)) -> Weights {
        Weights::backward(Simd::current(), self.shape(size), &values(&self.weight))
    }
}

/// The shape of a convolution, for images of one size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub height: usize,
    pub width: usize,
}

impl Shape {
    pub fn is_winograd(&self) -> bool {
        self.kernel == 3 && self.inputs.min(self.outputs) >= 16
    }

    fn pixel(&self, channels: usize) -> usize {
        if self.is_winograd() { channels.next_multiple_of(16) } else { channels }
    }

    /// The frame of an input image.
    pub fn input_frame(&self) -> Frame {
        Frame::new((self.height, self.width), self.pixel(self.inputs))
    }

    /// The frame of the gradients of an output image.
    pub fn output_frame(&self) -> Frame {
        Frame::new((self.height, self.width), self.pixel(self.outputs))
    }

    /// Number of output values of an image.
    pub fn image(&self) -> usize {
        self.height * self.width * self.outputs
    }

    fn tiles(&self) -> (usize, usize) {
        (self.height.div_ceil(SIDE), self.width.div_ceil(SIDE))
    }

    /// Number of images that are worked on together: enough tiles to make loading the weights worthwhile, and few
    /// enough for the cache.
    pub fn group(&self) -> usize {
        let (high, wide) = self.tiles();
        let one = high * wide * self.inputs.max(self.outputs);
        if self.is_winograd() { (GROUP / one).clamp(1, 32) } else { 1 }
    }

    fn at(&self, frame: Frame, plane: usize, image: usize) -> Tiles {
        let (high, wide) = self.tiles();
        let start = image * frame.length;
        Tiles {
            high,
            wide,
            start,
            row: frame.row,
            pixel: frame.pixel,
            plane,
            stride: frame.pixel,
            first: image * high * wide,
        }
    }
}

/// Rounds up to full tiles.
fn rows(count: usize) -> usize {
    count.next_multiple_of(ROWS)
}

/// Distance from one plane to the next. It is a little more than the plane's values, because otherwise all planes would
/// compete for the same cache lines.
fn plane(rows: usize, values: usize) -> usize {
    rows * values + 16
}

/// Tiles × channels that a group should have.
const GROUP: usize = 8192;

/// Weights in the order in which the kernels read them.
pub(super) struct Weights {
    pub shape: Shape,
    /// Winograd: (output block, 6 · 6, inputs, LANES); direct: (output block, row, column · inputs + input, LANES).
    values: Buffer,
    bias: Vec<[f32; LANES]>,
}

impl Weights {
    /// `weight`: (outputs, inputs, kernel, kernel)
    pub fn forward(simd: Simd, shape: Shape, weight: &[f32], bias: &[f32]) -> Self {
        let (inputs, size) = (shape.inputs, shape.kernel * shape.kernel);
        Self::new(simd, shape, bias, |output, input, place| weight[(output * inputs + input) * size + place])
    }

    /// The same weights, rotated by 180°, with inputs and outputs exchanged: with them, a convolution of the output's
    /// gradient gives the input's gradient.
    pub fn backward(simd: Simd, shape: Shape, weight: &[f32]) -> Self {
        let (inputs, size) = (shape.inputs, shape.kernel * shape.kernel);
        let turned = Shape { inputs: shape.outputs, outputs: shape.inputs, ..shape };
        let at =
            |output: usize, input: usize, place: usize| weight[(input * inputs + output) * size + size - 1 - place];
        Self::new(simd, turned, &vec![0.0; inputs], at)
    }

    fn new(simd: Simd, shape: Shape, bias: &[f32], at: impl Fn(usize, usize, usize) -> f32 + Sync) -> Self {
        let Shape { inputs, outputs, kernel, .. } = shape;
        let (blocks, places) = (outputs.div_ceil(LANES), if shape.is_winograd() { PLACES } else { kernel * kernel });
        let mut values = Buffer::stale(blocks * places * inputs * LANES);
        values.par_chunks_mut(places * inputs * LANES).enumerate().for_each(|(block, values)| {
            let first = block * LANES;
            for input in 0..inputs {
                let mut taps = [[0.0f32; LANES]; 9];
                for lane in 0..LANES.min(outputs - first) {
                    for (place, tap) in taps.iter_mut().enumerate().take(kernel * kernel) {
                        tap[lane] = at(first + lane, input, place);
                    }
                }
                if shape.is_winograd() {
                    winograd::transform_weights(simd, &taps, &mut values[input * LANES..], inputs * LANES);
                } else {
                    for (place, tap) in taps.iter().enumerate().take(places) {
                        values[(place * inputs + input) * LANES..][..LANES].copy_from_slice(tap);
                    }
                }
            }
        });
        let mut padded = vec![[0.0; LANES]; blocks];
        padded.as_flattened_mut()[..outputs].copy_from_slice(bias);
        Self { shape, values, bias: padded }
    }
}

/// A convolution with its working memory.
pub(super) struct Convolution<'a> {
    weights: &'a Weights,
    /// (6 · 6, tiles, inputs)
    inputs: Buffer,
    /// (6 · 6, tiles, LANES)
    products: Buffer,
}

impl<'a> Convolution<'a> {
    /// Allocates memory for at most `images` images at a time.
    pub fn new(weights: &'a Weights, images: usize) -> Self {
        let shape = weights.shape;
        let (high, wide) = shape.tiles();
        let tiles = if shape.is_winograd() { (images * high * wide).next_multiple_of(ROWS) } else { 0 };
        let inputs = Buffer::stale(PLACES * plane(tiles, shape.input_frame().pixel));
        Self { weights, inputs, products: Buffer::stale(PLACES * plane(tiles, LANES)) }
    }

    /// Convolves `x` and writes the result to `y`. `x` are images in frames: those of [`Shape::input_frame`], or any
    /// for a 1×1 kernel. `y` is (images, height, width, outputs).
    pub fn run(&mut self, simd: Simd, x: &[f32], frame: Frame, y: &mut [f32]) {
        if self.weights.shape.is_winograd() {
            self.by_tiles(simd, x, frame, y)
        } else {
            self.directly(simd, x, frame, y)
        }
    }

    fn by_tiles(&mut self, simd: Simd, x: &[f32], frame: Frame, y: &mut [f32]) {
        let Weights { shape, values, bias } = self.weights;
        let (images, (high, wide)) = (y.len() / shape.image(), shape.tiles());
        let tiles = images * high * wide;
        let rows = tiles.next_multiple_of(ROWS);
        let (plane, product) = (plane(rows, frame.pixel), plane(rows, LANES));
        for image in 0..images {
            winograd::transform_input(simd, x, shape.at(frame, plane, image), frame.pixel, &mut self.inputs);
        }
        for (block, weights) in values.chunks_exact(PLACES * shape.inputs * LANES).enumerate() {
            for (place, weights) in weights.chunks_exact(shape.inputs * LANES).enumerate() {
                let window = Window { start: place * plane, row: 0, pixel: frame.pixel };
                let target = Target { start: place * product, pixel: LANES, pixels: tiles, lanes: LANES };
                let y = &mut self.products;
                kernels::convolve(simd, &self.inputs, window, 1, shape.inputs, weights, &[0.0; LANES], y, target);
            }
            let (first, row) = (block * LANES, shape.width * shape.outputs);
            for image in 0..images {
                let start = image * shape.image() + first;
                let first = image * high * wide;
                let to = Tiles { high, wide, start, row, pixel: shape.outputs, plane: product, stride: LANES, first };
                let lanes = LANES.min(shape.outputs - block * LANES);
                winograd::transform_output(
                    simd,
                    &self.products,
                    to,
                    &bias[block],
                    y,
                    (shape.height, shape.width),
                    lanes,
                );
            }
        }
    }

    fn directly(&self, simd: Simd, x: &[f32], frame: Frame, y: &mut [f32]) {
        let shape = self.weights.shape;
        for (x, y) in x.chunks_exact(frame.length).zip(y.chunks_exact_mut(shape.image())) {
            self.weights.run_rows(simd, x, frame, 0, y);
        }
    }
}

impl Weights {
    /// Directly computes rows of outputs of one image in its frame. It starts at row `first`, and computes as many rows
    /// as `y` has room for.
    pub fn run_rows(&self, simd: Simd, x: &[f32], frame: Frame, first: usize, y: &mut [f32]) {
        let Shape { inputs, outputs, kernel, width, .. } = self.shape;
        let taps = kernel * inputs;
        for (block, weights) in self.values.chunks_exact(kernel * taps * LANES).enumerate() {
            let lanes = LANES.min(outputs - block * LANES);
            for row in 0..y.len() / (width * outputs) {
                let start = row * width * outputs + block * LANES;
                let target = Target { start, pixel: outputs, pixels: width, lanes };
                let window = frame.window(first + row, kernel);
                kernels::convolve(simd, x, window, kernel, taps, weights, &self.bias[block], y, target);
            }
        }
    }
}

/// The gradient of a convolution's weights, summed over images.
pub(super) struct Correlation {
    shape: Shape,
    /// (6 · 6, tiles, channels) of the inputs and of the gradients.
    inputs: Buffer,
    gradients: Buffer,
    /// Winograd: (6 · 6, inputs, outputs); direct: (kernel · kernel · inputs, outputs). Rounded up to full tiles.
    sums: Buffer,
    started: bool,
}

impl Correlation {
    /// Allocates memory for at most `images` images at a time.
    pub fn new(shape: Shape, images: usize) -> Self {
        let (high, wide) = shape.tiles();
        let tiles = if shape.is_winograd() { images * high * wide } else { 0 };
        let (places, taps) = Self::taps(shape);
        Self {
            shape,
            inputs: Buffer::stale(PLACES * plane(tiles, shape.input_frame().pixel)),
            // The last tile of channels may reach beyond the last plane.
            gradients: Buffer::stale(PLACES * plane(tiles, shape.output_frame().pixel) + LANES),
            sums: Buffer::stale(places * plane(rows(taps), shape.outputs.next_multiple_of(LANES))),
            started: false,
        }
    }

    /// Number of places of the sums, and number of taps of each place.
    fn taps(shape: Shape) -> (usize, usize) {
        if shape.is_winograd() { (PLACES, shape.inputs) } else { (1, shape.kernel * shape.kernel * shape.inputs) }
    }

    /// Adds the sums over `images` images, with inputs `x` and output gradients `g` in their frames.
    pub fn add(&mut self, simd: Simd, images: usize, (x, of_x): (&[f32], Frame), (g, of_g): (&[f32], Frame)) {
        let shape = self.shape;
        if !shape.is_winograd() {
            for (x, g) in x.chunks_exact(of_x.length).zip(g.chunks_exact(of_g.length)) {
                let tap = |tap: usize| {
                    let (place, input) = (tap / shape.inputs, tap % shape.inputs);
                    place / shape.kernel * of_x.row + place % shape.kernel * of_x.pixel + input
                };
                let (xs, gs) = (of_x.window(0, shape.kernel), of_g.window(0, 1));
                self.correlate(simd, (x, |_| xs), tap, (g, |_| gs), (shape.height, shape.width));
            }
            return;
        }
        let (high, wide) = shape.tiles();
        let tiles = images * high * wide;
        let (plane_x, plane_g) = (plane(tiles, of_x.pixel), plane(tiles, of_g.pixel));
        for image in 0..images {
            winograd::transform_input(simd, x, shape.at(of_x, plane_x, image), of_x.pixel, &mut self.inputs);
            let at = shape.at(of_g, plane_g, image);
            // Gradients begin at the image, not at its border.
            let at = Tiles { start: at.start + of_g.place(0, 0), ..at };
            winograd::transform_gradient(simd, g, at, of_g.pixel, &mut self.gradients);
        }
        let xs = |place: usize| Window { start: place * plane_x, row: 0, pixel: of_x.pixel };
        let gs = |place: usize| Window { start: place * plane_g, row: 0, pixel: of_g.pixel };
        let (x, g) =
            (std::mem::replace(&mut self.inputs, Buffer::EMPTY), std::mem::replace(&mut self.gradients, Buffer::EMPTY));
        self.correlate(simd, (&x, xs), |tap| tap, (&g, gs), (1, tiles));
        (self.inputs, self.gradients) = (x, g);
    }

    /// Computes all tiles of the sums. `tap(t)` is the distance of the t-th tap from the first.
    fn correlate(
        &mut self,
        simd: Simd,
        (x, xs): (&[f32], impl Fn(usize) -> Window),
        tap: impl Fn(usize) -> usize,
        (g, gs): (&[f32], impl Fn(usize) -> Window),
        size: (usize, usize),
    ) {
        let (places, taps) = Self::taps(self.shape);
        let wide = self.shape.outputs.next_multiple_of(LANES);
        for place in 0..places {
            for row in (0..taps).step_by(ROWS) {
                // The sums of taps beyond the last are never read.
                let these = std::array::from_fn(|t| tap((row + t).min(taps - 1)));
                for lane in (0..wide).step_by(LANES) {
                    let gs = Window { start: gs(place).start + lane, ..gs(place) };
                    let sums = &mut self.sums[place * plane(rows(taps), wide) + row * wide + lane..];
                    kernels::correlate(simd, x, xs(place), &these, g, gs, size, sums, wide, !self.started);
                }
            }
        }
        self.started = true;
    }

    /// Returns (inputs, outputs rounded up, kernel · kernel in rows of LANES).
    pub fn finish(self, simd: Simd) -> Vec<[[f32; LANES]; 9]> {
        let Shape { inputs, outputs, kernel, .. } = self.shape;
        let (wide, (_, taps)) = (outputs.next_multiple_of(LANES), Self::taps(self.shape));
        let places = (0..inputs).flat_map(|input| (0..wide).step_by(LANES).map(move |lane| (input, lane)));
        let gather = |(input, lane): (usize, usize)| {
            let mut found = [[0.0f32; LANES]; 9];
            if self.shape.is_winograd() {
                winograd::gather_weights(simd, &self.sums[input * wide + lane..], plane(rows(taps), wide), &mut found);
            } else {
                for (place, found) in found.iter_mut().enumerate().take(kernel * kernel) {
                    found.copy_from_slice(&self.sums[(place * inputs + input) * wide + lane..][..LANES]);
                }
            }
            found
        };
        places.map(gather).collect()
    }
}

/// The gradient of the weights, (outputs, inputs, kernel, kernel), from the sums of all parts in order.
pub(super) fn weight_gradient(shape: Shape, parts: &[Vec<[[f32; LANES]; 9]>]) -> Vec<f32> {
    let Shape { inputs, outputs, kernel, .. } = shape;
    let (size, blocks) = (kernel * kernel, outputs.div_ceil(LANES));
    let mut weight = vec![0.0; outputs * inputs * size];
    weight.par_chunks_mut(inputs * size).enumerate().for_each(|(output, weight)| {
        for (input, weight) in weight.chunks_exact_mut(size).enumerate() {
            for (place, weight) in weight.iter_mut().enumerate() {
                let of = |part: &Vec<[[f32; LANES]; 9]>| part[input * blocks + output / LANES][place][output % LANES];
                *weight = parts.iter().map(|part| f64::from(of(part))).sum::<f64>() as f32;
            }
        }
    });
    weight
}
