//! The two inner loops of every convolution and matrix product.
//!
//! Each output is one chain of fused multiply-adds in an order that the shapes fix. So every vector unit gives the same
//! bits.

use crate::base::simd::{Vector, array, kernels};

/// Pixels (or weight rows) of a tile.
pub(crate) const ROWS: usize = 8;
/// Channels of a tile.
pub(crate) const LANES: usize = 32;

pub(super) type Tile = [[f32; LANES]; ROWS];

/// The positions of values in an image: the first value, and the distances between rows and between pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub start: usize,
    pub row: usize,
    pub pixel: usize,
}

/// The positions of outputs of one row of pixels. Each pixel has `lanes` channels, the first pixel begins at `start`,
/// and the next pixel is `pixel` values further.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub start: usize,
    pub pixel: usize,
    pub pixels: usize,
    pub lanes: usize,
}

kernels! {
    /// `y[p][o] = bias[o] + Σ_r Σ_t x[start + r·row + p·pixel + t] · weights[r][t][o]` for `rows` rows of `taps`
    /// values. `x` must reach to the end of the last tile of [`ROWS`] pixels.
    pub fn convolve<V: Vector>(
        x: &[f32],
        window: Window,
        rows: usize,
        taps: usize,
        weights: &[f32],
        bias: &[f32; LANES],
        y: &mut [f32],
        target: Target,
    ) {
        let Target { start, pixel, pixels, lanes } = target;
        let reach = pixels.next_multiple_of(ROWS) - 1;
        let last = window.start + (rows - 1) * window.row + reach * window.pixel + taps;
        assert!(pixels > 0 && lanes <= LANES && start + (pixels - 1) * pixel + lanes <= y.len());
        assert!(last <= x.len() && rows * taps * LANES <= weights.len(), "the window must lie inside the image");
        let mut part: Tile = [[0.0; LANES]; ROWS];
        for first in (0..pixels).step_by(ROWS) {
            let window = Window { start: window.start + first * window.pixel, ..window };
            let whole = first + ROWS <= pixels && lanes == LANES;
            // SAFETY: the assertions bound every read. Writes of a full tile stay within `pixels` and `LANES`, and
            // `part` has room for any other tile.
            unsafe {
                let (to, pixel) = if whole {
                    (y.as_mut_ptr().add(start + first * pixel), pixel)
                } else {
                    (part.as_mut_ptr().cast(), LANES)
                };
                // As many sums as the registers hold.
                if V::WIDTH == 16 {
                    convolve_tile::<V, 8, 2>(x, window, rows, taps, weights, bias, to, pixel);
                } else {
                    convolve_tile::<V, 4, 2>(x, window, rows, taps, weights, bias, to, pixel);
                }
            }
            if !whole {
                for (p, sums) in part.iter().enumerate().take(pixels - first) {
                    y[start + (first + p) * pixel..][..lanes].copy_from_slice(&sums[..lanes]);
                }
            }
        }
    }

    /// `sums[t][o] += Σ_r Σ_p x[start + r·row + p·pixel + taps[t]] · g[g.start + r·g.row + p·g.pixel + o]` over
    /// `size` = (height, width) pixels, for [`ROWS`] × [`LANES`] sums in rows of `stride`; `fresh` sums start at 0.
    pub fn correlate<V: Vector>(
        x: &[f32],
        xs: Window,
        taps: &[usize; ROWS],
        g: &[f32],
        gs: Window,
        size: (usize, usize),
        sums: &mut [f32],
        stride: usize,
        fresh: bool,
    ) {
        let last = |at: Window, reach: usize| at.start + (size.0 - 1) * at.row + (size.1 - 1) * at.pixel + reach;
        let reach = taps.iter().fold(0, |most, tap| most.max(*tap)) + 1;
        assert!(last(xs, reach) <= x.len() && last(gs, LANES) <= g.len(), "the windows must lie inside the images");
        assert!((ROWS - 1) * stride + LANES <= sums.len());
        // SAFETY: the assertions bound every read and write.
        unsafe {
            // As many sums as the registers hold.
            if V::WIDTH == 16 {
                correlate_tile::<V, 8, 2>(x, xs, taps, g, gs, size, sums, stride, fresh);
            } else {
                correlate_tile::<V, 4, 2>(x, xs, taps, g, gs, size, sums, stride, fresh);
            }
        }
    }
}

