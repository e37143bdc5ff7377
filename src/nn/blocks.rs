//! The blocks that networks are made of: each is one op on the tape, so only its input and output cross dfdx.

use dfdx::nn::modules::{NonMutableModule, ZeroSizedModule};
use dfdx::nn::tensor_collection::*;
use dfdx::prelude::*;

use super::batch_norm::{self, BatchNorm};
use super::conv::Conv;
use super::tape::{Map, Taped, accumulate, feature_map, record};
use super::{FeatureMap, Number, pool};

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

impl<const I: usize, const O: usize, const POOL: bool> ConvBlock<I, O, POOL, f32, Cpu> {
    pub fn infer(&self, x: &FeatureMap) -> FeatureMap {
        let mut y = self.conv.forward(x);
        pool::relu(&mut y);
        let y = self.norm.infer(&y, false);
        if POOL { pool::max_pool(&y).0 } else { y }
    }

    /// `learns_before`: whether anything before this block takes a gradient.
    pub fn train(&mut self, x: Map<I, Taped>, learns_before: bool) -> Result<Map<O, Taped>, CpuError> {
        let (x, tape) = x.split_tape();
        let input = feature_map(&x);
        let mut active = self.conv.forward(&input);
        pool::relu(&mut active);
        let (normal, statistics) = self.norm.train(&active, false);
        let (y, winners) = if POOL { pool::max_pool(&normal) } else { (normal, Vec::new()) };
        let (shape, conv) = ((y.batch, y.height, y.width, Const::<O>), self.conv.clone());
        let mut targets = vec![
            accumulate(&self.conv.weight),
            accumulate(&self.conv.bias),
            accumulate(&self.norm.scale),
            accumulate(&self.norm.offset),
        ];
        if learns_before {
            targets.push(accumulate(&x));
        }
        let (batch, height, width, _) = shape;
        record(x.device(), tape, y.values, shape, targets, move |g| {
            let mut g = FeatureMap::new((batch, height, width, O), g);
            if POOL {
                g = pool::max_pool_backward(&g, &winners, (active.height, active.width));
            }
            let (mut g, scale, offset) = batch_norm::backward(&active, &statistics, &g);
            pool::relu_backward(&mut g, &active);
            if learns_before {
                let (x, weight, bias) = conv.backward(&input, &g);
                vec![weight, bias, scale, offset, x.values]
            } else {
                let (weight, bias) = conv.backward_parameters(&input, &g);
                vec![weight, bias, scale, offset]
            }
        })
    }
}

/// How a residual block's input reaches its sum.
pub trait Shortcut<const I: usize, const O: usize>: Clone + 'static {
    /// `x` is the block's input, `normal` the same after batch norm and ReLU.
    fn infer(&self, x: &FeatureMap, normal: &FeatureMap) -> FeatureMap;
    /// Adds the gradients for the sum's gradient `g` to those of `x` and of `normal`; gives its parameters'.
    fn backward(
        &self,
        normal: &FeatureMap,
        g: &FeatureMap,
        for_x: &mut FeatureMap,
        for_normal: &mut FeatureMap,
    ) -> Vec<Vec<f32>>;
    fn targets(&self) -> Vec<super::tape::Accumulate>;
}

/// The input as it is: where the number of channels stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity;

impl ZeroSizedModule for Identity {}
impl NonMutableModule for Identity {}

impl<const C: usize> Shortcut<C, C> for Identity {
    fn infer(&self, x: &FeatureMap, _: &FeatureMap) -> FeatureMap {
        x.clone()
    }

    fn backward(&self, _: &FeatureMap, g: &FeatureMap, for_x: &mut FeatureMap, _: &mut FeatureMap) -> Vec<Vec<f32>> {
        pool::add(for_x, g);
        Vec::new()
    }

    fn targets(&self) -> Vec<super::tape::Accumulate> {
        Vec::new()
    }
}

impl<const I: usize, const O: usize> Shortcut<I, O> for Conv<I, O, 1, f32, Cpu> {
    fn infer(&self, _: &FeatureMap, normal: &FeatureMap) -> FeatureMap {
        self.forward(normal)
    }

    fn backward(
        &self,
        normal: &FeatureMap,
        g: &FeatureMap,
        _: &mut FeatureMap,
        for_normal: &mut FeatureMap,
    ) -> Vec<Vec<f32>> {
        let (input, weight, bias) = Conv::backward(self, normal, g);
        pool::add(for_normal, &input);
        vec![weight, bias]
    }

    fn targets(&self) -> Vec<super::tape::Accumulate> {
        vec![accumulate(&self.weight), accumulate(&self.bias)]
    }
}

