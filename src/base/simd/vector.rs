//! Registers of 32-bit floats, one type for each vector unit.

/// Like `std::array::from_fn`, but always inlined. `N` must not be 0.
#[inline(always)]
pub(crate) fn array<T: Copy, const N: usize>(mut of: impl FnMut(usize) -> T) -> [T; N] {
    let mut values = [of(0); N];
    for (i, value) in values.iter_mut().enumerate().skip(1) {
        *value = of(i);
    }
    values
}

/// A vector register of 32-bit floats.
pub(crate) trait Vector: Copy {
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
    /// # Safety
    /// The CPU must have the type's instructions.
    unsafe fn plus(self, other: Self) -> Self;
    /// # Safety
    /// The CPU must have the type's instructions.
    unsafe fn minus(self, other: Self) -> Self;
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
    unsafe fn plus(self, other: Self) -> Self {
        array(|lane| self[lane] + other[lane])
    }
    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        array(|lane| self[lane] - other[lane])
    }
    #[inline(always)]
    unsafe fn multiply_add(self, other: Self, sum: Self) -> Self {
        array(|lane| self[lane].mul_add(other[lane], sum[lane]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    macro_rules! vector {
        ($register:ty, $width:literal, $load:ident, $store:ident, $splat:ident, $plus:ident, $minus:ident, $fused:ident) => {
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
                unsafe fn plus(self, other: Self) -> Self {
                    // SAFETY: the caller vouches for the instructions.
                    unsafe { $plus(self, other) }
                }
                #[inline(always)]
                unsafe fn minus(self, other: Self) -> Self {
                    // SAFETY: the caller vouches for the instructions.
                    unsafe { $minus(self, other) }
                }
                #[inline(always)]
                unsafe fn multiply_add(self, other: Self, sum: Self) -> Self {
                    // SAFETY: the caller vouches for the instructions.
                    unsafe { $fused(self, other, sum) }
                }
            }
        };
    }

    vector!(
        __m512,
        16,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_fmadd_ps
    );
    vector!(
        __m256,
        8,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_fmadd_ps
    );
}
