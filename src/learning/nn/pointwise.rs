//! Operations on each channel separately: affine maps, ReLU, sums for batch norm, pooling, and their gradients.
//!
//! They are plain loops over fixed chunks of channels. Each sum goes over the pixels in order.

use super::FeatureMap;
use super::frame::Frame;
use crate::base::simd::kernels;

/// Number of values that are summed as 32-bit floats. The sums of these are added as 64-bit floats.
const RUN: usize = 64;

/// A map that is applied to stored values when they are read: x · scale + offset for each channel, and then a ReLU if
/// `relu` is true.
#[derive(Debug, Clone)]
pub(super) struct Affine {
    pub scale: Vec<f32>,
    pub offset: Vec<f32>,
    pub relu: bool,
}

impl Affine {
    /// Leaves values as they are.
    pub fn none(channels: usize) -> Self {
        Self { scale: vec![1.0; channels], offset: vec![0.0; channels], relu: false }
    }

    fn floor(&self) -> f32 {
        floor(self.relu)
    }
}

/// The batch norm's part of a gradient: scale · g − (slope · x + level) for its input x.
#[derive(Debug, Clone)]
pub(super) struct Slope {
    pub scale: Vec<f32>,
    pub slope: Vec<f32>,
    pub level: Vec<f32>,
}

/// The gradient of a block's output, passed back to the values before the pooling.
#[derive(Clone, Copy)]
pub(super) struct Unpooled<'a> {
    pub g: &'a [f32],
    /// Which of the four values was the largest or smallest. Empty without pooling.
    pub winners: &'a [u8],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl<'a> Unpooled<'a> {
    /// The gradient `g` of an image; `winners` and (height, width) are those of the pooling, if there was one.
    pub fn new(g: &'a FeatureMap, winners: &'a [u8], image: usize, (height, width): (usize, usize)) -> Self {
        let winners = if winners.is_empty() { winners } else { &winners[image * g.image()..][..g.image()] };
        Self { g: g.of(image), winners, height, width, channels: g.channels }
    }

    /// Number of rows of pixels that share gradients.
    fn side(&self) -> usize {
        // Pooling leaves nothing of an image with only one row or column.
        if self.winners.is_empty() && !self.g.is_empty() { 1 } else { 2 }
    }

    /// Calls `each(row, column, gradient)` for each pixel of the `row`-th rows that share gradients. `each` is called
    /// at one place only, so that it is inlined.
    #[inline(always)]
    fn visit<const L: usize>(&self, row: usize, first: usize, mut each: impl FnMut(usize, usize, [f32; L])) {
        let side = self.side();
        let (high, wide) = (self.height / side, self.width / side);
        for column in 0..self.width.div_ceil(side) {
            let (mut g, mut winners) = ([0.0; L], [0; L]);
            // Pooling left out an odd last row or column.
            if row < high && column < wide {
                let place = (row * wide + column) * self.channels + first;
                g = read::<L>(self.g, place);
                if side == 2 {
                    winners.copy_from_slice(&self.winners[place..place + L]);
                }
            }
            for which in 0..(side * side) as u8 {
                let row = row * side + usize::from(which / 2);
                let column = column * side + usize::from(which % 2);
                if row < self.height && column < self.width {
                    each(row, column, lanes(|i| if winners[i] == which { g[i] } else { 0.0 }));
                }
            }
        }
    }
}

fn floor(relu: bool) -> f32 {
    if relu { 0.0 } else { f32::NEG_INFINITY }
}

/// Not `f32::max`, because NaN must stay visible.
#[inline(always)]
fn floored(x: f32, floor: f32) -> f32 {
    if floor > x { floor } else { x }
}

/// Like `array` of the vector units, but it uses `of` at one place only. Large closures are inlined only then.
#[inline(always)]
fn lanes<const L: usize>(mut of: impl FnMut(usize) -> f32) -> [f32; L] {
    let mut values = [0.0; L];
    for (i, value) in values.iter_mut().enumerate() {
        *value = of(i);
    }
    values
}

#[inline(always)]
fn read<const L: usize>(x: &[f32], place: usize) -> [f32; L] {
    x[place..].as_chunks().0[0]
}

#[inline(always)]
fn rectified<const L: usize>(x: &[f32], place: usize, floor: f32) -> [f32; L] {
    let x = read::<L>(x, place);
    lanes(|i| floored(x[i], floor))
}

#[inline(always)]
fn write<const L: usize>(to: &mut [f32], place: usize, values: [f32; L]) {
    to[place..].as_chunks_mut().0[0] = values;
}

#[inline(always)]
fn seen<const L: usize>(x: [f32; L], affine: &Affine, first: usize) -> [f32; L] {
    let (scale, offset) = (read::<L>(&affine.scale, first), read::<L>(&affine.offset, first));
    let floor = affine.floor();
    lanes(|i| floored(x[i] * scale[i] + offset[i], floor))
}

