//! The convolutional trunk as one operation on dfdx's tape: only the parameters and the small result are dfdx tensors.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use dfdx::prelude::*;

use super::batch_norm::Moments;
use super::pointwise::Affine;
use super::tape::{Accumulate, record};
use super::{FeatureMap, Rows};

/// A batch between two blocks: values, and the affine map that is applied when they are read.
#[derive(Debug, Clone)]
pub struct Signal {
    pub(super) map: Arc<FeatureMap>,
    pub(super) affine: Affine,
    /// The moments of the values, if a batch norm follows.
    pub(super) moments: Option<Moments>,
}

impl Signal {
    pub(super) fn moments(&self) -> Result<&Moments> {
        self.moments.as_ref().context("a batch norm must follow a convolution or a block")
    }
}

impl From<FeatureMap> for Signal {
    fn from(map: FeatureMap) -> Self {
        Self { affine: Affine::none(map.channels), map: Arc::new(map), moments: None }
    }
}

/// Turns the gradient of a step's output into that of its input and of its parameters.
type Step = Box<dyn FnOnce(FeatureMap) -> (FeatureMap, Vec<Vec<f32>>)>;

/// The steps of a forward pass, to be used by the backward pass.
#[derive(Default)]
pub struct Chain {
    steps: Vec<(Step, Vec<Accumulate>)>,
}

impl Chain {
    /// Whether no step before the next one learns. Then the gradient of the next step's input is not needed.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn push(
        &mut self,
        targets: Vec<Accumulate>,
        step: impl FnOnce(FeatureMap) -> (FeatureMap, Vec<Vec<f32>>) + 'static,
    ) {
        self.steps.push((Box::new(step), targets));
    }

    /// Returns the result `y`, (batch, 1, 1, C), as a tensor on a tape that holds `gradients`.
    pub fn record<const C: usize>(
        self,
        device: &Cpu,
        y: FeatureMap,
        gradients: Gradients<f32, Cpu>,
    ) -> Result<Rows<C>, CpuError> {
        let nothing: Tensor<Rank0, f32, Cpu> = device.try_zeros()?;
        let (_, tape) = nothing.traced(gradients).split_tape();
        let batch = y.batch;
        let (steps, targets): (Vec<Step>, Vec<Vec<Accumulate>>) = self.steps.into_iter().unzip();
        let targets = targets.into_iter().rev().flatten().collect();
        record(device, tape, y.values.to_vec(), (batch, Const::<C>), targets, move |g| {
            let (mut g, mut found) = (FeatureMap::new((batch, 1, 1, C), g), Vec::new());
            for step in steps.into_iter().rev() {
                let (before, parameters) = step(g);
                g = before;
                found.extend(parameters);
            }
            found
        })
    }
}

/// Fails unless all values are finite.
pub(super) fn check(layer: &str, moments: &Moments) -> Result<()> {
    if !moments.is_finite() {
        bail!("the output of layer {layer} is not finite");
    }
    Ok(())
}
