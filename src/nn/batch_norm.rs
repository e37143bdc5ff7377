//! Batch normalisation (Ioffe and Szegedy 2015, algorithm 1), with or without a ReLU behind it.

use dfdx::nn::tensor_collection::*;
use dfdx::prelude::*;
use rayon::prelude::*;

use super::tape::values;
use super::{FeatureMap, in_parts};

/// Scale and offset that learn, running statistics that are saved but do not.
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

/// What a training step's backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct Statistics {
    mean: Vec<f32>,
    /// 1 / √(variance + ε)
    inverse: Vec<f32>,
    scale: Vec<f32>,
}

impl<const C: usize> BatchNorm<C, f32, Cpu> {
    /// By the running statistics.
    pub(super) fn infer(&self, x: &FeatureMap, relu: bool) -> FeatureMap {
        let variance = values(&self.running_variance);
        let inverse: Vec<f32> = variance.iter().map(|v| (1.0 / (f64::from(*v) + self.epsilon).sqrt()) as f32).collect();
        let statistics = Statistics { mean: values(&self.running_mean), inverse, scale: values(&self.scale) };
        apply(x, &statistics, &values(&self.offset), relu)
    }

    /// By the batch's statistics, which also move the running ones.
    pub(super) fn train(&mut self, x: &FeatureMap, relu: bool) -> (FeatureMap, Statistics) {
        let (mean, variance) = moments(x);
        let blend = |running: &mut Tensor<Rank1<C>, f32, Cpu>, batch: &[f64], keep: f64| {
            let mix = |(old, new): (f32, &f64)| (keep * f64::from(old) + (1.0 - keep) * new) as f32;
            let mixed: Vec<f32> = values(running).into_iter().zip(batch).map(mix).collect();
            running.copy_from(&mixed);
        };
        blend(&mut self.running_mean, &mean, self.momentum);
        blend(&mut self.running_variance, &variance, self.momentum);
        let inverse = variance.iter().map(|v| (1.0 / (v + self.epsilon).sqrt()) as f32).collect();
        let mean = mean.iter().map(|m| *m as f32).collect();
        let statistics = Statistics { mean, inverse, scale: values(&self.scale) };
        (apply(x, &statistics, &values(&self.offset), relu), statistics)
    }
}

fn apply(x: &FeatureMap, statistics: &Statistics, offset: &[f32], relu: bool) -> FeatureMap {
    let c = x.channels;
    let factor: Vec<f32> = (0..c).map(|i| statistics.scale[i] * statistics.inverse[i]).collect();
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let mut y = vec![0.0; x.values.len()];
    y.par_chunks_mut(x.image().max(1)).zip(x.values.par_chunks(x.image().max(1))).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for i in 0..c {
                y[i] = ((x[i] - statistics.mean[i]) * factor[i] + offset[i]).max(floor);
            }
        }
    });
    x.like(c, y)
}

/// Mean and (biased) variance of each channel.
fn moments(x: &FeatureMap) -> (Vec<f64>, Vec<f64>) {
    let mean = means(x, |_, value| f64::from(value));
    let variance = means(x, |i, value| (f64::from(value) - mean[i]).powi(2));
    (mean, variance)
}

fn means(x: &FeatureMap, term: impl Fn(usize, f32) -> f64 + Sync) -> Vec<f64> {
    let c = x.channels;
    let parts = in_parts(x.batch, |images| {
        let mut sums = vec![0.0f64; c];
        for pixel in x.values[images.start * x.image()..images.end * x.image()].chunks_exact(c) {
            for i in 0..c {
                sums[i] += term(i, pixel[i]);
            }
        }
        sums
    });
    (0..c).map(|i| parts.iter().map(|sums| sums[i]).sum::<f64>() / x.pixels() as f64).collect()
}

/// Gradients of the input, the scale and the offset. `g` must already be zero where a ReLU behind was.
pub(super) fn backward(x: &FeatureMap, statistics: &Statistics, g: &FeatureMap) -> (FeatureMap, Vec<f32>, Vec<f32>) {
    let (c, count) = (x.channels, x.pixels() as f64);
    let Statistics { mean, inverse, scale } = statistics;
    let parts = in_parts(x.batch, |images| {
        let range = images.start * x.image()..images.end * x.image();
        // For the scale, then for the offset.
        let mut sums = vec![0.0f64; 2 * c];
        for (x, g) in x.values[range.clone()].chunks_exact(c).zip(g.values[range].chunks_exact(c)) {
            let (for_scale, for_offset) = sums.split_at_mut(c);
            for i in 0..c {
                for_scale[i] += f64::from(g[i] * ((x[i] - mean[i]) * inverse[i]));
                for_offset[i] += f64::from(g[i]);
            }
        }
        sums
    });
    let mut for_scale: Vec<f64> = (0..2 * c).map(|i| parts.iter().map(|sums| sums[i]).sum()).collect();
    let for_offset = for_scale.split_off(c);
    let factor: Vec<f32> = (0..c).map(|i| scale[i] * inverse[i]).collect();
    let mean_scale: Vec<f32> = for_scale.iter().map(|sum| (sum / count) as f32).collect();
    let mean_offset: Vec<f32> = for_offset.iter().map(|sum| (sum / count) as f32).collect();
    let image = x.image().max(1);
    let mut gradient = vec![0.0; x.values.len()];
    gradient.par_chunks_mut(image).zip(x.values.par_chunks(image)).zip(g.values.par_chunks(image)).for_each(
        |((to, x), g)| {
            for ((to, x), g) in to.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(g.chunks_exact(c)) {
                for i in 0..c {
                    let normal = (x[i] - mean[i]) * inverse[i];
                    to[i] = factor[i] * (g[i] - mean_offset[i] - normal * mean_scale[i]);
                }
            }
        },
    );
    let narrow = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect();
    (x.like(c, gradient), narrow(for_scale), narrow(for_offset))
}
