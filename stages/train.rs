//! train: a network learns to place images of a class near each other.

mod augment;
mod data;
mod fit;
mod log;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use similiai::model::{NetworkName, Original, Residual};
use similiai::stage::{Context, Invalid, Stage, require};

pub use log::LOG;

pub const MODEL: &str = "model.safetensors";
pub const CURVES: &str = "training_curves.png";

#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    network: NetworkName,
    epochs: usize,
    learning_rate: f64,
    /// Decoupled, as in Loshchilov and Hutter 2019; 0 gives plain Adam.
    weight_decay: f64,
    /// Share of the steps in which the learning rate rises from 0.
    warm_up: f64,
    schedule: Schedule,
    margin: f64,
    mining: Mining,
    /// Images of each class in a batch (mining `batch-all`).
    images_per_class: usize,
    /// Numbers of triplets (mining `drawn`).
    triplets: Drawn,
    /// Share of each class of the training part that is held out to choose the best epoch.
    validation: f64,
    augment: augment::Augment,
}

/// Which triplets are learned from.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mining {
    /// All valid triplets of each batch.
    BatchAll,
    /// Triplets drawn once at random, before training.
    Drawn,
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Schedule {
    /// Falls to 0 along a half cosine (Loshchilov and Hutter 2017).
    Cosine,
    Constant,
}

#[derive(Clone, Serialize, Deserialize)]
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
            epochs: 40,
            learning_rate: 2e-3,
            weight_decay: 5e-2,
            warm_up: 0.1,
            schedule: Schedule::Cosine,
            margin: 0.2,
            mining: Mining::BatchAll,
            images_per_class: 16,
            triplets: Drawn::default(),
            validation: 0.1,
            augment: augment::Augment::default(),
        }
    }
}

impl Stage for Train {
    const NAME: &'static str = "train";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "trains the network with a triplet loss";
    const NEEDS: &'static [&'static str] = &["prepare", "split"];

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
        require((2..=256).contains(&self.images_per_class), "images_per_class", "must be 2 to 256")?;
        let Drawn { train, validation, batch } = self.triplets;
        require(
            train > 0 && validation > 0 && (1..=512).contains(&batch),
            "triplets",
            "must be 1 or more, batch at most 512",
        )?;
        require(self.validation > 0.0 && self.validation <= 0.5, "validation", "must be above 0, at most 0.5")?;
        self.augment.check()
    }

    fn run(&self, context: &Context) -> Result<()> {
        let configuration = self.network.configuration();
        let data = data::load(self, context, configuration.preprocessing.clone())?;
        let path = context.output.join(MODEL);
        let epochs = match self.network {
            NetworkName::Original => fit::fit::<Original>(self, context, &data, &configuration, &path)?,
            NetworkName::Residual => fit::fit::<Residual>(self, context, &data, &configuration, &path)?,
        };
        log::write(&context.output.join(LOG), &epochs)?;
        log::draw(&context.output.join(CURVES), &epochs)
    }
}
