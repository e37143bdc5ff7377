//! The transforms of Winograd's F(4×4, 3×3) (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural
//! Networks", section 4.3): a tile of 4×4 outputs costs 36 products a channel instead of 144.
//!
//! Each of the 36 places of a transformed tile has its own plane, (tiles, channels).

use super::kernels::LANES;
use crate::base::simd::{Vector, array, kernels};

/// Outputs on a tile's side.
pub(super) const SIDE: usize = 4;
/// Inputs on a tile's side.
const REACH: usize = 6;
/// Places of a transformed tile.
pub(super) const PLACES: usize = REACH * REACH;

/// The tiles of an image: the positions of their corners in the image, and their positions in the planes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    pub high: usize,
    pub wide: usize,
    /// The corner of the first tile, the distance between rows and between pixels.
    pub start: usize,
    pub row: usize,
    pub pixel: usize,
    /// Values of a plane, and of a tile in it.
    pub plane: usize,
    pub stride: usize,
    /// Number of the first tile in the planes.
    pub first: usize,
}

impl Tiles {
    fn corner(&self, high: usize, wide: usize) -> usize {
        self.start + SIDE * (high * self.row + wide * self.pixel)
    }

    fn place(&self, high: usize, wide: usize) -> usize {
        (self.first + high * self.wide + wide) * self.stride
    }

    /// Panics unless the images, with `side`×`side` values a tile, and the planes are long enough.
    fn check(&self, channels: usize, side: usize, image: &[f32], planes: &[f32]) {
        let last = self.corner(self.high - 1, self.wide - 1) + (side - 1) * (self.row + self.pixel) + channels;
        let place = self.place(self.high - 1, self.wide - 1) + channels;
        assert!(self.high * self.wide > 0 && last <= image.len(), "the tiles must lie inside the image");
        assert!(channels <= self.stride && place <= self.plane && PLACES * self.plane <= planes.len());
    }
}

