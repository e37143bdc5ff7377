//! The blocks that a trunk is made of.
//!
//! Each block returns the values of its last convolution. A batch norm that follows is applied when the next block
//! reads them.

use std::sync::Arc;

use anyhow::Result;
use dfdx::nn::tensor_collection::*;
use dfdx::prelude::*;

use super::batch_norm::{BatchNorm, Moments};
use super::buffers::Buffer;
use super::chain::{Chain, Signal, check};
use super::conv::{Conv, Weights};
use super::passes::{backward, forward, pooled, sum_images};
use super::pointwise::{self, Affine, Unpooled};
use super::tape::{Accumulate, accumulate};
use super::{FeatureMap, Number};
use crate::base::simd::Simd;

impl<const I: usize, const O: usize, const K: usize> Conv<I, O, K, f32, Cpu> {
    pub(super) fn targets(&self) -> Vec<Accumulate> {
        vec![accumulate(&self.weight), accumulate(&self.bias)]
    }

    /// The convolution alone. Also returns the moments of its output.
    pub(super) fn apply(&self, x: &FeatureMap, affine: &Affine) -> (FeatureMap, Moments) {
        let mut y = x.like(O);
        let (simd, weights) = (Simd::current(), self.forward(x.size()));
        let mut items: Vec<_> = (0..x.batch).map(|_| Default::default()).collect();
        let sums = forward(simd, &weights, (x, affine), Some(&mut y.values), &mut items, 2 * O, &|_, y, _, sums| {
            pointwise::activate(simd, y, O, false, sums);
        });
        let moments = Moments::new(&sums, y.pixels());
        (y, moments)
    }

    pub fn infer(&self, x: &Signal) -> Signal {
        Signal::from(self.apply(&x.map, &x.affine).0)
    }

    /// The forward pass of a training, for a convolution that is not part of a block, such as a stem.
    pub fn train(&self, layer: &str, x: &Signal, chain: &mut Chain) -> Result<Signal> {
        let (y, moments) = self.apply(&x.map, &x.affine);
        check(layer, &moments)?;
        let (input, shape) = (x.clone(), self.shape(x.map.size()));
        let turned = (!chain.is_empty()).then(|| self.backward(x.map.size()));
        chain.push(self.targets(), move |g| {
            let simd = Simd::current();
            let (plain, x) = (Affine::none(O), (&*input.map, &input.affine));
            let into = |image: usize, _: &[f32], frame, to: &mut [f32]| {
                pointwise::fill(simd, g.of(image), O, &plain, frame, to)
            };
            let found = backward(simd, shape, turned.as_ref(), x, &into, 0, &|_, _, _| ());
            (found.input.unwrap_or(FeatureMap::EMPTY), found.parameters)
        });
        Ok(Signal { moments: Some(moments), ..Signal::from(y) })
    }
}

/// 3×3 convolution → ReLU → batch norm → 2×2 maximum if `POOL`.
#[derive(Debug, Clone)]
pub struct ConvBlock<const I: usize, const O: usize, const POOL: bool, E: Dtype, D: Storage<E>> {
    pub conv: Conv<I, O, 3, E, D>,
    pub norm: BatchNorm<O, E, D>,
}

impl<const I: usize, const O: usize, const POOL: bool, E: Number, D: Device<E>> TensorCollection<E, D>
    for ConvBlock<I, O, POOL, E, D>
{
    type To<E2: Dtype, D2: Device<E2>> = ConvBlock<I, O, POOL, E2, D2>;

    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
        visitor.visit_fields(
            (Self::module("conv", |s| &s.conv, |s| &mut s.conv), Self::module("norm", |s| &s.norm, |s| &mut s.norm)),
            |(conv, norm)| ConvBlock { conv, norm },
        )
    }
}

/// Rows that the backward pass convolves again together. The number is even, and small enough for the nearest cache.
const BAND: usize = 4;

/// The output of a block's convolution and ReLU.
struct Active {
    /// Before the pooling, if it is kept.
    full: Option<FeatureMap>,
    /// After the pooling.
    y: Arc<FeatureMap>,
    /// Empty without pooling.
    winners: Vec<u8>,
    moments: Moments,
}

impl<const I: usize, const O: usize, const POOL: bool> ConvBlock<I, O, POOL, f32, Cpu> {
    /// Pooling comes before the batch norm. This gives the same result, because the largest output of a batch norm
    /// comes from the largest input, or from the smallest if the scale is negative. Without learning, no moments are
    /// needed, and the ReLU can also come after the pooling.
    fn activate(&self, weights: &Weights, x: &Signal, learns: bool) -> Active {
        // For a cheap convolution, it is faster to repeat it in the backward pass than to keep its output in memory.
        let keep = learns && weights.shape.is_winograd();
        let sums = if learns { 2 * O } else { 0 };
        let (simd, size, x, affine) = (Simd::current(), x.map.size(), &*x.map, &x.affine);
        let signs: Vec<f32> =
            super::tape::values(&self.norm.scale).iter().map(|scale| if *scale < 0.0 { -1.0 } else { 1.0 }).collect();
        let mut full = (keep || !POOL).then(|| x.like(O));
        let mut y = if POOL { x.halved(O) } else { FeatureMap::EMPTY };
        let mut winners = vec![0u8; y.values.len()];
        let kept = full.as_mut().map(|full| &mut *full.values);
        let mut items = pooled(&mut y, &mut winners, x.batch);
        let moments = forward(simd, weights, (x, affine), kept, &mut items, sums, &|_, full, (y, winners), sums| {
            if learns {
                pointwise::activate(simd, full, O, true, sums);
            }
            if POOL {
                pointwise::pool(simd, full, size, O, &signs, y, winners);
            }
            if !learns {
                pointwise::rectify(simd, if POOL { y } else { full });
            }
        });
        let moments = Moments::new(&moments, x.pixels());
        if let Some(full) = full.take_if(|_| !POOL) {
            y = full;
        }
        Active { full, y: Arc::new(y), winners, moments }
    }

