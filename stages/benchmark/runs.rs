//! The trainings that are measured: embeddings, each with the model that made them; and how the others differ from the
//! first.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use similiai::embeddings::{self, Embeddings};
use similiai::metrics::{Difference, Measured, Scored, differences};
use similiai::model::{self, Model};
use similiai::stage::{Context, Input};
use similiai::{damaged, files};

use super::protocols::{Protocol, QUESTIONS};

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
    let digest = |input: &'_ Input| Ok((files::digest(&input.folder.join(model::FILE))?, input.clone()));
    let trainings = inputs("train").map(digest).collect::<Result<Vec<(String, Input)>>>()?;
    let run = |input: &Input| {
        let path = input.folder.join(embeddings::FILE);
        let (embeddings, digest) = (Embeddings::read(&path)?, files::digest(&path)?);
        let name = input.instance.clone();
        let made_by = embeddings.facts.get(embeddings::MODEL);
        let Some((_, training)) = trainings.iter().find(|(digest, _)| Some(digest) == made_by) else {
            return Err(damaged!("no training in `needs` made the embeddings of `{name}`; name the one they are of"));
        };
        let model = Model::load(&training.folder.join(model::FILE))?;
        let (training, folder) = (training.instance.clone(), training.folder.clone());
        Ok(Run { name, training, folder, model, embeddings, digest })
    };
    let runs = inputs("embed").map(run).collect::<Result<Vec<Run>>>()?;
    match trainings.iter().find(|(_, training)| !runs.iter().any(|run| run.training == training.instance)) {
        Some((_, unused)) => {
            Err(damaged!("`needs` has the training `{}`, but no embeddings of it; name those too", unused.instance))
        }
        None => Ok(runs),
    }
}

/// What each query of a run scored.
pub fn scored(run: &Run, protocols: &[Protocol]) -> Vec<Scored> {
    let of = |protocol: &Protocol| -> Vec<Scored> {
        let rows = protocol.queries.iter().zip(&protocol.measured);
        let row = |(query, measured): (&usize, &Measured)| Scored {
            run: run.name.clone(),
            protocol: protocol.question.name.to_owned(),
            path: run.embeddings.paths[*query].clone(),
            label_name: run.embeddings.label_names[*query].clone(),
            values: measured.values,
        };
        rows.map(row).collect()
    };
    protocols.iter().flat_map(of).collect()
}

/// How a run differs from the first one, over the queries that both have.
pub fn compare(run: &Run, first: &[Scored], scored: &[Scored], seed: u64) -> Comparison {
    let protocols = QUESTIONS.iter().map(|question| (question.name, differences(first, scored, question.name, seed)));
    Comparison { run: run.name.clone(), training: run.training.clone(), protocols: protocols.collect() }
}
