//! Runs every fuzz target briefly, from its seeds and from inputs that once crashed it, for `SIMILIAI_FUZZ_SECONDS`;
//! `fuzz/run` fuzzes for longer and with coverage.

#![allow(clippy::unwrap_used)]

#[path = "targets.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use targets::{TARGETS, Target};

/// Seconds for each target.
const SECONDS: f64 = 0.5;
/// Numbers that parsers often get wrong.
const NUMBERS: [u64; 12] = [0, 1, 2, 127, 128, 255, 256, 65_535, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 62, u64::MAX];

/// Characters with a meaning in YAML, JSON or CSV.
const SIGNS: &[u8] = b"{}[]:,*&!#\"'<|>-0 \n";

/// Valid inputs, and inputs that once crashed the target.
fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target.name);
    let found = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| fs::read(entry.ok()?.path()).ok());
    (target.seeds)().into_iter().chain(found).collect()
}

/// A seed with some random changes.
fn mutated(rng: &mut ChaCha8Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[rng.gen_range(0..seeds.len())].clone();
    for _ in 0..rng.gen_range(1..6) {
        let at = rng.gen_range(0..=bytes.len());
        let end = (at + rng.gen_range(0..32)).min(bytes.len());
        match rng.gen_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.gen_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.r#gen(),
            2 => {
                let width = [1, 2, 4, 8][rng.gen_range(0..4)];
                let number = NUMBERS[rng.gen_range(0..NUMBERS.len())].wrapping_add(rng.gen_range(0..3));
                let number = if rng.r#gen() { number.to_le_bytes() } else { number.to_be_bytes() };
                let end = (at + width).min(bytes.len());
                let length = end - at;
                bytes[at..end].copy_from_slice(&number[..length]);
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                let to = rng.gen_range(0..=bytes.len());
                bytes.splice(to..to, piece);
            }
            5 => bytes.truncate(at),
            6 => {
                let other = &seeds[rng.gen_range(0..seeds.len())];
                let from = rng.gen_range(0..=other.len());
                let piece = other[from..(from + rng.gen_range(0..64)).min(other.len())].to_vec();
                bytes.splice(at..end, piece);
            }
            _ => {
                let signs = (0..rng.gen_range(0..8)).map(|_| SIGNS[rng.gen_range(0..SIGNS.len())]);
                let signs: Vec<u8> = signs.collect();
                bytes.splice(at..end, signs);
            }
        }
    }
    bytes
}

/// Runs `target` for `time`. Returns an input that crashes it, which is kept as a file in `folder`.
fn crash(target: &Target, time: Duration, folder: &Path) -> Option<PathBuf> {
    let (seeds, start, mut runs) = (seeds(target), Instant::now(), 0);
    // Draws other inputs each time. An input that crashes is kept as a file, so it can be reproduced.
    let mut rng = ChaCha8Rng::from_entropy();
    // If an input ends the whole process, it is still in this file.
    let current = folder.join(target.name);
    let mut inputs = seeds.clone().into_iter();
    while !seeds.is_empty() && (start.elapsed() < time || runs < seeds.len()) {
        let input = inputs.next().unwrap_or_else(|| mutated(&mut rng, &seeds));
        fs::write(&current, &input).unwrap();
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            let kept = folder.join(format!("{}-{}", target.name, &blake3::hash(&input).to_hex()[..12]));
            fs::rename(&current, &kept).unwrap();
            return Some(kept);
        }
        runs += 1;
    }
    println!("{}: {runs} inputs in {:.1} s", target.name, start.elapsed().as_secs_f64());
    None
}

#[test]
fn no_target_crashes() {
    // This test is in target/<profile>/deps, and the program is one folder above it.
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap();
    let program = built.join("similiai");
    assert!(program.exists(), "the program is not built; run `cargo build` with the same options first");
    similiai::base::worker::start_from(program);
    let seconds = std::env::var("SIMILIAI_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(SECONDS));
    let folder = built.join("fuzz");
    fs::create_dir_all(&folder).unwrap();
    let only = std::env::var("SIMILIAI_FUZZ_TARGET").ok();
    let wanted = |target: &&Target| only.as_ref().is_none_or(|only| *only == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    let crashes: Vec<PathBuf> = targets.into_par_iter().filter_map(|target| crash(target, time, &folder)).collect();
    targets::clean();
    assert!(crashes.is_empty(), "these inputs crash their targets: {crashes:?}");
}
