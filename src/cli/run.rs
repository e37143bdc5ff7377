//! `similiai run`

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;

use super::{Session, Variation, duration};
use crate::failure::Failure;
use crate::lock::{self, Lock};
use crate::pipeline::{Event, Options, Ran, Report, Selection};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  similiai run all                            everything that is not cached
  similiai run train --set train.epochs=5     one stage and what it needs, one parameter changed
  similiai run all --profile seed --dry-run   what another profile would run, and why")]
pub struct Arguments {
    /// `all`, or instances of the manifest
    #[arg(required = true, value_name = "INSTANCE")]
    targets: Vec<String>,
    #[command(flatten)]
    variation: Variation,
    /// Take what stands before S as it is
    #[arg(long, value_name = "S")]
    from: Option<String>,
    /// Leave out what comes after S
    #[arg(long, value_name = "S")]
    until: Option<String>,
    /// Run the instances named again, whatever the cache holds
    #[arg(long)]
    force: bool,
    /// Say what would run and why; run nothing
    #[arg(long)]
    dry_run: bool,
    /// After a failure, go on with what does not depend on it
    #[arg(long)]
    keep_going: bool,
    /// Run up to N independent instances side by side
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Fail unless every result's digest equals pipeline.lock
    #[arg(long, conflicts_with = "dry_run")]
    locked: bool,
    /// One JSON object a line on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project(&arguments.variation)?;
    let selection =
        Selection { targets: arguments.targets.clone(), from: arguments.from.clone(), until: arguments.until.clone() };
    let options = Options {
        selection,
        force: arguments.force,
        dry_run: arguments.dry_run,
        keep_going: arguments.keep_going,
        jobs: arguments.jobs.into(),
    };
    let locked = match arguments.locked {
        false => None,
        true => Some(
            Lock::read(&project.manifest.project)?
                .ok_or_else(|| Failure::Usage(format!("there is no {}; make it with `similiai lock`", lock::FILE)))?,
        ),
    };
    let _guard = if arguments.dry_run { None } else { Some(project.store.lock()?) };
    let width = project.manifest.instances.iter().map(|instance| instance.name.len()).max().unwrap_or(0);
    let screen = if arguments.json { session.screen.for_machines() } else { session.screen.clone() };
    let observe = |event: Event| match (event, arguments.json) {
        (Event::Started(name), true) => session.screen.print(&json!({"event": "started", "name": name}).to_string()),
        (Event::Ended(report), true) => session.screen.print(&json!({"event": "ended", "stage": report}).to_string()),
        (Event::Started(_), false) => {}
        (Event::Ended(report), false) => session.screen.print(&line(report, width)),
    };
    let reports = project.run(&options, &screen, &observe)?;
    if arguments.json {
        session.print_json(&json!({"event": "finished", "stages": reports}))?;
    }
    judge(&reports)?;
    if let Some(lock) = locked {
        let digests = reports.iter().filter_map(|report| Some((report.name.clone(), report.digest.clone()?)));
        let all = reports.len() == project.manifest.instances.len();
        lock.check(project.manifest.profile.as_deref(), &digests.collect::<BTreeMap<_, _>>(), all)?;
    }
    Ok(())
}

/// `train  ran 2m31s  parameter epochs: 40 → 80`
fn line(report: &Report, width: usize) -> String {
    let state = match report.state {
        Ran::Ran => format!("ran {}", duration(report.seconds)),
        Ran::Cached => "cached".to_owned(),
        Ran::Failed => "failed".to_owned(),
        Ran::Skipped => "skipped".to_owned(),
        Ran::Pending => "would run".to_owned(),
    };
    let why = report.reasons.join("; ");
    format!("{:width$}  {state:9}  {why}", report.name).trim_end().to_owned()
}

/// The run's own exit status, from what became of its stages.
fn judge(reports: &[Report]) -> Result<()> {
    let failed = reports.iter().filter(|report| report.state == Ran::Failed);
    let told: Vec<String> = failed
        .clone()
        .map(|report| format!("{}: {}", report.name, report.error.as_deref().unwrap_or("failed")))
        .collect();
    if told.is_empty() {
        return Ok(());
    }
    let damaged = failed.clone().any(|report| report.damaged);
    let told = told.join("\n");
    Err(if damaged { Failure::Damaged(told) } else { Failure::StagesFailed(told) }.into())
}
