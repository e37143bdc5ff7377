//! Runs the selected instances in order, several at a time if wanted, and only those without a result in the cache.

use std::sync::mpsc;

use anyhow::Result;

use super::Project;
use super::job::{Job, Message};
use super::report::{Event, Options, Ran, Report};
use crate::base::error::Failure;
use crate::base::progress::Screen;
use crate::engine::cache::StoredResult;
use crate::engine::manifest::{InstanceId, PerInstance};

impl Project {
    /// Runs the selected instances that are not cached. The caller holds the project's lock, except for a dry run.
    pub fn run(&self, options: &Options, screen: &Screen, observe: &dyn Fn(Event)) -> Result<Vec<Report>> {
        let parts = self.select(&options.selection)?;
        let instances = &self.manifest.instances;
        let mut results: PerInstance<Option<StoredResult>> = instances.filled(None);
        let mut reports: PerInstance<Option<Report>> = instances.filled(None);
        let mut waiting: Vec<InstanceId> = instances.ids().filter(|id| parts[*id].active).collect();
        self.check_output_dirs(&waiting)?;
        let mut stopping = false;
        if !options.dry_run {
            for digest in self.store.scrub()? {
                tracing::warn!("the stored file {digest} was damaged and has been removed");
            }
        }
        let history = if options.dry_run { self.store.history() } else { Vec::new() };
        let (sender, receiver) = mpsc::channel::<Message>();
        std::thread::scope(|scope| {
            let (mut running, mut making) = (0, false);
            loop {
                // Skip instances that need a failed or skipped one, or all of them if the run is stopping.
                waiting.retain(|id| {
                    let lost = |need: &InstanceId| {
                        reports[*need].as_ref().is_some_and(|report| matches!(report.state, Ran::Failed | Ran::Skipped))
                    };
                    let skip = stopping || instances[*id].needs.iter().any(lost);
                    if skip {
                        let report = Report::new(&instances[*id].name, Ran::Skipped);
                        observe(Event::Ended(&report));
                        reports[*id] = Some(report);
                    }
                    !skip
                });
                while running < options.jobs.max(1) {
                    let made =
                        |need: &InstanceId| results[*need].is_some() || (options.dry_run && reports[*need].is_some());
                    let ready = |id: &InstanceId| instances[*id].needs.iter().all(made);
                    let Some(position) = waiting.iter().position(ready) else { break };
                    let id = waiting.remove(position);
                    running += 1;
                    let comes_from_it =
                        |later: &InstanceId| parts[*later].active && self.manifest.is_needed_by(id, *later);
                    let later = instances.ids().filter(comes_from_it).collect();
                    let (part, known) = (parts[id], results.clone());
                    let sender = sender.clone();
                    let job = Job { project: self, id, part, known, later, options, screen, sender };
                    observe(Event::Started(&instances[id].name));
                    // Sending cannot fail: the receiver outlives every thread of this scope.
                    scope.spawn(move || drop(job.sender.send(Message::Done(id, Box::new(job.execute())))));
                }
                if running == 0 {
                    break;
                }
                let (id, outcome) = match receiver.recv() {
                    Ok(Message::Done(id, outcome)) => (id, outcome),
                    Ok(Message::Making(id)) => {
                        if !making {
                            making = true;
                            self.announce(id, &waiting, observe);
                        }
                        continue;
                    }
                    Err(_) => break,
                };
                let (mut report, stored) = *outcome;
                running -= 1;
                if report.state == Ran::Pending {
                    report.estimated_seconds = self.estimate(id, report.key.as_deref(), &history);
                }
                let interrupted = matches!(report.failure, Some(Failure::Interrupted(_)));
                stopping |= report.state == Ran::Failed && (interrupted || !options.keep_going);
                observe(Event::Ended(&report));
                results[id] = stored;
                reports[id] = Some(report);
            }
        });
        if let Some(remote) = &options.remote {
            remote.settle(&screen.progress("cache"));
        }
        if !options.dry_run {
            // Without the digests, the next run reads some files again. That is no reason to fail.
            if let Err(error) = self.store.digests.save() {
                tracing::warn!("{error:#}");
            }
        }
        Ok(reports.into_iter().flatten().collect())
    }

    /// Tells that `first` is made, and which of the `waiting` instances need it.
    fn announce(&self, first: InstanceId, waiting: &[InstanceId], observe: &dyn Fn(Event)) {
        let history = self.store.history();
        let later = waiting.iter().copied().filter(|id| self.manifest.is_needed_by(first, *id));
        let made: Vec<InstanceId> = std::iter::once(first).chain(later).collect();
        let names: Vec<&str> = made.iter().map(|id| self.manifest.instances[*id].name.as_str()).collect();
        let seconds = made.iter().map(|id| self.estimate(*id, None, &history)).sum();
        observe(Event::Making(&names, seconds));
    }
}
