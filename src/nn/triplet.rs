//! The triplet loss max(d(anchor, positive) − d(anchor, negative) + margin, 0) with Euclidean distance
//! (Schroff et al. 2015, "FaceNet", section 3.1).

use dfdx::prelude::*;

use super::tape::{Taped, accumulate, record, values};

/// Which triplets of a batch count.
#[derive(Debug, Clone)]
pub enum Triplets {
    /// Every valid one of the labels; the loss is the mean over those above zero (Hermans et al. 2017,
    /// "In Defense of the Triplet Loss", section 2: batch all, ≠0).
    All(Vec<u8>),
    /// The first third of the batch are anchors, then come their positives, then their negatives; the loss is the
    /// mean over all.
    Given,
}

/// A number on the tape.
pub type Loss = Tensor<Rank0, f32, Cpu, Taped>;

/// The value and what is worth watching.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TripletLoss {
    pub loss: f64,
    /// Share of triplets above zero.
    pub active: f64,
}

/// The loss of `embeddings` (batch, D) with its place on the tape.
pub fn triplet_loss<const D: usize>(
    embeddings: Tensor<(usize, Const<D>), f32, Cpu, Taped>,
    triplets: &Triplets,
    margin: f64,
) -> Result<(Loss, TripletLoss), CpuError> {
    let (embeddings, tape) = embeddings.split_tape();
    let points = values(&embeddings);
    let (value, gradient) = evaluate(&points, D, triplets, margin);
    let targets = vec![accumulate(&embeddings)];
    let loss = record(embeddings.device(), tape, vec![value.loss as f32], (), targets, move |g| {
        vec![gradient.into_iter().map(|value| value * g[0]).collect()]
    })?;
    Ok((loss, value))
}

/// The loss alone, for validation.
pub fn evaluate_loss(points: &[f32], dimension: usize, triplets: &Triplets, margin: f64) -> TripletLoss {
    evaluate(points, dimension, triplets, margin).0
}

fn evaluate(points: &[f32], dimension: usize, triplets: &Triplets, margin: f64) -> (TripletLoss, Vec<f32>) {
    let count = points.len() / dimension;
    let rows: Vec<&[f32]> = points.chunks_exact(dimension).collect();
    let distance =
        |a: usize, b: usize| rows[a].iter().zip(rows[b]).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt();
    // How much each pair's distance moves the sum of losses: (count, count).
    let mut pull = vec![0.0f64; count * count];
    let (mut sum, mut active, mut total) = (0.0, 0u64, 0u64);
    let mut term = |(anchor, positive, negative): (usize, usize, usize), near: f64, far: f64| {
        total += 1;
        let loss = near - far + margin;
        if loss > 0.0 {
            sum += loss;
            active += 1;
            pull[anchor * count + positive] += 1.0;
            pull[anchor * count + negative] -= 1.0;
        }
    };
    let mean_over = match triplets {
        Triplets::Given => {
            let third = count / 3;
            for i in 0..third {
                let (anchor, positive, negative) = (i, third + i, 2 * third + i);
                term((anchor, positive, negative), distance(anchor, positive), distance(anchor, negative));
            }
            third as u64
        }
        Triplets::All(labels) => {
            for anchor in 0..count {
                let distances: Vec<f64> = (0..count).map(|other| distance(anchor, other)).collect();
                let same = |other: &usize| labels[*other] == labels[anchor];
                let negatives: Vec<usize> = (0..count).filter(|other| !same(other)).collect();
                for positive in (0..count).filter(|other| same(other) && *other != anchor) {
                    for &negative in &negatives {
                        term((anchor, positive, negative), distances[positive], distances[negative]);
                    }
                }
            }
            active
        }
    };
    let mean_over = mean_over.max(1) as f64;
    let mut gradient = vec![0.0f64; points.len()];
    for a in 0..count {
        for b in 0..count {
            let pull = pull[a * count + b] / mean_over;
            let apart = if pull == 0.0 { 0.0 } else { distance(a, b) };
            // At distance 0 every direction is as good; none is taken.
            if apart > 0.0 {
                for i in 0..dimension {
                    let step = pull * f64::from(rows[a][i] - rows[b][i]) / apart;
                    gradient[a * dimension + i] += step;
                    gradient[b * dimension + i] -= step;
                }
            }
        }
    }
    let value = TripletLoss { loss: sum / mean_over, active: active as f64 / total.max(1) as f64 };
    (value, gradient.into_iter().map(|value| value as f32).collect())
}
