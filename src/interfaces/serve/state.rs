//! What all requests share.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Result;
use axum::http::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::decoding::Decoding;
use super::engine::Engine;
use super::limits::{Limits, QUEUE};
use super::problem::Problem;
use super::shown::Shown;
use super::telemetry::Telemetry;
use super::uploads::Uploads;

#[derive(Clone)]
pub struct State(Arc<Shared>);

pub struct Shared {
    /// Or why there is nothing.
    shown: RwLock<Result<Arc<Shown>, String>>,
    pub engine: Engine,
    pub decoding: Decoding,
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
            shown: RwLock::new(Err("there is nothing to show yet".to_owned())),
            engine: Engine::start(telemetry.clone())?,
            decoding: Decoding::new(limits.pixels),
            uploads: Uploads::new(&limits),
            searches: Semaphore::new(QUEUE),
            telemetry,
            limits,
            base,
        })))
    }

    /// What is shown now; whoever holds it keeps it as it is.
    pub fn shown(&self) -> Result<Arc<Shown>, Problem> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        shown.clone().map_err(|why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", why))
    }

    /// A place among those that search, until it is dropped.
    pub fn turn(&self) -> Result<Turn<'_>, Problem> {
        let permit = self.searches.try_acquire().map_err(|_| {
            self.telemetry.refuse("searches");
            Problem::busy("too many searches at once; try again in a moment")
        })?;
        self.telemetry.searches.inc();
        Ok(Turn { telemetry: &self.telemetry, _permit: permit })
    }

    pub fn show(&self, mut shown: Shown) {
        shown.base.clone_from(&self.base);
        self.telemetry.pictures.set(shown.searcher.embeddings.len() as i64);
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Ok(Arc::new(shown));
    }

    /// Before there is anything to show.
    pub fn cannot_show(&self, why: &str) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Err(why.to_owned());
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
