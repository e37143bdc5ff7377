//! Running: in order, side by side where wanted, each instance only if the cache has no result for it.

use std::sync::mpsc;

use anyhow::Result;
use serde::Serialize;

use super::job::{Job, Outcome};
use super::{Project, Selection};
use crate::cache::Record;
use crate::progress::Screen;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ran {
    Ran,
    Cached,
    Failed,
    /// Something it needs failed, or the run was stopped before it.
    Skipped,
    /// In a dry run: it would run.
    Pending,
}

/// What became of one instance.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_per_second: Option<f64>,
    pub reasons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    pub damaged: bool,
}

impl Report {
    pub(super) fn new(name: &str, state: Ran) -> Self {
        let (name, reasons) = (name.to_owned(), Vec::new());
        let (key, digest, images_per_second, error) = (None, None, None, None);
        Self { name, state, key, digest, seconds: 0.0, images_per_second, reasons, error, damaged: false }
    }
}

pub enum Event<'a> {
    Started(&'a str),
    Ended(&'a Report),
}

#[derive(Debug, Default, Clone)]
pub struct Options {
    pub selection: Selection,
    pub force: bool,
    pub dry_run: bool,
    pub keep_going: bool,
    /// Instances side by side.
    pub jobs: usize,
}

impl Project {
    /// Runs what is selected and not cached. The caller holds the project's lock, except for a dry run.
    pub fn run(&self, options: &Options, screen: &Screen, observe: &dyn Fn(Event)) -> Result<Vec<Report>> {
        let parts = self.select(&options.selection)?;
        let instances = &self.manifest.instances;
        let mut results: Vec<Option<Record>> = vec![None; instances.len()];
        let mut reports: Vec<Option<Report>> = vec![None; instances.len()];
        let mut waiting: Vec<usize> = (0..instances.len()).filter(|place| parts[*place].active).collect();
        let mut stopping = false;
        let (sender, receiver) = mpsc::channel::<(usize, Outcome)>();
        std::thread::scope(|scope| {
            let mut running = 0;
            loop {
                // Not started ones whose needs failed, or all of them once the run stops, end here.
                waiting.retain(|place| {
                    let lost = |need: &usize| {
                        reports[*need].as_ref().is_some_and(|report| matches!(report.state, Ran::Failed | Ran::Skipped))
                    };
                    let skip = stopping || instances[*place].needs.iter().any(lost);
                    if skip {
                        let report = Report::new(&instances[*place].name, Ran::Skipped);
                        observe(Event::Ended(&report));
                        reports[*place] = Some(report);
                    }
                    !skip
                });
                while running < options.jobs.max(1) {
                    let made = |need: &usize| results[*need].is_some() || (options.dry_run && reports[*need].is_some());
                    let ready = |place: &usize| instances[*place].needs.iter().all(made);
                    let Some(position) = waiting.iter().position(ready) else { break };
                    let place = waiting.remove(position);
                    running += 1;
                    let job = Job { project: self, place, part: parts[place], known: results.clone(), options, screen };
                    let sender = sender.clone();
                    observe(Event::Started(&instances[place].name));
                    // The receiver outlives every thread of this scope.
                    scope.spawn(move || drop(sender.send((place, job.execute()))));
                }
                if running == 0 {
                    break;
                }
                let Ok((place, (report, record))) = receiver.recv() else { break };
                running -= 1;
                stopping |= report.state == Ran::Failed && !options.keep_going;
                observe(Event::Ended(&report));
                results[place] = record;
                reports[place] = Some(report);
            }
        });
        Ok(reports.into_iter().flatten().collect())
    }
}
