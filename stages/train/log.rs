//! What each epoch showed: a CSV row, and curves.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use similiai::charts::{self, BLUE, Band, GREEN, Line, ORANGE, Series};
use similiai::listing;

pub const LOG: &str = "training_log.csv";

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    pub epoch: usize,
    pub learning_rate: f64,
    /// The sum of the terms, each by its weight.
    pub loss: f64,
    pub triplet_loss: f64,
    pub cross_entropy: f64,
    /// Share of triplets with a loss above zero.
    pub active_triplets: f64,
    /// Mean distance between two pictures of one class, with the 10th and 90th percentile.
    pub positive_distance: f64,
    pub positive_low: f64,
    pub positive_high: f64,
    /// The same for two pictures of different classes.
    pub negative_distance: f64,
    pub negative_low: f64,
    pub negative_high: f64,
    /// Of held-out pictures among each other; empty where the epoch was not measured.
    pub validation_triplet_loss: Option<f64>,
    /// Of held-out pictures as queries to those learned from.
    #[serde(rename = "validation_precision@5")]
    pub validation_precision: Option<f64>,
}

/// The log as it is read again: rounding keeps it short.
pub fn write(path: &Path, epochs: &[Epoch]) -> Result<()> {
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
    listing::write(path, &epochs.iter().map(row).collect::<Vec<Epoch>>())
}

pub fn draw(path: &Path, facts: &BTreeMap<String, String>, epochs: &[Epoch]) -> Result<()> {
    let measured = |pick: fn(&Epoch) -> Option<f64>| -> Vec<(f64, f64)> {
        epochs.iter().filter_map(|epoch| Some((epoch.epoch as f64, pick(epoch)?))).collect()
    };
    let line =
        |name, color, pick: fn(&Epoch) -> Option<f64>| Series::Line(Line { name, color, points: measured(pick) });
    let band = |color, pick: fn(&Epoch) -> (f64, f64)| {
        let points = epochs.iter().map(|epoch| (epoch.epoch as f64, pick(epoch))).collect();
        Series::Band(Band { color, points })
    };
    let panels: [(&str, Vec<Series>); 6] = [
        (
            "Triplet loss",
            vec![
                line("training", BLUE, |epoch| Some(epoch.triplet_loss)),
                line("held out", ORANGE, |epoch| epoch.validation_triplet_loss),
            ],
        ),
        ("Cross-entropy", vec![line("training", BLUE, |epoch| Some(epoch.cross_entropy))]),
        ("Held-out precision@5", vec![line("precision@5", GREEN, |epoch| epoch.validation_precision)]),
        (
            "Distances: mean, 10 % to 90 %",
            vec![
                band(ORANGE, |epoch| (epoch.negative_low, epoch.negative_high)),
                band(BLUE, |epoch| (epoch.positive_low, epoch.positive_high)),
                line("other class", ORANGE, |epoch| Some(epoch.negative_distance)),
                line("same class", BLUE, |epoch| Some(epoch.positive_distance)),
            ],
        ),
        ("Active triplets", vec![line("share above zero", BLUE, |epoch| Some(epoch.active_triplets))]),
        ("Learning rate", vec![line("last of the epoch", BLUE, |epoch| Some(epoch.learning_rate))]),
    ];
    charts::draw(path, facts, (1440, 780), |area| {
        let areas = area.split_evenly((2, 3));
        areas.iter().zip(&panels).try_for_each(|(area, (title, series))| charts::lines(area, title, series))
    })
}
