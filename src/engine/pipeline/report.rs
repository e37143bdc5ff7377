//! The options of a run, and its reports and events.

use std::sync::Arc;

use serde::Serialize;

use super::Selection;
use crate::base::error::Failure;
use crate::engine::cache::{Reason, RemoteCache};
use crate::engine::lock::Lock;
use crate::engine::stage::Notes;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ran {
    Ran,
    Cached,
    Failed,
    /// An instance that it needs failed, or the run stopped before it started.
    Skipped,
    /// In a dry run: the instance would run.
    Pending,
}

/// The outcome of a run for one instance.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub name: String,
    pub state: Ran,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Digest of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub seconds: f64,
    /// In a dry run: how long it will take, judging by past runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_seconds: Option<f64>,
    #[serde(rename = "images_per_second", skip_serializing_if = "Option::is_none")]
    pub items_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Items>,
    #[serde(flatten)]
    pub notes: Notes,
    pub reasons: Vec<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    pub failure: Option<Failure>,
}

/// Numbers of items of a stage that works item by item.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Items {
    /// Worked on in this run.
    pub made: usize,
    pub all: usize,
}

impl Report {
    pub fn new(name: &str, state: Ran) -> Self {
        Self {
            name: name.to_owned(),
            state,
            key: None,
            digest: None,
            seconds: 0.0,
            estimated_seconds: None,
            items_per_second: None,
            items: None,
            notes: Notes::new(),
            reasons: Vec::new(),
            error: None,
            failure: None,
        }
    }
}

pub enum Event<'a> {
    /// For the first time in this run, a result is made. These instances are or may be made, in about so many seconds;
    /// `None` if one of them never ran.
    Making(&'a [&'a str], Option<f64>),
    Started(&'a str),
    Ended(&'a Report),
}

#[derive(Debug, Default, Clone)]
pub struct Options {
    pub selection: Selection,
    pub force: bool,
    pub dry_run: bool,
    pub keep_going: bool,
    /// How many instances may run at the same time.
    pub jobs: usize,
    /// Every result must be the locked one.
    pub lock: Option<Lock>,
    /// Make each result a second time and compare.
    pub check_determinism: bool,
    /// The remote cache.
    pub remote: Option<Arc<dyn RemoteCache>>,
}
