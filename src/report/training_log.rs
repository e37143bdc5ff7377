//! The log of a training: a CSV row for each epoch, and curves.

use std::collections::BTreeMap;

use crate::learning::dataset;
use crate::report::charts::{self, Area, Axes, BLUE, Band, Line, Look, ORANGE, Series};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The name of the file.
pub const FILE: &str = "training_log.csv";

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    pub epoch: usize,
    pub learning_rate: f64,
    /// The weighted sum of the losses.
    pub loss: f64,
    pub triplet_loss: f64,
    pub cross_entropy: f64,
    /// Share of triplets with a loss above zero.
    pub active_triplets: f64,
    /// Mean distance between two pictures of one class. `positive_low` and `positive_high` are the 10th and the 90th
    /// percentile.
    pub positive_distance: f64,
    pub positive_low: f64,
    pub positive_high: f64,
    /// The same for two pictures of different classes.
    pub negative_distance: f64,
    pub negative_low: f64,
    pub negative_high: f64,
    /// Among held-out pictures. Empty if it was not measured in this epoch.
    pub validation_triplet_loss: Option<f64>,
    /// For held-out pictures as queries, among the pictures that the network learned from.
    #[serde(rename = "validation_precision@5")]
    pub validation_precision: Option<f64>,
}

/// Writes the log as CSV. Values are rounded to keep it short.
pub fn to_bytes(epochs: &[Epoch]) -> Result<Vec<u8>> {
    let rounded = |value: f64| (value * 1e6).round() / 1e6;
    let row = |epoch: &Epoch| Epoch {
        epoch: epoch.epoch,
        learning_rate: (epoch.learning_rate * 1e9).round() / 1e9,
        loss: rounded(epoch.loss),
        triplet_loss: rounded(epoch.triplet_loss),
        cross_entropy: rounded(epoch.cross_entropy),
        active_triplets: rounded(epoch.active_triplets),
        positive_distance: rounded(epoch.positive_distance),
        positive_low: rounded(epoch.positive_low),
        positive_high: rounded(epoch.positive_high),
        negative_distance: rounded(epoch.negative_distance),
        negative_low: rounded(epoch.negative_low),
        negative_high: rounded(epoch.negative_high),
        validation_triplet_loss: epoch.validation_triplet_loss.map(rounded),
        validation_precision: epoch.validation_precision.map(rounded),
    };
    dataset::to_bytes(&epochs.iter().map(row).collect::<Vec<Epoch>>())
}

/// A chart whose x axis is the epochs.
pub struct Panel {
    pub title: &'static str,
    pub up: &'static str,
    pub series: Vec<Series<'static>>,
    epochs: usize,
}

/// The charts of a training, for the page of a report and for a separate picture.
pub fn panels(epochs: &[Epoch]) -> Vec<Panel> {
    let line = |name, color, look, pick: fn(&Epoch) -> Option<f64>| {
        let points = epochs.iter().filter_map(|epoch| Some((epoch.epoch as f64, pick(epoch)?))).collect();
        Series::Line(Line { name, color, look, points })
    };
    let training = |name, pick: fn(&Epoch) -> Option<f64>| line(name, BLUE, Look::Solid, pick);
    let band = |color, pick: fn(&Epoch) -> (f64, f64)| {
        let points = epochs.iter().map(|epoch| (epoch.epoch as f64, pick(epoch))).collect();
        Series::Band(Band { color, points })
    };
    let panel = |title, up, series| Panel { title, up, series, epochs: epochs.len() };
    vec![
        panel(
            "Triplet loss",
            "loss",
            vec![
                training("training", |epoch| Some(epoch.triplet_loss)),
                line("held out", ORANGE, Look::Dashed, |epoch| epoch.validation_triplet_loss),
            ],
        ),
        panel("Cross-entropy", "loss", vec![training("training", |epoch| Some(epoch.cross_entropy))]),
        panel("Held-out precision@5", "share", vec![training("precision@5", |epoch| epoch.validation_precision)]),
        panel(
            "Distances: mean, 10 % to 90 %",
            "distance",
            vec![
                band(ORANGE, |epoch| (epoch.negative_low, epoch.negative_high)),
                band(BLUE, |epoch| (epoch.positive_low, epoch.positive_high)),
                line("other class", ORANGE, Look::Dashed, |epoch| Some(epoch.negative_distance)),
                training("same class", |epoch| Some(epoch.positive_distance)),
            ],
        ),
        panel("Active triplets", "share", vec![training("share above zero", |epoch| Some(epoch.active_triplets))]),
        panel("Learning rate", "", vec![training("last of the epoch", |epoch| Some(epoch.learning_rate))]),
    ]
}

impl Panel {
    pub fn draw(&self, area: &Area) -> Result<()> {
        let x = Some(1.0..self.epochs.max(2) as f64);
        charts::lines(area, self.title, &Axes { names: ("epoch", self.up), x, y: None }, &self.series)
    }
}

/// Draws all charts as PNG, with `facts` in its text chunks.
pub fn draw(facts: &BTreeMap<String, String>, epochs: &[Epoch]) -> Result<Vec<u8>> {
    let svg = charts::svg((1320, 640), |area| {
        area.split_evenly((2, 3)).iter().zip(panels(epochs)).try_for_each(|(area, panel)| panel.draw(area))
    })?;
    charts::png(&svg, &[], facts)
}
