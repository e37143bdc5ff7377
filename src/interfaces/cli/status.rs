//! `similiai status`

use anyhow::Result;
use serde_json::json;

use super::{ManifestOptions, Session, duration};
use crate::base::error::Failure;
use crate::engine::cache::Reason;
use crate::engine::pipeline::State;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    manifest: ManifestOptions,
    /// Exit with status 3 unless everything is fresh
    #[arg(long)]
    check: bool,
    /// Show how long each instance's last run took
    #[arg(long)]
    times: bool,
    /// Hash every file again, ignoring cached sizes and times
    #[arg(long)]
    paranoid: bool,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project_or_last(&arguments.manifest)?;
    if arguments.paranoid {
        project.store.ignore_stamps();
    }
    let assessments = project.assess()?;
    let history = if arguments.times { project.store.history() } else { Vec::new() };
    let last = |name: &str| history.iter().rev().find(|finished| finished.instance == name);
    if arguments.json {
        let stages: Vec<_> = assessments
            .iter()
            .map(|assessment| {
                let mut row = serde_json::to_value(assessment)?;
                if let Some(finished) = last(&assessment.name) {
                    row["last_run"] = json!({
                        "seconds": finished.seconds, "at": finished.at, "images_per_second": finished.items_per_second,
                    });
                }
                Ok(row)
            })
            .collect::<Result<_>>()?;
        session.print_json(&json!({"stages": serde_json::Value::Array(stages)}))?;
    } else {
        let width = assessments.iter().map(|assessment| assessment.name.len()).max().unwrap_or(0);
        for assessment in &assessments {
            let state = match assessment.state {
                State::Fresh => "fresh",
                State::Stale => "stale",
                State::Missing => "missing",
            };
            let time = match last(&assessment.name) {
                Some(finished) => format!("{:>6}  ", duration(finished.seconds)),
                None if arguments.times => format!("{:>6}  ", "-"),
                None => String::new(),
            };
            let row = format!("{:width$}  {state:7}  {time}{}", assessment.name, Reason::all(&assessment.reasons));
            session.screen.print(row.trim_end());
        }
    }
    let pending = assessments.iter().any(|assessment| assessment.state != State::Fresh);
    if arguments.check && pending { Err(Failure::Pending.into()) } else { Ok(()) }
}
