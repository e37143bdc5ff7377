//! Compares kernels with simple references on every vector unit, and checks every operation by finite differences.

mod gradients;
mod kernels;

use super::FeatureMap;

/// Values between -1 and 1 that look random.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn map(shape: (usize, usize, usize, usize), seed: u64) -> FeatureMap {
    FeatureMap::new(shape, noise(shape.0 * shape.1 * shape.2 * shape.3, seed))
}
