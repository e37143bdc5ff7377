//! What the commands share that are about pictures: the trained network, people's pictures, and where they lie.

use std::path::{Path, PathBuf};

use anyhow::Result;
use image::RgbImage;

use super::Session;
use crate::collection::{self, Collection, Memory};
use crate::embeddings::{self, Embeddings};
use crate::images::decode;
use crate::model::{self, Model};
use crate::pipeline::{Given, Project};
use crate::search::{Graph, INDEX};
use crate::stage::Gives;
use crate::{damaged, files};

/// Bad pictures that are named.
const NAMED: usize = 20;

/// The network that made a pipeline's embeddings.
pub struct Trained {
    pub model: Model,
    embeddings: Given,
}

impl Trained {
    /// That of the embeddings called `of`, or of the only ones.
    pub fn load(project: &Project, of: Option<&str>) -> Result<Self> {
        let embeddings = project.given(Gives::Embeddings, of, None)?;
        let folder = project.given(Gives::Model, None, Some(embeddings.place))?.folder;
        Ok(Self { model: Model::load(&folder.join(model::FILE))?, embeddings })
    }

    pub fn embeddings(&self) -> Result<Embeddings> {
        let path = self.embeddings.folder.join(embeddings::FILE);
        let found = Embeddings::read(&path)?;
        let mend = format!("run `similiai run {}`", self.embeddings.name);
        found.must_be_of(&self.model.digest, &path.display().to_string(), &mend)?;
        Ok(found)
    }

    /// Where the paths in the embeddings start.
    pub fn pictures(&self, project: &Project) -> Result<PathBuf> {
        Ok(project.given(Gives::Pictures, None, Some(self.embeddings.place))?.folder)
    }

    pub fn graph(&self, project: &Project) -> Result<Graph> {
        let digest = files::digest(&self.embeddings.folder.join(embeddings::FILE))?;
        Graph::load(&project.given(Gives::Index, None, None)?.folder.join(INDEX), &digest)
    }

    /// People's own pictures.
    pub fn collect(&self, session: &Session, project: &Project, sources: &[PathBuf]) -> Result<Collection> {
        let found = collection::find(sources)?;
        let mut memory = Memory::open(&project.store, &self.model)?;
        let count = found.len();
        let collection = collection::embed(found, &self.model, &mut memory, &session.screen.progress("embed"))?;
        tracing::info!("{count} pictures, {} of them embedded now", collection.made);
        Ok(collection)
    }
}

/// Fails if there are any, once everything else is done.
pub fn judge(bad: &[String]) -> Result<()> {
    if bad.is_empty() {
        return Ok(());
    }
    let named: String = bad.iter().take(NAMED).map(|why| format!("\n  {why}")).collect();
    let more = match bad.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    Err(damaged!("{} pictures cannot be read and are left out:{named}{more}", bad.len()))
}

/// A picture for people to look at.
pub fn thumbnail(path: &Path, side: u32) -> Result<RgbImage> {
    let image = decode(&files::read(path)?, &path.display().to_string())?;
    Ok(image::DynamicImage::from(image).thumbnail(side, side).into_rgb8())
}
