//! benchmark: how well do the embeddings find images of the same class? Figures, a page and pictures.

mod approximate;
mod page;
mod pictures;
mod protocols;

use std::collections::BTreeMap;

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use similiai::calibration::Calibration;
use similiai::embeddings::{self, Embeddings};
use similiai::listing::Side;
use similiai::metrics::METRICS;
use similiai::model::{self, Model};
use similiai::stage::{Context, Invalid, Stage, require};
use similiai::{damaged, files};

use approximate::Curve;
use protocols::{Example, Protocol};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Benchmark {
    /// Queries shown with their neighbours, spread over the classes.
    examples: usize,
}

impl Default for Benchmark {
    fn default() -> Self {
        Self { examples: 10 }
    }
}

/// All that the page and the pictures are made of.
struct Findings {
    protocols: Vec<Protocol>,
    examples: Vec<Example>,
    /// Of the approximate index, if there is one.
    curve: Option<Curve>,
    embeddings: Embeddings,
    /// Of the file with the embeddings.
    digest: String,
    calibration: Calibration,
    /// PNG bytes by id, of the images in the examples.
    pictures: BTreeMap<usize, Vec<u8>>,
    provenance: BTreeMap<String, String>,
}

impl Stage for Benchmark {
    const NAME: &'static str = "benchmark";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "measures retrieval and writes the report";
    const NEEDS: &'static [&'static str] = &["prepare", "train", "embed"];

    fn check(&self) -> Result<(), Invalid> {
        require((1..=100).contains(&self.examples), "examples", "must be 1 to 100")
    }

    fn run(&self, context: &Context) -> Result<()> {
        let path = context.input("embed")?.join(embeddings::FILE);
        let (embeddings, digest) = (Embeddings::read(&path)?, files::digest(&path)?);
        let train = context.input("train")?;
        let model = Model::load(&train.join(model::FILE))?;
        if embeddings.facts.get("similiai.model") != Some(&model.digest) {
            return Err(damaged!("the embeddings were not made by the model of `train`; both must be of one training"));
        }
        let protocols = protocols::evaluate(&embeddings, &model.calibration, context)?;
        let examples = protocols::examples(&embeddings, self.examples, context)?;
        let curve = approximate::curve(&embeddings, &digest, &protocols::ids(&embeddings, Side::Test), context)?;
        let folder = context.input("prepare")?;
        let mut pictures = BTreeMap::new();
        for id in examples.iter().flat_map(Example::ids) {
            pictures.insert(id, files::read(&folder.join(&embeddings.paths[id]))?);
        }
        let (provenance, calibration) = (context.provenance()?, model.calibration);
        let findings = Findings { protocols, examples, curve, embeddings, digest, calibration, pictures, provenance };
        context.progress.tell(&findings.table());

        let output = |name: &str| context.output.join(name);
        files::write(&output("results.json"), (serde_json::to_string_pretty(&findings.results())? + "\n").as_bytes())?;
        pictures::neighbours(&findings, &output("benchmark_neighbours.png"))?;
        pictures::scores(&findings, &output("benchmark_scores.png"))?;
        let calibration = output("benchmark_calibration.png");
        pictures::calibration(&findings, &calibration)?;
        let (training, calibration) = (files::read(&train.join(super::train::CURVES))?, files::read(&calibration)?);
        let page = page::render(&findings, (&training, &calibration), context.seed);
        files::write(&output("index.html"), page.as_bytes())
    }
}

impl Findings {
    /// `results.json`
    fn results(&self) -> serde_json::Value {
        let protocols: serde_json::Map<_, _> = self
            .protocols
            .iter()
            .map(|protocol| {
                let metrics: serde_json::Map<_, _> = METRICS
                    .iter()
                    .zip(&protocol.scores)
                    .map(|(metric, score)| (metric.name.to_owned(), json!(score)))
                    .collect();
                (
                    protocol.name.to_owned(),
                    json!({
                        "queries": protocol.queries, "gallery": protocol.gallery, "metrics": metrics,
                        "calibration": protocol.reliability,
                    }),
                )
            })
            .collect();
        let item = |id: usize| json!({"id": id, "path": self.embeddings.paths[id], "label_name": self.embeddings.label_names[id]});
        let examples: Vec<_> = self
            .examples
            .iter()
            .map(|example| {
                let neighbours = example.neighbours.iter().map(|neighbour| {
                    let mut found = item(neighbour.id);
                    found["distance"] = json!(neighbour.distance);
                    found
                });
                json!({"query": item(example.query), "results": neighbours.collect::<Vec<_>>()})
            })
            .collect();
        json!({
            "schema": 1, "protocols": protocols, "examples": examples, "approximate": self.curve,
            "provenance": self.provenance,
        })
    }

    /// For the console.
    fn table(&self) -> String {
        let mut lines = Vec::new();
        for protocol in &self.protocols {
            lines.push(format!("{}: {} queries, gallery of {}", protocol.name, protocol.queries, protocol.gallery));
            for (metric, score) in METRICS.iter().zip(&protocol.scores) {
                lines.push(format!(
                    "  {:12} {:.3}  (95 %: {:.3} to {:.3}, chance {:.3})",
                    metric.name, score.value, score.low, score.high, score.chance
                ));
            }
        }
        lines.join("\n")
    }
}
