//! The triplet loss max(d(anchor, positive) − d(anchor, negative) + margin, 0) with Euclidean distance
//! (Schroff et al. 2015, "FaceNet", section 3.1).

use rayon::prelude::*;

/// Which triplets of a batch count.
#[derive(Debug, Clone)]
pub enum Triplets {
    /// Every valid triplet of a batch with these labels. The loss is the mean over the triplets with a loss above zero
    /// (Hermans et al. 2017, "In Defense of the Triplet Loss", section 2: batch all, ≠0).
    All(Vec<u8>),
    /// The first third of the batch are anchors, the second third their positives, and the last third their negatives.
    /// The loss is the mean over all triplets.
    Given,
}

/// The loss, its gradient, and numbers to watch during a training.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TripletLoss {
    pub loss: f64,
    /// Share of triplets with a loss above zero.
    pub active: f64,
    /// (batch, dimension)
    pub gradient: Vec<f32>,
    /// Distances of the pairs in the triplets: `positives` within a class, and `negatives` across classes.
    pub positives: Vec<f32>,
    pub negatives: Vec<f32>,
}

/// How much the loss changes with the distance between two embeddings.
struct Pull {
    pair: (usize, usize),
    by: f64,
}

#[derive(Default)]
struct Tally {
    sum: f64,
    active: u64,
    total: u64,
}

impl Tally {
    /// Counts a triplet. Returns whether its loss is above zero.
    fn count(&mut self, near: f64, far: f64, margin: f64) -> bool {
        let loss = near - far + margin;
        self.total += 1;
        // NaN also counts, so that the caller notices it.
        let counts = loss > 0.0 || loss.is_nan();
        if counts {
            self.sum += loss;
            self.active += 1;
        }
        counts
    }
}

fn distance(points: &[f32], dimension: usize, (a, b): (usize, usize)) -> f64 {
    let row = |place: usize| &points[place * dimension..][..dimension];
    row(a).iter().zip(row(b)).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt()
}

/// The loss of `points`, (batch, dimension).
pub fn triplet_loss(points: &[f32], dimension: usize, triplets: &Triplets, margin: f64) -> TripletLoss {
    let count = points.len() / dimension;
    let distance = |a: usize, b: usize| distance(points, dimension, (a, b));
    let mut tally = Tally::default();
    let mut pulls = Vec::new();
    let (mut near, mut far) = (Vec::new(), Vec::new());
    match triplets {
        Triplets::Given => {
            let third = count / 3;
            for (anchor, positive, negative) in (0..third).map(|i| (i, third + i, 2 * third + i)) {
                let (to_positive, to_negative) = (distance(anchor, positive), distance(anchor, negative));
                near.push(to_positive as f32);
                far.push(to_negative as f32);
                if tally.count(to_positive, to_negative, margin) {
                    pulls.push(Pull { pair: (anchor, positive), by: 1.0 });
                    pulls.push(Pull { pair: (anchor, negative), by: -1.0 });
                }
            }
        }
        Triplets::All(labels) => {
            // Anchors are computed in parallel. Their results are joined in order.
            let of_anchor = |anchor: usize| {
                let mut tally = Tally::default();
                let distances: Vec<f64> = (0..count).map(|other| distance(anchor, other)).collect();
                let same = |other: &usize| labels[*other] == labels[anchor];
                let negatives: Vec<usize> = (0..count).filter(|other| !same(other)).collect();
                let mut pull = vec![0.0f64; count];
                for positive in (0..count).filter(|other| same(other) && *other != anchor) {
                    for &negative in &negatives {
                        if tally.count(distances[positive], distances[negative], margin) {
                            pull[positive] += 1.0;
                            pull[negative] -= 1.0;
                        }
                    }
                }
                let pulls_of = |(other, by): (usize, f64)| Pull { pair: (anchor, other), by };
                let pulls: Vec<Pull> =
                    pull.into_iter().enumerate().filter(|(_, by)| *by != 0.0).map(pulls_of).collect();
                (tally, pulls, distances)
            };
            for (anchor, found) in (0..count).into_par_iter().map(of_anchor).collect::<Vec<_>>().into_iter().enumerate()
            {
                let (of_anchor, found, distances) = found;
                for (other, distance) in distances[..anchor].iter().enumerate() {
                    if labels[other] == labels[anchor] { &mut near } else { &mut far }.push(*distance as f32);
                }
                tally.sum += of_anchor.sum;
                tally.active += of_anchor.active;
                tally.total += of_anchor.total;
                pulls.extend(found);
            }
        }
    }
    let mean_over = match triplets {
        Triplets::Given => tally.total,
        Triplets::All(_) => tally.active,
    };
    let mean_over = mean_over.max(1) as f64;
    pulls.iter_mut().for_each(|pull| pull.by /= mean_over);
    let active = tally.active as f64 / tally.total.max(1) as f64;
    let gradient = gradient(points, dimension, &pulls);
    TripletLoss { loss: tally.sum / mean_over, active, gradient, positives: near, negatives: far }
}

fn gradient(points: &[f32], dimension: usize, pulls: &[Pull]) -> Vec<f32> {
    let mut gradient = vec![0.0f64; points.len()];
    for &Pull { pair: (a, b), by } in pulls {
        let apart = distance(points, dimension, (a, b));
        // At distance 0, no direction is better than another, so there is no gradient.
        if apart > 0.0 {
            for i in 0..dimension {
                let (a, b) = (a * dimension + i, b * dimension + i);
                let step = by * f64::from(points[a] - points[b]) / apart;
                gradient[a] += step;
                gradient[b] -= step;
            }
        }
    }
    gradient.into_iter().map(|value| value as f32).collect()
}
