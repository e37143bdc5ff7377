//! Measures a network on the held-out pictures.

use anyhow::Result;
use image::RgbImage;
use similiai::engine::stage::Context;
use similiai::learning::calibration::{Calibration, Curve, NEIGHBOURS};
use similiai::learning::model::{AnyNetwork, Configuration, DIMENSION};
use similiai::learning::nn::triplet_loss;
use similiai::retrieval::metrics::{METRICS, Ranking};
use similiai::retrieval::search::{FlatIndex, Neighbour, Query};

use super::Train;
use super::data::Data;

/// Number of neighbours for the precision of an epoch.
pub const JUDGED_BY: usize = 5;

/// Number of pictures embedded before progress is shown.
const AT_ONCE: usize = 256;
/// Number of held-out pictures that are compared with all others, and not only with their neighbours.
const WITH_ALL: usize = 200;

/// The triplet loss among the held-out pictures, and their precision as queries among the pictures learned from.
pub fn measure(
    train: &Train,
    data: &Data,
    configuration: &Configuration,
    network: &dyn AnyNetwork,
) -> Result<(f64, f64)> {
    // Embeds only the plain pictures: all views would take ten times as long.
    let plain = Configuration { mirrored: false, shift: 0, ..configuration.clone() };
    let embed = |images| plain.embed(network, images);
    let (queries, gallery) = (embed(&data.held_out.images), embed(&data.learned.images));
    let rows: Vec<&[f32]> = queries.chunks_exact(DIMENSION).collect();
    let (chosen, triplets) = &data.validation;
    let points: Vec<f32> = chosen.iter().flat_map(|place| rows[*place]).copied().collect();
    let loss = triplet_loss(&points, DIMENSION, triplets, train.margin).loss;
    let gallery = FlatIndex::of_rows(DIMENSION, &gallery)?;
    let queries: Vec<Query> = rows.iter().map(|row| Query::nearest(row, JUDGED_BY)).collect();
    let precision = |(query, neighbours): (usize, Vec<Neighbour>)| {
        let ranking = Ranking {
            label: data.held_out.labels[query].into(),
            labels: neighbours.iter().map(|neighbour| data.learned.labels[neighbour.id].into()).collect(),
            relevant: 0,
            others: Vec::new(),
        };
        (METRICS[0].of)(&ranking)
    };
    let sum: f64 = gallery.search(&queries)?.into_iter().enumerate().map(precision).sum();
    Ok((loss, sum / rows.len() as f64))
}

/// Fits the match probability of the network's distances on the held-out pictures: as queries among the pictures
/// learned from, and among each other.
pub fn calibrate(
    context: &Context,
    data: &Data,
    configuration: &Configuration,
    network: &dyn AnyNetwork,
) -> Result<Calibration> {
    let bar = context.bar("distances", (data.held_out.images.len() + data.learned.images.len()) as u64);
    let embed = |images: &[RgbImage]| -> Result<Vec<f32>> {
        let mut rows = Vec::with_capacity(images.len() * DIMENSION);
        for images in images.chunks(AT_ONCE) {
            context.check_signal()?;
            rows.extend(configuration.embed(network, images));
            bar.inc(images.len() as u64);
        }
        Ok(rows)
    };
    let (queries, learned) = (embed(&data.held_out.images)?, embed(&data.learned.images)?);
    let curve = |gallery: &[f32], labels: &[u8], themselves: bool| {
        let query = |(id, row)| Query { without: themselves.then_some(id), ..Query::nearest(row, NEIGHBOURS) };
        let asked: Vec<Query> = queries.chunks_exact(DIMENSION).enumerate().map(query).collect();
        let gallery = FlatIndex::of_rows(DIMENSION, gallery)?;
        let pairs = |places: Vec<usize>, most: usize| {
            let asked: Vec<Query> = places.iter().map(|place| Query { most, ..asked[*place] }).collect();
            let found = gallery.search(&asked)?.into_iter().zip(places).flat_map(|(neighbours, query)| {
                let label = data.held_out.labels[query];
                neighbours.into_iter().map(move |neighbour| (neighbour.distance, labels[neighbour.id] == label))
            });
            anyhow::Ok(found.collect::<Vec<(f32, bool)>>())
        };
        let all = 0..asked.len();
        let some = all.clone().step_by(all.len().div_ceil(WITH_ALL).max(1)).collect();
        anyhow::Ok(Curve::fit(pairs(all.collect(), NEIGHBOURS)?, pairs(some, usize::MAX)?))
    };
    Ok(Calibration {
        learned: curve(&learned, &data.learned.labels, false)?,
        unseen: curve(&queries, &data.held_out.labels, true)?,
    })
}
