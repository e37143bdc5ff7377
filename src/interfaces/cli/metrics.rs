//! `similiai metrics`: the metrics of the last run and of past runs, and how two results differ.

mod diff;
mod history;

use anyhow::{Context, Result};

use super::{ManifestOptions, Session};
use crate::base::files;
use crate::damaged;
use crate::engine::cache::StoredResult;
use crate::engine::pipeline::Project;
use crate::report::results::{self, Results, table};
use crate::retrieval::artifacts;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Show the metrics of this instance (needed if there are several)
    #[arg(long, value_name = "INSTANCE")]
    of: Option<String>,
    #[command(flatten)]
    manifest: ManifestOptions,
    /// Print results.json on stdout, unchanged
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Compare B with A over the same queries: better, worse, or no significant difference
    Diff(diff::Arguments),
    /// List the past runs that are still stored, oldest first
    History(history::Arguments),
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Some(Command::Diff(arguments)) => return diff::run(session, arguments),
        Some(Command::History(arguments)) => return history::run(session, arguments),
        None => {}
    }
    let project = session.project_or_last(&arguments.manifest)?;
    let given = project.artifact(artifacts::METRICS, arguments.of.as_deref(), None, Some("--of INSTANCE"))?;
    project.must_be_unmodified(&given, results::FILE)?;
    let path = given.folder.join(results::FILE);
    let text = files::read_to_string(&path)?;
    let results: Results =
        serde_json::from_str(&text).map_err(|error| damaged!("{} is damaged: {error}", path.display()))?;
    if arguments.json {
        session.screen.print_json(text.trim_end());
    } else {
        table(&results).iter().for_each(|line| session.screen.print(line));
    }
    Ok(())
}

/// Returns whether a result holds metrics.
fn has_figures(session: &Session, stored: &StoredResult) -> bool {
    let of_stage = session.kinds.iter().find(|kind| kind.name == stored.document.stage);
    of_stage.is_some_and(|kind| kind.provides == Some(artifacts::METRICS))
}

/// Reads a file of a stored result.
fn stored_file(project: &Project, stored: &StoredResult, name: &str) -> Result<Vec<u8>> {
    let contents = project.store.contents(&stored.digest).context("the list of its files is gone")?;
    let Some(place) = contents.find(name) else {
        let key = &stored.key[..12];
        return Err(damaged!("{key} has no {name}, because an earlier version of the program made it; run it again"));
    };
    project.store.blobs.read(contents.file(place).digest)
}
