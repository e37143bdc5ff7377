//! `similiai metrics`: the figures of the last run, of past ones, and how two differ.

mod diff;
mod history;

use anyhow::{Context, Result};

use super::{Session, Variation};
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
    /// The instance that measured, where there are several
    #[arg(long, value_name = "INSTANCE")]
    of: Option<String>,
    #[command(flatten)]
    variation: Variation,
    /// As JSON on stdout: results.json as it is
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// How B differs from A over the same queries: better, worse, or nobody can tell
    Diff(diff::Arguments),
    /// The past runs that the store still holds, oldest first
    History(history::Arguments),
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Some(Command::Diff(arguments)) => return diff::run(session, arguments),
        Some(Command::History(arguments)) => return history::run(session, arguments),
        None => {}
    }
    let project = session.project(&arguments.variation)?;
    let given = project.artifact(artifacts::METRICS, arguments.of.as_deref(), None, "--of INSTANCE")?;
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

/// Whether a result holds figures.
fn has_figures(session: &Session, stored: &StoredResult) -> bool {
    let of_stage = session.kinds.iter().find(|kind| kind.name == stored.document.stage);
    of_stage.is_some_and(|kind| kind.provides == Some(artifacts::METRICS))
}

/// A file of a stored result.
fn stored_file(project: &Project, stored: &StoredResult, name: &str) -> Result<Vec<u8>> {
    let contents = project.store.contents(&stored.digest).context("the list of its files is gone")?;
    let Some(place) = contents.find(name) else {
        let key = &stored.key[..12];
        return Err(damaged!("{key} has no {name}: an earlier version measured it; run it again"));
    };
    project.store.blobs.read(contents.file(place).digest)
}
