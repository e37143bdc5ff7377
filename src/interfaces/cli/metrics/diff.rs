//! `similiai metrics diff A B`

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::{has_figures, stored_file};
use crate::base::error::Failure;
use crate::base::files;
use crate::engine::manifest::{InstanceId, Manifest};
use crate::engine::pipeline::Project;
use crate::interfaces::cli::stored_result::find;
use crate::interfaces::cli::{ManifestOptions, Session};
use crate::retrieval::artifacts;
use crate::retrieval::metrics::{Difference, METRICS, PRECISION_AT_5, QUERIES, Scored, differences, parse};

#[derive(clap::Args)]
pub struct Arguments {
    /// First result: an instance that measures or was measured, the start of a key or digest (see `metrics history`),
    /// or a folder with queries.csv
    a: String,
    /// Second result, in the same form
    b: String,
    #[command(flatten)]
    manifest: ManifestOptions,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
}

/// The scores of the queries of one run.
struct Run {
    /// The name that the user gave, and the key.
    name: String,
    queries: Vec<Scored>,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project_or_last(&arguments.manifest)?;
    let find = |name: &str| Run::find(session, &project, name);
    let (a, b) = (find(&arguments.a)?, find(&arguments.b)?);
    let protocols: BTreeSet<&str> = a.queries.iter().map(|row| row.protocol.as_str()).collect();
    let found: BTreeMap<&str, BTreeMap<String, Difference>> = protocols
        .into_iter()
        .map(|protocol| (protocol, differences(&a.queries, &b.queries, protocol)))
        .filter(|(_, differences)| differences.values().all(|difference| difference.queries > 0))
        .collect();
    if found.is_empty() {
        let (a, b) = (&a.name, &b.name);
        let why = format!("{a} and {b} have no query in common: they were measured with different test pictures");
        return Err(Failure::Usage(why).into());
    }
    let shared = |protocol: &str| found[protocol][METRICS[PRECISION_AT_5].name].queries;
    let all_shared = |protocol: &str| [&a, &b].iter().all(|run| run.count(protocol) == shared(protocol));
    if !found.keys().all(|protocol| all_shared(protocol)) {
        tracing::warn!(
            "their test pictures differ, and so do their galleries: this compares two experiments, not two networks"
        );
    }
    if arguments.json {
        return session.print_json(&json!({"a": a.name, "b": b.name, "protocols": found}));
    }
    let print = |line: String| session.screen.print(&line);
    print(format!("{} → {}", a.name, b.name));
    for (protocol, differences) in &found {
        let some = match all_shared(protocol) {
            true => String::new(),
            false => format!(" that both have, of {} and {}", a.count(protocol), b.count(protocol)),
        };
        print(format!("{protocol}, {} queries{some}", shared(protocol)));
        METRICS.iter().for_each(|metric| print(format!("  {:12} {}", metric.name, differences[metric.name])));
    }
    print("The intervals are over queries. The same training with another seed can also give other values.".to_owned());
    Ok(())
}

impl Run {
    fn count(&self, protocol: &str) -> usize {
        self.queries.iter().filter(|row| row.protocol == protocol).count()
    }

    fn find(session: &Session, project: &Project, name: &str) -> Result<Self> {
        let manifest = &project.manifest;
        let folder = Path::new(name).join(QUERIES);
        let id = manifest.find(name).ok();
        if id.is_none() && Path::new(name).is_dir() {
            let shown = folder.display().to_string();
            return Self::of(name, parse(&files::read(&folder)?, &shown)?, None);
        }
        // For a training or embeddings, the run comes from the instance that measured them.
        let gives = id.map(|id| manifest.instances[id].stage.kind().provides);
        let (instance, run) = match (gives, id) {
            (None | Some(Some(artifacts::METRICS)), _) => (name.to_owned(), None),
            (Some(Some(artifacts::MODEL | artifacts::EMBEDDINGS)), Some(id)) => {
                (project.artifact(artifacts::METRICS, None, Some(id), Some("its own name"))?.name, Some(id))
            }
            _ => {
                return Err(Failure::Usage(format!("`{name}` has no metrics, and no instance measures it")).into());
            }
        };
        let stored = find(project, &instance, &|stored| has_figures(session, stored))?;
        let key = &stored.key[..12];
        let shown = if stored.key.starts_with(name) { key.to_owned() } else { format!("{name} ({key})") };
        let rows = parse(&stored_file(project, &stored, QUERIES)?, &shown)?;
        Self::of(&shown, rows, run.map(|id| embeddings_of(manifest, id)))
    }

    /// Takes the queries of the run that `runs` names, or of the first run.
    fn of(name: &str, rows: Vec<Scored>, runs: Option<Vec<&str>>) -> Result<Self> {
        let mut all: Vec<&str> = rows.iter().map(|row| row.run.as_str()).collect();
        all.dedup();
        let fits: Vec<&str> = match &runs {
            Some(runs) => all.iter().copied().filter(|run| runs.contains(run)).collect(),
            None => all.iter().copied().take(1).collect(),
        };
        let [run] = fits[..] else {
            let why = format!("{name} matches {} of the measured runs ({}); name one", fits.len(), all.join(", "));
            return Err(Failure::Usage(why).into());
        };
        let run = run.to_owned();
        let queries = rows.into_iter().filter(|row| row.run == run).collect();
        Ok(Self { name: name.to_owned(), queries })
    }
}

/// Names of the embeddings that come from an instance, including itself.
fn embeddings_of(manifest: &Manifest, id: InstanceId) -> Vec<&str> {
    let instances = manifest.instances.enumerate();
    instances
        .filter(|(other, it)| {
            it.stage.kind().provides == Some(artifacts::EMBEDDINGS) && manifest.is_needed_by(id, *other)
        })
        .map(|(_, it)| it.name.as_str())
        .collect()
}
