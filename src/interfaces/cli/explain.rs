//! `similiai explain`

use anyhow::Result;
use serde_json::json;

use super::{ManifestOptions, Session};
use crate::engine::cache::Reason;
use crate::engine::pipeline::State;

#[derive(clap::Args)]
pub struct Arguments {
    /// Instance to explain
    #[arg(value_name = "INSTANCE")]
    instance: String,
    #[command(flatten)]
    manifest: ManifestOptions,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project_or_last(&arguments.manifest)?;
    let id = project.manifest.find(&arguments.instance)?;
    let assessment = &project.assess()?[id];
    if arguments.json {
        let mut row = serde_json::to_value(assessment)?;
        row["document"] = json!(assessment.document);
        return session.print_json(&row);
    }
    let instance = &project.manifest.instances[id];
    let print = |line: String| session.screen.print(&line);
    print(format!("{} — {}", assessment.name, instance.stage.kind().about));
    print(match assessment.state {
        State::Fresh => "fresh: its result is checked out".to_owned(),
        State::Stale => format!("stale: {}", Reason::all(&assessment.reasons)),
        State::Missing => format!("missing: {}", Reason::all(&assessment.reasons)),
    });
    print(format!("output directory: {}", instance.out.display()));
    if let (Some(key), Some(document)) = (&assessment.key, &assessment.document) {
        print(format!("key {key}, the hash of this key document:"));
        print(serde_json::to_string_pretty(document)?);
    }
    Ok(())
}
