//! Precision without learning: with the raw pixels, and with the same network with random weights.

use std::borrow::Cow;
use std::path::Path;

use anyhow::Result;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::Serialize;
use similiai::engine::stage::Context;
use similiai::learning::images::read_png;
use similiai::learning::model::{Model, Preprocessing};
use similiai::retrieval::embeddings::Embeddings;
use similiai::retrieval::metrics::{PRECISION_AT_5, Score};
use similiai::retrieval::search::{FlatIndex, Neighbour, Query};

use super::at_k::{AtK, MOST, PrecisionAt};
use super::protocols::{NEIGHBOURS, Protocol};

/// Side to which pictures are scaled down for the comparison of raw pixels, in pixels.
const SIDE: usize = 32;
/// Largest number of queries; if there are more, this many are drawn at random.
const QUERIES: usize = 1000;
/// Number of pictures of the gallery in memory at a time.
const CHUNK: usize = 4096;

#[derive(Serialize)]
pub struct Baseline {
    pub name: &'static str,
    pub definition: &'static str,
    /// One for each protocol, in the same order.
    pub reached: Vec<Reached>,
}

#[derive(Serialize)]
pub struct Reached {
    pub queries: usize,
    #[serde(rename = "precision@5")]
    pub precision: Score,
    #[serde(rename = "precision@k")]
    pub at_k: Vec<AtK>,
}

/// A way to turn pictures into vectors without learning.
struct Way<'a> {
    name: &'static str,
    definition: &'static str,
    /// Returns vectors of shape (pictures, dimension).
    embed: Embed<'a>,
}

/// Turns each picture into a vector.
type Embed<'a> = Box<dyn Fn(&[image::RgbImage]) -> Result<Vec<f32>> + 'a>;

/// Reads the gallery once, in parts, so that memory does not grow with it.
pub fn measure(
    embeddings: &Embeddings,
    model: &Model,
    protocols: &[Protocol],
    pictures: &Path,
    context: &Context,
) -> Result<Vec<Baseline>> {
    let untrained = model.untrained(context.seed)?;
    let pixels = Preprocessing { side: SIDE, mean: 0.0, deviation: 1.0 };
    let raw = |images: &[image::RgbImage]| {
        let row = |image: &image::RgbImage| {
            let mut row = vec![0.0; SIDE * SIDE * 3];
            pixels.apply(&pixels.fit(image.clone()), &mut row);
            row
        };
        Ok(images.par_iter().flat_map_iter(row).collect())
    };
    let ways = [
        Way {
            name: "random weights",
            definition: "the same network before training, one view of each picture",
            embed: Box::new(|images| untrained.embed(images.to_vec())),
        },
        Way {
            name: "raw pixels",
            definition: "no network: the distance between the 32×32 pixels of both pictures",
            embed: Box::new(raw),
        },
    ];
    let read = |ids: &[usize]| -> Result<Vec<image::RgbImage>> {
        ids.par_iter().map(|id| read_png(&pictures.join(&embeddings.paths[*id]))).collect()
    };
    let queries = queries(protocols, context);
    if queries.is_empty() {
        return Ok(Vec::new());
    }
    let asked = read(&queries)?;
    let asked = ways.iter().map(|way| (way.embed)(&asked)).collect::<Result<Vec<_>>>()?;
    // (way, protocol, query): the nearest neighbours found so far.
    let mut found = vec![vec![vec![Vec::<Neighbour>::new(); queries.len()]; protocols.len()]; ways.len()];
    let bar = context.bar("baselines", embeddings.len() as u64);
    for start in (0..embeddings.len()).step_by(CHUNK) {
        let ids: Vec<usize> = (start..embeddings.len().min(start + CHUNK)).collect();
        let images = read(&ids)?;
        for ((way, asked), found) in ways.iter().zip(&asked).zip(&mut found) {
            context.check_signal()?;
            let rows = (way.embed)(&images)?;
            let dimension = rows.len() / ids.len();
            for (protocol, found) in protocols.iter().zip(found) {
                let subset = protocol.question.gallery.name();
                let (some, rows): (Vec<usize>, Vec<&[f32]>) = ids
                    .iter()
                    .copied()
                    .zip(rows.chunks_exact(dimension))
                    .filter(|(id, _)| embeddings.splits[*id] == subset)
                    .unzip();
                let gallery = FlatIndex::with_ids(dimension, some, Cow::Owned(rows.concat()))?;
                let query = |(id, row): (&usize, _)| Query::nearest(row, MOST).without(*id);
                let asked: Vec<Query> = queries.iter().zip(asked.chunks_exact(dimension)).map(query).collect();
                for (best, more) in found.iter_mut().zip(gallery.search(&asked)?) {
                    best.extend(more);
                    best.sort();
                    best.truncate(MOST);
                }
            }
        }
        bar.inc(ids.len() as u64);
    }
    let baseline = |(way, found): (&Way, Vec<Vec<Vec<Neighbour>>>)| {
        let reached = protocols.iter().zip(found).map(|(protocol, found)| {
            let mut rng = context.rng(&format!("bootstrap {} {}", way.name, protocol.question.name));
            let asked = protocol.queries.iter().zip(&protocol.measured);
            let asked = asked.filter(|(query, _)| queries.binary_search(query).is_ok());
            let chances: Vec<f64> = asked.map(|(_, measured)| measured.chances[PRECISION_AT_5]).collect();
            let chance = chances.iter().sum::<f64>() / chances.len() as f64;
            reached(embeddings, &queries, &found, chance, &mut rng)
        });
        Baseline { name: way.name, definition: way.definition, reached: reached.collect() }
    };
    Ok(ways.iter().zip(found).map(baseline).collect())
}

/// The queries that have something to find in every protocol.
fn queries(protocols: &[Protocol], context: &Context) -> Vec<usize> {
    let in_all = |query: &usize| protocols.iter().all(|protocol| protocol.queries.binary_search(query).is_ok());
    let mut queries: Vec<usize> =
        protocols.first().map(|first| first.queries.iter().copied().filter(in_all).collect()).unwrap_or_default();
    if queries.len() > QUERIES {
        queries.shuffle(&mut context.rng("baseline queries"));
        queries.truncate(QUERIES);
        queries.sort_unstable();
    }
    queries
}

fn reached(
    embeddings: &Embeddings,
    queries: &[usize],
    found: &[Vec<Neighbour>],
    chance: f64,
    rng: &mut rand_chacha::ChaCha8Rng,
) -> Reached {
    let (mut precision, mut values) = (PrecisionAt::default(), Vec::new());
    for (query, neighbours) in queries.iter().zip(found) {
        let hits = neighbours.iter().map(|it| embeddings.labels[it.id] == embeddings.labels[*query]);
        values.push(hits.clone().take(NEIGHBOURS).filter(|hit| *hit).count() as f64 / NEIGHBOURS as f64);
        precision.add(hits);
    }
    Reached { queries: queries.len(), precision: Score::of(&values, chance, rng), at_k: precision.finish() }
}
