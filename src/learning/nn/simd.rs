//! The vector units, chosen at run time, and the one door through which kernels reach them.

use std::sync::LazyLock;

/// Environment variable that forces one: `avx512`, `avx2` or `portable`.
pub const VARIABLE: &str = "SIMILIAI_SIMD";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// A vector unit that this CPU has. Results do not depend on which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simd(pub(crate) Unit);

static CHOSEN: LazyLock<Result<Simd, String>> = LazyLock::new(|| match std::env::var(VARIABLE) {
    Ok(name) if !name.is_empty() => Simd::named(&name),
    _ => Ok(Simd::available()[0]),
});

impl Simd {
    /// What this CPU can do, best first; never empty.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                found.push(Self(Unit::Avx512));
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                found.push(Self(Unit::Avx2));
            }
        }
        found.push(Self(Unit::Portable));
        found
    }

    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Unit::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Unit::Avx2 => "avx2",
            Unit::Portable => "portable",
        }
    }

    fn named(name: &str) -> Result<Self, String> {
        let available = Self::available();
        available.iter().copied().find(|simd| simd.name() == name).ok_or_else(|| {
            let names: Vec<&str> = available.iter().map(|simd| simd.name()).collect();
            format!("{VARIABLE}={name} is nothing this CPU can do; it has {}", names.join(", "))
        })
    }

    /// The best, or the one that [`VARIABLE`] forces; `Err` if it forces what is not there.
    pub fn chosen() -> Result<Self, String> {
        CHOSEN.clone()
    }

    /// The same where `Err` was dealt with at the start of the program.
    pub(crate) fn current() -> Self {
        CHOSEN.as_ref().copied().unwrap_or(Self(Unit::Portable))
    }
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
        std::array::from_fn(|lane| self[lane] + other[lane])
    }
    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] - other[lane])
    }
    #[inline(always)]
    unsafe fn multiply_add(self, other: Self, sum: Self) -> Self {
        std::array::from_fn(|lane| self[lane].mul_add(other[lane], sum[lane]))
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

/// Defines functions that are compiled once for each vector unit; the first argument chooses. Inside, `V` is the
/// unit's register, and ordinary loops become its instructions.
macro_rules! kernels {
    ($($(#[$meta:meta])* $visibility:vis fn $name:ident<$v:ident: Vector>($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name(simd: $crate::learning::nn::Simd, $($argument: $type),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn with<$v: $crate::learning::nn::simd::Vector>($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($argument: $type),*) {
                with::<std::arch::x86_64::__m512>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($argument: $type),*) {
                with::<std::arch::x86_64::__m256>($($argument),*)
            }
            match simd.0 {
                // SAFETY: a `Simd` is only made for a unit that the CPU has.
                #[cfg(target_arch = "x86_64")]
                $crate::learning::nn::simd::Unit::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::learning::nn::simd::Unit::Avx2 => unsafe { avx2($($argument),*) },
                $crate::learning::nn::simd::Unit::Portable => with::<[f32; 8]>($($argument),*),
            }
        }
    )*};
}

pub(crate) use kernels;