kernels! {
    /// Bᵀ d B of every tile d, for `channels` (a multiple of 16).
    pub fn transform_input<V: Vector>(x: &[f32], tiles: Tiles, channels: usize, to: &mut [f32]) {
        assert!(channels.is_multiple_of(16));
        tiles.check(channels, REACH, x, to);
        for (high, wide) in (0..tiles.high).flat_map(|high| (0..tiles.wide).map(move |wide| (high, wide))) {
            for channel in (0..channels).step_by(V::WIDTH) {
                // SAFETY: `check` bounds every read and write.
                unsafe {
                    let from = x.as_ptr().add(tiles.corner(high, wide) + channel);
                    let to = to.as_mut_ptr().add(tiles.place(high, wide) + channel);
                    let mut half = [[V::splat(0.0); REACH]; REACH];
                    for column in 0..REACH {
                        let from = from.add(column * tiles.pixel);
                        let turned = input_side(array(|row| V::load(from.add(row * tiles.row))));
                        for (half, turned) in half.iter_mut().zip(turned) {
                            half[column] = turned;
                        }
                    }
                    for (row, half) in half.into_iter().enumerate() {
                        for (column, value) in input_side(half).into_iter().enumerate() {
                            value.store(to.add((row * REACH + column) * tiles.plane));
                        }
                    }
                }
            }
        }
    }

    /// A g Aᵀ of every 4×4 tile g, for `channels` (a multiple of 16).
    pub fn transform_gradient<V: Vector>(g: &[f32], tiles: Tiles, channels: usize, to: &mut [f32]) {
        assert!(channels.is_multiple_of(16));
        tiles.check(channels, SIDE, g, to);
        for (high, wide) in (0..tiles.high).flat_map(|high| (0..tiles.wide).map(move |wide| (high, wide))) {
            for channel in (0..channels).step_by(V::WIDTH) {
                // SAFETY: `check` bounds every read and write.
                unsafe {
                    let from = g.as_ptr().add(tiles.corner(high, wide) + channel);
                    let to = to.as_mut_ptr().add(tiles.place(high, wide) + channel);
                    let mut half = [[V::splat(0.0); SIDE]; REACH];
                    for column in 0..SIDE {
                        let from = from.add(column * tiles.pixel);
                        let turned = gradient_side(array(|row| V::load(from.add(row * tiles.row))));
                        for (half, turned) in half.iter_mut().zip(turned) {
                            half[column] = turned;
                        }
                    }
                    for (row, half) in half.into_iter().enumerate() {
                        for (column, value) in gradient_side(half).into_iter().enumerate() {
                            value.store(to.add((row * REACH + column) * tiles.plane));
                        }
                    }
                }
            }
        }
    }

    /// bias + Aᵀ m A of every tile m of [`LANES`] channels. Values outside `size` (height, width) or beyond `lanes` are
    /// left out.
    pub fn transform_output<V: Vector>(
        from: &[f32],
        tiles: Tiles,
        bias: &[f32; LANES],
        y: &mut [f32],
        size: (usize, usize),
        lanes: usize,
    ) {
        assert!(tiles.stride == LANES && PLACES * tiles.plane <= from.len() && lanes <= LANES);
        assert!(tiles.place(tiles.high - 1, tiles.wide - 1) + LANES <= tiles.plane);
        let mut part = [[[0.0f32; LANES]; SIDE]; SIDE];
        assert!(tiles.start + (size.0 - 1) * tiles.row + (size.1 - 1) * tiles.pixel + lanes <= y.len());
        for (high, wide) in (0..tiles.high).flat_map(|high| (0..tiles.wide).map(move |wide| (high, wide))) {
            let inside = lanes == LANES && (high + 1) * SIDE <= size.0 && (wide + 1) * SIDE <= size.1;
            let corner = tiles.corner(high, wide);
            let (to, row_step, pixel_step) = if inside {
                // SAFETY: the corner lies inside `y`, as asserted.
                (unsafe { y.as_mut_ptr().add(corner) }, tiles.row, tiles.pixel)
            } else {
                (part.as_mut_ptr().cast::<f32>(), SIDE * LANES, LANES)
            };
            for lane in (0..LANES).step_by(V::WIDTH) {
                // SAFETY: the assertions bound every read. Writes go to a tile inside the image, or to `part`.
                unsafe {
                    let from = from.as_ptr().add(tiles.place(high, wide) + lane);
                    let bias = V::load(bias.as_ptr().add(lane));
                    let mut half = [[V::splat(0.0); REACH]; SIDE];
                    for column in 0..REACH {
                        let at = |row: usize| V::load(from.add((row * REACH + column) * tiles.plane));
                        for (half, turned) in half.iter_mut().zip(output_side(array(at))) {
                            half[column] = turned;
                        }
                    }
                    for (row, half) in half.into_iter().enumerate() {
                        for (column, value) in output_side(half).into_iter().enumerate() {
                            value.plus(bias).store(to.add(row * row_step + column * pixel_step + lane));
                        }
                    }
                }
            }
            if !inside {
                for (row, part) in part.iter().enumerate().take(size.0 - high * SIDE) {
                    for (column, part) in part.iter().enumerate().take(size.1 - wide * SIDE) {
                        y[corner + row * tiles.row + column * tiles.pixel..][..lanes].copy_from_slice(&part[..lanes]);
                    }
                }
            }
        }
    }
}

/// Bᵀ d
/// # Safety
/// The CPU must have `V`'s instructions.
#[inline(always)]
unsafe fn input_side<V: Vector>(d: [V; REACH]) -> [V; REACH] {
    // SAFETY: passed on from the caller.
    unsafe {
        let (two, four, minus_four, minus_five) = (V::splat(2.0), V::splat(4.0), V::splat(-4.0), V::splat(-5.0));
        let (even, odd) = (minus_four.multiply_add(d[2], d[4]), minus_four.multiply_add(d[1], d[3]));
        let (even_near, odd_near) = (d[4].minus(d[2]), d[3].minus(d[1]));
        let odd_near = two.multiply_add(odd_near, V::splat(0.0));
        [
            four.multiply_add(d[0], minus_five.multiply_add(d[2], d[4])),
            even.plus(odd),
            even.minus(odd),
            even_near.plus(odd_near),
            even_near.minus(odd_near),
            four.multiply_add(d[1], minus_five.multiply_add(d[3], d[5])),
        ]
    }
}

