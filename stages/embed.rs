//! embed: every image becomes a vector, in one Parquet file.

use std::collections::BTreeMap;

use anyhow::Result;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use similiai::embeddings::Writer;
use similiai::images::read_png;
use similiai::listing::{self, Split};
use similiai::model::Model;
use similiai::stage::{Context, Invalid, Stage, require};

pub const EMBEDDINGS: &str = "embeddings.parquet";

#[derive(Serialize, Deserialize)]
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
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "embeds every image with the trained network";
    const NEEDS: &'static [&'static str] = &["prepare", "split", "train"];
    const UNKEYED: &'static [&'static str] = &["batch"];

    fn check(&self) -> Result<(), Invalid> {
        require((1..=8192).contains(&self.batch), "batch", "must be 1 to 8192")
    }

    fn run(&self, context: &Context) -> Result<()> {
        let folder = context.input("prepare")?;
        let mut rows: Vec<Split> = listing::read(&context.input("split")?.join(super::split::LIST))?;
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        let model = Model::load(&context.input("train")?.join(super::train::MODEL))?;
        let configuration = &model.configuration;
        let facts = BTreeMap::from([
            ("similiai.model", model.digest.clone()),
            ("similiai.dimension", configuration.dimension.to_string()),
            ("similiai.metric", "euclidean".to_owned()),
            ("similiai.preprocessing", serde_json::to_string(&configuration.preprocessing)?),
            ("similiai.mirrored", configuration.mirrored.to_string()),
            ("similiai.shift", configuration.shift.to_string()),
            ("similiai.seed", context.seed.to_string()),
        ]);
        let facts = facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut writer = Writer::create(&context.output.join(EMBEDDINGS), configuration.dimension, facts)?;
        let bar = context.bar("images", rows.len() as u64);
        for rows in rows.chunks(self.batch) {
            let images = rows.par_iter().map(|row| read_png(&folder.join(&row.path))).collect::<Result<Vec<_>>>()?;
            writer.write(rows, model.embed(images)?)?;
            context.count_images(rows.len());
            bar.inc(rows.len() as u64);
        }
        writer.finish()
    }
}
