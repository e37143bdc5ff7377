//! Who asks whom: the protocols, and a few queries to show.

use std::collections::BTreeMap;

use anyhow::Result;
use rand::seq::SliceRandom;
use similiai::calibration::{Calibration, Curve, Reliability};
use similiai::damaged;
use similiai::embeddings::Embeddings;
use similiai::listing::Side;
use similiai::metrics::{Ranking, Score, score};
use similiai::search::{Gallery, Neighbour, Query};
use similiai::stage::Context;

/// The longest fixed-length metric looks at so many neighbours.
pub const NEIGHBOURS: usize = 5;

pub struct Protocol {
    pub name: &'static str,
    pub question: &'static str,
    pub queries: usize,
    pub gallery: usize,
    /// In the order of `METRICS`.
    pub scores: Vec<Score>,
    /// What the model's calibration foretold of the nearest neighbours, and what came of it.
    pub reliability: Reliability,
}

/// A query with its nearest images of the training part.
pub struct Example {
    pub query: usize,
    pub neighbours: Vec<Neighbour>,
}

impl Example {
    pub fn ids(&self) -> impl Iterator<Item = usize> {
        [self.query].into_iter().chain(self.neighbours.iter().map(|neighbour| neighbour.id))
    }
}

pub fn ids(embeddings: &Embeddings, side: Side) -> Vec<usize> {
    (0..embeddings.len()).filter(|id| embeddings.splits[*id] == side.name()).collect()
}

fn gallery(embeddings: &Embeddings, ids: &[usize]) -> Result<Gallery<'static>> {
    Gallery::of_some(embeddings.dimension, &embeddings.values, ids.to_vec())
}

pub fn evaluate(embeddings: &Embeddings, calibration: &Calibration, context: &Context) -> Result<Vec<Protocol>> {
    let (train, test) = (ids(embeddings, Side::Train), ids(embeddings, Side::Test));
    if train.is_empty() || test.len() < 2 {
        return Err(damaged!("{} train and {} test embeddings are too few to measure", train.len(), test.len()));
    }
    let protocol = |name, question, among: &[usize], curve: &Curve| {
        let Answers { rankings, nearest } = answers(embeddings, &test, among)?;
        match test.len() - rankings.len() {
            0 => {}
            all if all == test.len() => return Err(damaged!("{name}: no test image has another of its class to find")),
            some => tracing::warn!("{name}: {some} test images have no other of their class to find and are left out"),
        }
        let scores = score(&rankings, &mut context.rng(&format!("bootstrap {name}")));
        let foretold: Vec<(f64, bool)> = nearest.iter().map(|(far, same)| (curve.chance(*far), *same)).collect();
        let reliability = Reliability::of(&foretold);
        Ok(Protocol { name, question, queries: rankings.len(), gallery: among.len(), scores, reliability })
    };
    Ok(vec![
        protocol("test-vs-train", "test images among those whose labels were learned", &train, &calibration.learned)?,
        protocol(
            "test-vs-test",
            "test images among the other test images: pictures never seen",
            &test,
            &calibration.unseen,
        )?,
    ])
}

struct Answers {
    /// Of the queries that have something to find: the metrics are not defined for the others.
    rankings: Vec<Ranking>,
    /// How far their nearest neighbours are, and whether they are of the query's class.
    nearest: Vec<(f32, bool)>,
}

fn answers(embeddings: &Embeddings, queries: &[usize], among: &[usize]) -> Result<Answers> {
    let mut sizes: BTreeMap<i32, usize> = BTreeMap::new();
    among.iter().for_each(|id| *sizes.entry(embeddings.labels[*id]).or_default() += 1);
    let relevant = |query: usize| {
        let all = sizes.get(&embeddings.labels[query]).copied().unwrap_or(0);
        all - usize::from(among.binary_search(&query).is_ok())
    };
    let queries: Vec<usize> = queries.iter().copied().filter(|query| relevant(*query) > 0).collect();
    let asked =
        queries.iter().map(|id| Query::nearest(embeddings.row(*id), relevant(*id).max(NEIGHBOURS)).without(*id));
    let mut answers = Answers { rankings: Vec::new(), nearest: Vec::new() };
    gallery(embeddings, among)?.stream(asked, |place, neighbours| {
        let (query, label) = (queries[place], embeddings.labels[queries[place]]);
        let of = |neighbour: &Neighbour| embeddings.labels[neighbour.id];
        answers.nearest.extend(neighbours.iter().take(NEIGHBOURS).map(|it| (it.distance, of(it) == label)));
        answers.rankings.push(Ranking {
            label,
            labels: neighbours.iter().map(of).collect(),
            relevant: relevant(query),
            others: sizes.iter().filter(|(other, _)| **other != label).map(|(_, size)| *size).collect(),
        });
        Ok(())
    })?;
    Ok(answers)
}

/// `count` random test images, the classes in turn.
pub fn examples(embeddings: &Embeddings, count: usize, context: &Context) -> Result<Vec<Example>> {
    let mut queries = ids(embeddings, Side::Test);
    queries.shuffle(&mut context.rng("examples"));
    let mut seen: BTreeMap<i32, usize> = BTreeMap::new();
    let mut in_turn: Vec<(usize, i32, usize)> = queries
        .into_iter()
        .map(|query| {
            let label = embeddings.labels[query];
            let round = seen.entry(label).or_default();
            *round += 1;
            (*round, label, query)
        })
        .collect();
    in_turn.sort_unstable();
    in_turn.truncate(count);
    let asked: Vec<Query> =
        in_turn.iter().map(|(.., query)| Query::nearest(embeddings.row(*query), NEIGHBOURS).without(*query)).collect();
    let found = gallery(embeddings, &ids(embeddings, Side::Train))?.search(&asked)?;
    Ok(in_turn.iter().zip(found).map(|((.., query), neighbours)| Example { query: *query, neighbours }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_without_anything_to_find_are_left_out() {
        let embeddings = Embeddings {
            dimension: 1,
            paths: vec![String::new(); 4],
            labels: vec![0, 0, 1, 0],
            values: vec![0.0, 1.0, 2.0, 3.0],
            ..Embeddings::default()
        };
        let answers = answers(&embeddings, &[1, 2], &[0, 1, 2, 3]).unwrap();
        assert_eq!(answers.nearest, [(1.0, true), (1.0, false), (2.0, true)]);
        let found = answers.rankings;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].relevant, found[0].labels.as_slice()), (2, &[0, 1, 0][..]));
    }
}
