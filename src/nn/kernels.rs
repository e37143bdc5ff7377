//! The two inner loops of a convolution, for AVX-512, AVX2 with FMA, and any other CPU; chosen at run time.
//!
//! Each output is one chain of fused multiply-adds in a fixed order, so every path gives the same bits.

use std::sync::LazyLock;

/// Pixels (or weight rows) of a tile.
pub const ROWS: usize = 8;
/// Channels of a tile.
pub const LANES: usize = 32;

pub type Tile = [[f32; LANES]; ROWS];

/// The vector instructions in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simd {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

static DETECTED: LazyLock<Simd> = LazyLock::new(|| *Simd::available().first().unwrap_or(&Simd::Portable));

impl Simd {
    /// What this CPU can do, best first.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                found.push(Self::Avx512);
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                found.push(Self::Avx2);
            }
        }
        found.push(Self::Portable);
        found
    }

    pub fn best() -> Self {
        *DETECTED
    }
}

/// Where the values of a tile stand in a padded image: `start` of a window, `row` and `pixel` strides.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub start: usize,
    pub row: usize,
    pub pixel: usize,
}

/// `tile[p][o] = Σ_r Σ_t x[start + r·row + p·pixel + t] · weights[r][t][o]` for `rows` rows of `taps` values.
pub fn convolve(simd: Simd, x: &[f32], window: Window, rows: usize, taps: usize, weights: &[f32], tile: &mut Tile) {
    let last = window.start + (rows - 1) * window.row + (ROWS - 1) * window.pixel + taps;
    assert!(last <= x.len() && rows * taps * LANES <= weights.len(), "the window must lie inside the image");
    match simd {
        // SAFETY: the CPU has the instructions (`Simd::available`), and the assertion above holds every read.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { x86::convolve_avx512(x, window, rows, taps, weights, tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { x86::convolve_avx2(x, window, rows, taps, weights, tile) },
        // SAFETY: as above; no special instructions.
        Simd::Portable => unsafe { convolve_with::<[f32; 8], 4, 2>(x, window, rows, taps, weights, tile) },
    }
}

/// `tile[t][o] += Σ_r Σ_p x[start + r·row + p·pixel + t] · g[g.start + r·g.row + p·g.pixel + o]`
/// over `height` × `width` pixels.
pub fn correlate(
    simd: Simd,
    x: &[f32],
    xs: Window,
    g: &[f32],
    gs: Window,
    (height, width): (usize, usize),
    tile: &mut Tile,
) {
    let last = |at: Window, reach: usize| at.start + (height - 1) * at.row + (width - 1) * at.pixel + reach;
    assert!(last(xs, ROWS) <= x.len() && last(gs, LANES) <= g.len(), "the windows must lie inside the images");
    match simd {
        // SAFETY: the CPU has the instructions (`Simd::available`), and the assertion above holds every read.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { x86::correlate_avx512(x, xs, g, gs, (height, width), tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { x86::correlate_avx2(x, xs, g, gs, (height, width), tile) },
        // SAFETY: as above; no special instructions.
        Simd::Portable => unsafe { correlate_with::<[f32; 8], 4, 2>(x, xs, g, gs, (height, width), tile) },
    }
}

/// A vector register.
trait Vector: Copy {
    const WIDTH: usize;
    /// # Safety
    /// The CPU must have the type's instructions; `from` must be valid for `WIDTH` reads.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// As for `load`; `to` must be valid for `WIDTH` writes.
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    /// The CPU must have the type's instructions.
    unsafe fn splat(value: f32) -> Self;
    /// `self · other + sum`, rounded once.
    /// # Safety
    /// The CPU must have the type's instructions.
    unsafe fn multiply_add(self, other: Self, sum: Self) -> Self;
}

