//! Frames of several images, filled for the kernels.

use std::ops::Range;

use super::FeatureMap;
use super::buffers::Buffer;
use super::frame::Frame;
use super::pointwise::{self, Affine};
use crate::base::simd::Simd;

/// Frames of a few images, which are used again for the next images. The values around the images stay zero.
pub(super) struct Frames {
    pub frame: Frame,
    values: Buffer,
}

impl Frames {
    pub fn new(frame: Frame, images: usize) -> Self {
        Self { frame, values: Buffer::zeros(images * frame.length) }
    }

    pub fn image(&mut self, image: usize) -> &mut [f32] {
        &mut self.values[image * self.frame.length..][..self.frame.length]
    }

    /// The values of the first `images` frames.
    pub fn values(&self, images: usize) -> &[f32] {
        &self.values[..images * self.frame.length]
    }

    /// Fills the frames with some images of `x`, with `affine` applied.
    pub fn fill(&mut self, simd: Simd, x: &FeatureMap, images: Range<usize>, affine: &Affine) {
        for (place, image) in images.enumerate() {
            pointwise::fill(simd, x.of(image), x.channels, affine, self.frame, self.image(place));
        }
    }
}
