//! `similiai embed`

#[cfg(feature = "cloud")]
mod arrow;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use tempfile::TempDir;

use super::Session;
use super::output::{Kind, Output};
use super::trained::{self, Trained, judge, must_exist};
use crate::base::error::{Failure, UsageErrors};
use crate::engine::cache::Store;
use crate::learning::images::{SkippedFiles, is_picture};
use crate::learning::model::Model;
use crate::retrieval::collection::{self, Search, Shard, seal};
use crate::retrieval::embeddings::Embeddings;

#[derive(clap::Args)]
#[command(after_help = "\
The file has the same columns as the pipeline's own embeddings. If a picture is in a folder below
the one that you gave, the name of that folder is its class. Paths are written as you gave them.
Pictures that cannot be read are left out and listed, and the exit status is 4.

Many machines can share the work with --shard: each embeds its part of the sorted list of
pictures. Then --join joins the parts into one file. It is the same, byte for byte, as the file
that one machine would have made.

--arrow reads an Arrow IPC stream from standard input, with the columns id (any type) and image
(binary: an encoded picture). It writes a stream with the columns id, embedding and error to
stdout, one batch for each batch that it reads. It needs a build with the feature cloud.

Examples:
  similiai embed ~/Pictures -o mine.parquet
  similiai query photo.jpg --gallery mine.parquet
  similiai embed /lake --shard 3/8 -o part-3.parquet --model model.safetensors
  similiai embed --join part-*.parquet -o lake.parquet")]
pub struct Arguments {
    /// Folders, including folders inside them, and single pictures: PNG, JPEG or WebP
    #[arg(value_name = "FOLDER|IMAGE")]
    #[cfg_attr(not(feature = "cloud"), arg(required = true))]
    #[cfg_attr(feature = "cloud", arg(required_unless_present = "arrow", conflicts_with = "arrow"))]
    sources: Vec<PathBuf>,
    /// Parquet file to write
    #[arg(short, long, value_name = "FILE")]
    #[cfg_attr(not(feature = "cloud"), arg(required = true))]
    #[cfg_attr(feature = "cloud", arg(required_unless_present = "arrow", conflicts_with = "arrow"))]
    output: Option<PathBuf>,
    /// Overwrite the file even if it is another kind of file
    #[arg(long)]
    force: bool,
    /// Print the number of pictures, and those left out, as JSON on stdout
    #[arg(long)]
    #[cfg_attr(feature = "cloud", arg(conflicts_with = "arrow"))]
    json: bool,
    /// Embed only part I of N, such as 3/8
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Join the files that --shard made; give all parts, in any order
    #[arg(long, conflicts_with_all = ["shard", "of", "model"])]
    join: bool,
    /// Use the network that made the embeddings of this instance (needed if there are several)
    #[arg(long, value_name = "INSTANCE")]
    of: Option<String>,
    /// Use the network in this file; needs no project
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

/// A network, and the store that caches embeddings.
struct Network {
    model: Model,
    store: Arc<Store>,
    /// The temporary folder of the store, if there is no project.
    _folder: Option<TempDir>,
}

impl Arguments {
    fn network(&self, session: &Session) -> Result<Network> {
        if let Some(path) = &self.model {
            let folder = tempfile::tempdir()?;
            let store = Arc::new(Store::new(folder.path().to_owned()));
            return Ok(Network { model: Model::load(path)?, store, _folder: Some(folder) });
        }
        let project = session.last_project()?;
        let model = Trained::load(&project, self.of.as_deref())?.model;
        Ok(Network { model, store: project.store, _folder: None })
    }

    /// Finds the pictures to embed. With `--join`, only checks that the parts exist.
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
            return Err(Failure::Usage("there is no PNG, JPEG or WebP picture in the given paths".to_owned()).into());
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