impl Vector for [f32; 8] {
    const WIDTH: usize = 8;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for 8 reads.
        unsafe { from.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for 8 writes.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn multiply_add(self, other: Self, sum: Self) -> Self {
        std::array::from_fn(|lane| self[lane].mul_add(other[lane], sum[lane]))
    }
}

/// Blocks of `P` pixels × `N` vectors, as many as the registers hold.
/// # Safety
/// The CPU must have `V`'s instructions, and `convolve`'s assertion must hold.
#[inline(always)]
unsafe fn convolve_with<V: Vector, const P: usize, const N: usize>(
    x: &[f32],
    window: Window,
    rows: usize,
    taps: usize,
    weights: &[f32],
    tile: &mut Tile,
) {
    for first in (0..ROWS).step_by(P) {
        for lane in (0..LANES).step_by(N * V::WIDTH) {
            // SAFETY: all offsets stay below the bounds asserted by `convolve`; `tile` has ROWS × LANES values.
            unsafe {
                let mut sums = [[V::splat(0.0); N]; P];
                let mut weight = weights.as_ptr().add(lane);
                for row in 0..rows {
                    let source = x.as_ptr().add(window.start + row * window.row + first * window.pixel);
                    for tap in 0..taps {
                        let factors: [V; N] = std::array::from_fn(|n| V::load(weight.add(n * V::WIDTH)));
                        weight = weight.add(LANES);
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
                        sum.store(tile[first + p].as_mut_ptr().add(lane + n * V::WIDTH));
                    }
                }
            }
        }
    }
}

/// # Safety
/// The CPU must have `V`'s instructions, and `correlate`'s assertion must hold.
#[inline(always)]
unsafe fn correlate_with<V: Vector, const P: usize, const N: usize>(
    x: &[f32],
    xs: Window,
    g: &[f32],
    gs: Window,
    (height, width): (usize, usize),
    tile: &mut Tile,
) {
    for first in (0..ROWS).step_by(P) {
        for lane in (0..LANES).step_by(N * V::WIDTH) {
            // SAFETY: all offsets stay below the bounds asserted by `correlate`; `tile` has ROWS × LANES values.
            unsafe {
                let mut sums: [[V; N]; P] = std::array::from_fn(|p| {
                    std::array::from_fn(|n| V::load(tile[first + p].as_ptr().add(lane + n * V::WIDTH)))
                });
                for row in 0..height {
                    let mut source = x.as_ptr().add(xs.start + row * xs.row + first);
                    let mut gradient = g.as_ptr().add(gs.start + row * gs.row + lane);
                    for _ in 0..width {
                        let factors: [V; N] = std::array::from_fn(|n| V::load(gradient.add(n * V::WIDTH)));
                        for (p, sums) in sums.iter_mut().enumerate() {
                            let value = V::splat(*source.add(p));
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
                        sum.store(tile[first + p].as_mut_ptr().add(lane + n * V::WIDTH));
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Tile, Vector, Window, convolve_with, correlate_with};

    macro_rules! vector {
        ($register:ty, $width:literal, $load:ident, $store:ident, $splat:ident, $multiply_add:ident) => {
            impl Vector for $register {
                const WIDTH: usize = $width;
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the caller vouches for the instructions and the reads.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: the caller vouches for the instructions and the writes.
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    // SAFETY: the caller vouches for the instructions.
                    unsafe { $splat(value) }
                }
                #[inline(always)]
                unsafe fn multiply_add(self, other: Self, sum: Self) -> Self {
                    // SAFETY: the caller vouches for the instructions.
                    unsafe { $multiply_add(self, other, sum) }
                }
            }
        };
    }

    vector!(__m512, 16, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps);
    vector!(__m256, 8, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps);

    /// # Safety
    /// The CPU must have AVX-512F, and `convolve`'s assertion must hold.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn convolve_avx512(
        x: &[f32],
        window: Window,
        rows: usize,
        taps: usize,
        weights: &[f32],
        tile: &mut Tile,
    ) {
        // SAFETY: passed on from the caller.
        unsafe { convolve_with::<__m512, 8, 2>(x, window, rows, taps, weights, tile) }
    }

    /// # Safety
    /// The CPU must have AVX2 and FMA, and `convolve`'s assertion must hold.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn convolve_avx2(x: &[f32], window: Window, rows: usize, taps: usize, weights: &[f32], tile: &mut Tile) {
        // SAFETY: passed on from the caller.
        unsafe { convolve_with::<__m256, 4, 2>(x, window, rows, taps, weights, tile) }
    }

    /// # Safety
    /// The CPU must have AVX-512F, and `correlate`'s assertion must hold.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn correlate_avx512(
        x: &[f32],
        xs: Window,
        g: &[f32],
        gs: Window,
        size: (usize, usize),
        tile: &mut Tile,
    ) {
        // SAFETY: passed on from the caller.
        unsafe { correlate_with::<__m512, 8, 2>(x, xs, g, gs, size, tile) }
    }

    /// # Safety
    /// The CPU must have AVX2 and FMA, and `correlate`'s assertion must hold.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn correlate_avx2(x: &[f32], xs: Window, g: &[f32], gs: Window, size: (usize, usize), tile: &mut Tile) {
        // SAFETY: passed on from the caller.
        unsafe { correlate_with::<__m256, 4, 2>(x, xs, g, gs, size, tile) }
    }
}