/// Computes a tile in blocks of `P` pixels × `N` vectors.
/// # Safety
/// The CPU must have `V`'s instructions, `convolve`'s assertions must hold, and `y` must have room for a tile.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn convolve_tile<V: Vector, const P: usize, const N: usize>(
    x: &[f32],
    window: Window,
    rows: usize,
    taps: usize,
    weights: &[f32],
    bias: &[f32; LANES],
    y: *mut f32,
    pixel: usize,
) {
    for first in (0..ROWS).step_by(P) {
        for lane in (0..LANES).step_by(N * V::WIDTH) {
            // SAFETY: all offsets stay below the bounds asserted by `convolve`.
            unsafe {
                let start: [V; N] = array(|n| V::load(bias.as_ptr().add(lane + n * V::WIDTH)));
                let mut sums = [start; P];
                let mut weight = weights.as_ptr().add(lane);
                for row in 0..rows {
                    let source = x.as_ptr().add(window.start + row * window.row + first * window.pixel);
                    for tap in 0..taps {
                        let factors: [V; N] = array(|n| V::load(weight.add(n * V::WIDTH)));
                        weight = weight.wrapping_add(LANES);
                        for (p, sums) in sums.iter_mut().enumerate() {
                            let value = V::splat(*source.add(p * window.pixel + tap));
                            for (sum, factor) in sums.iter_mut().zip(factors) {
                                *sum = value.multiply_add(factor, *sum);
                            }
                        }
                    }
                }
                for (p, sums) in sums.into_iter().enumerate() {
                    for (n, sum) in sums.into_iter().enumerate() {
                        sum.store(y.add((first + p) * pixel + lane + n * V::WIDTH));
                    }
                }
            }
        }
    }
}

/// # Safety
/// The CPU must have `V`'s instructions, and `correlate`'s assertions must hold.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn correlate_tile<V: Vector, const P: usize, const N: usize>(
    x: &[f32],
    xs: Window,
    taps: &[usize; ROWS],
    g: &[f32],
    gs: Window,
    (height, width): (usize, usize),
    to: &mut [f32],
    stride: usize,
    fresh: bool,
) {
    for first in (0..ROWS).step_by(P) {
        let taps: [usize; P] = array(|p| taps[first + p]);
        for lane in (0..LANES).step_by(N * V::WIDTH) {
            // SAFETY: all offsets stay below the bounds asserted by `correlate`.
            unsafe {
                let to = to.as_mut_ptr().add(first * stride + lane);
                let mut sums = [[V::splat(0.0); N]; P];
                if !fresh {
                    for (p, sums) in sums.iter_mut().enumerate() {
                        *sums = array(|n| V::load(to.add(p * stride + n * V::WIDTH)));
                    }
                }
                for row in 0..height {
                    let mut source = x.as_ptr().add(xs.start + row * xs.row);
                    let mut gradient = g.as_ptr().add(gs.start + row * gs.row + lane);
                    for _ in 0..width {
                        let factors: [V; N] = array(|n| V::load(gradient.add(n * V::WIDTH)));
                        for (p, sums) in sums.iter_mut().enumerate() {
                            let value = V::splat(*source.add(taps[p]));
                            for (sum, factor) in sums.iter_mut().zip(factors) {
                                *sum = value.multiply_add(factor, *sum);
                            }
                        }
                        source = source.wrapping_add(xs.pixel);
                        gradient = gradient.wrapping_add(gs.pixel);
                    }
                }
                for (p, sums) in sums.into_iter().enumerate() {
                    for (n, sum) in sums.into_iter().enumerate() {
                        sum.store(to.add(p * stride + n * V::WIDTH));
                    }
                }
            }
        }
    }
}
