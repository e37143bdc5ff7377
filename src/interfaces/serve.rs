//! An HTTP server that finds similar pictures, with a page for people and JSON for programs.

mod api;
mod connections;
mod decoder;
mod etag;
mod guard;
mod limits;
mod map;
mod openapi;
mod page;
mod problem;
mod search_queue;
mod snapshot;
mod state;
mod telemetry;
mod uploads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use crate::base::error::Failure;
use crate::base::signal;

pub use guard::{Access, Token};
pub use limits::Limits;
pub use problem::Problem;
pub use snapshot::Snapshot;
use state::State;
pub use uploads::picture_of_form;

/// Time between two checks for new results.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);
/// Most checks that are skipped before a failed opening is tried again.
const MOST_RESTS: u32 = 16;
/// Most connections that wait to be accepted. The system refuses more, so a burst must fit.
const WAITING: u32 = 4096;
/// Time to finish current requests when the server stops.
const FAREWELL: Duration = Duration::from_secs(4);

/// Where snapshots come from.
pub trait Source {
    /// Returns a version. It changes whenever [`Source::open`] would return something else.
    fn version(&self) -> Result<String>;

    /// Opens the current snapshot.
    ///
    /// # Errors
    /// If there is nothing to show yet. Clients get this error until there is.
    fn open(&self) -> Result<Snapshot>;
}

pub struct Options {
    pub address: SocketAddr,
    pub access: Access,
    pub limits: Limits,
}

/// The next free port above that of `address`, among the next hundred.
fn free_port(address: SocketAddr) -> Option<u16> {
    let above = address.port().saturating_add(1)..=address.port().saturating_add(100);
    above.into_iter().find(|port| std::net::TcpListener::bind((address.ip(), *port)).is_ok())
}

/// Serves the snapshots of `source`, always the newest, until a signal comes. Calls `started` with the address.
pub fn serve(source: &dyn Source, options: Options, started: impl FnOnce(SocketAddr)) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    // The usual limit of 1,024 open files is too low. If it cannot be raised, fewer connections are possible.
    #[cfg(unix)]
    allow_files(2 * connections::MOST as u64);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores)
        .max_blocking_threads(2 * cores + 2)
        .enable_all()
        .build()
        .context("cannot start the server")?;
    let Options { address, access, limits } = options;
    let base = access.base.clone();
    let state = State::new(limits, base.clone())?;
    let listener = runtime.block_on(async { listen(address) }).map_err(|error| {
        let fix = match free_port(address) {
            Some(port) => format!("port {port} is free: add --port {port}"),
            None => "choose another port with --port, or any free one with --port 0".to_owned(),
        };
        Failure::Usage(format!("cannot listen on {address}: {error}; {fix}"))
    })?;
    let address = listener.local_addr().context("the server has no address")?;
    let mut watcher =
        Watcher { source, state: &state, version: None, failed: None, resting: 0, trouble: String::new() };
    watcher.look();
    let (end, ending) = watch::channel(false);
    let router = api::router(state.clone(), Arc::new(access))?;
    let server = runtime.spawn(connections::serve(listener, router, state.telemetry.clone(), ending));
    started(address);
    let signal = loop {
        std::thread::sleep(BETWEEN_LOOKS);
        if let Some(signal) = signal::signal() {
            break signal;
        }
        watcher.look();
    };
    tracing::info!("stopping: current requests have {} s to finish", FAREWELL.as_secs());
    end.send_replace(true);
    let ended = runtime.block_on(async { tokio::time::timeout(FAREWELL, server).await });
    if ended.is_err() {
        tracing::warn!("some connections were still open");
    }
    runtime.shutdown_background();
    Err(Failure::Ended(signal).into())
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING)
}

#[cfg(unix)]
fn allow_files(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let current = limit.current.map(|current| current.max(most));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, ..limit }) {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}

/// Keeps the snapshot up to date.
struct Watcher<'a> {
    source: &'a dyn Source,
    state: &'a State,
    /// Version of the snapshot, if there is one.
    version: Option<String>,
    /// The version that failed to open last, and how many checks to skip after a try.
    failed: Option<(String, u32)>,
    /// Checks that are still to be skipped.
    resting: u32,
    /// The last error in the log.
    trouble: String,
}

impl Watcher<'_> {
    fn look(&mut self) {
        let opened = self.source.version().and_then(|version| {
            let known = self.failed.as_ref().is_some_and(|(failed, _)| *failed == version);
            self.resting = if known { self.resting.saturating_sub(1) } else { 0 };
            if self.version.as_ref() == Some(&version) || self.resting > 0 {
                return Ok(None);
            }
            let snapshot = self.source.open().inspect_err(|_| {
                // Opening the same version again would usually fail in the same way.
                let rest = self.failed.as_ref().filter(|_| known).map_or(1, |(_, rest)| (2 * rest).min(MOST_RESTS));
                (self.resting, self.failed) = (rest, Some((version.clone(), rest)));
            })?;
            // If the version changed during opening, the snapshot may mix two versions.
            Ok((self.source.version()? == version).then_some((version, snapshot)))
        });
        match opened {
            Ok(None) => {}
            Ok(Some((version, snapshot))) => {
                tracing::info!(
                    "{} pictures, model {}…",
                    snapshot.searcher.embeddings.len(),
                    &snapshot.model.digest[..12]
                );
                self.state.show(snapshot);
                (self.version, self.trouble) = (Some(version), String::new());
            }
            Err(error) => {
                let trouble = format!("{error:#}");
                if trouble == self.trouble {
                    return;
                }
                if self.version.is_none() {
                    tracing::warn!("{trouble}");
                    self.state.not_ready(&trouble);
                } else {
                    tracing::info!("the server keeps the snapshot that it has: {trouble}");
                }
                self.trouble = trouble;
            }
        }
    }
}
