//! The residual block.

use anyhow::Result;
use dfdx::nn::modules::{NonMutableModule, ZeroSizedModule};
use dfdx::nn::tensor_collection::*;
use dfdx::prelude::*;

use super::batch_norm::{BatchNorm, Moments};
use super::chain::{Chain, Signal, check};
use super::conv::Conv;
use super::frame::Frame;
use super::passes::{backward, forward, pooled, sum_images};
use super::pointwise::{self, Affine, Unpooled};
use super::{FeatureMap, Number};
use crate::base::simd::Simd;

/// How the input of a residual block is added to its output.
pub trait Shortcut<const I: usize, const O: usize>: Clone + Send + Sync + 'static {
    /// A convolution of the input after batch norm and ReLU. `None` if the input is added as it is.
    fn conv(&self) -> Option<&Conv<I, O, 1, f32, Cpu>>;
}

/// Adds the input as it is, if the number of channels stays the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity;

impl ZeroSizedModule for Identity {}
impl NonMutableModule for Identity {}

impl<const C: usize> Shortcut<C, C> for Identity {
    fn conv(&self) -> Option<&Conv<C, C, 1, f32, Cpu>> {
        None
    }
}

impl<const I: usize, const O: usize> Shortcut<I, O> for Conv<I, O, 1, f32, Cpu> {
    fn conv(&self) -> Option<&Self> {
        Some(self)
    }
}

/// (batch norm → ReLU → 3×3 convolution) twice, plus the shortcut → 2×2 maximum if `POOL`: the pre-activation block
/// of He et al. 2016 ("Identity Mappings in Deep Residual Networks", figure 4e).
#[derive(Debug, Clone)]
pub struct ResidualBlock<const I: usize, const O: usize, const POOL: bool, S, E: Dtype, D: Storage<E>> {
    pub norm1: BatchNorm<I, E, D>,
    pub conv1: Conv<I, O, 3, E, D>,
    pub norm2: BatchNorm<O, E, D>,
    pub conv2: Conv<O, O, 3, E, D>,
    pub shortcut: S,
}

impl<const I: usize, const O: usize, const POOL: bool, S, E, D> TensorCollection<E, D>
    for ResidualBlock<I, O, POOL, S, E, D>
where
    E: Number,
    D: Device<E>,
    S: TensorCollection<E, D>,
{
    type To<E2: Dtype, D2: Device<E2>> = ResidualBlock<I, O, POOL, S::To<E2, D2>, E2, D2>;

    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
        visitor.visit_fields(
            (
                Self::module("norm1", |s| &s.norm1, |s| &mut s.norm1),
                Self::module("conv1", |s| &s.conv1, |s| &mut s.conv1),
                Self::module("norm2", |s| &s.norm2, |s| &mut s.norm2),
                Self::module("conv2", |s| &s.conv2, |s| &mut s.conv2),
                Self::module("shortcut", |s| &s.shortcut, |s| &mut s.shortcut),
            ),
            |(norm1, conv1, norm2, conv2, shortcut)| ResidualBlock { norm1, conv1, norm2, conv2, shortcut },
        )
    }
}

impl<const I: usize, const O: usize, const POOL: bool, S: Shortcut<I, O>> ResidualBlock<I, O, POOL, S, f32, Cpu> {
    /// Computes the second convolution of `inner` with `affine2` applied, adds the shortcut of `x`, and pools. Returns
    /// the result, the winners of the pooling, and the moments of the result.
    fn join(
        &self,
        (x, affine1): (&FeatureMap, &Affine),
        (inner, affine2): (&FeatureMap, &Affine),
    ) -> (FeatureMap, Vec<u8>, Moments) {
        let (simd, size) = (Simd::current(), x.size());
        let around = self.shortcut.conv().map(|conv| conv.apply(x, affine1).0);
        let around = around.as_ref().unwrap_or(x);
        let weights = self.conv2.forward(size);
        let mut full = (!POOL).then(|| x.like(O));
        let mut y = if POOL { x.halved(O) } else { FeatureMap::EMPTY };
        let mut winners = vec![0u8; y.values.len()];
        let (kept, signs) = (full.as_mut().map(|full| &mut *full.values), [1.0; O]);
        let (mut items, inner) = (pooled(&mut y, &mut winners, x.batch), (inner, affine2));
        let sums = forward(simd, &weights, inner, kept, &mut items, 2 * O, &|image, full, (y, winners), sums| {
            pointwise::add(simd, full, around.of(image));
            if POOL {
                pointwise::pool(simd, full, size, O, &signs, y, winners);
            }
            pointwise::activate(simd, if POOL { y } else { full }, O, false, sums);
        });
        let y = full.unwrap_or(y);
        let moments = Moments::new(&sums, y.pixels());
        (y, winners, moments)
    }

