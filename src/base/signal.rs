//! SIGINT and SIGTERM: the work stops between two items, and the process exits with status 128 + the signal's number.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::base::error::Failure;

/// How long a step may take to stop by itself. After that, the process exits. This is safe: a kill at any point leaves
/// the store intact.
const PATIENCE: Duration = Duration::from_secs(5);

static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Number of threads in [`while_waiting`].
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Starts listening for signals. A second signal ends the process at once.
pub fn listen() -> Result<()> {
    let signals = received().context("cannot listen for signals")?;
    std::thread::spawn(move || {
        for signal in signals {
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

/// The signals, as they come.
#[cfg(unix)]
fn received() -> std::io::Result<impl Iterator<Item = i32> + Send> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    Ok(std::iter::from_fn(move || signals.forever().next()))
}

/// The signals, as they come. On Windows, SIGINT stands for Ctrl-C. Its handler can only set a number.
#[cfg(windows)]
fn received() -> std::io::Result<impl Iterator<Item = i32> + Send> {
    let number = std::sync::Arc::new(AtomicUsize::new(0));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_usize(signal, number.clone(), signal as usize)?;
    }
    Ok(std::iter::from_fn(move || {
        loop {
            match number.swap(0, Ordering::Relaxed) {
                0 => std::thread::sleep(Duration::from_millis(50)),
                signal => return Some(signal as i32),
            }
        }
    }))
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
