//! Running: in order, side by side where wanted, each instance only if the cache has no result for it.

use std::sync::mpsc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;

use super::select::Part;
use super::{Project, Selection, keep_failure};
use crate::cache::{Finished, KeyDocument, Lookup, Record};
use crate::failure::Failure;
use crate::progress::Screen;
use crate::stage::{Context, Inputs};

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
    fn new(name: &str, state: Ran) -> Self {
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

/// "1 file was missing (x.png)".
pub(super) fn mended(count: usize, first: Option<&String>, what: &str) -> Option<String> {
    match (count, first) {
        (0, _) | (_, None) => None,
        (1, Some(first)) => Some(format!("1 file was {what}: {first}")),
        (_, Some(first)) => Some(format!("{count} files were {what}, the first {first}")),
    }
}

type Outcome = (usize, Report, Option<Record>);

impl Project {
    /// Runs what is selected and not cached. The caller holds the project's lock, except for a dry run.
    pub fn run(&self, options: &Options, screen: &Screen, observe: &dyn Fn(Event)) -> Result<Vec<Report>> {
        let parts = self.select(&options.selection)?;
        let instances = &self.manifest.instances;
        let mut results: Vec<Option<Record>> = vec![None; instances.len()];
        let mut reports: Vec<Option<Report>> = vec![None; instances.len()];
        let mut waiting: Vec<usize> = (0..instances.len()).filter(|place| parts[*place].active).collect();
        let mut stopping = false;
        let (sender, receiver) = mpsc::channel::<Outcome>();
        std::thread::scope(|scope| {
            let mut running = 0;
            loop {
                // Not started ones whose needs failed, or all of them once the run stops, end here.
                waiting.retain(|place| {
                    let lost = |need: &usize| reports[*need].as_ref().is_some_and(|report| matches!(report.state, Ran::Failed | Ran::Skipped));
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
                    let (sender, known, part) = (sender.clone(), results.clone(), parts[place]);
                    observe(Event::Started(&instances[place].name));
                    scope.spawn(move || {
                        let job = || self.execute(place, part, &known, options, screen);
                        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                        let outcome = outcome.unwrap_or_else(|_| {
                            let mut report = Report::new(&instances[place].name, Ran::Failed);
                            report.error = Some("it panicked; this is a bug".to_owned());
                            (place, report, None)
                        });
                        drop(sender.send(outcome));
                    });
                }
                if running == 0 {
                    break;
                }
                let Ok((place, report, record)) = receiver.recv() else { break };
                running -= 1;
                stopping |= report.state == Ran::Failed && !options.keep_going;
                observe(Event::Ended(&report));
                results[place] = record;
                reports[place] = Some(report);
            }
        });
        Ok(reports.into_iter().flatten().collect())
    }

    fn execute(&self, place: usize, part: Part, known: &[Option<Record>], options: &Options, screen: &Screen) -> Outcome {
        let name = &self.manifest.instances[place].name;
        let start = Instant::now();
        let mut report = Report::new(name, Ran::Cached);
        let record = self.try_execute(place, part, known, options, screen, &mut report).map_err(keep_failure);
        report.seconds = start.elapsed().as_secs_f64();
        let record = record.unwrap_or_else(|error| {
            report.state = Ran::Failed;
            report.damaged = matches!(error.downcast_ref(), Some(Failure::Damaged(_)));
            report.error = Some(format!("{error:#}"));
            None
        });
        report.digest = record.as_ref().map(|record| record.digest.clone());
        (place, report, record)
    }

    fn try_execute(
        &self, place: usize, part: Part, known: &[Option<Record>], options: &Options, screen: &Screen, report: &mut Report,
    ) -> Result<Option<Record>> {
        let instance = &self.manifest.instances[place];
        let unmade = instance.needs.iter().filter(|need| known[**need].is_none());
        let unmade: Vec<String> = unmade.map(|need| format!("{} is made again", self.manifest.instances[*need].name)).collect();
        if options.dry_run && !unmade.is_empty() {
            (report.state, report.reasons) = (Ran::Pending, unmade);
            return Ok(None);
        }
        let inputs = self.inputs(place, known)?;
        let document = self.document(place, &inputs)?;
        let key = document.key()?;
        report.key = Some(key.clone());
        let mut reasons = self.changes(place, &document)?;
        match self.store.look_up(&key)? {
            Lookup::Hit(record) if !(options.force && part.named && part.may_run) => {
                if !options.dry_run {
                    let fixed = self.store.lay(&instance.name, &record, &self.manifest.project, &instance.out)?;
                    reasons.extend(mended(fixed.count, Some(&fixed.first), "missing or changed and was laid again"));
                }
                // A first run that finds a result has nothing to explain.
                report.reasons = reasons.into_iter().filter(|reason| reason != "first run").collect();
                return Ok(Some(record));
            }
            Lookup::Hit(_) => reasons = vec!["forced".to_owned()],
            Lookup::Broken(why) => reasons.push(format!("stored output {why}")),
            Lookup::Miss => {}
        }
        report.reasons = reasons;
        if !part.may_run {
            return Err(anyhow!("`{}` has no result that is up to date ({}); run it, or leave out --from", instance.name, report.reasons.join("; ")));
        }
        if options.dry_run {
            report.state = Ran::Pending;
            return Ok(None);
        }
        report.state = Ran::Ran;
        self.make(place, inputs, document, screen, report).map(Some)
    }

    fn make(&self, place: usize, inputs: Inputs, document: KeyDocument, screen: &Screen, report: &mut Report) -> Result<Record> {
        let instance = &self.manifest.instances[place];
        let start = Instant::now();
        let slot = self.store.slot()?;
        let context = Context::new(inputs, slot.folder(), self.manifest.seed, screen.progress(&instance.name));
        instance.stage.run(&context)?;
        let record = slot.commit(&self.store, document)?;
        self.store.lay(&instance.name, &record, &self.manifest.project, &instance.out)?;
        let seconds = start.elapsed().as_secs_f64();
        let images = context.images();
        report.images_per_second = (images > 0).then(|| (images as f64 / seconds * 10.0).round() / 10.0);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
        self.store.note_finished(&Finished {
            instance: instance.name.clone(),
            key: record.key.clone(),
            seconds,
            at,
            images_per_second: report.images_per_second,
        })?;
        Ok(record)
    }
}
