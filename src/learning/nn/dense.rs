//! Dense layers on dfdx's tape, which use the convolution's kernels.
//!
//! The result of dfdx's own matrix product depends on the size of the CPU's cache. The result of the system's `tanh`
//! depends on its version.

use dfdx::nn::modules::Linear;
use dfdx::prelude::*;

use super::conv::{Shape, Weights};
use super::passes::{backward, forward};
use super::pointwise::{self, Affine};
use super::tape::{accumulate, record, values};
use super::{FeatureMap, Rows};
use crate::base::simd::Simd;

/// A layer is a 1×1 convolution of one image whose pixels are the batch's rows.
fn shape<const I: usize, const O: usize>(batch: usize) -> Shape {
    Shape { inputs: I, outputs: O, kernel: 1, height: 1, width: batch }
}

/// (batch, I) → (batch, O)
pub fn linear<const I: usize, const O: usize>(layer: &Linear<I, O, f32, Cpu>, x: &[f32]) -> Vec<f32> {
    let (simd, batch) = (Simd::current(), x.len() / I);
    let weights = Weights::forward(simd, shape::<I, O>(batch), &values(&layer.weight), &values(&layer.bias));
    let mut y = vec![0.0; batch * O];
    let x = FeatureMap::new((1, 1, batch, I), x.to_vec());
    forward(simd, &weights, (&x, &Affine::none(I)), Some(&mut y), &mut [Default::default()], 0, &|_, _, _, _| ());
    y
}

/// Like [`linear`], on the tape.
pub fn linear_taped<const I: usize, const O: usize>(
    layer: &Linear<I, O, f32, Cpu>,
    x: Rows<I>,
) -> Result<Rows<O>, CpuError> {
    let (x, tape) = x.split_tape();
    let (input, batch) = (values(&x), x.shape().0);
    let turned = Weights::backward(Simd::current(), shape::<I, O>(batch), &values(&layer.weight));
    let targets = vec![accumulate(&x), accumulate(&layer.weight), accumulate(&layer.bias)];
    record(x.device(), tape, linear(layer, &input), (batch, Const::<O>), targets, move |g| {
        let x = FeatureMap::new((1, 1, batch, I), input);
        let (simd, plain) = (Simd::current(), Affine::none(O));
        let into = |_: usize, _: &[f32], frame, to: &mut [f32]| pointwise::fill(simd, &g, O, &plain, frame, to);
        let none = Affine::none(I);
        let mut found = backward(simd, shape::<I, O>(batch), Some(&turned), (&x, &none), &into, 0, &|_, _, _| ());
        let input = found.input.take().map(|input| input.values.to_vec()).unwrap_or_default();
        [vec![input], found.parameters].concat()
    })
}

pub fn tanh(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = libm::tanhf(*x));
}

/// Like [`tanh`], on the tape.
pub fn tanh_taped<const D: usize>(x: Rows<D>) -> Result<Rows<D>, CpuError> {
    let (x, tape) = x.split_tape();
    let mut y = values(&x);
    tanh(&mut y);
    let (kept, shape) = (y.clone(), *x.shape());
    record(x.device(), tape, y, shape, vec![accumulate(&x)], move |mut g| {
        g.iter_mut().zip(&kept).for_each(|(g, y)| *g *= 1.0 - y * y);
        vec![g]
    })
}
