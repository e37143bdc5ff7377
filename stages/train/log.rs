//! What each epoch showed: a CSV row, and curves.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use similiai::charts::{self, BLUE, GREEN, Line, ORANGE};
use similiai::listing;

pub const LOG: &str = "training_log.csv";

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Epoch {
    pub epoch: usize,
    pub learning_rate: f64,
    pub loss: f64,
    /// Share of triplets with a loss above zero.
    #[serde(rename = "active_triplets")]
    pub active: f64,
    pub validation_loss: f64,
    #[serde(rename = "validation_precision@5")]
    pub validation_precision: f64,
}

pub fn write(path: &Path, epochs: &[Epoch]) -> Result<()> {
    let rounded = |value: f64| (value * 1e6).round() / 1e6;
    let rows: Vec<Epoch> = epochs
        .iter()
        .map(|epoch| Epoch {
            epoch: epoch.epoch,
            learning_rate: (epoch.learning_rate * 1e9).round() / 1e9,
            loss: rounded(epoch.loss),
            active: rounded(epoch.active),
            validation_loss: rounded(epoch.validation_loss),
            validation_precision: rounded(epoch.validation_precision),
        })
        .collect();
    listing::write(path, &rows)
}

pub fn draw(path: &Path, epochs: &[Epoch]) -> Result<()> {
    let column = |pick: fn(&Epoch) -> f64| epochs.iter().map(pick).collect::<Vec<f64>>();
    let (loss, validation_loss) = (column(|epoch| epoch.loss), column(|epoch| epoch.validation_loss));
    let (active, precision) = (column(|epoch| epoch.active), column(|epoch| epoch.validation_precision));
    charts::draw(path, (1200, 420), |area| {
        let (left, right) = area.split_horizontally(600);
        charts::lines(
            &left,
            "Triplet loss",
            &[
                Line { name: "training", color: BLUE, values: &loss },
                Line { name: "held out", color: ORANGE, values: &validation_loss },
            ],
        )?;
        charts::lines(
            &right,
            "Held-out precision@5 and active triplets",
            &[
                Line { name: "precision@5", color: GREEN, values: &precision },
                Line { name: "active triplets", color: BLUE, values: &active },
            ],
        )
    })
}
