//! Scaling each row to Euclidean length 1.

use dfdx::prelude::*;

use super::tape::{Taped, accumulate, record, values};

/// Shorter rows are divided by this length instead of their own, so that no value becomes infinite.
const SHORTEST: f32 = 1e-12;

pub type Rows<const D: usize> = Tensor<(usize, Const<D>), f32, Cpu, Taped>;

/// Scales `rows` (batch, dimension) in place. Returns their lengths.
pub fn normalize(rows: &mut [f32], dimension: usize) -> Vec<f32> {
    let scale = |row: &mut [f32]| {
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
        let length = length.max(SHORTEST);
        row.iter_mut().for_each(|x| *x /= length);
        length
    };
    rows.chunks_exact_mut(dimension).map(scale).collect()
}

/// Like [`normalize`], on the tape.
pub fn normalize_taped<const D: usize>(x: Rows<D>) -> Result<Rows<D>, CpuError> {
    let (x, tape) = x.split_tape();
    let mut y = values(&x);
    let lengths = normalize(&mut y, D);
    let (unit, shape) = (y.clone(), *x.shape());
    record(x.device(), tape, y, shape, vec![accumulate(&x)], move |mut g| {
        for ((g, y), length) in g.chunks_exact_mut(D).zip(unit.chunks_exact(D)).zip(&lengths) {
            let along = g.iter().zip(y).map(|(g, y)| f64::from(*g) * f64::from(*y)).sum::<f64>() as f32;
            g.iter_mut().zip(y).for_each(|(g, y)| *g = (*g - along * y) / length);
        }
        vec![g]
    })
}
