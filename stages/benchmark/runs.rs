//! The trainings that are measured: embeddings, each with the model that made them; and how the others differ from the
//! first.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use similiai::embeddings::{self, Embeddings};
use similiai::files;
use similiai::metrics::{Difference, Measured, Scored, differences};
use similiai::model::{self, Model};
use similiai::stage::{Context, Input};

use super::protocols::{Answers, QUESTIONS};

/// One training with its embeddings.
pub struct Run {
    /// The instance of the embeddings.
    pub name: String,
    /// The instance of the training, and where its result lies.
    pub training: String,
    pub folder: PathBuf,
    pub model: Model,
    pub embeddings: Embeddings,
    /// Of the file with the embeddings.
    pub digest: String,
}

/// How another training does beside the first.
#[derive(Serialize)]
pub struct Comparison {
    pub run: String,
    pub training: String,
    /// By protocol and metric, over the same queries.
    pub protocols: BTreeMap<&'static str, BTreeMap<&'static str, Difference>>,
}

/// Every instance of embeddings among the inputs, in the order of `needs`.
pub fn all(context: &Context) -> Result<Vec<Run>> {
    let inputs = |stage: &'static str| context.inputs.results.iter().filter(move |input| input.stage == stage);
    let run = |input: &Input| {
        let name = input.instance.clone();
        let made_of = context.inputs.lineage.iter().find(|it| it.instance == name).map(|it| it.needs.as_slice());
        let own = |training: &&Input| made_of.is_some_and(|needs| needs.contains(&training.instance));
        let training = inputs("train").find(own);
        let training = training.with_context(|| format!("`needs` has `{name}`, but not the training that it is of"))?;
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
    if let Some(unused) = inputs("train").find(|input| !runs.iter().any(|run| run.training == input.instance)) {
        bail!("`needs` has the training `{}`, but no embeddings of it", unused.instance);
    }
    if let Some((first, others)) = runs.split_first()
        && let Some(other) = others.iter().find(|other| !same_pictures(&first.embeddings, &other.embeddings))
    {
        bail!(
            "`{}` and `{}` cannot be compared: they have different pictures, or another split",
            first.name,
            other.name
        );
    }
    Ok(runs)
}

fn same_pictures(a: &Embeddings, b: &Embeddings) -> bool {
    (&a.paths, &a.labels, &a.splits) == (&b.paths, &b.labels, &b.splits)
}

/// What each query of a run scored.
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

/// How a run differs from the first one.
pub fn compare(run: &Run, first: &[Scored], scored: &[Scored]) -> Comparison {
    let protocols = QUESTIONS.iter().map(|question| (question.name, differences(first, scored, question.name)));
    Comparison { run: run.name.clone(), training: run.training.clone(), protocols: protocols.collect() }
}
