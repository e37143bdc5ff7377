//! `similiai run`

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::output::{Kind, Output};
use super::run_ending::Ending;
use super::run_report::{self, judge};
use super::{ManifestOptions, Session, duration};
use crate::base::error::{Failure, UsageErrors};
use crate::base::files;
use crate::base::signal;
use crate::base::text::legible_json;
use crate::engine::cache::RemoteCache;
use crate::engine::lock::{self, LockFile};
use crate::engine::pipeline::{Event, Options, Project, Ran, Selection};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  similiai run all                            everything that is not cached
  similiai run train --set train.epochs=5     an instance with one parameter changed
  similiai run all --profile seed --dry-run   what another profile would run, and why
  similiai run all --locked                   reproduce pipeline.lock, or show what differs")]
pub struct Arguments {
    /// Instances to run, or `all`
    #[arg(required = true, value_name = "INSTANCE")]
    targets: Vec<String>,
    #[command(flatten)]
    manifest: ManifestOptions,
    /// Run only S and the instances that depend on it; use other results as they are
    #[arg(long, value_name = "S")]
    from: Option<String>,
    /// Run only S and the instances that it needs
    #[arg(long, value_name = "S")]
    until: Option<String>,
    /// Run the given instances again, even if their results are cached
    #[arg(long)]
    force: bool,
    /// Show what would run, why, and about how long it takes; run nothing
    #[arg(long)]
    dry_run: bool,
    /// After a failure, continue with the instances that do not depend on it
    #[arg(long)]
    keep_going: bool,
    /// Run up to N independent instances at the same time
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Use only cached results that pipeline.lock lists; fail unless every result is the locked one
    #[arg(long, conflicts_with = "dry_run")]
    locked: bool,
    #[cfg(feature = "cloud")]
    #[command(flatten)]
    remote: super::remote::RemoteArguments,
    /// Make every result a second time, without the cache; fail unless both are the same
    #[arg(long, conflicts_with = "dry_run")]
    check_determinism: bool,
    /// Hash every file again, ignoring cached sizes and times
    #[arg(long)]
    paranoid: bool,
    /// Open the report in the browser after the run
    #[arg(long, conflicts_with = "dry_run")]
    open: bool,
    /// Append a Markdown table of the run to FILE, such as $GITHUB_STEP_SUMMARY
    #[arg(long, value_name = "FILE")]
    summarize: Option<PathBuf>,
    /// Write events to FILE, one JSON object per line
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Print the events as JSON on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project(&arguments.manifest.variation())?;
    let options = arguments.options(&project)?;
    let mut wrong = UsageErrors::default();
    for (path, kind) in [(&arguments.summarize, Kind::Summary), (&arguments.events, Kind::Events)] {
        let Some(path) = path else { continue };
        if let Some(output) = wrong.note(Output::new(path, kind, false))? {
            wrong.note(output.must_spare::<&Path>(session, []))?;
        }
    }
    wrong.tell()?;
    let events = Events::open(arguments.events.as_deref())?;
    let _guard = if arguments.dry_run { None } else { Some(project.store.lock()?) };
    if arguments.paranoid {
        project.store.ignore_stamps();
    }
    if !arguments.dry_run {
        project.store.keep_last_run(&project.manifest.variation)?;
    }
    let width = project.manifest.instances.iter().map(|instance| instance.name.len()).max().unwrap_or(0);
    let screen = if arguments.json { session.screen.for_machines() } else { session.screen.clone() };
    let heartbeat = screen.heartbeat();
    let tell = |event: &Value| {
        events.note(event);
        if arguments.json {
            session.screen.print_json(&event.to_string());
        }
    };
    let overall = Mutex::new(None);
    let observe = |event: Event| match event {
        Event::Making(names, seconds) => {
            *overall.lock() = Some(screen.overall(names.len() as u64, seconds));
            let seconds = seconds.map(|seconds| format!(", about {} judging by past runs", duration(seconds)));
            tracing::info!("to run: {}{}", names.join(", "), seconds.unwrap_or_default());
        }
        Event::Started(name) => {
            heartbeat.started(name);
            tell(&json!({"event": "started", "name": name}));
        }
        Event::Ended(report) => {
            heartbeat.ended(&report.name);
            if let (Some(overall), Ran::Ran) = (&*overall.lock(), report.state) {
                overall.inc();
            }
            tell(&json!({"event": "ended", "stage": report}));
            if !arguments.json {
                session.screen.print(&run_report::line(report, width));
            }
        }
    };
    let reports = project.run(&options, &screen, &observe)?;
    drop(overall.lock().take());
    tell(&json!({"event": "finished", "stages": reports}));
    let noted = events.close();
    if !arguments.json {
        if let Some(estimate) = run_report::estimate(&reports) {
            session.screen.print(&estimate);
        }
        if let Some(lock) = &options.lock {
            session.screen.print(&run_report::compared(&reports, lock));
        }
    }
    let summarized = match &arguments.summarize {
        Some(path) => append(path, &run_report::summary(&reports, options.lock.as_ref())),
        None => Ok(()),
    };
    judge(&reports)?;
    noted.and(summarized)?;
    if let Some(lock) = &options.lock {
        let gone = lock.0.keys().find(|name| project.manifest.find(name).is_err());
        if let Some(name) = gone {
            let why = format!("`{name}` is in {}, but not in the manifest; run `similiai lock`", lock::FILE);
            return Err(Failure::NotReproducible(why).into());
        }
    }
    if arguments.dry_run {
        return Ok(());
    }
    let ending = Ending::of(session, &project, &reports);
    if let (Some(ending), false) = (&ending, arguments.json) {
        ending.lines.iter().for_each(|line| session.screen.print(line));
    }
    if arguments.open {
        match &ending {
            None => tracing::warn!("there is no report to open, because this run did not write one"),
            Some(ending) => {
                if let Err(error) = opener::open(&ending.report) {
                    tracing::warn!("cannot open a browser ({error}); open {} yourself", ending.report.display());
                }
            }
        }
    }
    Ok(())
}

