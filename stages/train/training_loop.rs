//! Runs the steps of a training, measures its epochs and writes its checkpoints.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;
use std::time::Instant;

use anyhow::{Context as _, Result};
use rand::Rng;
use similiai::base::seed::rng;
use similiai::engine::stage::Context;
use similiai::learning::model::{Configuration, FILE, to_bytes};
use similiai::learning::nn::FeatureMap;

use super::checkpoint::Checkpoint;
use super::data::{Batch, Data};
use super::epoch_statistics::EpochStatistics;
use super::loss::StepLoss;
use super::training::Training;
use super::validation::{JUDGED_BY, calibrate};
use super::{Schedule, Train};
use similiai::report::training_log::Epoch;

/// Number of batches made in advance.
const AHEAD: usize = 2;
/// Trainings with at most this number of steps end sooner than an estimate would.
const SHORT: usize = 50;

/// Trains a new network, or resumes an interrupted training. Writes the network to the outputs.
pub fn fit(train: &Train, context: &Context, data: &Data, configuration: &Configuration) -> Result<Vec<Epoch>> {
    let classes = data.learned.classes.len();
    let mut training = match Checkpoint::find(train, context)? {
        Some(checkpoint) => Training::resumed(train, context.seed, checkpoint)?,
        None => Training::new(train, context.seed, classes)?,
    };
    let steps = announce(train, context, data, &training)?;
    let done = training.epochs.len();
    let bar = context.bar("steps", (steps * train.epochs) as u64);
    bar.resume((steps * done) as u64);
    let mut speed = Speed { start: Instant::now(), inputs: 0 };
    std::thread::scope(|scope| {
        let ahead = batches_ahead(train, context, data, done + 1, scope);
        for number in done + 1..=train.epochs {
            let mut statistics = EpochStatistics::default();
            for step in 0..steps {
                context.check_signal()?;
                let (batch, images) = ahead.recv().context("the thread that makes batches has stopped")?;
                let rate = train.learning_rate_at((number - 1) * steps + step, steps * train.epochs);
                let seed = rng(context.seed, &format!("dropout {number} {step}")).gen_range(0..=u64::MAX);
                let seen = training.step(train, &batch, images, rate, seed).with_context(|| {
                    let rate = train.learning_rate;
                    format!("training stopped in epoch {number}; lower train.learning_rate ({rate})")
                })?;
                context.count_items(batch.pictures.len());
                speed.inputs += batch.pictures.len();
                bar.message(live(train, &training.epochs, &seen, &speed));
                bar.inc(1);
                statistics.add(seen, rate);
            }
            training.epochs.push(statistics.epoch(train, number)?);
            if number.is_multiple_of(train.evaluate_every) {
                training.measure(train, data, configuration)?;
            }
            tracing::debug!("{:?}", training.epochs.last());
            training.checkpoint().save(context)?;
        }
        anyhow::Ok(())
    })?;
    if !train.epochs.is_multiple_of(train.evaluate_every) {
        training.measure(train, data, configuration)?;
    }
    if let Some((_, parameters)) = &training.best {
        training.learner.network_mut().set_parameters(parameters)?;
    }
    let network = training.learner.network();
    let calibration = calibrate(context, data, configuration, network)?;
    let bytes = to_bytes(network, configuration, calibration, context.provenance()?)?;
    context.outputs.write(FILE, &bytes)?;
    Ok(training.epochs)
}

/// Reports what will be trained and how long it will take. Returns the number of steps of an epoch.
fn announce(train: &Train, context: &Context, data: &Data, training: &Training) -> Result<usize> {
    let batches = data.batches(train, context, 1);
    let (first, steps) = (batches.first().context("there is no batch to learn from")?, batches.len());
    tracing::info!(
        "{} parameters, {} pictures to learn from, {} held out; {} epochs of {steps} steps with {} inputs each",
        training.learner.network().parameters().len(),
        data.learned.labels.len(),
        data.held_out.labels.len(),
        train.epochs,
        first.pictures.len(),
    );
    let left = (train.epochs - training.epochs.len()) * steps;
    if left > SHORT {
        let seconds = left as f64 * seconds_a_step(train, context, data, first)?;
        tracing::info!("about {:.1} minutes on this machine", seconds / 60.0);
        context.expect(seconds);
    }
    Ok(steps)
}

struct Speed {
    start: Instant,
    inputs: usize,
}

/// The text of the progress bar. No other output contains times.
fn live(train: &Train, epochs: &[Epoch], seen: &StepLoss, speed: &Speed) -> String {
    let precision = epochs.iter().rev().find_map(|epoch| epoch.validation_precision);
    let precision = precision.map(|value| format!(" precision@{JUDGED_BY} {value:.3}")).unwrap_or_default();
    format!(
        "epoch {}/{} loss {:.3} active {:.0} %{precision} {:.0} images/s",
        epochs.len() + 1,
        train.epochs,
        seen.loss,
        seen.triplet.active * 100.0,
        speed.inputs as f64 / speed.start.elapsed().as_secs_f64()
    )
}

/// Seconds for a step: the median of some steps of a separate training, which is discarded.
fn seconds_a_step(train: &Train, context: &Context, data: &Data, batch: &Batch) -> Result<f64> {
    let mut training = Training::new(train, context.seed, data.learned.classes.len())?;
    let mut step = || -> Result<f64> {
        let images = augmented(train, context.seed, data, batch, (0, 0));
        let start = Instant::now();
        training.step(train, batch, images, train.learning_rate_at(0, 1000), 0)?;
        Ok(start.elapsed().as_secs_f64())
    };
    // The first step takes longer, because it allocates memory.
    step()?;
    let mut seconds = (0..5).map(|_| step()).collect::<Result<Vec<f64>>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[2])
}

/// Makes all batches from epoch `first` on, with their images, on a separate thread.
fn batches_ahead<'scope>(
    train: &'scope Train,
    context: &'scope Context,
    data: &'scope Data,
    first: usize,
    scope: &'scope Scope<'scope, '_>,
) -> Receiver<(Batch, FeatureMap)> {
    let (sender, receiver) = sync_channel(AHEAD);
    scope.spawn(move || {
        for epoch in first..=train.epochs {
            for (step, batch) in data.batches(train, context, epoch).into_iter().enumerate() {
                let images = augmented(train, context.seed, data, &batch, (epoch, step));
                // The receiver is gone if training has failed.
                if sender.send((batch, images)).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

impl Train {
    /// Whether a training with more epochs goes through the same states.
    pub fn is_the_same_with_more_epochs(&self) -> bool {
        matches!(self.schedule, Schedule::Constant) && self.warm_up == 0.0
    }

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

/// The images of a batch, of shape (pictures, side, side, 3). Each has its own random stream, so the number of
/// threads does not matter.
fn augmented(train: &Train, seed: u64, data: &Data, batch: &Batch, (epoch, step): (usize, usize)) -> FeatureMap {
    let preprocessing = &data.preprocessing;
    preprocessing.batch((batch.pictures.len(), 1), |slot, to| {
        let mut rng = rng(seed, &format!("augment {epoch} {step} {slot}"));
        let mut plain = vec![0.0; to.len()];
        let mut augmented = |place: usize, to: &mut [f32]| {
            preprocessing.apply(&data.learned.images[place], &mut plain);
            train.augment.apply(&plain, to, preprocessing, &mut rng);
        };
        let picture = batch.pictures[slot];
        augmented(picture.place, to);
        if let Some(mix) = picture.with {
            let mut other = vec![0.0; to.len()];
            augmented(mix.place, &mut other);
            mix.apply(preprocessing.side, to, &other);
        }
    })
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
}
