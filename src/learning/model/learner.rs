//! Networks without their types, so that code around a network is compiled once and not again for each of them.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use dfdx::nn::{SaveToSafetensors, ZeroGrads};
use dfdx::prelude::*;

use super::networks::{Network, parameters, set_parameters};
use crate::learning::nn::{AdamW, FeatureMap, Signal, normalize_taped, tape};

/// A network of any type.
pub trait AnyNetwork: Send + Sync {
    /// Maps (batch, side, side, 3) to (batch, 128) with the running statistics.
    fn infer(&self, images: Signal) -> Vec<f32>;
    /// All parameters in order, including the running statistics.
    fn parameters(&self) -> Vec<f32>;
    /// Sets all parameters to values that [`AnyNetwork::parameters`] returned.
    fn set_parameters(&mut self, values: &[f32]) -> Result<()>;
    /// Writes the tensors to the file at `path`, as dfdx does.
    fn save(&self, path: &Path) -> Result<()>;
}

impl<N: Network> AnyNetwork for N {
    fn infer(&self, images: Signal) -> Vec<f32> {
        Network::infer(self, images)
    }

    fn parameters(&self) -> Vec<f32> {
        parameters(self)
    }

    fn set_parameters(&mut self, values: &[f32]) -> Result<()> {
        set_parameters(self, values)
    }

    fn save(&self, path: &Path) -> Result<()> {
        self.save_safetensors(path).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Returns the loss of embeddings (batch, 128), and its gradient.
pub type Judge<'a> = &'a mut dyn FnMut(&[f32]) -> (f64, Vec<f32>);

/// A network of any type while it learns.
pub trait Learner {
    fn network(&self) -> &dyn AnyNetwork;
    fn network_mut(&mut self) -> &mut dyn AnyNetwork;
    fn optimizer(&self) -> &AdamW;
    /// Finds the gradients of the loss that `judge` gives for images (batch, side, side, 3). With `normalize`, it gets
    /// embeddings of length 1. Dropout draws random numbers from `seed`.
    ///
    /// # Errors
    /// If the loss is not finite.
    fn backward(&mut self, images: FeatureMap, normalize: bool, seed: u64, judge: Judge) -> Result<()>;
    /// Moves the network, and additional parameters with their gradients, against the gradients.
    fn update(&mut self, beside: Option<(&mut [f32], &[f32])>, rate: f64) -> Result<()>;
}

struct Learning<N> {
    network: N,
    optimizer: AdamW,
    gradients: Gradients<f32, Cpu>,
}

/// Begins to train a network whose weights are drawn from `seed`.
pub(super) fn learner<N: Network + 'static>(seed: u64, optimizer: AdamW) -> Result<Box<dyn Learner>> {
    let network = N::with_seed(seed)?;
    let gradients = network.try_alloc_grads().map_err(dfdx_said)?;
    Ok(Box::new(Learning { network, optimizer, gradients }))
}

impl<N: Network> Learner for Learning<N> {
    fn network(&self) -> &dyn AnyNetwork {
        &self.network
    }

    fn network_mut(&mut self) -> &mut dyn AnyNetwork {
        &mut self.network
    }

    fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    fn backward(&mut self, images: FeatureMap, normalize: bool, seed: u64, judge: Judge) -> Result<()> {
        let gradients = std::mem::replace(&mut self.gradients, Gradients::leaky());
        let mut embeddings = self.network.train(images.into(), gradients, &Cpu::seed_from_u64(seed))?;
        if normalize {
            embeddings = normalize_taped(embeddings).map_err(dfdx_said)?;
        }
        let judge = |points: &[f32]| {
            let (loss, gradient) = judge(points);
            (loss, gradient, loss)
        };
        let (taped, loss) = tape::loss(embeddings, judge).map_err(dfdx_said)?;
        ensure!(loss.is_finite(), "the loss is not finite");
        self.gradients = taped.try_backward().map_err(dfdx_said)?;
        Ok(())
    }

    fn update(&mut self, beside: Option<(&mut [f32], &[f32])>, rate: f64) -> Result<()> {
        self.optimizer.update(&mut self.network, &mut self.gradients, beside, rate).map_err(dfdx_said)?;
        self.network.try_zero_grads(&mut self.gradients).map_err(dfdx_said)
    }
}

fn dfdx_said(error: CpuError) -> anyhow::Error {
    anyhow!("dfdx: {error}")
}