impl Arguments {
    fn options(&self, project: &Project) -> Result<Options> {
        let lock = match self.locked {
            false => None,
            true => {
                let file = LockFile::read(&project.manifest.project)?.ok_or_else(|| {
                    Failure::Usage(format!("there is no {}; make it with `similiai lock`", lock::FILE))
                })?;
                Some(file.profile(&project.manifest.variation.name()).map_err(Failure::NotReproducible)?.clone())
            }
        };
        let (targets, from, until) = (self.targets.clone(), self.from.clone(), self.until.clone());
        Ok(Options {
            selection: Selection { targets, from, until },
            force: self.force,
            dry_run: self.dry_run,
            keep_going: self.keep_going,
            jobs: self.jobs.into(),
            lock,
            check_determinism: self.check_determinism,
            remote: self.remote_cache(project)?,
        })
    }
}

impl Arguments {
    #[cfg(feature = "cloud")]
    fn remote_cache(&self, project: &Project) -> Result<Option<Arc<dyn RemoteCache>>> {
        self.remote.open(&project.manifest)
    }

    #[cfg(not(feature = "cloud"))]
    fn remote_cache(&self, project: &Project) -> Result<Option<Arc<dyn RemoteCache>>> {
        if project.manifest.cache.is_some() {
            tracing::info!("the remote cache is not used; to use it, build with `cargo build --features cloud`");
        }
        Ok(None)
    }
}

/// The file for events. A failure to write is reported at the end, after the work is done.
struct Events(Option<Mutex<(File, std::io::Result<()>)>>);

impl Events {
    fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        Ok(Self(Some(Mutex::new((files::create(path)?, Ok(()))))))
    }

    fn note(&self, event: &Value) {
        if let Some(events) = &self.0 {
            let (file, state) = &mut *events.lock();
            let written = writeln!(file, "{}", legible_json(&event.to_string()));
            if state.is_ok() {
                *state = written;
            }
        }
    }

    fn close(self) -> Result<()> {
        let Some(events) = self.0 else { return Ok(()) };
        let (_, state) = events.into_inner();
        state.context("cannot write the events")
    }
}

fn append(path: &Path, text: &str) -> Result<()> {
    let append =
        || File::options().create(true).append(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    // Opening a pipe blocks until another process reads from it.
    let written = if path.exists() && !path.is_file() { signal::while_waiting(append) } else { append() };
    written.with_context(|| format!("cannot write {}", path.display()))
}
