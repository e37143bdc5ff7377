//! The trainings that are measured, each with its model and its embeddings, and how the others differ from the first.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use similiai::base::files;
use similiai::engine::stage::{Context, Input, Inputs, Need};
use similiai::learning::model::{self, Model};
use similiai::report::results::Comparison;
use similiai::retrieval::embeddings::{self, Embeddings};
use similiai::retrieval::metrics::{Measured, Scored, differences};

use super::protocols::{Answers, QUESTIONS};

/// One training with its embeddings.
pub struct Run {
    /// The instance of the embeddings.
    pub name: String,
    /// The instance of the training.
    pub training: String,
    /// The folder of the training's result.
    pub folder: PathBuf,
    pub model: Model,
    pub embeddings: Embeddings,
    /// Digest of the file with the embeddings.
    pub digest: String,
}

/// Fails before any training if [`all`] would fail after it.
pub fn precheck(ready: &Inputs) -> Result<()> {
    let needs = |stage: &'static str| ready.needs.iter().filter(move |need| need.stage == stage);
    for training in needs("train") {
        must_be_used(&training.instance, needs("embed").any(|need| need.needs.contains(&training.instance)))?;
    }
    for embeddings in needs("embed") {
        let is_own = |training: &Need| embeddings.needs.contains(&training.instance);
        ensure!(needs("train").any(is_own), without_training(&embeddings.instance));
    }
    let split = |need: &Need| {
        let mut splits = ready.results.iter().filter(|input| input.stage == "split");
        let own = splits.find(|input| need.needs.contains(&input.instance))?;
        Some((need.instance.clone(), own.contents.digest().to_owned()))
    };
    let splits: Vec<(String, String)> = needs("embed").filter_map(split).collect();
    match splits.iter().find(|(_, digest)| *digest != splits[0].1) {
        Some((other, _)) => bail!(different(&splits[0].0, other)),
        None => Ok(()),
    }
}

fn must_be_used(training: &str, is_used: bool) -> Result<()> {
    ensure!(is_used, "`needs` has the training `{training}`, but no embeddings of it");
    Ok(())
}

fn without_training(embeddings: &str) -> String {
    format!("`needs` has `{embeddings}`, but not the training that it uses")
}

fn different(first: &str, other: &str) -> String {
    format!("`{first}` and `{other}` cannot be compared: they have different pictures, or another split")
}

/// All embeddings among the inputs, with their trainings, in the order of `needs`.
pub fn all(context: &Context) -> Result<Vec<Run>> {
    let inputs = |stage: &'static str| context.inputs.results.iter().filter(move |input| input.stage == stage);
    let run = |input: &Input| {
        let name = input.instance.clone();
        let made_of = context.inputs.lineage.iter().find(|it| it.instance == name).map(|it| it.needs.as_slice());
        let own = |training: &&Input| made_of.is_some_and(|needs| needs.contains(&training.instance));
        let training = inputs("train").find(own);
        let training = training.with_context(|| without_training(&name))?;
        let path = input.folder.join(embeddings::FILE);
        let (embeddings, digest) = (Embeddings::read(&path)?, files::digest(&path)?);
        let model = Model::load(&training.folder.join(model::FILE))?;
        embeddings.must_be_of(&model.digest, &name, &format!("run `similiai run {name}`"))?;
        Ok(Run {
            name,
            training: training.instance.clone(),
            folder: training.folder.clone(),
            model,
            embeddings,
            digest,
        })
    };
    let runs = inputs("embed").map(run).collect::<Result<Vec<Run>>>()?;
    inputs("train")
        .try_for_each(|input| must_be_used(&input.instance, runs.iter().any(|run| run.training == input.instance)))?;
    if let Some((first, others)) = runs.split_first()
        && let Some(other) = others.iter().find(|other| !same_pictures(&first.embeddings, &other.embeddings))
    {
        bail!(different(&first.name, &other.name));
    }
    Ok(runs)
}

fn same_pictures(a: &Embeddings, b: &Embeddings) -> bool {
    (&a.paths, &a.labels, &a.splits) == (&b.paths, &b.labels, &b.splits)
}

/// The scores of each query of a run.
pub fn scored(run: &Run, answers: &[Answers]) -> Vec<Scored> {
    let of = |answers: &Answers| -> Vec<Scored> {
        let rows = answers.queries.iter().zip(&answers.measured);
        let row = |(query, measured): (&usize, &Measured)| Scored {
            run: run.name.clone(),
            protocol: answers.question.name.to_owned(),
            path: run.embeddings.paths[*query].clone(),
            label_name: run.embeddings.label_names[*query].clone(),
            values: measured.values,
        };
        rows.map(row).collect()
    };
    answers.iter().flat_map(of).collect()
}

/// Compares a run with the first one.
pub fn compare(run: &Run, first: &[Scored], scored: &[Scored]) -> Comparison {
    let protocols =
        QUESTIONS.iter().map(|question| (question.name.to_owned(), differences(first, scored, question.name)));
    Comparison { run: run.name.clone(), training: run.training.clone(), protocols: protocols.collect() }
}
