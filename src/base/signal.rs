//! SIGINT and SIGTERM: work ends between two items, and the process with 128 + the signal's number.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::base::error::Failure;

/// How long a step may take to end by itself. After that the process ends anyway: the store stands a kill anywhere.
const PATIENCE: Duration = Duration::from_secs(5);

static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Threads that wait for something from outside.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Listens from now on; a second signal ends the process at once.
pub fn listen() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if SIGNAL.swap(signal, Ordering::Relaxed) != 0 || WAITING.load(Ordering::Relaxed) > 0 {
                std::process::exit(128 + signal);
            }
            std::thread::spawn(move || {
                std::thread::sleep(PATIENCE);
                std::process::exit(128 + signal);
            });
        }
    });
    Ok(())
}

/// Runs `wait`, which may wait for ever for what comes from outside: a signal ends the process at once meanwhile.
pub fn while_waiting<T>(wait: impl FnOnce() -> T) -> T {
    /// Also where `wait` panics.
    struct Waiting;
    impl Drop for Waiting {
        fn drop(&mut self) {
            WAITING.fetch_sub(1, Ordering::Relaxed);
        }
    }
    WAITING.fetch_add(1, Ordering::Relaxed);
    let _waiting = Waiting;
    // Where one came before, the thread that listens has seen nobody wait.
    if let Some(signal) = signal() {
        std::process::exit(128 + signal);
    }
    wait()
}

/// The signal that has come.
pub fn signal() -> Option<i32> {
    Some(SIGNAL.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// Fails once a signal has come.
pub fn check() -> Result<()> {
    signal().map_or(Ok(()), |signal| Err(Failure::Interrupted(signal).into()))
}
