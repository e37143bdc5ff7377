//! The last lines of a run: the result in words, where the report is, and what to type next.

use std::path::{Path, PathBuf};

use super::Session;
use crate::base::files;
use crate::base::text::{legible_path, shell_path};
use crate::engine::manifest::InstanceId;
use crate::engine::pipeline::{Project, Ran, Report};
use crate::report::html::REPORT;
use crate::report::results::{self, Results};
use crate::retrieval::artifacts;
use crate::retrieval::metrics::{METRICS, PRECISION_AT_5};

/// Number of neighbours of that metric.
const NEIGHBOURS: f64 = 5.0;

/// What the run leaves for people.
pub struct Ending {
    pub lines: Vec<String>,
    /// The page of the report.
    pub report: PathBuf,
}

impl Ending {
    /// The ending of a run that measured the search; `None` for other runs.
    pub fn of(session: &Session, project: &Project, reports: &[Report]) -> Option<Self> {
        let done = reports.iter().filter(|report| matches!(report.state, Ran::Ran | Ran::Cached));
        let measured =
            |id: &InstanceId| project.manifest.instances[*id].stage.kind().provides == Some(artifacts::METRICS);
        let id = done.filter_map(|report| project.manifest.find(&report.name).ok()).rfind(measured)?;
        let folder = project.manifest.output_dir(id).folder();
        let results: Results = serde_json::from_slice(&files::read(&folder.join(results::FILE)).ok()?).ok()?;
        let report = folder.join(REPORT);
        let mut lines = Vec::from_iter(in_words(&results));
        lines.push(format!("the report is {}", legible_path(&session.seen_from_shell(&report))));
        lines.push(format!("next: {}", next(session, project, id)));
        Some(Self { lines, report })
    }
}

/// Says how good the search is, for the protocol with the largest gallery.
fn in_words(results: &Results) -> Option<String> {
    let protocol = results.protocols.values().max_by_key(|protocol| protocol.gallery)?;
    let score = protocol.metrics.get(METRICS[PRECISION_AT_5].name)?;
    Some(format!(
        "of the {NEIGHBOURS} nearest pictures, {:.1} show the same kind of thing on average; by chance, {:.1}",
        NEIGHBOURS * score.value,
        NEIGHBOURS * score.chance
    ))
}

fn next(session: &Session, project: &Project, id: InstanceId) -> String {
    let program = session.program();
    let query = example(project, id).map(|picture| format!("`{program} query {}`", shell_path(&picture)));
    let serve = cfg!(feature = "serve").then(|| format!("`{program} serve --open`"));
    serve.into_iter().chain(query).collect::<Vec<_>>().join(", or ")
}

/// A picture to ask about.
fn example(project: &Project, id: InstanceId) -> Option<PathBuf> {
    let pictures = project.artifact(artifacts::PICTURES, None, Some(id), None).ok()?;
    let contents = project.contents(&pictures).ok()?;
    let picture = contents.iter().find(|file| file.path.ends_with(".png"))?;
    let path = pictures.folder.join(picture.path);
    Some(path.strip_prefix(".").map(Path::to_owned).unwrap_or(path))
}
