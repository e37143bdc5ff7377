//! The state of a training between two steps, and the change by a step.

use anyhow::Result;
use rand::Rng;
use similiai::base::seed::rng;
use similiai::learning::model::{Configuration, DIMENSION, Learner};
use similiai::learning::nn::{AdamW, FeatureMap};
use similiai::report::training_log::Epoch;

use super::checkpoint::Checkpoint;
use super::data::{Batch, Data};
use super::loss::{StepLoss, judge};
use super::validation::measure;
use super::{Keep, Train};

pub struct Training {
    pub learner: Box<dyn Learner>,
    /// Learned direction of each class, of shape (classes, [`DIMENSION`]).
    proxies: Vec<f32>,
    pub epochs: Vec<Epoch>,
    /// Precision and parameters of the best epoch, if `keep` is `best`.
    pub best: Option<(f64, Vec<f32>)>,
}

impl Training {
    pub fn new(train: &Train, seed: u64, classes: usize) -> Result<Self> {
        let mut rng = rng(seed, "proxies");
        let proxies = (0..classes * DIMENSION).map(|_| rng.gen_range(-1.0..1.0)).collect();
        let learner = train.network.learner(seed, AdamW::new(train.weight_decay))?;
        Ok(Self { learner, proxies, epochs: Vec::new(), best: None })
    }

    pub fn resumed(train: &Train, seed: u64, checkpoint: Checkpoint) -> Result<Self> {
        let Checkpoint { epochs, parameters, proxies, steps, moments, best } = checkpoint;
        let optimizer = AdamW::resumed(train.weight_decay, steps, moments);
        let mut learner = train.network.learner(seed, optimizer)?;
        // The last parameters stay. Those of the best epoch are only checked.
        for parameters in best.iter().map(|(_, best)| best).chain([&parameters]) {
            learner.network_mut().set_parameters(parameters)?;
        }
        Ok(Self { learner, proxies, epochs, best })
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let (steps, moments) = self.learner.optimizer().state();
        Checkpoint {
            epochs: self.epochs.clone(),
            parameters: self.learner.network().parameters(),
            proxies: self.proxies.clone(),
            steps,
            moments,
            best: self.best.clone(),
        }
    }

    /// Learns from one batch. Dropout draws random numbers from `seed`.
    pub fn step(&mut self, train: &Train, batch: &Batch, images: FeatureMap, rate: f64, seed: u64) -> Result<StepLoss> {
        let mut seen = StepLoss::default();
        self.learner.backward(images, train.normalize, seed, &mut |points| {
            let (loss, gradient, step) = judge(train, batch, &self.proxies, points);
            seen = step;
            (loss, gradient)
        })?;
        let beside = (!batch.targets.is_empty()).then_some((&mut self.proxies[..], &seen.for_proxies[..]));
        self.learner.update(beside, rate)?;
        Ok(seen)
    }

    /// Measures the last epoch on the held-out pictures.
    pub fn measure(&mut self, train: &Train, data: &Data, configuration: &Configuration) -> Result<()> {
        let Some(epoch) = self.epochs.last_mut() else { return Ok(()) };
        let network = self.learner.network();
        let (loss, precision) = measure(train, data, configuration, network)?;
        (epoch.validation_triplet_loss, epoch.validation_precision) = (Some(loss), Some(precision));
        if train.keep == Keep::Best && self.best.as_ref().is_none_or(|(best, _)| precision >= *best) {
            self.best = Some((precision, network.parameters()));
        }
        Ok(())
    }
}
