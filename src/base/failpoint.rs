//! Named points at which a test kills the process, to check that the next run recovers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// All failpoints. `SIMILIAI_FAILPOINT=name` kills the process the first time it reaches that point; `name:3` the third
/// time.
pub const POINTS: [&str; 15] = [
    "lock-taken",
    "blob-written",
    "blob-placed",
    "items-written",
    "stage-ended",
    "contents-placed",
    "result-written",
    "checkout-announced",
    "file-removed",
    "file-checked-out",
    "index-written",
    "checkout-finished",
    "history-written",
    "digests-written",
    "checkpoint-written",
];

/// Kills the process with SIGKILL if `SIMILIAI_FAILPOINT` names this point.
pub fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name}");
    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let wanted = std::env::var("SIMILIAI_FAILPOINT").ok()?;
        Some(match wanted.split_once(':') {
            Some((name, count)) => (name.to_owned(), count.parse().unwrap_or(1)),
            None => (wanted, 1),
        })
    });
    if let Some((wanted, count)) = wanted
        && wanted == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *count
    {
        // Unlike an exit, SIGKILL flushes nothing and runs no destructors. Windows has no signals.
        #[cfg(unix)]
        let _ = signal_hook::low_level::raise(signal_hook::consts::SIGKILL);
        #[cfg(windows)]
        std::process::abort();
    }
}
