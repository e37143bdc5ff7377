//! train: trains a network to place images of one class near each other.

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
use similiai::learning::model::{Configuration, DIMENSION, MOST_SHIFT, NetworkName};
use similiai::report::training_log;
use similiai::retrieval::artifacts;

/// Smallest `mixup` above 0. Below it, Jöhnk's algorithm hardly ever ends: the powers of its random numbers round to
/// 0.
const LEAST_MIXUP: f64 = 0.01;

/// Largest number of drawn triplets: all are in memory, with their batches.
const MOST_TRIPLETS: usize = 1_000_000;
/// Largest number of held-out triplets: the embeddings of their pictures are in memory.
const MOST_HELD_OUT: usize = 100_000;

pub const CURVES: &str = "training_curves.png";

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// Architecture of the network.
    network: NetworkName,
    /// Scale embeddings to length 1.
    normalize: bool,
    /// The views of a picture; its embedding is the mean over them. Training does not depend on it.
    embed: Views,
    /// Number of epochs.
    epochs: usize,
    /// Highest learning rate, reached after the warm-up.
    learning_rate: f64,
    /// Decoupled weight decay (Loshchilov and Hutter 2019); 0 gives plain Adam.
    weight_decay: f64,
    /// Share of the steps in which the learning rate rises to its highest value.
    warm_up: f64,
    schedule: Schedule,
    /// Margin of the triplet loss.
    margin: f64,
    mining: Mining,
    /// Number of classes in a batch. If there are more classes, they take turns (mining `batch-all`).
    classes_per_batch: usize,
    /// Number of images of each class in a batch (mining `batch-all`).
    images_per_class: usize,
    /// Number of times that each image is in its batch, each time with another random augmentation (mining
    /// `batch-all`).
    views: usize,
    /// Number of images of each class in each view for the triplet loss, if `cross_entropy.mixup` is above 0.
    plain_per_class: usize,
    /// A second term of the loss, added to the triplet loss (mining `batch-all`).
    cross_entropy: CrossEntropy,
    /// Numbers of triplets (mining `drawn`).
    triplets: Drawn,
    /// Share of each class of the training subset that is held out, to measure the network during the training.
    validation: f64,
    /// Number of epochs between two measurements on the held-out pictures. The last epoch is always measured.
    evaluate_every: usize,
    /// Which epoch's network to keep.
    keep: Keep,
    /// Random changes to the training pictures.
    augment: augmentation::Augment,
}

/// Which triplets to learn from.
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

/// Which epoch's network to keep.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Keep {
    /// The network of the last epoch.
    Last,
    /// The network with the highest measured precision on the held-out pictures.
    Best,
}

/// Which views of a picture to embed.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Views {
    /// Embed the mirror image too.
    mirrored: bool,
    /// Embed the picture moved by this number of pixels in each of the four directions too; 0: only the unmoved
    /// picture.
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
    /// Weight of this term; the triplet loss has weight 1.
    weight: f64,
    /// Factor of the cosines (1 / temperature in the paper).
    scale: f64,
    /// Parameter of Beta(mixup, mixup), from which the shares of mixed pairs of pictures are drawn for the first view
    /// (Zhang et al. 2018); 0: no mixing.
    mixup: f64,
    /// Share of these pairs in which a square of one picture replaces that part of the other (Yun et al. 2019,
    /// "CutMix").
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
    /// Number of triplets to train on.
    train: usize,
    /// Number of triplets of held-out pictures.
    validation: usize,
    /// Number of triplets in a batch.
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

    fn effort(&self) -> f64 {
        let terms = &self.cross_entropy;
        // Inputs of an epoch for each picture.
        let inputs = match self.mining {
            // For about 1,600 pictures. The number of triplets does not depend on it.
            Mining::Drawn => 3.0 * self.triplets.train as f64 / 1600.0,
            Mining::BatchAll if terms.weight > 0.0 && terms.mixup > 0.0 => {
                let plain = self.plain_per_class.min(self.images_per_class) as f64 / self.images_per_class as f64;
                1.0 + (self.views as f64 - 1.0) * plain
            }
            Mining::BatchAll => self.views as f64,
        };
        self.epochs as f64 * inputs * self.network.cost()
    }

    fn check(&self) -> Result<(), Invalid> {
        require((1..=10_000).contains(&self.epochs), "epochs", "must be 1 to 10000")?;
        require(
            self.learning_rate > 0.0 && self.learning_rate <= 10.0,
            "learning_rate",
            "must be above 0 and at most 10",
        )?;
        require((0.0..=1.0).contains(&self.weight_decay), "weight_decay", "must be 0 to 1")?;
        require((0.0..1.0).contains(&self.warm_up), "warm_up", "must be 0 or more and below 1")?;
        require(self.margin > 0.0 && self.margin <= 10.0, "margin", "must be above 0 and at most 10")?;
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
        require(self.validation > 0.0 && self.validation <= 0.5, "validation", "must be above 0 and at most 0.5")?;
        self.augment.check()
    }

    /// Reads only the training pictures and how they were prepared, so that a changed test picture does not cause a
    /// new training.
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
        let epochs = training_loop::fit(self, context, &data, &configuration)?;
        context.outputs.write(training_log::FILE, &training_log::to_bytes(&epochs)?)?;
        context.outputs.write(CURVES, &training_log::draw(&context.provenance()?, &epochs)?)
    }
}
