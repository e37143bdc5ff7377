//! embed: every image becomes a vector, in one Parquet file.

use anyhow::Result;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::embeddings::Writer;
use similiai::images::read_png;
use similiai::listing::{self, Split};
use similiai::model::Model;
use similiai::stage::{Context, Invalid, Stage, require};

pub const EMBEDDINGS: &str = "embeddings.parquet";
/// Written at a time: the pages of the file depend on it.
const ROWS: usize = 256;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Embed {
    /// Images held in memory at a time; the result does not depend on it.
    batch: usize,
}

impl Default for Embed {
    fn default() -> Self {
        Self { batch: 256 }
    }
}

impl Stage for Embed {
    const NAME: &'static str = "embed";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "embeds every image with the trained network";
    const NEEDS: &'static [&'static str] = &["prepare", "split", "train"];
    const UNKEYED: &'static [&'static str] = &["batch"];

    fn check(&self) -> Result<(), Invalid> {
        require((1..=8192).contains(&self.batch), "batch", "must be 1 to 8192")
    }

    fn run(&self, context: &Context) -> Result<()> {
        let prepared = &context.inputs.result("prepare")?.contents;
        let folder = context.input("prepare")?;
        let mut rows: Vec<Split> = listing::read(&context.input("split")?.join(super::split::LIST))?;
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        let model = Model::load(&context.input("train")?.join(super::train::MODEL))?;
        let configuration = &model.configuration;
        let facts = [
            ("similiai.model", model.digest.clone()),
            ("similiai.dimension", configuration.dimension.to_string()),
            ("similiai.metric", "euclidean".to_owned()),
            ("similiai.preprocessing", serde_json::to_string(&configuration.preprocessing)?),
            ("similiai.mirrored", configuration.mirrored.to_string()),
            ("similiai.shift", configuration.shift.to_string()),
        ];
        let mut all = context.provenance()?;
        all.extend(facts.into_iter().map(|(key, value)| (key.to_owned(), value)));
        let mut writer = Writer::create(&context.output.join(EMBEDDINGS), configuration.dimension, all)?;
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
                let values = model.embed(images)?;
                let rows = values.chunks_exact(configuration.dimension);
                Ok(rows.map(|row| row.iter().flat_map(|value| value.to_le_bytes()).collect()).collect())
            },
        )?;
        for (rows, embeddings) in rows.chunks(ROWS).zip(embeddings.chunks(ROWS)) {
            let mut values = Vec::with_capacity(rows.len() * configuration.dimension);
            for embedding in embeddings {
                let bytes = context.read(embedding.clone())?;
                values.extend(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)));
            }
            writer.write(rows, values)?;
        }
        writer.finish()
    }
}
