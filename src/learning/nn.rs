//! Differentiable ops on dfdx tensors, and the kernels under them.
//!
//! Feature maps are (batch, height, width, channels): vectors run over channels. The order of every sum is fixed
//! by the shapes alone, and it is either fused or not on every path alike, so results depend neither on the number of
//! threads nor on the vector unit.

mod adamw;
mod batch_norm;
mod blocks;
mod buffers;
mod chain;
mod conv;
mod dense;
mod frame;
mod frames;
pub(crate) mod kernels;
mod normalize;
mod passes;
mod pointwise;
pub mod probe;
mod proxies;
mod residual;
pub mod tape;
mod triplet;
mod winograd;

pub use adamw::AdamW;
pub use batch_norm::BatchNorm;
pub use blocks::{ConvBlock, NormAverage, average, average_trained};
pub use buffers::Buffer;
pub use chain::{Chain, Signal};
pub use conv::Conv;
pub use dense::{linear, linear_taped, tanh, tanh_taped};
pub use normalize::{Rows, normalize, normalize_taped};
pub use proxies::{Entropy, Mixed, cross_entropy};
pub use residual::{Identity, ResidualBlock, Shortcut};
pub use triplet::{TripletLoss, Triplets, triplet_loss};

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
    pub values: Buffer,
}

impl FeatureMap {
    const EMPTY: Self = Self { batch: 0, height: 0, width: 0, channels: 0, values: Buffer::EMPTY };

    /// # Panics
    /// If the number of values does not fit the shape.
    pub fn new((batch, height, width, channels): (usize, usize, usize, usize), values: impl Into<Buffer>) -> Self {
        let values = values.into();
        assert_eq!(values.len(), batch * height * width * channels, "values must fit the shape");
        Self { batch, height, width, channels, values }
    }

    /// Values that must be written before they are read.
    fn stale(shape: (usize, usize, usize, usize)) -> Self {
        Self::new(shape, Buffer::stale(shape.0 * shape.1 * shape.2 * shape.3))
    }

    /// Of the same size, not yet written.
    fn like(&self, channels: usize) -> Self {
        Self::stale((self.batch, self.height, self.width, channels))
    }

    /// Of half the size, not yet written.
    fn halved(&self, channels: usize) -> Self {
        Self::stale((self.batch, self.height / 2, self.width / 2, channels))
    }

    fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Values of one image.
    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The values of this image.
    fn of(&self, image: usize) -> &[f32] {
        &self.values[image * self.image()..][..self.image()]
    }

    fn pixels(&self) -> usize {
        self.batch * self.height * self.width
    }
}

#[cfg(test)]
mod tests;
