//! The checkpoint from which an interrupted training resumes, written after every epoch.

use std::collections::HashMap;

use anyhow::{Context as _, Result, anyhow};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use similiai::base::failpoint;
use similiai::engine::cache::{KeyDocument, Reason};
use similiai::engine::stage::Context;

use super::Train;
use similiai::report::training_log::Epoch;

const FILE: &str = "checkpoint.safetensors";
/// The only entry of the metadata, an [`About`]. Several entries would have no fixed order.
const ABOUT: &str = "about";

/// State of a training between two epochs, without what follows from the seed.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Checkpoint {
    pub epochs: Vec<Epoch>,
    /// Parameters of the network, with its running statistics.
    pub parameters: Vec<f32>,
    pub proxies: Vec<f32>,
    /// Steps of the optimizer.
    pub steps: i32,
    /// Moments of the optimizer.
    pub moments: Vec<f32>,
    /// The parameters of the best epoch so far, with its precision.
    pub best: Option<(f64, Vec<f32>)>,
}

/// The metadata stored with the arrays.
#[derive(Serialize, Deserialize)]
struct About {
    document: KeyDocument,
    epochs: Vec<Epoch>,
    steps: i32,
    best: Option<f64>,
}

impl Checkpoint {
    pub fn save(&self, context: &Context) -> Result<()> {
        let best = self.best.as_ref();
        let about = About {
            document: context.document.clone(),
            epochs: self.epochs.clone(),
            steps: self.steps,
            best: best.map(|(precision, _)| *precision),
        };
        let arrays = [
            ("parameters", &self.parameters[..]),
            ("proxies", &self.proxies),
            ("moments", &self.moments),
            ("best", best.map_or(&[], |(_, parameters)| parameters)),
        ];
        let bytes = arrays.map(|(name, values)| (name, values.iter().flat_map(|value| value.to_le_bytes()).collect()));
        let about = serde_json::to_string(&about)?;
        let views = bytes
            .iter()
            .map(|(name, bytes): &(_, Vec<u8>)| Ok((name, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?)));
        let views =
            views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>().map_err(|error| anyhow!("{error}"))?;
        let metadata = HashMap::from([(ABOUT.to_owned(), about)]);
        let bytes = safetensors::serialize(views, &Some(metadata)).map_err(|error| anyhow!("{error}"))?;
        context.keep(FILE, bytes)?;
        failpoint::point("checkpoint-written");
        Ok(())
    }

    /// Finds the checkpoint from which this training resumes, and reports it.
    pub fn find(train: &Train, context: &Context) -> Result<Option<Self>> {
        if context.is_from_scratch() {
            return Ok(None);
        }
        let (mut best, mut unfit): (Option<Self>, Option<String>) = (None, None);
        for bytes in context.kept(FILE)? {
            let (found, document) = match Self::read(&bytes) {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!("a checkpoint of an earlier training cannot be used: {error:#}");
                    continue;
                }
            };
            let trained = found.epochs.len();
            match difference(train, &context.document, &document, trained) {
                Some(why) => {
                    let told = format!("an earlier training got to epoch {trained}; starting from scratch: {why}");
                    unfit.get_or_insert(told);
                }
                None if best.as_ref().is_none_or(|best| best.epochs.len() < trained) => best = Some(found),
                None => {}
            }
        }
        match (&best, unfit) {
            (Some(best), _) => tracing::info!("resuming after epoch {} of {}", best.epochs.len(), train.epochs),
            (None, Some(unfit)) => tracing::info!("{unfit}"),
            (None, None) => {}
        }
        Ok(best)
    }

    /// Reads what [`Checkpoint::save`] wrote.
    pub fn read(bytes: &[u8]) -> Result<(Self, KeyDocument)> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let about = metadata.metadata().as_ref().and_then(|entries| entries.get(ABOUT)).context("no metadata")?;
        let tensors = SafeTensors::deserialize(bytes)?;
        let tensor = |name: &str| tensors.tensor(name).map(|tensor| tensor.data());
        let [parameters, proxies, moments, best] =
            [tensor("parameters")?, tensor("proxies")?, tensor("moments")?, tensor("best")?];
        let values = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let about: About = serde_json::from_str(about)?;
        let found = Self {
            epochs: about.epochs,
            parameters: values(parameters),
            proxies: values(proxies),
            steps: about.steps,
            moments: values(moments),
            best: about.best.map(|precision| (precision, values(best))),
        };
        Ok((found, about.document))
    }
}

/// Why a training by `now` differs, up to epoch `trained`, from one by `then`; `None` if it does not.
fn difference(train: &Train, now: &KeyDocument, then: &KeyDocument, trained: usize) -> Option<String> {
    let changes = now.changes_since(then, |_, _| None);
    let epochs = train.epochs;
    match changes.as_slice() {
        [] => None,
        [change @ Reason::Parameter { path, .. }] if path == "epochs" => {
            if !train.is_the_same_with_more_epochs() {
                Some(format!(
                    "{change}; with this warm_up and schedule, the learning rates depend on the number of epochs"
                ))
            } else {
                (epochs < trained).then(|| format!("{change}, fewer than the earlier training has"))
            }
        }
        changes => Some(Reason::all(changes)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Schedule;
    use super::*;

    fn document(epochs: usize, margin: f64) -> KeyDocument {
        KeyDocument {
            stage: "train".into(),
            version: 1,
            seed: Some(1),
            parameters: serde_json::json!({"epochs": epochs, "margin": margin}),
            reads: Default::default(),
        }
    }

    #[test]
    fn only_a_constant_learning_rate_lets_more_epochs_resume() {
        let cosine = Train { epochs: 8, ..Train::default() };
        let constant = Train { schedule: Schedule::Constant, warm_up: 0.0, ..cosine.clone() };
        let warm = Train { warm_up: 0.1, ..constant.clone() };
        let (five, eight) = (document(5, 0.2), document(8, 0.2));
        assert_eq!(difference(&cosine, &eight, &eight, 3), None);
        assert!(difference(&cosine, &eight, &five, 5).is_some_and(|why| why.contains("epochs: 5 → 8")));
        assert_eq!(difference(&constant, &eight, &five, 5), None);
        assert!(difference(&warm, &eight, &five, 5).is_some());
        assert!(difference(&constant, &eight, &document(9, 0.2), 9).is_some_and(|why| why.contains("fewer")));
        assert!(difference(&constant, &eight, &document(8, 0.3), 3).is_some_and(|why| why.contains("margin")));
    }
}
