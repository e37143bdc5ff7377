//! The loss of a step: the triplet loss, and the cross-entropy that is added to it.

use similiai::learning::model::DIMENSION;
use similiai::learning::nn::{TripletLoss, cross_entropy, triplet_loss};

use super::Train;
use super::data::Batch;

/// Losses and distances of one step.
#[derive(Default)]
pub struct StepLoss {
    pub loss: f64,
    pub triplet: TripletLoss,
    /// 0 if the cross-entropy is not used.
    pub cross_entropy: f64,
    /// Gradient for the class directions, of shape (classes, [`DIMENSION`]).
    pub for_proxies: Vec<f32>,
}

/// The loss of `points`, of shape (pictures, [`DIMENSION`]), and its gradient.
pub fn judge(train: &Train, batch: &Batch, proxies: &[f32], points: &[f32]) -> (f64, Vec<f32>, StepLoss) {
    let mut gradient = vec![0.0; points.len()];
    let from = batch.from * DIMENSION;
    let triplet = triplet_loss(&points[from..], DIMENSION, &batch.triplets, train.margin);
    add(&mut gradient[from..], &triplet.gradient, 1.0);
    let mut step = StepLoss { loss: triplet.loss, triplet, cross_entropy: 0.0, for_proxies: vec![0.0; proxies.len()] };
    if !batch.targets.is_empty() {
        let to = batch.targets.len() * DIMENSION;
        let terms = &train.cross_entropy;
        let entropy = cross_entropy(&points[..to], proxies, DIMENSION, &batch.targets, terms.scale);
        add(&mut gradient, &entropy.for_embeddings, terms.weight);
        add(&mut step.for_proxies, &entropy.for_proxies, terms.weight);
        step.cross_entropy = entropy.loss;
        step.loss += terms.weight * entropy.loss;
    }
    (step.loss, gradient, step)
}

fn add(to: &mut [f32], more: &[f32], weight: f64) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to += weight as f32 * more);
}
