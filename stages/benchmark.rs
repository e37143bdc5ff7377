//! benchmark: measures how well the embeddings find images of the same class, and writes the report.

mod approximate;
mod at_k;
mod baselines;
mod charts;
mod confusion;
mod distances;
mod findings;
mod hubness;
mod page;
mod pictures;
mod projection;
mod protocols;
mod queries;
mod runs;
mod tsne;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::damaged;
use similiai::engine::stage::{ArtifactKind, Context, Inputs, Invalid, Stage, require};
use similiai::learning::dataset;
use similiai::learning::dataset::{Split, Subset};
use similiai::report::charts::png;
use similiai::report::html::REPORT;
use similiai::report::results::{self, table};
use similiai::report::training_log;
use similiai::retrieval::artifacts;
use similiai::retrieval::metrics;
use similiai::retrieval::metrics::QUERIES;

use charts::Charts;
use findings::Findings;
use pictures::Pictures;
use protocols::Protocol;
use queries::{Example, Shown};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Benchmark {
    /// Number of queries shown with their neighbours, spread over the classes.
    examples: usize,
}

impl Default for Benchmark {
    fn default() -> Self {
        Self { examples: 10 }
    }
}

impl Stage for Benchmark {
    const NAME: &'static str = "benchmark";
    const VERSION: u32 = 7;
    const ABOUT: &'static str = "measures retrieval and writes the report";
    const NEEDS: &'static [&'static str] = &["prepare", "train", "embed"];
    const MANY: &'static [&'static str] = &["train", "embed"];
    const PROVIDES: Option<ArtifactKind> = Some(artifacts::METRICS);

    fn check(&self) -> Result<(), Invalid> {
        require((1..=50).contains(&self.examples), "examples", "must be 1 to 50")
    }

    /// Reads the lineage too, because the page shows it, and the order of `needs`, because the first embeddings in it
    /// are the main ones of the page.
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
        let needs: Vec<&String> = inputs.results.iter().map(|input| &input.instance).collect();
        let lineage = serde_json::to_vec(&(&inputs.instance, needs, &inputs.lineage))?;
        let lineage = blake3::hash(&lineage).to_hex().to_string();
        let mut reads = inputs.digests();
        reads.insert("lineage".to_owned(), lineage);
        Ok(reads)
    }

    fn precheck(&self, ready: &Inputs) -> Result<()> {
        runs::precheck(ready)?;
        artifacts::split_must_fit(
            ready,
            ready.needs.iter().filter(|need| need.stage == "embed").flat_map(|need| &need.needs),
        )?;
        let Ok(split) = ready.folder("split") else { return Ok(()) };
        let rows: Vec<Split> = dataset::read(&split.join(dataset::SPLIT))?;
        let counts = |subset: Subset| {
            let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
            rows.iter().filter(|row| row.split == subset).for_each(|row| *counts.entry(row.label).or_default() += 1);
            counts
        };
        let (train, test) = (counts(Subset::Train), counts(Subset::Test));
        ensure!(
            test.values().any(|count| *count > 1),
            "no class has two or more test pictures, so no test picture has another of its class to find; use at \
             least six pictures a class, or a larger `test` in the split"
        );
        ensure!(
            test.keys().any(|class| train.contains_key(class)),
            "no class has both training and test pictures, so no test picture has another of its class to find"
        );
        Ok(())
    }

    fn run(&self, context: &Context) -> Result<()> {
        let pictures = context.input("prepare")?;
        let findings = self.measure(context)?;
        let results = findings.results();
        context.progress.tell(&table(&results).join("\n"));

        let outputs = &context.outputs;
        // A JSON value sorts the names.
        let results = serde_json::to_string_pretty(&serde_json::to_value(&results)?)? + "\n";
        outputs.write(results::FILE, results.as_bytes())?;
        outputs.write(QUERIES, &metrics::queries_to_bytes(&findings.scored)?)?;
        let charts = Charts::draw(&findings)?;
        for chart in charts.files() {
            let png = png(&chart.svg, &[], &findings.provenance)?;
            outputs.write(&format!("{}.png", chart.name), &png)?;
        }
        let embeddings = &findings.main.embeddings;
        let hubs = findings.protocols.iter().flat_map(|protocol| protocol.hubness.hubs.iter().map(|hub| hub.id));
        let shown = Pictures::read(pictures, embeddings, findings.shown.all().flat_map(Example::ids).chain(hubs))?;
        for (name, title, examples) in [
            ("neighbours", "Queries drawn at random, and their nearest training images", &findings.shown.random),
            ("best", "The best queries, and their nearest training images", &findings.shown.best),
            ("worst", "The worst queries, and their nearest training images", &findings.shown.worst),
        ] {
            let png = pictures::rows(examples, title, &shown, &embeddings.label_names, &findings.provenance)?;
            outputs.write(&format!("benchmark_{name}.png"), &png)?;
        }
        let on_map: Vec<&str> = findings.map.points.iter().map(|it| embeddings.paths[it.id].as_str()).collect();
        let sheet = pictures::sheet(pictures, &on_map)?;
        let page = page::render(&findings, &charts, &shown, &sheet, &results)?;
        outputs.write(REPORT, page.as_bytes())
    }
}

impl Benchmark {
    fn measure(&self, context: &Context) -> Result<Findings> {
        let mut runs = runs::all(context)?.into_iter();
        let main = runs.next().ok_or_else(|| damaged!("there are no embeddings among the inputs"))?;
        let embeddings = &main.embeddings;
        let answers = protocols::ask(embeddings)?;
        let first = runs::scored(&main, &answers);
        let (mut scored, mut comparisons) = (first.clone(), Vec::new());
        for run in runs {
            let own = runs::scored(&run, &protocols::ask(&run.embeddings)?);
            comparisons.push(runs::compare(&run, &first, &own));
            scored.extend(own);
        }
        let evaluate = |answers| protocols::evaluate(answers, embeddings, &main.model.calibration, context);
        let protocols: Vec<Protocol> = answers.into_iter().map(evaluate).collect();
        let test = protocols::ids(embeddings, Subset::Test);
        let needs = context.inputs.results.iter().map(|input| input.instance.clone()).collect();
        Ok(Findings {
            classes: protocols::classes(embeddings),
            baselines: baselines::measure(embeddings, &main.model, &protocols, context.input("prepare")?, context)?,
            curve: approximate::curve(&main, &test, context)?,
            map: projection::project(embeddings, &test, context)?,
            epochs: dataset::read(&main.folder.join(training_log::FILE))?,
            shown: Shown::of(&protocols[0], embeddings, self.examples, context),
            protocols,
            comparisons,
            scored,
            instance: context.inputs.instance.clone(),
            needs,
            key: context.document.key()?,
            document: context.document.clone(),
            lineage: context.inputs.lineage.clone(),
            provenance: context.provenance()?,
            main,
        })
    }
}
