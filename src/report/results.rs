//! `results.json`: what a benchmark measured, for commands, the server and other programs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map as Object, Value};

use crate::engine::cache::KeyDocument;
use crate::engine::stage::Ancestor;
use crate::retrieval::metrics::{Difference, METRICS, PRECISION_AT_5, Score};

/// The name of the file.
pub const FILE: &str = "results.json";

/// The names and values of the file. Values that only other programs read are in [`Results::details`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// The instance whose embeddings were measured.
    pub run: String,
    pub protocols: BTreeMap<String, Protocol>,
    pub map: Option<Map>,
    /// Comparisons with other trainings.
    #[serde(default)]
    pub comparisons: Vec<Comparison>,
    /// All results from which the measured results were made.
    #[serde(default)]
    pub lineage: Vec<Ancestor>,
    /// The key document of this result.
    pub document: Option<KeyDocument>,
    #[serde(flatten)]
    pub details: Object<String, Value>,
}

/// What was measured under one protocol.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Protocol {
    pub queries: usize,
    pub gallery: usize,
    /// By name of the metric.
    pub metrics: BTreeMap<String, Score>,
    /// What is reached without learning, by name.
    #[serde(default)]
    pub baselines: BTreeMap<String, Baseline>,
    #[serde(flatten)]
    pub details: Object<String, Value>,
}

/// What is reached without learning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Baseline {
    #[serde(rename = "precision@5")]
    pub precision: Score,
    #[serde(flatten)]
    pub details: Object<String, Value>,
}

/// How another training compares with the measured one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Comparison {
    /// The instance that made its embeddings.
    pub run: String,
    /// The instance that trained its network.
    pub training: String,
    /// By protocol and metric, over the same queries.
    pub protocols: BTreeMap<String, BTreeMap<String, Difference>>,
}

/// The map: test pictures in two dimensions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Map {
    pub method: String,
    pub perplexity: f32,
    /// Number of all test pictures.
    pub of: usize,
    pub points: Vec<Point>,
    /// Number of directions in which the embeddings vary: (Σ λ)² / Σ λ² over the eigenvalues λ of their covariance
    /// (participation ratio). It is 1 if all embeddings are on a line.
    pub effective_dimensions: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Id of a picture.
    pub id: usize,
    /// From 0 to 1.
    pub x: f32,
    /// From 0 to 1, upwards.
    pub y: f32,
}

/// Lines of text for users: the metrics of each protocol, what is reached without learning, and the other trainings.
pub fn table(results: &Results) -> Vec<String> {
    let precision = METRICS[PRECISION_AT_5].name;
    let mut lines = Vec::new();
    for (name, protocol) in &results.protocols {
        lines.push(format!("{name}: {} queries, gallery of {}", protocol.queries, protocol.gallery));
        for metric in &METRICS {
            let Some(score) = protocol.metrics.get(metric.name) else { continue };
            lines.push(format!("  {:12} {score}, baseline {:.3}", metric.name, score.chance));
        }
        for (baseline, reached) in &protocol.baselines {
            lines.push(format!("  {precision:12} {} with {baseline}", reached.precision));
        }
        for other in &results.comparisons {
            let Some(it) = other.protocols.get(name).and_then(|metrics| metrics.get(precision)) else { continue };
            let verdict = it.verdict.in_words();
            lines.push(format!(
                "  {precision:12} {:.3}, {:+.3} ({:+.3} to {:+.3}), {verdict} in {}",
                it.after, it.difference, it.low, it.high, other.run
            ));
        }
    }
    lines
}
