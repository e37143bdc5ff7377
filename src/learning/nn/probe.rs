//! What the benchmarks measure: every convolution of the networks, forward and backward, and the peak speed of a core.

use super::FeatureMap;
use super::conv::{Shape, Weights};
use super::passes::{backward, forward};
use super::pointwise::{self, Affine};
use crate::base::simd::{Simd, kernels};

/// A piece of work to be timed.
pub struct Probe {
    pub name: String,
    /// Multiplications and additions of a direct convolution, even if the algorithm needs fewer.
    pub operations: usize,
    pub run: Box<dyn FnMut() + Send>,
}

/// Number of images of a probe: a batch.
const IMAGES: usize = 96;

/// (network and layer, inputs, outputs, kernel, side)
const LAYERS: [(&str, usize, usize, usize, usize); 11] = [
    ("original block1", 3, 32, 3, 64),
    ("original block2", 32, 64, 3, 32),
    ("original block3", 64, 128, 3, 16),
    ("residual stem", 3, 32, 3, 32),
    ("residual block1", 32, 32, 3, 32),
    ("residual block2 conv1", 32, 64, 3, 16),
    ("residual block2 conv2", 64, 64, 3, 16),
    ("residual block2 shortcut", 32, 64, 1, 16),
    ("residual block3 conv1", 64, 128, 3, 8),
    ("residual block3 conv2", 128, 128, 3, 8),
    ("residual block3 shortcut", 64, 128, 1, 8),
];

/// The forward and backward pass of every layer. The backward pass of a stem computes no gradient of its input.
pub fn probes() -> Vec<Probe> {
    LAYERS
        .iter()
        .flat_map(|&(name, inputs, outputs, kernel, side)| of_layer(name, inputs, outputs, kernel, side))
        .collect()
}

fn of_layer(name: &str, inputs: usize, outputs: usize, kernel: usize, side: usize) -> [Probe; 2] {
    let shape = Shape { inputs, outputs, kernel, height: side, width: side };
    let simd = Simd::current();
    let map = |channels: usize| {
        let value = |place: usize| ((place * 7919) % 1024) as f32 / 512.0 - 1.0;
        FeatureMap::new(
            (IMAGES, side, side, channels),
            (0..IMAGES * side * side * channels).map(value).collect::<Vec<_>>(),
        )
    };
    let weight: Vec<f32> =
        (0..outputs * inputs * kernel * kernel).map(|place| (place % 13) as f32 / 13.0 - 0.5).collect();
    let operations = 2 * IMAGES * side * side * kernel * kernel * inputs * outputs;
    let ready = Weights::forward(simd, shape, &weight, &vec![0.0; outputs]);
    let (x, mut y, plain) = (map(inputs), map(outputs), Affine::none(inputs));
    let there = move || {
        let mut items = std::array::from_fn::<_, IMAGES, _>(|_| Default::default());
        forward(simd, &ready, (&x, &plain), Some(&mut y.values), &mut items, 0, &|_, _, _, _| ());
    };
    let turned = (inputs > 3).then(|| Weights::backward(simd, shape, &weight));
    let passes = if turned.is_some() { 2 } else { 1 };
    let (x, g, plain, as_it_is) = (map(inputs), map(outputs), Affine::none(inputs), Affine::none(outputs));
    let back = move || {
        let into = |image: usize, _: &[f32], frame, to: &mut [f32]| {
            pointwise::fill(simd, g.of(image), outputs, &as_it_is, frame, to);
        };
        backward(simd, shape, turned.as_ref(), (&x, &plain), &into, 0, &|_, _, _| ());
    };
    [
        Probe { name: format!("{name}, forward"), operations, run: Box::new(there) },
        Probe { name: format!("{name}, backward"), operations: passes * operations, run: Box::new(back) },
    ]
}

/// Rounds of the loop that measures the peak, and number of parallel chains: enough to hide the latency, and few enough
/// for the registers.
const ROUNDS: usize = 100_000;
const CHAINS: usize = 12;

/// A probe that does only fused multiply-adds.
pub fn peak() -> Probe {
    let simd = Simd::current();
    let mut sums = [0.0f32; 16];
    let run = move || multiply_add(simd, &mut sums, 0.999);
    let width = match simd.name() {
        "avx512" => 16,
        _ => 8,
    };
    Probe { name: "peak".to_owned(), operations: 2 * ROUNDS * CHAINS * width, run: Box::new(run) }
}

kernels! {
    fn multiply_add<V: Vector>(sums: &mut [f32; 16], factor: f32) {
        // SAFETY: `sums` has room for the widest vector. `kernels!` runs this only if the CPU has the instructions.
        unsafe {
            let (factor, start) = (V::splat(factor), V::load(sums.as_ptr()));
            let mut chains = [start; CHAINS];
            for _ in 0..ROUNDS {
                for chain in &mut chains {
                    *chain = chain.multiply_add(factor, start);
                }
            }
            let mut sum = start;
            for chain in chains {
                sum = sum.plus(chain);
            }
            sum.store(sums.as_mut_ptr());
        }
    }
}
