//! What the held-out pictures say of a network.

use similiai::metrics::{METRICS, Ranking};
use similiai::model::{Configuration, DIMENSION, Network};
use similiai::nn::triplet_loss;
use similiai::search::{Gallery, Neighbour};

use super::Train;
use super::data::Data;

/// Neighbours by which an epoch is judged.
pub const JUDGED_BY: usize = 5;

/// Their triplet loss among each other, and their precision as queries to the pictures learned from.
pub fn measure<N: Network>(train: &Train, data: &Data, configuration: &Configuration, network: &N) -> (f64, f64) {
    // The plain pictures: all views would take ten times as long.
    let plain = Configuration { mirrored: false, shift: 0, ..configuration.clone() };
    let embed = |images| plain.embed(network, images);
    let (queries, gallery) = (embed(&data.held_out.images), embed(&data.learned.images));
    let rows: Vec<&[f32]> = queries.chunks_exact(DIMENSION).collect();
    let (chosen, triplets) = &data.validation;
    let points: Vec<f32> = chosen.iter().flat_map(|place| rows[*place]).copied().collect();
    let loss = triplet_loss(&points, DIMENSION, triplets, train.margin).loss;
    let gallery = Gallery::new(gallery.chunks_exact(DIMENSION).enumerate());
    let queries: Vec<_> = rows.iter().map(|row| (*row, JUDGED_BY, None)).collect();
    let precision = |(query, neighbours): (usize, Vec<Neighbour>)| {
        let ranking = Ranking {
            label: data.held_out.labels[query].into(),
            labels: neighbours.iter().map(|neighbour| data.learned.labels[neighbour.id].into()).collect(),
            relevant: 0,
            others: Vec::new(),
        };
        (METRICS[0].of)(&ranking)
    };
    let sum: f64 = gallery.nearest_all(&queries).into_iter().enumerate().map(precision).sum();
    (loss, sum / rows.len() as f64)
}
