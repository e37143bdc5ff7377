//! The forward and backward pass of a convolution over a whole batch.
//!
//! Each part of the batch is computed on one thread, group by group. What comes before and after a convolution is done
//! while its images are in the cache. The functions that do this are trait objects, so that a pass is compiled once and
//! not again for each of them.

use rayon::prelude::*;

use super::FeatureMap;
use super::batch_norm::in_order;
use super::buffers::Buffer;
use super::conv::{Convolution, Correlation, Shape, Weights, weight_gradient};
use super::frame::Frame;
use super::frames::Frames;
use super::pointwise::{self, Affine};
use crate::base::simd::Simd;

/// The number of parts into which a batch is divided for sums. Each part is summed in order, and then the parts are
/// added in order.
const PARTS: usize = 8;

/// Number of images of a part.
fn part_of(batch: usize) -> usize {
    batch.div_ceil(PARTS).max(1)
}

/// The part of the pooled outputs that belongs to one image, and of the winners. Both are empty if nothing is pooled.
pub(super) type Pooled<'a> = (&'a mut [f32], &'a mut [u8]);

type After<'a> = &'a (dyn Fn(usize, &mut [f32], &mut Pooled, &mut [f64]) + Sync);
type OutputGradient<'a> = &'a (dyn Fn(usize, &[f32], Frame, &mut [f32]) + Sync);
type ImageSums<'a> = &'a (dyn Fn(usize, &mut [f32], &mut [f64]) + Sync);

/// Convolves `x` with `affine` applied. For each image, it then calls `after(image, y, item, sums)`: `y` has the
/// outputs of the image, `item` is its entry of `items`, and `sums` are the sums of its part. Returns the `sums` sums
/// of each part. If `y` is given, it keeps the outputs (images, height, width, outputs).
pub(super) fn forward(
    simd: Simd,
    weights: &Weights,
    (x, affine): (&FeatureMap, &Affine),
    y: Option<&mut [f32]>,
    items: &mut [Pooled],
    sums: usize,
    after: After,
) -> Vec<Vec<f64>> {
    let (shape, kept) = (weights.shape, y.is_some());
    // Parts consist of complete groups. There are enough parts that no core waits long for another.
    let group = shape.group().min(part_of(x.batch));
    let part = part_of(x.batch).div_ceil(2).next_multiple_of(group);
    let mut scratch = Buffer::stale(if kept { 0 } else { x.batch.div_ceil(part) * group * shape.image() });
    let ys = y.unwrap_or(&mut scratch).par_chunks_mut(if kept { part } else { group } * shape.image());
    let memory = || (Frames::new(shape.input_frame(), group), Convolution::new(weights, group));
    let parts = ys.zip(items.par_chunks_mut(part)).enumerate().map_init(memory, |memory, (number, (y, items))| {
        let (frames, convolution) = memory;
        let mut sums = vec![0.0; sums];
        for (place, items) in items.chunks_mut(group).enumerate() {
            let first = number * part + place * group;
            frames.fill(simd, x, first..first + items.len(), affine);
            let start = if kept { place * group * shape.image() } else { 0 };
            let y = &mut y[start..][..items.len() * shape.image()];
            convolution.run(simd, frames.values(items.len()), frames.frame, y);
            for ((image, item), y) in items.iter_mut().enumerate().zip(y.chunks_exact_mut(shape.image())) {
                after(first + image, y, item, &mut sums);
            }
        }
        sums
    });
    parts.collect()
}

/// Returns the entry of each image.
pub(super) fn pooled<'a>(y: &'a mut FeatureMap, winners: &'a mut [u8], batch: usize) -> Vec<Pooled<'a>> {
    let image = y.image().max(1);
    let mut items: Vec<_> = y.values.chunks_exact_mut(image).zip(winners.chunks_exact_mut(image)).collect();
    items.resize_with(batch, Default::default);
    items
}

