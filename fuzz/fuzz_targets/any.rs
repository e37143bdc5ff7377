//! Runs the target that `SIMILIAI_FUZZ_TARGET` names, under libFuzzer.

#![no_main]
#![allow(dead_code)]

#[path = "../../stages/mod.rs"]
mod stages;
#[path = "../targets.rs"]
mod targets;

use std::sync::OnceLock;

use targets::{TARGETS, Target};

fn target() -> &'static Target {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        // A panic that is caught must not count as a crash, so the hook of libFuzzer is removed. Others still end the
        // process.
        drop(std::panic::take_hook());
        std::panic::set_hook(Box::new(|_| ()));
        if let Some(program) = std::env::var_os("SIMILIAI_PROGRAM") {
            similiai::base::worker::start_from(program.into());
        }
        let name = std::env::var("SIMILIAI_FUZZ_TARGET").expect("SIMILIAI_FUZZ_TARGET names a target");
        let found = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
        // `fuzz/run` sets this variable to write the seeds into a folder.
        if let Some(folder) = std::env::var_os("SIMILIAI_FUZZ_SEEDS") {
            for (number, seed) in (found.seeds)().into_iter().enumerate() {
                std::fs::write(std::path::Path::new(&folder).join(format!("seed-{number}")), seed).expect("a seed");
            }
        }
        found
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (target().run)(bytes));
