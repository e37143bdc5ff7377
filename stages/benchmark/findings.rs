//! Everything that the report shows, and `results.json`.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use similiai::engine::cache::KeyDocument;
use similiai::engine::stage::Ancestor;
use similiai::report::results::{self, Comparison, Map, Results};
use similiai::report::training_log::Epoch;
use similiai::retrieval::metrics::{METRICS, Scored};

use super::approximate::Curve;
use super::baselines::{Baseline, Reached};
use super::hubness::Hub;
use super::protocols::Protocol;
use super::queries::{Example, Shown};
use super::runs::Run;

/// The value that the original project reports for its top 5, on 2,000 pictures of CIFAR-10.
const ORIGINAL: f64 = 0.36;
/// Names of the classes of CIFAR-10, in the order of their labels.
const CIFAR10: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

pub struct Findings {
    pub main: Run,
    /// Labels and names of the classes.
    pub classes: BTreeMap<i32, String>,
    pub protocols: Vec<Protocol>,
    pub baselines: Vec<Baseline>,
    /// Recall and cost of the approximate index, if there is one.
    pub curve: Option<Curve>,
    pub map: Map,
    pub epochs: Vec<Epoch>,
    pub shown: Shown,
    /// Comparisons with other trainings.
    pub comparisons: Vec<Comparison>,
    /// The scores of each query of each training.
    pub scored: Vec<Scored>,
    /// The instance that made the report.
    pub instance: String,
    pub needs: Vec<String>,
    pub key: String,
    pub document: KeyDocument,
    pub lineage: Vec<Ancestor>,
    pub provenance: BTreeMap<String, String>,
}

/// A step of the pipeline; the last one made the report.
pub struct Step<'a> {
    pub instance: &'a str,
    pub stage: &'a str,
    pub needs: &'a [String],
    pub key: &'a str,
    /// Digest of its result; `None` for the report, which cannot contain its own digest.
    pub digest: Option<&'a str>,
    pub document: &'a KeyDocument,
}

impl Findings {
    /// The value of the original project, if the classes are the same.
    pub fn original(&self) -> Option<f64> {
        self.classes.values().eq(CIFAR10).then_some(ORIGINAL)
    }

    pub fn steps(&self) -> Vec<Step<'_>> {
        let Self { instance, needs, key, document, .. } = self;
        let own = Step { instance, stage: &document.stage, needs, key, digest: None, document };
        let before = self.lineage.iter().map(|Ancestor { instance, needs, key, digest, document }| Step {
            instance,
            stage: &document.stage,
            needs,
            key,
            digest: Some(digest),
            document,
        });
        before.chain([own]).collect()
    }

    pub fn seed(&self) -> u64 {
        self.document.seed.unwrap_or_default()
    }

    /// A manifest that makes the same report. It omits parameters that cannot change a result, such as `source`.
    pub fn manifest(&self) -> Result<String> {
        let mut stages = serde_yaml::Mapping::new();
        for step in self.steps() {
            let mut settings = serde_yaml::Mapping::new();
            settings.insert("uses".into(), step.stage.into());
            if !step.needs.is_empty() {
                settings.insert("needs".into(), serde_yaml::to_value(step.needs)?);
            }
            if step.digest.is_none() {
                settings.insert("out".into(), "reports".into());
            }
            if let Some(seed) = step.document.seed.filter(|seed| *seed != self.seed()) {
                settings.insert("seed".into(), seed.into());
            }
            if let serde_yaml::Value::Mapping(parameters) = serde_yaml::to_value(&step.document.parameters)? {
                settings.extend(parameters);
            }
            stages.insert(step.instance.into(), settings.into());
        }
        let mut manifest = serde_yaml::Mapping::new();
        manifest.insert("version".into(), 1.into());
        manifest.insert("seed".into(), self.seed().into());
        manifest.insert("stages".into(), stages.into());
        Ok(serde_yaml::to_string(&manifest)?)
    }

    pub fn results(&self) -> Results {
        let protocol = |(place, it): (usize, &Protocol)| (it.question.name.to_owned(), self.protocol(place, it));
        let examples = |examples: &[Example]| -> Vec<Value> { examples.iter().map(|it| self.example(it)).collect() };
        let details = [
            ("schema", json!(1)),
            ("original", json!(self.original())),
            ("examples", json!(examples(&self.shown.random))),
            ("best", json!(examples(&self.shown.best))),
            ("worst", json!(examples(&self.shown.worst))),
            ("approximate", json!(self.curve)),
            ("provenance", json!(self.provenance)),
        ];
        Results {
            run: self.main.name.clone(),
            protocols: self.protocols.iter().enumerate().map(protocol).collect(),
            map: Some(self.map.clone()),
            comparisons: self.comparisons.clone(),
            lineage: self.lineage.clone(),
            document: Some(self.document.clone()),
            details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }

    fn protocol(&self, place: usize, it: &Protocol) -> results::Protocol {
        let baseline = |baseline: &Baseline| {
            let Reached { queries, precision, at_k } = &baseline.reached[place];
            let details = [("queries", json!(queries)), ("precision@k", json!(at_k))];
            let details = details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            (baseline.name.to_owned(), results::Baseline { precision: *precision, details })
        };
        let hub = |hub: &Hub| {
            let mut item = self.item(hub.id);
            (item["times"], item["wrong"]) = (json!(hub.times), json!(hub.wrong));
            item
        };
        let mut hubness = json!(it.hubness);
        hubness["hubs"] = it.hubness.hubs.iter().map(hub).collect();
        let details = [
            ("precision@k", json!(it.at_k)),
            ("classes", json!(it.classes)),
            ("confusion", json!(it.confusion)),
            ("hubness", hubness),
            ("distances", json!(it.distances)),
            ("calibration", json!(it.reliability)),
        ];
        let scores = METRICS.iter().zip(&it.scores);
        results::Protocol {
            queries: it.queries.len(),
            gallery: it.gallery,
            metrics: scores.map(|(metric, score)| (metric.name.to_owned(), *score)).collect(),
            baselines: self.baselines.iter().map(baseline).collect(),
            details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }

    fn item(&self, id: usize) -> Value {
        let embeddings = &self.main.embeddings;
        json!({"id": id, "path": embeddings.paths[id], "label_name": embeddings.label_names[id]})
    }

    fn example(&self, example: &Example) -> Value {
        let neighbours = example.neighbours.iter().map(|neighbour| {
            let mut found = self.item(neighbour.id);
            found["distance"] = json!(neighbour.distance);
            found
        });
        let neighbours: Vec<Value> = neighbours.collect();
        json!({"query": self.item(example.query), "map@r": example.score, "results": neighbours})
    }
}