/// The result of the backward pass of a convolution.
pub(super) struct Gradient {
    /// The gradients of the weights, (outputs, inputs, kernel, kernel), and of the bias.
    pub parameters: Vec<Vec<f32>>,
    /// The gradient of the inputs, if asked for.
    pub input: Option<FeatureMap>,
    /// The sums that `after` made.
    pub sums: Vec<f64>,
}

/// Computes gradients from those of the outputs. `gradient(image, input, frame, to)` must write the gradient of an
/// image's outputs into their frame `to`; `input` is the image's own frame. `x` and `affine` are those of the forward
/// pass of `shape`. With `weights` (rotated), it also computes the gradients of the inputs, and calls
/// `after(image, g, sums)` for them.
pub(super) fn backward(
    simd: Simd,
    shape: Shape,
    weights: Option<&Weights>,
    (x, affine): (&FeatureMap, &Affine),
    gradient: OutputGradient,
    sums: usize,
    after: ImageSums,
) -> Gradient {
    let part = part_of(x.batch);
    let group = shape.group().min(part);
    let starts: Vec<usize> = (0..x.batch).step_by(part).collect();
    let mut input = weights.map(|_| x.like(x.channels));
    let mut inputs: Vec<&mut [f32]> = match &mut input {
        Some(input) => input.values.chunks_mut(part * x.image()).collect(),
        None => starts.iter().map(|_| Default::default()).collect(),
    };
    let memory = || {
        let frames = (Frames::new(shape.input_frame(), group), Frames::new(shape.output_frame(), group));
        (frames, weights.map(|weights| Convolution::new(weights, group)))
    };
    let parts = starts.par_iter().zip(&mut inputs).map_init(memory, |memory, (start, input)| {
        let ((frames, gradients), convolution) = memory;
        let mut correlation = Correlation::new(shape, group);
        let (mut sums, mut bias) = (vec![0.0; sums], vec![0.0; shape.outputs]);
        let end = (start + part).min(x.batch);
        for first in (*start..end).step_by(group) {
            let images = first..(first + group).min(end);
            frames.fill(simd, x, images.clone(), affine);
            for (place, image) in images.clone().enumerate() {
                let frame = gradients.frame;
                let to = gradients.image(place);
                gradient(image, frames.image(place), frame, to);
                pointwise::channel_sums(simd, to, shape.outputs, frame, &mut bias);
            }
            let of_x = (frames.values(images.len()), frames.frame);
            let of_g = (gradients.values(images.len()), gradients.frame);
            correlation.add(simd, images.len(), of_x, of_g);
            if let Some(convolution) = convolution {
                let input = &mut input[(first - start) * x.image()..][..images.len() * x.image()];
                convolution.run(simd, of_g.0, of_g.1, input);
                images.zip(input.chunks_exact_mut(x.image())).for_each(|(image, g)| after(image, g, &mut sums));
            }
        }
        (correlation.finish(simd), bias, sums)
    });
    let (mut weight, mut bias, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts.collect::<Vec<_>>() {
        weight.push(part.0);
        bias.push(part.1);
        sums.push(part.2);
    }
    let bias = in_order(&bias).into_iter().map(|sum| sum as f32).collect();
    Gradient { parameters: vec![weight_gradient(shape, &weight), bias], input, sums: in_order(&sums) }
}

/// Calls `each(image, g, sums)` for each image of `g`. Returns the sums of all parts, added in order.
pub(super) fn sum_images(g: &mut FeatureMap, sums: usize, each: ImageSums) -> Vec<f64> {
    let (part, image) = (part_of(g.batch), g.image());
    let parts = g.values.par_chunks_mut(part * image).enumerate().map(|(number, g)| {
        let mut sums = vec![0.0; sums];
        g.chunks_exact_mut(image).enumerate().for_each(|(place, g)| each(number * part + place, g, &mut sums));
        sums
    });
    in_order(&parts.collect::<Vec<_>>())
}
