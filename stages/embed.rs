//! embed: turns every image into a vector, and writes the vectors to one Parquet file.

mod npy;

use anyhow::Result;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::engine::stage::{ArtifactKind, Context, Inputs, Invalid, Stage, require};
use similiai::learning::dataset::{self, Split};
use similiai::learning::images::read_png;
use similiai::learning::model::{self, Model};
use similiai::retrieval::artifacts;
use similiai::retrieval::embeddings::{self, Row, Writer};

/// Number of rows written at a time. The pages of the file depend on it.
const ROWS: usize = 256;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Embed {
    /// Number of images in memory at a time. It does not change the result.
    batch: usize,
    /// File formats. `parquet` is required, because other stages read it; `npy` adds the six NumPy files of the
    /// original project.
    formats: Vec<Format>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Parquet,
    Npy,
}

impl Default for Embed {
    fn default() -> Self {
        Self { batch: 256, formats: vec![Format::Parquet] }
    }
}

impl Stage for Embed {
    const NAME: &'static str = "embed";
    const VERSION: u32 = 6;
    const DRAWS: bool = false;
    const ABOUT: &'static str = "embeds every image with the trained network";
    const NEEDS: &'static [&'static str] = &["prepare", "split", "train"];
    const PROVIDES: Option<ArtifactKind> = Some(artifacts::EMBEDDINGS);
    const UNKEYED: &'static [&'static str] = &["batch"];

    fn check(&self) -> Result<(), Invalid> {
        require(self.formats.contains(&Format::Parquet), "formats", "must contain parquet, which other stages read")?;
        require((1..=8192).contains(&self.batch), "batch", "must be 1 to 8192")
    }

    fn precheck(&self, ready: &Inputs) -> Result<()> {
        artifacts::split_must_fit(ready, ready.needs.iter().map(|need| &need.instance))
    }

    fn run(&self, context: &Context) -> Result<()> {
        let prepared = &context.inputs.result("prepare")?.contents;
        let folder = context.input("prepare")?;
        let mut rows: Vec<Split> = dataset::read(&context.input("split")?.join(dataset::SPLIT))?;
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        let model = Model::load(&context.input("train")?.join(model::FILE))?;
        let dimension = model.configuration.dimension;
        let mut facts = context.provenance()?;
        facts.extend(embeddings::facts_of(&model)?);
        let mut writer = Writer::new(context.outputs.create(embeddings::FILE)?, dimension, facts)?;
        let mut arrays = match self.formats.contains(&Format::Npy) {
            true => Some(npy::Arrays::create(&context.outputs, &rows, dimension)?),
            false => None,
        };
        let digests = rows.iter().map(|row| prepared.digest_of(&row.path)).collect::<Result<Vec<_>>>()?;
        let pictures: Vec<(&Split, blake3::Hash)> = rows.iter().zip(digests).collect();
        let embeddings = context.map(
            ("images", self.batch),
            &model.digest,
            &pictures,
            |picture| picture.1,
            |pictures| {
                let read = |(row, _): &&(&Split, _)| read_png(&folder.join(&row.path));
                let images = pictures.par_iter().map(read).collect::<Result<Vec<_>>>()?;
                let rows = model.embed(images)?;
                let rows = rows.chunks_exact(dimension);
                Ok(rows.map(|row| row.iter().flat_map(|value| value.to_le_bytes()).collect()).collect())
            },
        )?;
        for (rows, embeddings) in rows.chunks(ROWS).zip(embeddings.chunks(ROWS)) {
            let mut values = Vec::with_capacity(rows.len() * dimension);
            for embedding in embeddings {
                let bytes = context.read(embedding.clone())?;
                values.extend(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)));
            }
            if let Some(arrays) = &mut arrays {
                arrays.write(rows, &values)?;
            }
            writer.write(&rows.iter().map(Row::from).collect::<Vec<_>>(), values)?;
        }
        arrays.map_or(Ok(()), npy::Arrays::finish)?;
        writer.finish()?.finish()
    }
}
