//! Speed of every convolution of the networks on one core, as a share of the peak speed of the core.
//!
//! Run it with `cargo bench --bench kernels`. `SIMILIAI_SIMD` chooses another vector unit. Shares can exceed 100 %:
//! Winograd's algorithm needs a quarter of the operations that are counted here.

use std::time::Instant;

use divan::Bencher;
use divan::counter::ItemsCount;
use similiai::learning::nn::probe::{Probe, peak, probes};

/// Number of rounds. The fastest one counts, because other programs slow down the rest.
const ROUNDS: usize = 5;

fn all() -> Vec<Probe> {
    std::iter::once(peak()).chain(probes()).collect()
}

fn names() -> Vec<String> {
    all().into_iter().map(|probe| probe.name).collect()
}

/// Counts multiplications and additions as items.
#[divan::bench(args = names(), sample_count = 10)]
fn kernels(bencher: Bencher, name: &String) {
    if let Some(mut probe) = all().into_iter().find(|probe| probe.name == *name) {
        bencher.counter(ItemsCount::new(probe.operations)).bench_local(move || (probe.run)());
    }
}

/// Best speed, in billions of operations a second.
fn speed(probe: &mut Probe) -> f64 {
    let seconds = |_| {
        let start = Instant::now();
        (probe.run)();
        start.elapsed().as_secs_f64()
    };
    probe.operations as f64 / (0..ROUNDS).map(seconds).fold(f64::INFINITY, f64::min) / 1e9
}

fn main() -> Result<(), rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    divan::main();
    if std::env::args().any(|argument| argument == "--bench") {
        let peak = speed(&mut peak());
        println!("\n{:36} {peak:7.1} GFLOP/s", "peak of one core");
        for mut probe in probes() {
            let speed = speed(&mut probe);
            println!("{:36} {speed:7.1} GFLOP/s {:5.0} % of peak", probe.name, 100.0 * speed / peak);
        }
    }
    Ok(())
}
