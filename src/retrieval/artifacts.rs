//! The kinds of results that commands outside the pipeline look for, and a check of whether two results fit together.

use anyhow::{Result, bail};

use crate::engine::stage::{ArtifactKind, Inputs};
use crate::learning::dataset;

/// Prepared pictures, at the paths that are in the embeddings.
pub const PICTURES: ArtifactKind = ArtifactKind("prepared pictures");
/// [`crate::learning::model::FILE`]
pub const MODEL: ArtifactKind = ArtifactKind("trained networks");
/// [`crate::retrieval::embeddings::FILE`]
pub const EMBEDDINGS: ArtifactKind = ArtifactKind("embeddings");
/// [`crate::retrieval::search::INDEX`]
pub const INDEX: ArtifactKind = ArtifactKind("search indexes");
/// `results.json` and [`crate::retrieval::metrics::QUERIES`]
pub const METRICS: ArtifactKind = ArtifactKind("metrics");

/// Fails early if a split has pictures that the prepared pictures among the direct inputs do not have. `instances` are
/// names. Those without a split are ignored.
pub fn split_must_fit<'a>(ready: &Inputs, instances: impl IntoIterator<Item = &'a String>) -> Result<()> {
    let of = |name: &String| ready.results.iter().find(|input| input.instance == *name);
    let mut needed = ready.needs.iter().filter_map(|need| of(&need.instance));
    let Some(prepared) = needed.find(|input| input.contents.find(dataset::IMAGES).is_some()) else { return Ok(()) };
    for split in instances.into_iter().filter_map(of).filter(|input| input.contents.find(dataset::SPLIT).is_some()) {
        let rows: Vec<dataset::Split> = dataset::read(&split.folder.join(dataset::SPLIT))?;
        if let Some(row) = rows.iter().find(|row| prepared.contents.find(&row.path).is_none()) {
            let (path, split, prepared) = (&row.path, &split.instance, &prepared.instance);
            bail!("`{split}` has picture {path}, but `{prepared}` does not; name the pictures of `{split}` in `needs`");
        }
    }
    Ok(())
}