    pub fn infer(&self, x: &Signal) -> Signal {
        let affine = self.norm1.running(true);
        let (inner, _) = self.conv1.apply(&x.map, &affine);
        Signal::from(self.join((&x.map, &affine), (&inner, &self.norm2.running(true))).0)
    }

    pub fn train(&mut self, layer: &str, x: &Signal, chain: &mut Chain) -> Result<Signal> {
        let (affine1, statistics1) = self.norm1.learn(x.moments()?, true);
        let (x, size) = (x.map.clone(), x.map.size());
        let (inner, moments) = self.conv1.apply(&x, &affine1);
        check(&format!("{layer}.conv1"), &moments)?;
        let (affine2, statistics2) = self.norm2.learn(&moments, true);
        let (y, winners, moments) = self.join((&x, &affine1), (&inner, &affine2));
        check(&format!("{layer}.conv2"), &moments)?;

        let shapes = (self.conv1.shape(size), self.conv2.shape(size));
        let turned = (self.conv1.backward(size), self.conv2.backward(size));
        let around = self.shortcut.conv().map(|conv| (conv.shape(size), conv.backward(size)));
        let targets = [
            self.shortcut.conv().map(Conv::targets).unwrap_or_default(),
            self.conv2.targets(),
            self.norm2.targets(),
            self.conv1.targets(),
            self.norm1.targets(),
        ];
        chain.push(targets.into_iter().flatten().collect(), move |g| {
            let simd = Simd::current();
            let unpooled = |image: usize| Unpooled::new(&g, &winners, image, size);
            let into =
                |image: usize, _: &[f32], frame, to: &mut [f32]| pointwise::unpool(simd, unpooled(image), frame, to);
            let around = around
                .map(|(shape, turned)| backward(simd, shape, Some(&turned), (&x, &affine1), &into, 0, &|_, _, _| ()));
            let second =
                backward(simd, shapes.1, Some(&turned.1), (&inner, &affine2), &into, 2 * O, &|image, g, sums| {
                    pointwise::norm_sums(simd, inner.of(image), g, O, &affine2, &statistics2.normal, sums);
                });
            let (slope, for_norm2) = statistics2.slope(&second.sums);
            let for_inner = second.input.unwrap_or(FeatureMap::EMPTY);
            let into = |image: usize, _: &[f32], frame, to: &mut [f32]| {
                pointwise::norm_gradient(simd, inner.of(image), for_inner.of(image), O, &slope, frame, to);
            };
            let for_normal = around.as_ref().and_then(|around| around.input.as_ref());
            let first = backward(simd, shapes.0, Some(&turned.0), (&x, &affine1), &into, 2 * I, &|image, g, sums| {
                if let Some(more) = for_normal {
                    pointwise::add(simd, g, more.of(image));
                }
                pointwise::norm_sums(simd, x.of(image), g, I, &affine1, &statistics1.normal, sums);
            });
            let (slope, for_norm1) = statistics1.slope(&first.sums);
            let mut for_x = first.input.unwrap_or(FeatureMap::EMPTY);
            let frame = Frame::dense(size.0, size.1, I);
            sum_images(&mut for_x, 0, &|image, g, _| {
                pointwise::norm_slope(simd, x.of(image), g, I, &slope);
                if for_normal.is_none() {
                    pointwise::unpool_add(simd, unpooled(image), frame, g);
                }
            });
            let around = around.map(|around| around.parameters).unwrap_or_default();
            (for_x, [around, second.parameters, for_norm2, first.parameters, for_norm1].concat())
        });
        Ok(Signal { moments: Some(moments), ..Signal::from(y) })
    }
}
