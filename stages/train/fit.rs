//! The training loop.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use dfdx::nn::ZeroGrads;
use dfdx::optim::{Adam, Optimizer};
use dfdx::prelude::*;
use similiai::metrics::{METRICS, Ranking};
use similiai::model::{Configuration, DIMENSION, Network, parameter_count, save};
use similiai::nn::{FeatureMap, evaluate_loss, triplet_loss};
use similiai::search::Gallery;
use similiai::stage::{Context, rng};

use super::data::{Batch, Data};
use super::log::Epoch;
use super::{Schedule, Train};

/// Neighbours by which an epoch is judged.
const JUDGED_BY: usize = 5;
/// Batches made before they are needed.
const AHEAD: usize = 2;
/// Distances are alike if they spread by less than this share of the margin.
const ALIKE: f64 = 0.01;

/// Trains a new network; saves the best epoch's to `path`.
pub fn fit<N: Network>(
    train: &Train,
    context: &Context,
    data: &Data,
    configuration: &Configuration,
    path: &Path,
) -> Result<Vec<Epoch>> {
    let mut network = N::with_seed(context.seed)?;
    tracing::info!(
        "{} parameters, {} images to learn from, {} held out",
        parameter_count(&network),
        data.learned.labels.len(),
        data.held_out.labels.len()
    );
    let decay = (train.weight_decay > 0.0).then_some(WeightDecay::Decoupled(train.weight_decay));
    let mut optimizer = Adam::new(&network, AdamConfig { weight_decay: decay, ..Default::default() });
    let mut gradients = network.try_alloc_grads().map_err(dfdx_said)?;
    let validation = data.validation(train, context);
    let steps = data.batches(train, context, 1).len();
    let bar = context.bar("steps", (steps * train.epochs) as u64);

    let start = Instant::now();
    let mut images_seen = 0;
    let mut epochs: Vec<Epoch> = Vec::new();
    let mut best: Option<(f64, N)> = None;
    std::thread::scope(|scope| {
        let ahead = batches_ahead(train, context, data, scope);
        for number in 1..=train.epochs {
            let (mut loss, mut active, mut rate) = (0.0, 0.0, 0.0);
            for step in 0..steps {
                let (batch, images) = ahead.recv().context("no batch came")?;
                rate = train.learning_rate_at((number - 1) * steps + step, steps * train.epochs);
                optimizer.cfg.lr = rate;
                let embeddings = network.train(images.into(), gradients).with_context(|| {
                    let rate = train.learning_rate;
                    format!("training broke off in epoch {number}; lower train.learning_rate ({rate})")
                })?;
                let (value, watched) = triplet_loss(embeddings, &batch.triplets, train.margin).map_err(dfdx_said)?;
                if !watched.loss.is_finite() {
                    bail!(
                        "the loss is not finite in epoch {number}; lower train.learning_rate ({})",
                        train.learning_rate
                    );
                }
                gradients = value.try_backward().map_err(dfdx_said)?;
                optimizer.update(&mut network, &gradients).map_err(|error| anyhow!("dfdx: {error:?}"))?;
                network.try_zero_grads(&mut gradients).map_err(dfdx_said)?;
                loss += watched.loss / steps as f64;
                active += watched.active / steps as f64;
                context.count_images(batch.images.len());
                images_seen += batch.images.len();
                let speed = images_seen as f64 / start.elapsed().as_secs_f64();
                bar.message(format!(
                    "epoch {number}/{} loss {:.4} active {:.0} % {speed:.0} images/s{}",
                    train.epochs,
                    watched.loss,
                    watched.active * 100.0,
                    judged(&epochs)
                ));
                bar.inc(1);
            }
            let epoch = Epoch { epoch: number, learning_rate: rate, loss, active, ..Epoch::default() };
            let epoch = measure(train, data, &validation, &network, epoch)?;
            if best.as_ref().is_none_or(|(precision, _)| epoch.validation_precision >= *precision) {
                best = Some((epoch.validation_precision, network.clone()));
            }
            tracing::debug!("{epoch:?}");
            epochs.push(epoch);
        }
        Ok(())
    })?;
    let (_, network) = best.context("no epoch was trained")?;
    save(&network, configuration, path)?;
    Ok(epochs)
}

fn dfdx_said(error: CpuError) -> anyhow::Error {
    anyhow!("dfdx: {error}")
}

