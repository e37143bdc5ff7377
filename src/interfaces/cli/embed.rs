//! `similiai embed`

#[cfg(feature = "cloud")]
mod arrow;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use tempfile::TempDir;

use super::output::{Kind, Output};
use super::trained::{self, Trained, judge, must_exist};
use super::{Session, Variation};
use crate::base::error::{Failure, UsageErrors};
use crate::engine::cache::Store;
use crate::learning::images::{SkippedFiles, is_picture};
use crate::learning::model::Model;
use crate::retrieval::collection::{self, Search, Shard, seal};
use crate::retrieval::embeddings::Embeddings;

#[derive(clap::Args)]
#[command(after_help = "\
The file has the columns of the pipeline's own embeddings. Where pictures lie in folders below the one that is named, the
folder's name is their class. Paths are as they were named. Pictures that cannot be read are left out and named, and the
exit status is 4.

Many machines share the work with --shard: each embeds its part of the sorted list of pictures, and --join makes of
the parts, byte for byte, the file that one machine would have made.

With --arrow, an Arrow IPC stream with the columns id (any type) and image (binary: an encoded picture) on standard
input becomes one with id, embedding and error on stdout, a batch for a batch (needs a build with the feature cloud).

Examples:
  similiai embed ~/Pictures -o mine.parquet
  similiai query photo.jpg --gallery mine.parquet
  similiai embed /lake --shard 3/8 -o part-3.parquet --model model.safetensors
  similiai embed --join part-*.parquet -o lake.parquet")]
pub struct Arguments {
    /// Folders, with all pictures below them, and single pictures: PNG, JPEG or WebP
    #[arg(value_name = "FOLDER|IMAGE")]
    #[cfg_attr(not(feature = "cloud"), arg(required = true))]
    #[cfg_attr(feature = "cloud", arg(required_unless_present = "arrow", conflicts_with = "arrow"))]
    sources: Vec<PathBuf>,
    /// The Parquet file to write
    #[arg(short, long, value_name = "FILE")]
    #[cfg_attr(not(feature = "cloud"), arg(required = true))]
    #[cfg_attr(feature = "cloud", arg(required_unless_present = "arrow", conflicts_with = "arrow"))]
    output: Option<PathBuf>,
    /// Write it even over a file that is something else
    #[arg(long)]
    force: bool,
    /// As JSON on stdout: how many pictures, and what was left out
    #[arg(long)]
    #[cfg_attr(feature = "cloud", arg(conflicts_with = "arrow"))]
    json: bool,
    /// Only part I of N of the pictures
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// What is named are all parts of a collection, in any order: join them
    #[arg(long, conflicts_with_all = ["shard", "of", "model"])]
    join: bool,
    /// By the network that made the embeddings of this instance (needed where there are several)
    #[arg(long, value_name = "INSTANCE")]
    of: Option<String>,
    /// By the network in this file, without a project
    #[arg(long, value_name = "FILE", conflicts_with = "of")]
    model: Option<PathBuf>,
    #[cfg(feature = "cloud")]
    #[command(flatten)]
    arrow: arrow::Filter,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let mut wrong = UsageErrors::default();
    wrong.note(must_exist(&arguments.model))?;
    #[cfg(feature = "cloud")]
    if arguments.arrow.is_asked_for() {
        wrong.tell()?;
        return arguments.arrow.run(session, &arguments.network(session)?.model);
    }
    let Some(path) = &arguments.output else { return Ok(()) };
    let output = wrong.note(Output::new(path, Kind::Embeddings, arguments.force))?;
    let search = wrong.note(arguments.search())?;
    if let Some((output, search)) = output.as_ref().zip(search.as_ref()) {
        let pictures = search.found.iter().map(|found| Path::new(&found.path)).filter(|path| is_picture(path));
        let parts = arguments.sources.iter().filter(|_| arguments.join).chain(&arguments.model);
        wrong.note(output.must_spare(session, pictures.chain(parts.map(PathBuf::as_path))))?;
    }
    wrong.tell()?;
    let Some((output, search)) = output.zip(search) else { return Ok(()) };
    let (embeddings, bad, skipped) = match arguments.join {
        true => (arguments.join()?, Vec::new(), SkippedFiles::default()),
        false => arguments.embed(session, search)?,
    };
    let count = embeddings.len();
    output.write(|path| embeddings.write(path))?;
    match output.is_stdout() {
        true => tracing::info!("{count} pictures"),
        false if arguments.json => session.print_json(&json!({
            "pictures": count, "output": path.display().to_string(), "bad": bad, "passed_over": skipped.counted(),
        }))?,
        false => session.screen.print(&format!("{count} pictures in {}", path.display())),
    }
    judge(&bad)
}

/// A network, and where embeddings are remembered.
struct Network {
    model: Model,
    store: Arc<Store>,
    /// Where there is no project: forgotten at the end.
    _folder: Option<TempDir>,
}

impl Arguments {
    fn network(&self, session: &Session) -> Result<Network> {
        if let Some(path) = &self.model {
            let folder = tempfile::tempdir()?;
            let store = Arc::new(Store::new(folder.path().to_owned()));
            return Ok(Network { model: Model::load(path)?, store, _folder: Some(folder) });
        }
        let project = session.project(&Variation::default())?;
        let model = Trained::load(&project, self.of.as_deref())?.model;
        Ok(Network { model, store: project.store, _folder: None })
    }

    /// What is named; parts are read later.
    fn search(&self) -> Result<Search> {
        if self.join {
            must_exist(&self.sources)?;
            return Ok(Search::default());
        }
        collection::find(&self.sources)
    }

    fn embed(&self, session: &Session, mut search: Search) -> Result<(Embeddings, Vec<String>, SkippedFiles)> {
        let network = self.network(session)?;
        let none = search.found.is_empty();
        let facts = self.shard.map(|shard| shard.part(&mut search));
        let mut collection = trained::embed(session, &network.store, &network.model, search)?;
        // A part may be empty.
        if none || (collection.embeddings.is_empty() && facts.is_none()) {
            judge(&collection.bad)?;
            return Err(Failure::Usage("there is no picture in what is named: PNG, JPEG or WebP".to_owned()).into());
        }
        if let Some(facts) = facts {
            collection.embeddings.facts.extend(facts);
            seal(&mut collection.embeddings);
        }
        Ok((collection.embeddings, collection.bad, collection.skipped))
    }

    fn join(&self) -> Result<Embeddings> {
        let read = |path: &PathBuf| Ok((path.display().to_string(), Embeddings::read_foreign(path)?));
        collection::join(self.sources.iter().map(read).collect::<Result<_>>()?)
    }
}