/// [2×2 maximum if `POOL`] → (batch norm → ReLU → 3×3 convolution) twice, plus the shortcut: the pre-activation
/// block of He et al. 2016 ("Identity Mappings in Deep Residual Networks", figure 4e).
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
    pub fn infer(&self, x: &FeatureMap) -> FeatureMap {
        let pooled;
        let x = if POOL {
            pooled = pool::max_pool(x).0;
            &pooled
        } else {
            x
        };
        let normal = self.norm1.infer(x, true);
        let middle = self.norm2.infer(&self.conv1.forward(&normal), true);
        let mut y = self.conv2.forward(&middle);
        pool::add(&mut y, &self.shortcut.infer(x, &normal));
        y
    }

    pub fn train(&mut self, x: Map<I, Taped>) -> Result<Map<O, Taped>, CpuError> {
        let (x, tape) = x.split_tape();
        let mut input = feature_map(&x);
        let size = (input.height, input.width);
        let mut winners = Vec::new();
        if POOL {
            (input, winners) = pool::max_pool(&input);
        }
        let (normal, statistics1) = self.norm1.train(&input, true);
        let inner = self.conv1.forward(&normal);
        let (middle, statistics2) = self.norm2.train(&inner, true);
        let mut y = self.conv2.forward(&middle);
        pool::add(&mut y, &self.shortcut.infer(&input, &normal));

        let mut targets = vec![
            accumulate(&x),
            accumulate(&self.norm1.scale),
            accumulate(&self.norm1.offset),
            accumulate(&self.conv1.weight),
            accumulate(&self.conv1.bias),
            accumulate(&self.norm2.scale),
            accumulate(&self.norm2.offset),
            accumulate(&self.conv2.weight),
            accumulate(&self.conv2.bias),
        ];
        targets.extend(self.shortcut.targets());
        let (conv1, conv2, shortcut) = (self.conv1.clone(), self.conv2.clone(), self.shortcut.clone());
        let shape = (y.batch, y.height, y.width, Const::<O>);
        record(x.device(), tape, y.values, shape, targets, move |g| {
            let g = FeatureMap::new((shape.0, shape.1, shape.2, O), g);
            let (mut inner_g, weight2, bias2) = conv2.backward(&middle, &g);
            pool::relu_backward(&mut inner_g, &middle);
            let (inner_g, scale2, offset2) = batch_norm::backward(&inner, &statistics2, &inner_g);
            let (mut normal_g, weight1, bias1) = conv1.backward(&normal, &inner_g);
            let mut around =
                FeatureMap::new((input.batch, input.height, input.width, I), vec![0.0; input.values.len()]);
            let for_shortcut = shortcut.backward(&normal, &g, &mut around, &mut normal_g);
            pool::relu_backward(&mut normal_g, &normal);
            let (mut x_g, scale1, offset1) = batch_norm::backward(&input, &statistics1, &normal_g);
            pool::add(&mut x_g, &around);
            if POOL {
                x_g = pool::max_pool_backward(&x_g, &winners, size);
            }
            let mut all = vec![x_g.values, scale1, offset1, weight1, bias1, scale2, offset2, weight2, bias2];
            all.extend(for_shortcut);
            all
        })
    }
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
    /// (batch, height, width, C) → (batch, C)
    pub fn infer(&self, x: &FeatureMap) -> Vec<f32> {
        pool::global_average(&self.norm.infer(x, true))
    }

    pub fn train(&mut self, x: Map<C, Taped>) -> Result<Tensor<(usize, Const<C>), f32, Cpu, Taped>, CpuError> {
        let (x, tape) = x.split_tape();
        let input = feature_map(&x);
        let (normal, statistics) = self.norm.train(&input, true);
        let targets = vec![accumulate(&x), accumulate(&self.norm.scale), accumulate(&self.norm.offset)];
        record(x.device(), tape, pool::global_average(&normal), (input.batch, Const), targets, move |g| {
            let mut g = pool::global_average_backward(&g, &normal);
            pool::relu_backward(&mut g, &normal);
            let (x, scale, offset) = batch_norm::backward(&input, &statistics, &g);
            vec![x.values, scale, offset]
        })
    }
}

/// The global average alone, as an op on the tape: (batch, height, width, C) → (batch, C).
pub fn global_average<const C: usize>(
    x: Map<C, Taped>,
) -> Result<Tensor<(usize, Const<C>), f32, Cpu, Taped>, CpuError> {
    let (x, tape) = x.split_tape();
    let input = feature_map(&x);
    record(x.device(), tape, pool::global_average(&input), (input.batch, Const), vec![accumulate(&x)], move |g| {
        vec![pool::global_average_backward(&g, &input).values]
    })
}

/// A convolution with nothing before it that learns.
pub fn stem<const I: usize, const O: usize>(
    conv: &Conv<I, O, 3, f32, Cpu>,
    x: Map<I, Taped>,
) -> Result<Map<O, Taped>, CpuError> {
    let (x, tape) = x.split_tape();
    let input = feature_map(&x);
    let y = conv.forward(&input);
    let targets = vec![accumulate(&conv.weight), accumulate(&conv.bias)];
    let (shape, conv) = ((y.batch, y.height, y.width, Const::<O>), conv.clone());
    record(x.device(), tape, y.values, shape, targets, move |g| {
        let g = input.like(O, g);
        let (weight, bias) = conv.backward_parameters(&input, &g);
        vec![weight, bias]
    })
}
