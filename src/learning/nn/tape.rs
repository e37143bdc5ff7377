//! The bridge to dfdx's tape.

use dfdx::prelude::*;
use rayon::prelude::*;

pub type Taped = OwnedTape<f32, Cpu>;

/// Returns a tensor's values. The tensor must be contiguous, as all parameters and maps here are.
pub fn values<S: Shape, T>(tensor: &Tensor<S, f32, Cpu, T>) -> Vec<f32> {
    let mut values = vec![0.0; tensor.shape().num_elements()];
    tensor.copy_into(&mut values);
    values
}

/// Adds to the gradient of one tensor.
pub type Accumulate = Box<dyn FnOnce(&mut Gradients<f32, Cpu>, &[f32]) -> Result<(), CpuError>>;

pub fn accumulate<S: Shape, T: 'static>(tensor: &Tensor<S, f32, Cpu, T>) -> Accumulate {
    let ghost = tensor.ghost();
    Box::new(move |gradients, values| {
        add(gradients.get_or_alloc_mut(&ghost)?, values);
        Ok(())
    })
}

fn add(sums: &mut [f32], values: &[f32]) {
    let chunks = sums.par_chunks_mut(1 << 14).zip(values.par_chunks(1 << 14));
    chunks.for_each(|(sums, values)| sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value));
}

/// Returns `y` as a tensor on `tape`. In the backward pass, `backward` turns its gradient into one gradient for each of
/// `targets`.
pub fn record<S: Shape>(
    device: &Cpu,
    mut tape: Taped,
    y: Vec<f32>,
    shape: S,
    targets: Vec<Accumulate>,
    backward: impl FnOnce(Vec<f32>) -> Vec<Vec<f32>> + 'static,
) -> Result<Tensor<S, f32, Cpu, Taped>, CpuError> {
    let y = device.try_tensor_from_vec(y, shape)?;
    let ghost = y.ghost();
    tape.add_backward_op(move |gradients| {
        // Nothing else reads this gradient once its op has run, so it is taken.
        let gradient = std::mem::take(&mut **gradients.get_or_alloc_mut(&ghost)?);
        let found = backward(gradient);
        debug_assert_eq!(found.len(), targets.len());
        targets.into_iter().zip(found).try_for_each(|(target, values)| target(gradients, &values))
    });
    Ok(y.put_tape(tape))
}

/// A number on the tape.
pub type Loss = Tensor<Rank0, f32, Cpu, Taped>;

/// Puts a loss on the tape. `judge` gets the values of `tensor`, and returns the loss, its gradient, and anything else.
pub fn loss<S: Shape, F>(
    tensor: Tensor<S, f32, Cpu, Taped>,
    judge: impl FnOnce(&[f32]) -> (f64, Vec<f32>, F),
) -> Result<(Loss, F), CpuError> {
    let (tensor, tape) = tensor.split_tape();
    let (value, gradient, found) = judge(&values(&tensor));
    let targets = vec![accumulate(&tensor)];
    let loss = record(tensor.device(), tape, vec![value as f32], (), targets, move |g| {
        vec![gradient.into_iter().map(|value| value * g[0]).collect()]
    })?;
    Ok((loss, found))
}
