//! Differentiable ops on dfdx tensors, and the kernels under them.
//!
//! Feature maps are (batch, height, width, channels): vectors run over channels. The order of every sum is fixed
//! by the shapes alone, so results do not depend on the number of threads or on the vector unit. (The dense layers are
//! dfdx's: above 512 rows its blocks follow the size of the CPU's cache.)

mod batch_norm;
mod blocks;
mod conv;
mod kernels;
mod normalize;
mod pool;
pub mod tape;
mod triplet;

pub use batch_norm::BatchNorm;
pub use blocks::{ConvBlock, Identity, NormAverage, ResidualBlock, Shortcut, global_average, stem};
pub use conv::Conv;
pub use normalize::{Rows, normalize, normalize_taped};
pub use pool::global_average as average_pixels;
pub use triplet::{TripletLoss, Triplets, evaluate_loss, triplet_loss};

/// What parameters are made of.
pub trait Number: dfdx::dtypes::Dtype + num_traits::Float + rand_distr::uniform::SampleUniform {}
impl<E: dfdx::dtypes::Dtype + num_traits::Float + rand_distr::uniform::SampleUniform> Number for E {}

/// A batch of feature maps, outside the tape.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureMap {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// (batch, height, width, channels)
    pub values: Vec<f32>,
}

impl FeatureMap {
    /// # Panics
    /// If the number of values does not fit the shape.
    pub fn new((batch, height, width, channels): (usize, usize, usize, usize), values: Vec<f32>) -> Self {
        assert_eq!(values.len(), batch * height * width * channels, "values must fit the shape");
        Self { batch, height, width, channels, values }
    }

    fn like(&self, channels: usize, values: Vec<f32>) -> Self {
        Self::new((self.batch, self.height, self.width, channels), values)
    }

    /// Values of one image.
    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn pixels(&self) -> usize {
        self.batch * self.height * self.width
    }
}

/// Sums over a batch are made in this many parts, each in order, then added in order.
const PARTS: usize = 16;

/// `part(images)` for up to [`PARTS`] ranges of images side by side; their results in order.
fn in_parts<R: Send>(batch: usize, part: impl Fn(std::ops::Range<usize>) -> R + Sync) -> Vec<R> {
    use rayon::prelude::*;
    let size = batch.div_ceil(PARTS).max(1);
    let starts: Vec<usize> = (0..batch).step_by(size).collect();
    starts.into_par_iter().map(|start| part(start..(start + size).min(batch))).collect()
}

#[cfg(test)]
mod tests;