    pub fn infer(&self, x: &Signal) -> Signal {
        let weights = self.conv.forward(x.map.size());
        Signal { map: self.activate(&weights, x, false).y, affine: self.norm.running(false), moments: None }
    }

    pub fn train(&mut self, layer: &str, x: &Signal, chain: &mut Chain) -> Result<Signal> {
        let weights = self.conv.forward(x.map.size());
        let Active { full, y, winners, moments } = self.activate(&weights, x, true);
        check(&format!("{layer}.conv"), &moments)?;
        let (affine, statistics) = self.norm.learn(&moments, false);
        let (input, (height, width), shape) = (x.clone(), x.map.size(), self.conv.shape(x.map.size()));
        let turned = (!chain.is_empty()).then(|| self.conv.backward(x.map.size()));
        let targets = [self.conv.targets(), self.norm.targets()];
        let (output, plain) = (y.clone(), Affine::none(O));
        chain.push(targets.into_iter().flatten().collect(), move |mut g| {
            let simd = Simd::current();
            let sums = sum_images(&mut g, 2 * O, &|image, g, sums| {
                pointwise::norm_sums(simd, output.of(image), g, O, &plain, &statistics.normal, sums);
            });
            let (slope, for_norm) = statistics.slope(&sums);
            let full = if POOL { full.as_ref() } else { Some(&*output) };
            let into = |image: usize, x: &[f32], frame, to: &mut [f32]| {
                let g = Unpooled::new(&g, &winners, image, (height, width));
                match full {
                    Some(full) => pointwise::block_gradient(simd, full.of(image), 0, g, &slope, frame, to),
                    None => {
                        let mut again = Buffer::stale(BAND * width * O);
                        for first in (0..height).step_by(BAND) {
                            let again = &mut again[..BAND.min(height - first) * width * O];
                            weights.run_rows(simd, x, shape.input_frame(), first, again);
                            pointwise::block_gradient(simd, again, first, g, &slope, frame, to);
                        }
                    }
                }
            };
            let found = backward(simd, shape, turned.as_ref(), (&input.map, &input.affine), &into, 0, &|_, _, _| ());
            (found.input.unwrap_or(FeatureMap::EMPTY), [found.parameters, for_norm].concat())
        });
        Ok(Signal { map: y, affine, moments: None })
    }
}

/// The global average of each channel, (batch, 1, 1, channels).
pub fn average(x: &Signal) -> FeatureMap {
    let mut y = FeatureMap::stale((x.map.batch, 1, 1, x.map.channels));
    let simd = Simd::current();
    sum_images(&mut y, 0, &|image, y, _| pointwise::average(simd, x.map.of(image), x.map.channels, &x.affine, y));
    y
}

/// Like [`average`], as a step of a training.
pub fn average_trained(x: &Signal, chain: &mut Chain) -> FeatureMap {
    let like = x.map.clone();
    chain.push(Vec::new(), move |g| (spread(&g, &like), Vec::new()));
    average(x)
}

/// The gradient of an average, spread evenly over the pixels of `like`.
fn spread(g: &FeatureMap, like: &FeatureMap) -> FeatureMap {
    let mut x = like.like(like.channels);
    let share = 1.0 / (like.height * like.width) as f32;
    sum_images(&mut x, 0, &|image, x, _| {
        let g: Vec<f32> = g.of(image).iter().map(|g| g * share).collect();
        x.chunks_exact_mut(g.len()).for_each(|pixel| pixel.copy_from_slice(&g));
    });
    x
}

/// Global average of each channel, after batch norm and ReLU.
#[derive(Debug, Clone)]
pub struct NormAverage<const C: usize, E: Dtype, D: Storage<E>> {
    pub norm: BatchNorm<C, E, D>,
}

impl<const C: usize, E: Dtype, D: Device<E>> TensorCollection<E, D> for NormAverage<C, E, D> {
    type To<E2: Dtype, D2: Device<E2>> = NormAverage<C, E2, D2>;

    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
        visitor.visit_fields(Self::module("norm", |s| &s.norm, |s| &mut s.norm), |norm| NormAverage { norm })
    }
}

impl<const C: usize> NormAverage<C, f32, Cpu> {
    pub fn infer(&self, x: &Signal) -> FeatureMap {
        average(&Signal { affine: self.norm.running(true), ..x.clone() })
    }

    pub fn train(&mut self, x: &Signal, chain: &mut Chain) -> Result<FeatureMap> {
        let (affine, statistics) = self.norm.learn(x.moments()?, true);
        let seen = Signal { affine, ..x.clone() };
        let y = average(&seen);
        chain.push(self.norm.targets(), move |g| {
            let (simd, x) = (Simd::current(), &*seen.map);
            let mut g = spread(&g, x);
            let sums = sum_images(&mut g, 2 * C, &|image, g, sums| {
                pointwise::norm_sums(simd, x.of(image), g, C, &seen.affine, &statistics.normal, sums);
            });
            let (slope, for_norm) = statistics.slope(&sums);
            sum_images(&mut g, 0, &|image, g, _| pointwise::norm_slope(simd, x.of(image), g, C, &slope));
            (g, for_norm)
        });
        Ok(y)
    }
}
