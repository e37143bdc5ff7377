//! Batch normalisation (Ioffe and Szegedy 2015, algorithm 1), which is applied when the next operation reads the
//! values.

use dfdx::nn::tensor_collection::*;
use dfdx::prelude::*;

use super::pointwise::{Affine, Slope};
use super::tape::{Accumulate, accumulate, values};

/// A scale and an offset that are learned, and running statistics that are saved but not learned.
#[derive(Debug, Clone)]
pub struct BatchNorm<const C: usize, E: Dtype, D: Storage<E>> {
    pub scale: Tensor<Rank1<C>, E, D>,
    pub offset: Tensor<Rank1<C>, E, D>,
    pub running_mean: Tensor<Rank1<C>, E, D>,
    pub running_variance: Tensor<Rank1<C>, E, D>,
    /// Share of the old running statistics that a step keeps.
    pub momentum: f64,
    pub epsilon: f64,
}

impl<const C: usize, E: Dtype, D: Device<E>> TensorCollection<E, D> for BatchNorm<C, E, D> {
    type To<E2: Dtype, D2: Device<E2>> = BatchNorm<C, E2, D2>;

    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
        let zeros = TensorOptions::detached(|tensor| tensor.try_fill_with_zeros());
        let ones = TensorOptions::detached(|tensor| tensor.try_fill_with_ones());
        visitor.visit_fields(
            (
                Self::tensor("scale", |s| &s.scale, |s| &mut s.scale, TensorOptions::reset_to_ones()),
                Self::tensor("offset", |s| &s.offset, |s| &mut s.offset, TensorOptions::reset_to_zeros()),
                Self::tensor("running_mean", |s| &s.running_mean, |s| &mut s.running_mean, zeros),
                Self::tensor("running_variance", |s| &s.running_variance, |s| &mut s.running_variance, ones),
                Self::scalar("momentum", |s| &s.momentum, |s| &mut s.momentum, ScalarOptions::from_default(0.9)),
                Self::scalar("epsilon", |s| &s.epsilon, |s| &mut s.epsilon, ScalarOptions::from_default(1e-5)),
            ),
            |(scale, offset, running_mean, running_variance, momentum, epsilon)| BatchNorm {
                scale,
                offset,
                running_mean,
                running_variance,
                momentum,
                epsilon,
            },
        )
    }
}

/// Sums over the pixels of all images.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    /// Σx of each channel, then Σx².
    sums: Vec<f64>,
    count: f64,
}

impl Moments {
    /// Adds up the parts in order.
    pub fn new(parts: &[Vec<f64>], count: usize) -> Self {
        Self { sums: in_order(parts), count: count as f64 }
    }

    pub fn is_finite(&self) -> bool {
        self.sums.iter().all(|sum| sum.is_finite())
    }
}

/// The sums of all parts, added in order.
pub(super) fn in_order(parts: &[Vec<f64>]) -> Vec<f64> {
    let length = parts.first().map_or(0, Vec::len);
    (0..length).map(|place| parts.iter().map(|sums| sums[place]).sum()).collect()
}

/// What a training step's backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct Statistics {
    /// Maps x to its normalised value.
    pub normal: Affine,
    scale: Vec<f32>,
    count: f64,
}

impl Statistics {
    /// Takes the sums of `pointwise::norm_sums`. Returns how to compute the gradient of the input, and the gradients of
    /// the scale and the offset.
    pub fn slope(&self, sums: &[f64]) -> (Slope, Vec<Vec<f32>>) {
        let (for_scale, for_offset) = sums.split_at(self.scale.len());
        let of = |channel: usize| {
            let (inverse, shift) = (f64::from(self.normal.scale[channel]), f64::from(self.normal.offset[channel]));
            let scale = f64::from(self.scale[channel]) * inverse;
            let (weighted, plain) = (for_scale[channel] / self.count, for_offset[channel] / self.count);
            (scale as f32, (scale * weighted * inverse) as f32, (scale * (plain + weighted * shift)) as f32)
        };
        let (scale, (slope, level)) = (0..self.scale.len()).map(of).map(|(a, b, c)| (a, (b, c))).unzip();
        let narrow = |sums: &[f64]| sums.iter().map(|sum| *sum as f32).collect();
        (Slope { scale, slope, level }, vec![narrow(for_scale), narrow(for_offset)])
    }
}

impl<const C: usize> BatchNorm<C, f32, Cpu> {
    /// The affine map of the running statistics.
    pub(super) fn running(&self, relu: bool) -> Affine {
        let wide = |tensor: &Tensor<Rank1<C>, f32, Cpu>| values(tensor).into_iter().map(f64::from).collect::<Vec<_>>();
        self.by(&wide(&self.running_mean), &wide(&self.running_variance), 1.0, relu).0
    }

    /// The affine map of the batch's statistics. The running statistics are updated with them.
    pub(super) fn learn(&mut self, moments: &Moments, relu: bool) -> (Affine, Statistics) {
        let (sums, squares) = moments.sums.split_at(C);
        let mean: Vec<f64> = sums.iter().map(|sum| sum / moments.count).collect();
        let variance = |(square, mean): (&f64, &f64)| (square / moments.count - mean * mean).max(0.0);
        let variance: Vec<f64> = squares.iter().zip(&mean).map(variance).collect();
        let blend = |running: &mut Tensor<Rank1<C>, f32, Cpu>, batch: &[f64], keep: f64| {
            let mix = |(old, new): (f32, &f64)| (keep * f64::from(old) + (1.0 - keep) * new) as f32;
            let mixed: Vec<f32> = values(running).into_iter().zip(batch).map(mix).collect();
            running.copy_from(&mixed);
        };
        blend(&mut self.running_mean, &mean, self.momentum);
        blend(&mut self.running_variance, &variance, self.momentum);
        self.by(&mean, &variance, moments.count, relu)
    }

    fn by(&self, mean: &[f64], variance: &[f64], count: f64, relu: bool) -> (Affine, Statistics) {
        let (scale, offset) = (values(&self.scale), values(&self.offset));
        let inverse: Vec<f64> = variance.iter().map(|variance| 1.0 / (variance + self.epsilon).sqrt()).collect();
        let each = |of: &dyn Fn(usize) -> f64| (0..C).map(|channel| of(channel) as f32).collect::<Vec<f32>>();
        let affine = Affine {
            scale: each(&|i| f64::from(scale[i]) * inverse[i]),
            offset: each(&|i| f64::from(offset[i]) - mean[i] * f64::from(scale[i]) * inverse[i]),
            relu,
        };
        let (scaled, shift) = (each(&|i| inverse[i]), each(&|i| -mean[i] * inverse[i]));
        (affine, Statistics { normal: Affine { scale: scaled, offset: shift, relu: false }, scale, count })
    }

    pub(super) fn targets(&self) -> Vec<Accumulate> {
        vec![accumulate(&self.scale), accumulate(&self.offset)]
    }
}
