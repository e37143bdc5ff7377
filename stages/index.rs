//! index: links near embeddings, for quick approximate search in large galleries.

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::base::files;
use similiai::engine::stage::{ArtifactKind, Context, Invalid, Stage, require};
use similiai::retrieval::artifacts;
use similiai::retrieval::embeddings::{self, Embeddings};
use similiai::retrieval::search::{self, Graph, Parameters};

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Index(Parameters);

impl Stage for Index {
    const NAME: &'static str = "index";
    const VERSION: u32 = 1;
    const DRAWS: bool = false;
    const ABOUT: &'static str = "links near embeddings, for approximate search";
    const NEEDS: &'static [&'static str] = &["embed"];
    const PROVIDES: Option<ArtifactKind> = Some(artifacts::INDEX);

    fn check(&self) -> Result<(), Invalid> {
        let Parameters { m, ef_construction, ef } = self.0;
        require((2..=256).contains(&m), "m", "must be 2 to 256")?;
        require((m..=4096).contains(&ef_construction), "ef_construction", "must be at least m, at most 4096")?;
        require((1..=4096).contains(&ef), "ef", "must be 1 to 4096")
    }

    fn run(&self, context: &Context) -> Result<()> {
        let path = context.input("embed")?.join(embeddings::FILE);
        let embeddings = Embeddings::read(&path)?;
        let bar = context.bar("vectors", embeddings.len() as u64);
        let step = || {
            bar.inc(1);
            context.check_signal()
        };
        let graph = Graph::build(&files::digest(&path)?, embeddings.dimension, &embeddings.values, self.0, step)?;
        context.outputs.write(search::INDEX, &graph.to_bytes()?)
    }
}
