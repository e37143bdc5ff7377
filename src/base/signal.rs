//! SIGINT and SIGTERM: the work stops between two items, and the process exits with status 128 + the signal's number.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::base::error::Failure;

/// How long a step may take to stop by itself. After that, the process exits. This is safe: a kill at any point leaves
/// the store intact.
const PATIENCE: Duration = Duration::from_secs(5);

static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Number of threads in [`while_waiting`].
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Starts listening for signals. A second signal ends the process at once.
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

/// Runs `wait`, which may block forever, for example on a pipe. Meanwhile a signal ends the process at once.
pub fn while_waiting<T>(wait: impl FnOnce() -> T) -> T {
    /// Counts down when it is dropped, also if `wait` panics.
    struct Waiting;
    impl Drop for Waiting {
        fn drop(&mut self) {
            WAITING.fetch_sub(1, Ordering::Relaxed);
        }
    }
    WAITING.fetch_add(1, Ordering::Relaxed);
    let _waiting = Waiting;
    // A signal may have come before `WAITING` was raised. The listening thread did not exit then.
    if let Some(signal) = signal() {
        std::process::exit(128 + signal);
    }
    wait()
}

/// The signal that was received, if any.
pub fn signal() -> Option<i32> {
    Some(SIGNAL.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// Fails if a signal was received.
pub fn check() -> Result<()> {
    signal().map_or(Ok(()), |signal| Err(Failure::Interrupted(signal).into()))
}