/// All batches with their images, made on a thread of its own while others are learned from.
fn batches_ahead<'scope>(
    train: &'scope Train,
    context: &'scope Context,
    data: &'scope Data,
    scope: &'scope Scope<'scope, '_>,
) -> Receiver<(Batch, FeatureMap)> {
    let (sender, receiver) = sync_channel(AHEAD);
    scope.spawn(move || {
        for epoch in 1..=train.epochs {
            for (step, batch) in data.batches(train, context, epoch).into_iter().enumerate() {
                let images = augmented(train, context.seed, data, &batch, (epoch, step));
                // Nobody listens once training has failed.
                if sender.send((batch, images)).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

fn judged(epochs: &[Epoch]) -> String {
    epochs.last().map(|epoch| format!(" precision@{JUDGED_BY} {:.3}", epoch.validation_precision)).unwrap_or_default()
}

impl Train {
    fn learning_rate_at(&self, step: usize, steps: usize) -> f64 {
        let warm = (self.warm_up * steps as f64).round();
        let step = step as f64;
        if step < warm {
            return self.learning_rate * (step + 1.0) / warm;
        }
        match self.schedule {
            Schedule::Constant => self.learning_rate,
            Schedule::Cosine => {
                let share = (step - warm) / (steps as f64 - warm).max(1.0);
                self.learning_rate * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * share))
            }
        }
    }
}

/// (images, side, side, 3); each image has a random stream of its own, so threads do not matter.
fn augmented(train: &Train, seed: u64, data: &Data, batch: &Batch, (epoch, step): (usize, usize)) -> FeatureMap {
    data.preprocessing.batch(batch.images.len(), |slot, to| {
        let mut rng = rng(seed, &format!("augment {epoch} {step} {slot}"));
        let mut plain = vec![0.0; to.len()];
        data.preprocessing.apply(&data.learned.images[batch.images[slot]], &mut plain);
        train.augment.apply(&plain, to, &data.preprocessing, &mut rng);
    })
}

/// Completes `epoch` by what the held-out images say, and stops a collapsed training.
fn measure<N: Network>(train: &Train, data: &Data, validation: &Batch, network: &N, mut epoch: Epoch) -> Result<Epoch> {
    let embeddings = data.preprocessing.embed(network, &data.held_out.images);
    let rows: Vec<&[f32]> = embeddings.chunks_exact(DIMENSION).collect();
    let spread = spread(&rows);
    if spread.is_nan() || spread < ALIKE * train.margin {
        bail!(
            "the embeddings collapsed in epoch {}: all distances are alike (they spread by {spread:.1e}, margin {}), loss {:.4}; \
             lower train.learning_rate ({}), raise train.warm_up ({}), or use mining: batch-all",
            epoch.epoch,
            train.margin,
            epoch.loss,
            train.learning_rate,
            train.warm_up
        );
    }
    let chosen: Vec<f32> = validation.images.iter().flat_map(|place| rows[*place]).copied().collect();
    epoch.validation_loss = evaluate_loss(&chosen, DIMENSION, &validation.triplets, train.margin).loss;
    let gallery = Gallery::new(rows.iter().copied().enumerate());
    let queries: Vec<_> = rows.iter().enumerate().map(|(id, row)| (*row, JUDGED_BY, Some(id))).collect();
    let labels = &data.held_out.labels;
    let precision = |(query, neighbours): (usize, Vec<similiai::search::Neighbour>)| {
        let ranking = Ranking {
            label: labels[query].into(),
            labels: neighbours.iter().map(|neighbour| labels[neighbour.id].into()).collect(),
            relevant: 0,
            others: Vec::new(),
        };
        (METRICS[0].of)(&ranking)
    };
    let sum: f64 = gallery.nearest_all(&queries).into_iter().enumerate().map(precision).sum();
    epoch.validation_precision = sum / rows.len() as f64;
    Ok(epoch)
}

/// Standard deviation of the distances between some 64 embeddings from all over the list.
fn spread(rows: &[&[f32]]) -> f64 {
    let rows: Vec<&[f32]> = rows.iter().copied().step_by(rows.len().div_ceil(64)).collect();
    let rows = rows.as_slice();
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt();
    let distances: Vec<f64> = (0..rows.len()).flat_map(|a| (0..a).map(move |b| distance(rows[a], rows[b]))).collect();
    let mean = distances.iter().sum::<f64>() / distances.len() as f64;
    (distances.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / distances.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls() {
        let train = Train { learning_rate: 1.0, warm_up: 0.1, ..Train::default() };
        let rates: Vec<f64> = (0..100).map(|step| train.learning_rate_at(step, 100)).collect();
        assert_eq!((rates[0], rates[9], rates[10]), (0.1, 1.0, 1.0));
        assert!(rates[10..].windows(2).all(|pair| pair[1] < pair[0]) && rates[99] < 0.01);
        let constant = Train { learning_rate: 1.0, warm_up: 0.0, schedule: Schedule::Constant, ..Train::default() };
        assert_eq!(constant.learning_rate_at(99, 100), 1.0);
    }

    #[test]
    fn alike_distances_have_no_spread() {
        let same = [[1.0f32, 0.0]; 4];
        let rows: Vec<&[f32]> = same.iter().map(|row| row.as_slice()).collect();
        assert_eq!(spread(&rows), 0.0);
        let apart = [[0.0f32, 0.0], [1.0, 0.0], [5.0, 0.0]];
        let rows: Vec<&[f32]> = apart.iter().map(|row| row.as_slice()).collect();
        assert!(spread(&rows) > 1.0);
    }
}
