//! Vector units of CPUs: chooses one at run time, and compiles each kernel for all of them.

mod vector;

use std::sync::LazyLock;

pub(crate) use vector::{Vector, array};

/// Environment variable that forces a vector unit: `avx512`, `avx2` or `portable`.
pub const VARIABLE: &str = "SIMILIAI_SIMD";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// A vector unit that this CPU has. Every unit gives the same results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simd(pub(crate) Unit);

static CHOSEN: LazyLock<Result<Simd, String>> = LazyLock::new(|| match std::env::var(VARIABLE) {
    Ok(name) if !name.is_empty() => Simd::named(&name),
    _ => Ok(Simd::available()[0]),
});

impl Simd {
    /// The vector units of this CPU, fastest first. Never empty.
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
            format!("{VARIABLE}={name} is not supported by this CPU; use one of {}", names.join(", "))
        })
    }

    /// The fastest unit, or the one that [`VARIABLE`] forces. `Err` if this CPU does not have that one.
    pub fn chosen() -> Result<Self, String> {
        CHOSEN.clone()
    }

    /// Like [`Self::chosen`], for code that runs after the start of the program has handled the error.
    pub(crate) fn current() -> Self {
        CHOSEN.as_ref().copied().unwrap_or(Self(Unit::Portable))
    }
}

/// Defines functions that are compiled once for each vector unit. The first argument chooses the unit. Inside, `V` is
/// its register type, and the compiler vectorises ordinary loops with its instructions.
macro_rules! kernels {
    ($($(#[$meta:meta])* $visibility:vis fn $name:ident<$v:ident: Vector>($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name(simd: $crate::base::simd::Simd, $($argument: $type),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn with<$v: $crate::base::simd::Vector>($($argument: $type),*) $body
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
                $crate::base::simd::Unit::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::base::simd::Unit::Avx2 => unsafe { avx2($($argument),*) },
                $crate::base::simd::Unit::Portable => with::<[f32; 8]>($($argument),*),
            }
        }
    )*};
}

pub(crate) use kernels;
