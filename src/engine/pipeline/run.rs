//! Running: in order, side by side where wanted, each instance only if the cache has no result for it.

use std::sync::mpsc;

use anyhow::Result;

use super::Project;
use super::job::{Job, Outcome};
use super::report::{Event, Options, Ran, Report};
use crate::base::error::Failure;
use crate::base::progress::Screen;
use crate::engine::cache::{Finished, Record};

impl Project {
    /// Runs what is selected and not cached. The caller holds the project's lock, except for a dry run.
    pub fn run(&self, options: &Options, screen: &Screen, observe: &dyn Fn(Event)) -> Result<Vec<Report>> {
        let parts = self.select(&options.selection)?;
        let instances = &self.manifest.instances;
        let mut results: Vec<Option<Record>> = vec![None; instances.len()];
        let mut reports: Vec<Option<Report>> = vec![None; instances.len()];
        let mut waiting: Vec<usize> = (0..instances.len()).filter(|place| parts[*place].active).collect();
        self.check_places(&waiting)?;
        let mut stopping = false;
        if !options.dry_run {
            for digest in self.store.scrub()? {
                tracing::warn!("the stored file {digest} was damaged and is taken away");
            }
        }
        let history = if options.dry_run { self.store.history() } else { Vec::new() };
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
                    let comes_from_it =
                        |later: &usize| parts[*later].active && self.manifest.is_needed_by(place, *later);
                    let later = (place..instances.len()).filter(comes_from_it).collect();
                    let (part, known) = (parts[place], results.clone());
                    let job = Job { project: self, place, part, known, later, options, screen };
                    let sender = sender.clone();
                    observe(Event::Started(&instances[place].name));
                    // The receiver outlives every thread of this scope.
                    scope.spawn(move || drop(sender.send((place, job.execute()))));
                }
                if running == 0 {
                    break;
                }
                let Ok((place, (mut report, record))) = receiver.recv() else { break };
                running -= 1;
                if report.state == Ran::Pending {
                    report.estimated_seconds = estimate(&history, &report);
                }
                let interrupted = matches!(report.failure, Some(Failure::Interrupted(_)));
                stopping |= report.state == Ran::Failed && (interrupted || !options.keep_going);
                observe(Event::Ended(&report));
                results[place] = record;
                reports[place] = Some(report);
            }
        });
        if let Some(elsewhere) = &options.elsewhere {
            elsewhere.settle(&screen.progress("cache"));
        }
        if !options.dry_run {
            // Lost is only that the next run reads some files again.
            if let Err(error) = self.store.digests.save() {
                tracing::warn!("{error:#}");
            }
        }
        Ok(reports.into_iter().flatten().collect())
    }
}

/// What the last run for the same key took, else the instance's last run.
fn estimate(history: &[Finished], report: &Report) -> Option<f64> {
    let same_key = history.iter().rev().find(|run| Some(&run.key) == report.key.as_ref());
    let last = same_key.or_else(|| history.iter().rev().find(|run| run.instance == report.name));
    last.map(|run| run.seconds)
}
