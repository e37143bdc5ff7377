//! The state that all requests share.

use std::sync::Arc;

use anyhow::Result;
use axum::http::StatusCode;
use parking_lot::RwLock;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::decoder::Decoder;
use super::limits::{Limits, QUEUE};
use super::problem::Problem;
use super::search_queue::SearchQueue;
use super::snapshot::Snapshot;
use super::telemetry::Telemetry;
use super::uploads::Uploads;

#[derive(Clone)]
pub struct State(Arc<Shared>);

pub struct Shared {
    /// The current snapshot, or the reason why there is none.
    snapshot: RwLock<Result<Arc<Snapshot>, String>>,
    pub search_queue: SearchQueue,
    pub decoder: Decoder,
    pub uploads: Uploads,
    searches: Semaphore,
    pub telemetry: Arc<Telemetry>,
    pub limits: Limits,
    base: String,
}

pub struct Turn<'a> {
    telemetry: &'a Telemetry,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.telemetry.searches.dec();
    }
}

impl std::ops::Deref for State {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl State {
    pub fn new(limits: Limits, base: String) -> Result<Self> {
        let telemetry = Arc::new(Telemetry::new()?);
        Ok(Self(Arc::new(Shared {
            snapshot: RwLock::new(Err("there is nothing to show yet".to_owned())),
            search_queue: SearchQueue::start(telemetry.clone())?,
            decoder: Decoder::new(limits.pixels),
            uploads: Uploads::new(&limits),
            searches: Semaphore::new(QUEUE),
            telemetry,
            limits,
            base,
        })))
    }

    /// The current snapshot. A request that holds it is not affected by a later one.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, Problem> {
        let snapshot = self.snapshot.read();
        snapshot.clone().map_err(|why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", why))
    }

    /// Returns a permit to search. It is given back when it is dropped.
    pub fn turn(&self) -> Result<Turn<'_>, Problem> {
        let permit = self.searches.try_acquire().map_err(|_| {
            self.telemetry.refuse("searches");
            Problem::busy("too many searches at once; try again in a moment")
        })?;
        self.telemetry.searches.inc();
        Ok(Turn { telemetry: &self.telemetry, _permit: permit })
    }

    pub fn show(&self, mut snapshot: Snapshot) {
        snapshot.base.clone_from(&self.base);
        self.telemetry.pictures.set(snapshot.searcher.embeddings.len() as i64);
        *self.snapshot.write() = Ok(Arc::new(snapshot));
    }

    /// Sets the reason why there is nothing to show yet.
    pub fn not_ready(&self, why: &str) {
        *self.snapshot.write() = Err(why.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    #[test]
    fn one_search_too_many_is_told_to_come_again() {
        let state = State::new(Limits { bytes: 1, pixels: 1 }, String::new()).unwrap();
        let mut turns: Vec<Turn> = (0..QUEUE).map(|_| state.turn().unwrap()).collect();
        let refused = state.turn().err().unwrap().into_response();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()["retry-after"], "1");
        turns.pop();
        assert!(state.turn().is_ok());
    }
}
