//! train: a network learns to place images of a class near each other.

mod augmentation;
pub mod checkpoint;
mod data;
mod epoch_statistics;
mod loss;
mod training;
mod training_loop;
mod validation;

use std::collections::BTreeMap;

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::base::files;
use similiai::damaged;
use similiai::engine::stage::{ArtifactKind, Context, Inputs, Invalid, Stage, require};
use similiai::learning::dataset;
use similiai::learning::model::{
    Configuration, DIMENSION, MOST_SHIFT, NetworkName, Original, Residual, Residual48, Residual64, ResidualDeep,
};
use similiai::report::training_log;
use similiai::retrieval::artifacts;

/// Below this, Jöhnk's algorithm hardly ever ends: the powers of its random numbers round to 0.
const LEAST_MIXUP: f64 = 0.01;

/// Drawn triplets are all in memory, with their batches …
const MOST_TRIPLETS: usize = 1_000_000;
/// … and so are the embeddings of those that are held out.
const MOST_HELD_OUT: usize = 100_000;

pub const CURVES: &str = "training_curves.png";

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    network: NetworkName,
    /// Scale embeddings to length 1.
    normalize: bool,
    /// An embedding is the mean over these views; training does not depend on them.
    embed: Views,
    epochs: usize,
    learning_rate: f64,
    /// Decoupled, as in Loshchilov and Hutter 2019; 0 gives plain Adam.
    weight_decay: f64,
    /// Share of the steps in which the learning rate rises from 0.
    warm_up: f64,
    schedule: Schedule,
    margin: f64,
    mining: Mining,
    /// Classes in a batch; of more classes, as many take turns (mining `batch-all`).
    classes_per_batch: usize,
    /// Images of each of them in a batch (mining `batch-all`).
    images_per_class: usize,
    /// How often each image of a batch is in it, each time augmented anew (mining `batch-all`).
    views: usize,
    /// Images of each class in a view that is for the triplets alone (with `cross_entropy.mixup`).
    plain_per_class: usize,
    /// The term that joins the triplet loss (mining `batch-all`).
    cross_entropy: CrossEntropy,
    /// Numbers of triplets (mining `drawn`).
    triplets: Drawn,
    /// Share of each class of the training part that is held out, to watch the training by.
    validation: f64,
    /// Measure precision on the held-out pictures after so many epochs, and after the last.
    evaluate_every: usize,
    keep: Keep,
    augment: augmentation::Augment,
}

/// Which triplets are learned from.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mining {
    /// All valid triplets of each batch.
    BatchAll,
    /// Triplets drawn once at random, before training.
    Drawn,
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Schedule {
    /// Falls to 0 along a half cosine (Loshchilov and Hutter 2017).
    Cosine,
    Constant,
}

/// Which epoch's network is the result.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Keep {
    Last,
    /// The one with the highest precision on the held-out pictures, of those measured.
    Best,
}

/// What is embedded of a picture.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Views {
    /// Its mirror image too.
    mirrored: bool,
    /// It also moved by so many pixels to the four sides; 0: only in its place.
    shift: usize,
}

impl Default for Views {
    fn default() -> Self {
        Self { mirrored: true, shift: 3 }
    }
}

/// Cross-entropy over the cosines to one learned direction for each class (Zhai and Wu 2019, section 3.1).
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct CrossEntropy {
    /// Where the triplet loss has 1.
    weight: f64,
    /// What a cosine of 1 counts (there: 1 / temperature).
    scale: f64,
    /// The first view is pairs of pictures mixed by shares from Beta(mixup, mixup) (Zhang et al. 2018); 0: unmixed.
    mixup: f64,
    /// Share of these pairs in which a square of one is set into the other instead (Yun et al. 2019, "CutMix").
    cutmix: f64,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { weight: 2.0, scale: 12.0, mixup: 0.4, cutmix: 0.5 }
    }
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Drawn {
    train: usize,
    validation: usize,
    /// Triplets in a batch.
    batch: usize,
}

impl Default for Drawn {
    fn default() -> Self {
        Self { train: 8000, validation: 1000, batch: 32 }
    }
}

impl Default for Train {
    fn default() -> Self {
        Self {
            network: NetworkName::Residual,
            normalize: true,
            embed: Views::default(),
            epochs: 135,
            learning_rate: 5e-3,
            weight_decay: 5e-2,
            warm_up: 0.1,
            schedule: Schedule::Cosine,
            margin: 0.2,
            mining: Mining::BatchAll,
            classes_per_batch: 20,
            images_per_class: 8,
            views: 2,
            plain_per_class: 4,
            cross_entropy: CrossEntropy::default(),
            triplets: Drawn::default(),
            validation: 0.05,
            evaluate_every: 5,
            keep: Keep::Last,
            augment: augmentation::Augment::default(),
        }
    }
}

