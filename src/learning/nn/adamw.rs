//! AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2), with moments that can be
//! saved.
//!
//! dfdx's own AdamW keeps its moments private, so a training with it could not be resumed.

use std::collections::VecDeque;

use dfdx::nn::tensor_collection::*;
use dfdx::prelude::*;
use rayon::prelude::*;

use super::tape::values;

const BETAS: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;

/// The optimizer of one network, and of plain arrays of parameters in addition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdamW {
    /// Share of the learning rate by which weights shrink in a step. Offsets and batch norms do not shrink.
    pub weight_decay: f64,
    steps: i32,
    /// Running means of the gradient and of its square, for each tensor of parameters, in the order of visiting.
    moments: Vec<[Vec<f32>; 2]>,
    /// Moments of an earlier optimizer that are not yet part of `moments`.
    rest: VecDeque<f32>,
}

/// One step over all parameters.
struct Step<'a> {
    optimizer: &'a mut AdamW,
    gradients: &'a mut Gradients<f32, Cpu>,
    rate: f64,
    /// Number of parameter tensors visited so far.
    place: usize,
}

impl AdamW {
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay, ..Self::default() }
    }

    /// Moves the network and `beside` (additional parameters with their gradients) against the gradients.
    pub fn update<N: TensorCollection<f32, Cpu>>(
        &mut self,
        network: &mut N,
        gradients: &mut Gradients<f32, Cpu>,
        beside: Option<(&mut [f32], &[f32])>,
        rate: f64,
    ) -> Result<(), CpuError> {
        self.steps += 1;
        let mut step = Step { optimizer: self, gradients, rate, place: 0 };
        N::iter_tensors(&mut RecursiveWalker { m: network, f: &mut step })?;
        if let Some((parameters, gradient)) = beside {
            let place = step.place;
            self.step(place, parameters, gradient, rate, self.weight_decay);
        }
        Ok(())
    }

    fn step(&mut self, place: usize, parameters: &mut [f32], gradient: &[f32], rate: f64, decay: f64) {
        if self.moments.len() == place {
            let mut take = || self.rest.drain(..parameters.len().min(self.rest.len())).collect::<Vec<f32>>();
            let mut moments = [take(), take()];
            moments.iter_mut().for_each(|moments| moments.resize(parameters.len(), 0.0));
            self.moments.push(moments);
        }
        let [first, second] = &mut self.moments[place];
        let [keep_first, keep_second] = BETAS.map(|beta| beta as f32);
        let [lift_first, lift_second] = BETAS.map(|beta| (1.0 / (1.0 - beta.powi(self.steps))) as f32);
        let (rate, decay, epsilon) = (rate as f32, (rate * decay) as f32, EPSILON as f32);
        const CHUNK: usize = 1 << 13;
        let chunks = parameters.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
        let chunks = chunks.zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)));
        chunks.for_each(|((parameters, gradient), (first, second))| {
            for (((p, g), m), v) in parameters.iter_mut().zip(gradient).zip(first).zip(second) {
                *m = keep_first * *m + (1.0 - keep_first) * g;
                *v = keep_second * *v + (1.0 - keep_second) * g * g;
                *p -= rate * (*m * lift_first) / ((*v * lift_second).sqrt() + epsilon) + decay * *p;
            }
        });
    }

    /// Returns the number of steps so far and all moments in order, as [`AdamW::resumed`] takes them.
    pub fn state(&self) -> (i32, Vec<f32>) {
        (self.steps, self.moments.iter().flatten().flatten().chain(&self.rest).copied().collect())
    }

    /// Continues from the state of another optimizer of the same network.
    pub fn resumed(weight_decay: f64, steps: i32, moments: Vec<f32>) -> Self {
        Self { weight_decay, steps, rest: moments.into(), ..Self::default() }
    }
}

impl TensorVisitor<f32, Cpu> for Step<'_> {
    type Viewer = ViewTensorMut;
    type Err = CpuError;
    type E2 = f32;
    type D2 = Cpu;

    fn visit<S: Shape>(
        &mut self,
        options: TensorOptions<S, f32, Cpu>,
        tensor: &mut Tensor<S, f32, Cpu>,
    ) -> Result<Option<Tensor<S, f32, Cpu>>, CpuError> {
        if options.do_gradient_update {
            let mut parameters = values(tensor);
            let gradient = self.gradients.get_or_alloc_mut(tensor)?;
            let decay = if S::NUM_DIMS > 1 { self.optimizer.weight_decay } else { 0.0 };
            self.optimizer.step(self.place, &mut parameters, gradient, self.rate, decay);
            tensor.copy_from(&parameters);
            self.place += 1;
        }
        Ok(None)
    }
}