#[inline(always)]
fn sloped<const L: usize>(x: [f32; L], g: [f32; L], slope: &Slope, first: usize) -> [f32; L] {
    let (scale, level) = (read::<L>(&slope.scale, first), read::<L>(&slope.level, first));
    let slope = read::<L>(&slope.slope, first);
    lanes(|i| scale[i] * g[i] - (slope[i] * x[i] + level[i]))
}

/// Runs the block for each chunk of 16 channels, and then for each channel that is left.
macro_rules! by_lanes {
    ($channels:expr, |$first:ident, $lanes:ident| $body:block) => {
        let whole = $channels / 16 * 16;
        for $first in (0..whole).step_by(16) {
            const $lanes: usize = 16;
            $body
        }
        for $first in whole..$channels {
            const $lanes: usize = 1;
            $body
        }
    };
}

kernels! {
    /// Writes an image into its frame, with `affine` applied.
    pub fn fill<V: Vector>(x: &[f32], channels: usize, affine: &Affine, frame: Frame, to: &mut [f32]) {
        for row in 0..frame.height {
            by_lanes!(channels, |first, L| {
                for column in 0..frame.width {
                    let x = read::<L>(x, (row * frame.width + column) * channels + first);
                    write(to, frame.place(row, column) + first, seen(x, affine, first));
                }
            });
        }
    }

    /// Applies a ReLU in place if `relu` is true. Adds Σx to the first half of `sums`, and Σx² to the second half.
    pub fn activate<V: Vector>(x: &mut [f32], channels: usize, relu: bool, sums: &mut [f64]) {
        let (sums, squares) = sums.split_at_mut(channels);
        let floor = floor(relu);
        for run in x.chunks_mut(RUN * channels) {
            by_lanes!(channels, |first, L| {
                // Sum the differences from the first value, so that the squares stay exact if the mean is large.
                let about = rectified::<L>(run, first, floor);
                let (mut sum, mut square) = ([0.0f32; L], [0.0f32; L]);
                for pixel in run.chunks_exact_mut(channels) {
                    let x = rectified::<L>(pixel, first, floor);
                    if relu {
                        write(pixel, first, x);
                    }
                    for i in 0..L {
                        let apart = x[i] - about[i];
                        sum[i] += apart;
                        square[i] += apart * apart;
                    }
                }
                let count = (run.len() / channels) as f64;
                for i in 0..L {
                    let (about, sum, square) = (f64::from(about[i]), f64::from(sum[i]), f64::from(square[i]));
                    sums[first + i] += count * about + sum;
                    squares[first + i] += square + 2.0 * about * sum + count * about * about;
                }
            });
        }
    }

    /// Applies a ReLU in place.
    pub fn rectify<V: Vector>(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = floored(*x, 0.0));
    }

    /// 2×2 maximum, or minimum where `signs` is −1. `winners` says which of the four values it was; of equal values,
    /// the first. An odd last row or column is left out.
    pub fn pool<V: Vector>(
        x: &[f32],
        size: (usize, usize),
        channels: usize,
        signs: &[f32],
        y: &mut [f32],
        winners: &mut [u8],
    ) {
        let (high, wide) = (size.0 / 2, size.1 / 2);
        for row in 0..high {
            by_lanes!(channels, |first, L| {
                let sign = read::<L>(signs, first);
                for column in 0..wide {
                    let corner = (row * 2 * size.1 + column * 2) * channels + first;
                    let mut best = read::<L>(x, corner);
                    let mut winner = [0u8; L];
                    for (which, offset) in [(1, 1), (2, size.1), (3, size.1 + 1)] {
                        let other = read::<L>(x, corner + offset * channels);
                        for i in 0..L {
                            let wins = other[i] * sign[i] > best[i] * sign[i];
                            best[i] = if wins { other[i] } else { best[i] };
                            winner[i] = if wins { which } else { winner[i] };
                        }
                    }
                    let place = (row * wide + column) * channels + first;
                    write(y, place, best);
                    winners[place..place + L].copy_from_slice(&winner);
                }
            });
        }
    }

    pub fn add<V: Vector>(to: &mut [f32], other: &[f32]) {
        to.iter_mut().zip(other).for_each(|(to, other)| *to += other);
    }

    /// The mean over the pixels, with `affine` applied.
    pub fn average<V: Vector>(x: &[f32], channels: usize, affine: &Affine, y: &mut [f32]) {
        let pixels = (x.len() / channels) as f32;
        by_lanes!(channels, |first, L| {
            let mut sum = [0.0f32; L];
            for pixel in x.chunks_exact(channels) {
                let x = seen(read::<L>(pixel, first), affine, first);
                for i in 0..L {
                    sum[i] += x[i];
                }
            }
            write(y, first, lanes::<L>(|i| sum[i] / pixels));
        });
    }

    /// Adds the sum of each channel of a frame to `sums`.
    pub fn channel_sums<V: Vector>(x: &[f32], channels: usize, frame: Frame, sums: &mut [f64]) {
        for row in 0..frame.height {
            by_lanes!(channels, |first, L| {
                let mut sum = [0.0f32; L];
                for column in 0..frame.width {
                    let x = read::<L>(x, frame.place(row, column) + first);
                    for i in 0..L {
                        sum[i] += x[i];
                    }
                }
                for i in 0..L {
                    sums[first + i] += f64::from(sum[i]);
                }
            });
        }
    }

    /// Sets the gradient `g` to zero where the ReLU of `affine` gives zero. Adds Σ g · normal to the first half of
    /// `sums`, and Σ g to the second half.
    pub fn norm_sums<V: Vector>(
        x: &[f32],
        g: &mut [f32],
        channels: usize,
        affine: &Affine,
        normal: &Affine,
        sums: &mut [f64],
    ) {
        let (for_scale, for_offset) = sums.split_at_mut(channels);
        for (x, g) in x.chunks(RUN * channels).zip(g.chunks_mut(RUN * channels)) {
            by_lanes!(channels, |first, L| {
                let (inverse, shift) = (read::<L>(&normal.scale, first), read::<L>(&normal.offset, first));
                let (mut weighted, mut plain) = ([0.0f32; L], [0.0f32; L]);
                for (x, g) in x.chunks_exact(channels).zip(g.chunks_exact_mut(channels)) {
                    let (x, mut slope) = (read::<L>(x, first), read::<L>(g, first));
                    if affine.relu {
                        let y = seen(x, affine, first);
                        slope = lanes(|i| if y[i] > 0.0 { slope[i] } else { 0.0 });
                        write(g, first, slope);
                    }
                    for i in 0..L {
                        weighted[i] += slope[i] * (x[i] * inverse[i] + shift[i]);
                        plain[i] += slope[i];
                    }
                }
                for i in 0..L {
                    for_scale[first + i] += f64::from(weighted[i]);
                    for_offset[first + i] += f64::from(plain[i]);
                }
            });
        }
    }

    /// Computes the gradient of a batch norm's input x from the gradient `g` of its output.
    pub fn norm_gradient<V: Vector>(
        x: &[f32],
        g: &[f32],
        channels: usize,
        slope: &Slope,
        frame: Frame,
        to: &mut [f32],
    ) {
        for row in 0..frame.height {
            by_lanes!(channels, |first, L| {
                for column in 0..frame.width {
                    let place = (row * frame.width + column) * channels + first;
                    let found = sloped(read::<L>(x, place), read(g, place), slope, first);
                    write(to, frame.place(row, column) + first, found);
                }
            });
        }
    }

    /// Like `norm_gradient`, but replaces `g`.
    pub fn norm_slope<V: Vector>(x: &[f32], g: &mut [f32], channels: usize, slope: &Slope) {
        for (x, g) in x.chunks(RUN * channels).zip(g.chunks_mut(RUN * channels)) {
            by_lanes!(channels, |first, L| {
                for (x, g) in x.chunks_exact(channels).zip(g.chunks_exact_mut(channels)) {
                    let found = sloped(read::<L>(x, first), read(g, first), slope, first);
                    write(g, first, found);
                }
            });
        }
    }

    /// Computes the gradient of the values before ReLU, batch norm and pooling. `x` holds these values, or their ReLU,
    /// for the rows of pixels from `first` on. `first` is even.
    pub fn block_gradient<V: Vector>(
        x: &[f32],
        first: usize,
        g: Unpooled<'_>,
        slope: &Slope,
        frame: Frame,
        to: &mut [f32],
    ) {
        let end = first + x.len() / (frame.width * g.channels);
        for rows in first / g.side()..end.div_ceil(g.side()) {
            by_lanes!(g.channels, |lane, L| {
                g.visit::<L>(rows, lane, |row, column, gradient| {
                    let x = read::<L>(x, ((row - first) * frame.width + column) * g.channels + lane);
                    let found = sloped(x, gradient, slope, lane);
                    let found = lanes::<L>(|i| if x[i] > 0.0 { found[i] } else { 0.0 });
                    write(to, frame.place(row, column) + lane, found);
                });
            });
        }
    }

    /// Writes the gradient of the values before the pooling to `to`.
    pub fn unpool<V: Vector>(g: Unpooled<'_>, frame: Frame, to: &mut [f32]) {
        for rows in 0..g.height.div_ceil(g.side()) {
            by_lanes!(g.channels, |lane, L| {
                g.visit::<L>(rows, lane, |row, column, g| write(to, frame.place(row, column) + lane, g));
            });
        }
    }

    /// Like `unpool`, but adds the gradient to the values in `to`.
    pub fn unpool_add<V: Vector>(g: Unpooled<'_>, frame: Frame, to: &mut [f32]) {
        for rows in 0..g.height.div_ceil(g.side()) {
            by_lanes!(g.channels, |lane, L| {
                g.visit::<L>(rows, lane, |row, column, g| {
                    let place = frame.place(row, column) + lane;
                    let held = read::<L>(to, place);
                    write(to, place, lanes::<L>(|i| held[i] + g[i]));
                });
            });
        }
    }
}
