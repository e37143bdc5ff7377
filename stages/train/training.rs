//! The state of a training between two steps, and the change by a step.

use anyhow::{Result, anyhow, bail};
use dfdx::nn::ZeroGrads;
use dfdx::prelude::*;
use rand::Rng;
use similiai::base::seed::rng;
use similiai::learning::model::{Configuration, DIMENSION, Network, parameters, set_parameters};
use similiai::learning::nn::{AdamW, FeatureMap, normalize_taped, tape};

use super::checkpoint::Checkpoint;
use super::data::{Batch, Data};
use super::loss::{StepLoss, judge};
use super::validation::measure;
use super::{Keep, Train};
use similiai::report::training_log::Epoch;

pub struct Training<N> {
    pub network: N,
    /// Learned direction of each class, of shape (classes, [`DIMENSION`]).
    proxies: Vec<f32>,
    optimizer: AdamW,
    gradients: Gradients<f32, Cpu>,
    pub epochs: Vec<Epoch>,
    /// Precision and network of the best epoch, if `keep` is `best`.
    pub best: Option<(f64, N)>,
}

impl<N: Network> Training<N> {
    pub fn new(train: &Train, seed: u64, classes: usize) -> Result<Self> {
        let network = N::with_seed(seed)?;
        let mut rng = rng(seed, "proxies");
        let proxies = (0..classes * DIMENSION).map(|_| rng.gen_range(-1.0..1.0)).collect();
        let gradients = network.try_alloc_grads().map_err(dfdx_said)?;
        let optimizer = AdamW::new(train.weight_decay);
        Ok(Self { network, proxies, optimizer, gradients, epochs: Vec::new(), best: None })
    }

    pub fn resumed(train: &Train, seed: u64, classes: usize, checkpoint: Checkpoint) -> Result<Self> {
        let mut training = Self::new(train, seed, classes)?;
        if let Some((precision, parameters)) = checkpoint.best {
            set_parameters(&mut training.network, &parameters)?;
            training.best = Some((precision, training.network.clone()));
        }
        set_parameters(&mut training.network, &checkpoint.parameters)?;
        let optimizer = AdamW::resumed(train.weight_decay, checkpoint.steps, checkpoint.moments);
        Ok(Self { optimizer, proxies: checkpoint.proxies, epochs: checkpoint.epochs, ..training })
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let (steps, moments) = self.optimizer.state();
        Checkpoint {
            epochs: self.epochs.clone(),
            parameters: parameters(&self.network),
            proxies: self.proxies.clone(),
            steps,
            moments,
            best: self.best.as_ref().map(|(precision, network)| (*precision, parameters(network))),
        }
    }

    /// Learns from one batch. Dropout draws random numbers from `seed`.
    pub fn step(&mut self, train: &Train, batch: &Batch, images: FeatureMap, rate: f64, seed: u64) -> Result<StepLoss> {
        let gradients = std::mem::replace(&mut self.gradients, Gradients::leaky());
        let mut embeddings = self.network.train(images.into(), gradients, &Cpu::seed_from_u64(seed))?;
        if train.normalize {
            embeddings = normalize_taped(embeddings).map_err(dfdx_said)?;
        }
        let (loss, seen) =
            tape::loss(embeddings, |points| judge(train, batch, &self.proxies, points)).map_err(dfdx_said)?;
        if !seen.loss.is_finite() {
            bail!("the loss is not finite");
        }
        self.gradients = loss.try_backward().map_err(dfdx_said)?;
        let beside = (!batch.targets.is_empty()).then_some((&mut self.proxies[..], &seen.for_proxies[..]));
        self.optimizer.update(&mut self.network, &mut self.gradients, beside, rate).map_err(dfdx_said)?;
        self.network.try_zero_grads(&mut self.gradients).map_err(dfdx_said)?;
        Ok(seen)
    }

    /// Measures the last epoch on the held-out pictures.
    pub fn measure(&mut self, train: &Train, data: &Data, configuration: &Configuration) -> Result<()> {
        let Some(epoch) = self.epochs.last_mut() else { return Ok(()) };
        let (loss, precision) = measure(train, data, configuration, &self.network)?;
        (epoch.validation_triplet_loss, epoch.validation_precision) = (Some(loss), Some(precision));
        if train.keep == Keep::Best && self.best.as_ref().is_none_or(|(best, _)| precision >= *best) {
            self.best = Some((precision, self.network.clone()));
        }
        Ok(())
    }
}

fn dfdx_said(error: CpuError) -> anyhow::Error {
    anyhow!("dfdx: {error}")
}