impl Stage for Train {
    const NAME: &'static str = "train";
    const VERSION: u32 = 7;
    const ABOUT: &'static str = "trains the network with a triplet loss";
    const NEEDS: &'static [&'static str] = &["prepare", "split"];
    const PROVIDES: Option<ArtifactKind> = Some(artifacts::MODEL);

    fn check(&self) -> Result<(), Invalid> {
        require((1..=10_000).contains(&self.epochs), "epochs", "must be 1 to 10000")?;
        require(
            self.learning_rate > 0.0 && self.learning_rate <= 10.0,
            "learning_rate",
            "must be above 0, at most 10",
        )?;
        require((0.0..=1.0).contains(&self.weight_decay), "weight_decay", "must be 0 to 1")?;
        require((0.0..1.0).contains(&self.warm_up), "warm_up", "must be 0 or more and below 1")?;
        require(self.margin > 0.0 && self.margin <= 10.0, "margin", "must be above 0, at most 10")?;
        require((2..=256).contains(&self.classes_per_batch), "classes_per_batch", "must be 2 to 256")?;
        require((2..=256).contains(&self.images_per_class), "images_per_class", "must be 2 to 256")?;
        let Drawn { train, validation, batch } = self.triplets;
        require(
            (1..=MOST_TRIPLETS).contains(&train)
                && (1..=MOST_HELD_OUT).contains(&validation)
                && (1..=512).contains(&batch),
            "triplets",
            format!("needs train of 1 to {MOST_TRIPLETS}, validation of 1 to {MOST_HELD_OUT}, and batch of 1 to 512"),
        )?;
        let CrossEntropy { weight, scale, mixup, cutmix } = self.cross_entropy;
        let sound = (0.0..=100.0).contains(&weight)
            && scale > 0.0
            && scale <= 100.0
            && (mixup == 0.0 || (LEAST_MIXUP..=1.0).contains(&mixup))
            && (0.0..=1.0).contains(&cutmix);
        require(
            sound,
            "cross_entropy",
            "needs a weight of 0 to 100, a scale above 0 and at most 100, a mixup of 0 or of 0.01 to 1, and a cutmix of 0 to 1",
        )?;
        require((2..=256).contains(&self.plain_per_class), "plain_per_class", "must be 2 to 256")?;
        require(self.embed.shift <= MOST_SHIFT, "embed", format!("needs a shift of 0 to {MOST_SHIFT}"))?;
        require((1..=4).contains(&self.views), "views", "must be 1 to 4")?;
        let mixes = self.mining == Mining::BatchAll && weight > 0.0 && mixup > 0.0;
        require(!mixes || self.views > 1, "views", "must be 2 or more with cross_entropy.mixup above 0")?;
        require((1..=10_000).contains(&self.evaluate_every), "evaluate_every", "must be 1 to 10000")?;
        require(self.validation > 0.0 && self.validation <= 0.5, "validation", "must be above 0, at most 0.5")?;
        self.augment.check()
    }

    /// Only the pictures of the training side, with how they were prepared: a changed test picture trains nothing again.
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
        let (prepare, split) = (inputs.result("prepare")?, inputs.result("split")?);
        let of = (prepare.contents.digest(), split.contents.digest());
        let pictures = inputs.fact("pictures", &of, || data::digest(&prepare.contents, &split.folder))?;
        Ok([("pictures".to_owned(), pictures)].into())
    }

    fn precheck(&self, ready: &Inputs) -> Result<()> {
        artifacts::split_must_fit(ready, ready.needs.iter().map(|need| &need.instance))
    }

    fn run(&self, context: &Context) -> Result<()> {
        let preparation = context.input("prepare")?.join(dataset::PREPARATION);
        let preparation = serde_json::from_slice(&files::read(&preparation)?)
            .map_err(|error| damaged!("{}: {error}", preparation.display()))?;
        let configuration = Configuration {
            preparation,
            network: self.network,
            dimension: DIMENSION,
            normalize: self.normalize,
            mirrored: self.embed.mirrored,
            shift: self.embed.shift,
            preprocessing: self.network.preprocessing(),
        };
        let data = data::load(self, context, configuration.preprocessing.clone())?;
        let epochs = match self.network {
            NetworkName::Original => training_loop::fit::<Original>(self, context, &data, &configuration)?,
            NetworkName::Residual => training_loop::fit::<Residual>(self, context, &data, &configuration)?,
            NetworkName::Residual48 => training_loop::fit::<Residual48>(self, context, &data, &configuration)?,
            NetworkName::Residual64 => training_loop::fit::<Residual64>(self, context, &data, &configuration)?,
            NetworkName::ResidualDeep => training_loop::fit::<ResidualDeep>(self, context, &data, &configuration)?,
        };
        context.outputs.write(training_log::FILE, &training_log::to_bytes(&epochs)?)?;
        context.outputs.write(CURVES, &training_log::draw(&context.provenance()?, &epochs)?)
    }
}
