//! Shared by the commands for pictures: the trained network, and the embedding of the user's own pictures.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image::RgbImage;

use super::Session;
use crate::base::error::{Failure, first_of};
use crate::base::text::{legible_name, legible_path};
use crate::damaged;
use crate::engine::cache::{ResultFiles, Store};
use crate::engine::pipeline::{Artifact, Project};
use crate::learning::images::{Wanted, decode_for, read_picture};
use crate::learning::model::{self, Model};
use crate::retrieval::artifacts;
use crate::retrieval::collection::{self, Collection, EmbeddingCache, Search};
use crate::retrieval::embeddings::{self, Embeddings};
use crate::retrieval::search::{Graph, INDEX};

/// Most bad pictures that a message names.
const NAMED: usize = 20;

/// The network that made a pipeline's embeddings.
pub struct Trained {
    pub model: Model,
    /// The embeddings.
    pub given: Artifact,
}

impl Trained {
    /// Loads the network of the embeddings called `of`, or of the only embeddings.
    pub fn load(project: &Project, of: Option<&str>) -> Result<Self> {
        let (network, given) = Self::given(project, of)?;
        let digest = project.must_be_unmodified(&network, model::FILE)?;
        Ok(Self { model: Model::load_as(&network.folder.join(model::FILE), &digest)?, given })
    }

    /// Finds the network and its embeddings in the pipeline.
    pub fn given(project: &Project, of: Option<&str>) -> Result<(Artifact, Artifact)> {
        let embeddings = project.artifact(artifacts::EMBEDDINGS, of, None, Some("--of INSTANCE"))?;
        Ok((project.artifact(artifacts::MODEL, None, Some(embeddings.id), None)?, embeddings))
    }

    /// Reads the embeddings of the pipeline's own pictures.
    pub fn embeddings(&self, project: &Project) -> Result<Embeddings> {
        project.must_be_current(&self.given)?;
        project.must_be_unmodified(&self.given, embeddings::FILE)?;
        let path = self.given.folder.join(embeddings::FILE);
        let found = Embeddings::read(&path)?;
        let fix = format!("run {}", project.manifest.command("all"));
        found.must_be_of(&self.model.digest, &path.display().to_string(), &fix)?;
        Ok(found)
    }

    /// Returns the files of the pictures that the embeddings name.
    pub fn pictures(&self, project: &Project) -> Result<ResultFiles> {
        let given = project.artifact(artifacts::PICTURES, None, Some(self.given.id), None)?;
        let contents = project.contents(&given)?;
        Ok(ResultFiles { folder: given.folder, contents, store: project.store.clone() })
    }

    /// Loads the index called `name`, or the only index of these embeddings.
    pub fn graph(&self, project: &Project, name: Option<&str>) -> Result<Graph> {
        let digest = project.must_be_unmodified(&self.given, embeddings::FILE)?;
        let given = project.artifact(artifacts::INDEX, name, Some(self.given.id), Some("--approximate=INSTANCE"))?;
        // Only an index that is part of a stored result is opened.
        project.must_be_unmodified(&given, INDEX)?;
        Graph::load(&given.folder.join(INDEX), &digest)
    }

    /// Embeds the user's own pictures.
    pub fn embed(&self, session: &Session, project: &Project, search: Search) -> Result<Collection> {
        embed(session, &project.store, &self.model, search)
    }
}

/// Embeds the user's own pictures, and caches the embeddings in `store`.
pub fn embed(session: &Session, store: &Store, model: &Model, search: Search) -> Result<Collection> {
    let mut cache = EmbeddingCache::open(store, model)?;
    let collection = collection::embed(search, model, &mut cache, &session.screen.progress("embed"))?;
    collection.skipped.tell();
    tracing::info!("{} pictures, {} of them embedded now", collection.embeddings.len(), collection.made);
    Ok(collection)
}

/// Fails if one of the files that the command line names does not exist.
pub fn must_exist<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let absent = |path: &&PathBuf| matches!(path.metadata(), Err(error) if error.kind() == ErrorKind::NotFound);
    let absent: Vec<String> = files.into_iter().filter(absent).map(|path| legible_path(path)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!("there is no file {}", absent.join(", nor "))).into())
}

/// Fails if pictures could not be read. Commands call this after all other work.
pub fn judge(bad: &[String]) -> Result<()> {
    let bad: Vec<String> = bad.iter().map(|why| legible_name(why)).collect::<BTreeSet<_>>().into_iter().collect();
    if bad.is_empty() {
        return Ok(());
    }
    let said = match bad.len() {
        1 => "1 picture cannot be read and is".to_owned(),
        count => format!("{count} pictures cannot be read and are"),
    };
    Err(damaged!("{said} left out:{}", first_of(NAMED, &bad)))
}

/// Reads a picture and makes a small copy to show, at most `side` pixels wide and high.
pub fn thumbnail(path: &Path, side: u32) -> Result<RgbImage> {
    // The path may come from a file that someone else wrote, and may name a pipe.
    ensure!(path.is_file(), "{} is not a file", path.display());
    thumbnail_of(&read_picture(path)?, &path.display().to_string(), side)
}

/// Makes a small copy of an encoded picture.
pub fn thumbnail_of(bytes: &[u8], name: &str, side: u32) -> Result<RgbImage> {
    let wanted = Wanted { thumbnail: Some(side), ..Wanted::default() };
    decode_for(bytes, name, &wanted)?.thumbnail.context("the decoder gave no small picture")
}
