//! The inner loops of a search.
//!
//! Every vector unit gives the same bits: each sum has 16 lanes, a fixed order, and fused operations.

use crate::base::simd::Simd;
use crate::base::simd::kernels;
use crate::learning::nn::kernels::LANES;

/// Number of parallel sums for a squared distance.
const SUMS: usize = 16;

/// A function for the squared distance of two vectors of bytes, in the form that the library needs.
pub fn squared_distance(dimension: usize) -> impl Fn(*const i8, *const i8) -> f32 + Send + Sync {
    let simd = Simd::current();
    move |a, b| {
        // SAFETY: the library passes vectors of the dimension that it was made for, and does not change them during the
        // call.
        let (a, b) = unsafe { (std::slice::from_raw_parts(a, dimension), std::slice::from_raw_parts(b, dimension)) };
        let mut square = 0;
        squared_distance_of_bytes(simd, a, b, &mut square);
        square as f32
    }
}

kernels! {
    /// Squared distances from `query` to the consecutive `rows`.
    pub fn squared_distances<V: Vector>(query: &[f32], rows: &[f32], to: &mut [f32]) {
        let dimension = query.len();
        assert!(dimension > 0 && rows.len() == to.len() * dimension, "as many distances as rows");
        let whole = dimension / SUMS * SUMS;
        let rest = |of: &[f32]| -> [f32; SUMS] {
            std::array::from_fn(|lane| of.get(whole + lane).copied().unwrap_or(0.0))
        };
        let end = rest(query);
        for (row, to) in rows.chunks_exact(dimension).zip(to) {
            let mut lanes = [0.0f32; SUMS];
            // SAFETY: `whole` is a multiple of `SUMS` that both slices reach, and `lanes`, `end` and what `rest` gives
            // have `SUMS` values, of which the registers take `WIDTH` each.
            unsafe {
                let mut sums = [V::splat(0.0); 2];
                let registers = SUMS / V::WIDTH;
                for start in (0..whole).step_by(SUMS) {
                    for (n, sum) in sums.iter_mut().enumerate().take(registers) {
                        let at = start + n * V::WIDTH;
                        let apart = V::load(query.as_ptr().add(at)).minus(V::load(row.as_ptr().add(at)));
                        *sum = apart.multiply_add(apart, *sum);
                    }
                }
                if whole < dimension {
                    let last = rest(row);
                    for (n, sum) in sums.iter_mut().enumerate().take(registers) {
                        let at = n * V::WIDTH;
                        let apart = V::load(end.as_ptr().add(at)).minus(V::load(last.as_ptr().add(at)));
                        *sum = apart.multiply_add(apart, *sum);
                    }
                }
                for (n, sum) in sums.iter().enumerate().take(registers) {
                    sum.store(lanes.as_mut_ptr().add(n * V::WIDTH));
                }
            }
            for half in [8, 4, 2, 1] {
                for lane in 0..half {
                    lanes[lane] += lanes[lane + half];
                }
            }
            *to = lanes[0];
        }
    }

    /// Whole numbers, so that the sum is exact in any order.
    fn squared_distance_of_bytes<V: Vector>(a: &[i8], b: &[i8], to: &mut i32) {
        let apart = a.iter().zip(b).map(|(a, b)| i16::from(*a) - i16::from(*b));
        *to = apart.map(|apart| i32::from(apart) * i32::from(apart)).sum();
    }

    /// Finds the positions in `scores`, rows of [`LANES`], whose score is not above the limit of their row.
    pub fn screen<V: Vector>(scores: &[f32], limits: &[f32], hits: &mut Vec<usize>) {
        hits.clear();
        for (row, (scores, limit)) in scores.chunks_exact(LANES).zip(limits).enumerate() {
            // NaN is not above the limit, so the direct distance decides.
            let above = |score: f32| score > *limit;
            let count: u32 = scores.iter().map(|score| u32::from(above(*score))).sum();
            if count < LANES as u32 {
                hits.extend((0..LANES).filter(|lane| !above(scores[*lane])).map(|lane| row * LANES + lane));
            }
        }
    }
}
