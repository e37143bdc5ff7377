//! `similiai hash diff`

use anyhow::Result;
use serde_json::json;

use super::Session;
use super::stored_result::find;
use crate::engine::cache::Reason;
use crate::engine::diff;
use crate::engine::manifest::Variation;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Compare two stored results: what they depend on, and what is in them
    Diff {
        /// First result: an instance, or the start of a key or digest
        a: String,
        /// Second result, in the same form
        b: String,
        /// Print JSON on stdout
        #[arg(long)]
        json: bool,
    },
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project(&Variation::default())?;
    let Command::Diff { a, b, json } = &arguments.command;
    let find = |name: &str| find(&project, name, &|_| true);
    let (a, b) = (find(a)?, find(b)?);
    let store = &project.store;
    let files = |before: &str, after: &str| Some(store.contents(after)?.changes_since(&*store.contents(before)?));
    let reasons = b.document.changes_since(&a.document, files);
    let contents = (store.contents(&a.digest), store.contents(&b.digest));
    let first = match &contents {
        (Some(one), Some(two)) => {
            let path = |file: &crate::engine::cache::File| store.blobs.path(file.digest);
            diff::first(project.diffs, (one, &path), (two, &path))
        }
        _ => None,
    };
    let changes = files(&a.digest, &b.digest);
    if *json {
        let keys = (&a.key, &b.key);
        return session.print_json(&json!({"keys": keys, "reasons": reasons, "files": changes, "first": first}));
    }
    let print = |line: String| session.screen.print(&line);
    print(format!("{} {} → {} {}", a.document.stage, &a.key[..12], b.document.stage, &b.key[..12]));
    reasons.iter().for_each(|reason| print(format!("  {reason}")));
    if reasons.is_empty() {
        print("  the same key".to_owned());
    }
    match (first, changes) {
        (_, None) => print("  the list of files of one result is no longer stored".to_owned()),
        (None, _) => print("  the same files".to_owned()),
        (Some(first), files) => {
            print(format!("  {}", Reason::InputChanged { name: "the result".to_owned(), files }));
            print(format!("  first: {first}"));
        }
    }
    Ok(())
}
