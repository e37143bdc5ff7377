//! Differentiable operations on dfdx tensors, and the kernels that they use.
//!
//! Feature maps are (batch, height, width, channels), so that vectors run over channels. The shapes alone fix the order
//! of each sum. Every path fuses the same multiplications and additions. So results depend neither on the number of
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

/// A number type for parameters.
pub trait Number: dfdx::dtypes::Dtype + num_traits::Float + rand_distr::uniform::SampleUniform {}
impl<E: dfdx::dtypes::Dtype + num_traits::Float + rand_distr::uniform::SampleUniform> Number for E {}

/// A batch of feature maps, not on the tape.
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

    /// A map with arbitrary values: write them before you read them.
    fn stale(shape: (usize, usize, usize, usize)) -> Self {
        Self::new(shape, Buffer::stale(shape.0 * shape.1 * shape.2 * shape.3))
    }

    /// A map of the same size with arbitrary values.
    fn like(&self, channels: usize) -> Self {
        Self::stale((self.batch, self.height, self.width, channels))
    }

    /// A map of half the size with arbitrary values.
    fn halved(&self, channels: usize) -> Self {
        Self::stale((self.batch, self.height / 2, self.width / 2, channels))
    }

    fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Number of values of one image.
    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The values of one image.
    fn of(&self, image: usize) -> &[f32] {
        &self.values[image * self.image()..][..self.image()]
    }

    fn pixels(&self) -> usize {
        self.batch * self.height * self.width
    }
}

#[cfg(test)]
mod tests;
