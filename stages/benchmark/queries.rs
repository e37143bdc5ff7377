//! Queries shown in the report: some drawn at random, the best and the worst.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use similiai::engine::stage::Context;
use similiai::retrieval::embeddings::Embeddings;
use similiai::retrieval::metrics::MAP_AT_R;
use similiai::retrieval::search::Neighbour;

use super::protocols::Protocol;

/// Number of best queries to show, and of worst queries.
const EXTREMES: usize = 5;

/// A query with its nearest neighbours.
pub struct Example {
    pub query: usize,
    pub neighbours: Vec<Neighbour>,
    /// Its average precision: `map@r` of this query.
    pub score: f64,
}

impl Example {
    pub fn ids(&self) -> impl Iterator<Item = usize> {
        [self.query].into_iter().chain(self.neighbours.iter().map(|neighbour| neighbour.id))
    }
}

pub struct Shown {
    pub random: Vec<Example>,
    pub best: Vec<Example>,
    pub worst: Vec<Example>,
}

impl Shown {
    /// Draws `count` queries at random, with the classes in turn. Takes the queries with the highest and the lowest
    /// average precision; among equals, those with the nearest neighbour.
    pub fn of(protocol: &Protocol, embeddings: &Embeddings, count: usize, context: &Context) -> Self {
        let example = |place: usize| Example {
            query: protocol.queries[place],
            neighbours: protocol.nearest[place].clone(),
            score: protocol.measured[place].values[MAP_AT_R],
        };
        let all = |places: Vec<usize>| places.into_iter().map(example).collect();
        let mut order: Vec<usize> = (0..protocol.queries.len()).collect();
        let nearest = |place: usize| protocol.nearest[place].first().map_or(f32::MAX, |neighbour| neighbour.distance);
        let mut extreme = |sign: f64| -> Vec<usize> {
            let score = |place: usize| sign * protocol.measured[place].values[MAP_AT_R];
            order.sort_by(|a, b| {
                score(*b).total_cmp(&score(*a)).then(nearest(*a).total_cmp(&nearest(*b))).then(a.cmp(b))
            });
            order.iter().copied().take(EXTREMES).collect()
        };
        let (best, worst) = (extreme(1.0), extreme(-1.0));
        let mut random: Vec<usize> = (0..protocol.queries.len()).collect();
        random.shuffle(&mut context.rng("examples"));
        let random = in_turn(random, |place| embeddings.labels[protocol.queries[place]], count);
        Self { random: all(random), best: all(best), worst: all(worst) }
    }

    pub fn all(&self) -> impl Iterator<Item = &Example> {
        self.random.iter().chain(&self.best).chain(&self.worst)
    }
}

/// The first place of each class, in the order of classes, then the second place of each, and so on.
fn in_turn(places: Vec<usize>, label: impl Fn(usize) -> i32, count: usize) -> Vec<usize> {
    let mut seen: BTreeMap<i32, usize> = BTreeMap::new();
    let round = |place: usize| {
        let round = seen.entry(label(place)).or_default();
        *round += 1;
        (*round, label(place), place)
    };
    let mut turns: Vec<(usize, i32, usize)> = places.into_iter().map(round).collect();
    turns.sort_unstable();
    turns.into_iter().map(|(.., place)| place).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_take_turns() {
        let labels = [0, 0, 0, 1, 2, 2];
        assert_eq!(in_turn(vec![2, 0, 5, 3, 1, 4], |place| labels[place], 5), [2, 3, 5, 0, 4]);
    }
}