/// A g
/// # Safety
/// The CPU must have `V`'s instructions.
#[inline(always)]
unsafe fn gradient_side<V: Vector>(g: [V; SIDE]) -> [V; REACH] {
    // SAFETY: passed on from the caller.
    unsafe {
        let (four, zero) = (V::splat(4.0), V::splat(0.0));
        let (even, odd) = (g[0].plus(g[2]), g[1].plus(g[3]));
        let (even_far, odd_far) = (four.multiply_add(g[2], g[0]), four.multiply_add(g[3], g[1]));
        let odd_far = V::splat(2.0).multiply_add(odd_far, zero);
        [g[0], even.plus(odd), even.minus(odd), even_far.plus(odd_far), even_far.minus(odd_far), g[3]]
    }
}

/// Aᵀ m
/// # Safety
/// The CPU must have `V`'s instructions.
#[inline(always)]
unsafe fn output_side<V: Vector>(m: [V; REACH]) -> [V; SIDE] {
    // SAFETY: passed on from the caller.
    unsafe {
        let (near, near_odd) = (m[1].plus(m[2]), m[1].minus(m[2]));
        let (far, far_odd) = (m[3].plus(m[4]), m[3].minus(m[4]));
        [
            m[0].plus(near).plus(far),
            V::splat(2.0).multiply_add(far_odd, near_odd),
            V::splat(4.0).multiply_add(far, near),
            V::splat(8.0).multiply_add(far_odd, near_odd).plus(m[5]),
        ]
    }
}

/// The matrix G of the same paper.
const G: [[f32; 3]; REACH] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

kernels! {
    /// G w Gᵀ for a row of [`LANES`] weights: (3, 3, LANES) → every `stride`-th (LANES) of (6, 6).
    pub fn transform_weights<V: Vector>(weights: &[[f32; LANES]; 9], to: &mut [f32], stride: usize) {
        let mut half = [[[0.0f32; LANES]; 3]; REACH];
        for (g, half) in G.iter().zip(&mut half) {
            for (column, half) in half.iter_mut().enumerate() {
                for (lane, half) in half.iter_mut().enumerate() {
                    *half = g[0] * weights[column][lane] + g[1] * weights[3 + column][lane] + g[2] * weights[6 + column][lane];
                }
            }
        }
        for (row, half) in half.iter().enumerate() {
            for (column, g) in G.iter().enumerate() {
                let to = &mut to[(row * REACH + column) * stride..][..LANES];
                for (lane, to) in to.iter_mut().enumerate() {
                    *to = g[0] * half[0][lane] + g[1] * half[1][lane] + g[2] * half[2][lane];
                }
            }
        }
    }

    /// Gᵀ s G for a row of [`LANES`] sums: every `stride`-th (LANES) of (6, 6) → (3, 3, LANES).
    pub fn gather_weights<V: Vector>(sums: &[f32], stride: usize, to: &mut [[f32; LANES]; 9]) {
        let mut half = [[[0.0f32; LANES]; REACH]; 3];
        for (row, half) in half.iter_mut().enumerate() {
            for (column, half) in half.iter_mut().enumerate() {
                for (place, g) in G.iter().enumerate() {
                    let sums = &sums[(place * REACH + column) * stride..][..LANES];
                    for (half, sum) in half.iter_mut().zip(sums) {
                        *half += g[row] * sum;
                    }
                }
            }
        }
        *to = [[0.0; LANES]; 9];
        for (row, half) in half.iter().enumerate() {
            for column in 0..3 {
                for (half, g) in half.iter().zip(&G) {
                    for (to, half) in to[row * 3 + column].iter_mut().zip(half) {
                        *to += half * g[column];
                    }
                }
            }
        }
    }
}
