//! Which pictures are searched among which, and everything measured in one pass over the answers.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use similiai::damaged;
use similiai::engine::stage::Context;
use similiai::learning::calibration::{Calibration, Curve, Reliability};
use similiai::learning::dataset::Subset;
use similiai::retrieval::embeddings::Embeddings;
use similiai::retrieval::metrics::{Measured, PRECISION_AT_5, Ranking, Score};
use similiai::retrieval::search::{FlatIndex, Neighbour, Query};

use super::at_k::{AtK, MOST, PrecisionAt};
use super::confusion::Confusion;
use super::distances::Distances;
use super::hubness::{self, Hubness};

/// Number of neighbours shown for a query, and counted in confusion and calibration.
pub const NEIGHBOURS: usize = 5;

/// A kind of query that the report measures.
#[derive(Clone, Copy)]
pub struct Question {
    pub name: &'static str,
    /// What users do, in plain words.
    pub task: &'static str,
    /// The queries and the gallery, in plain words.
    pub question: &'static str,
    /// Which pictures are the gallery.
    pub gallery: Subset,
    /// Selects the curve of the model's calibration for this gallery.
    pub curve: fn(&Calibration) -> &Curve,
}

/// The protocol in which the network learned from no picture of the gallery.
pub const UNSEEN: &str = "test-vs-test";

pub const QUESTIONS: [Question; 2] = [
    Question {
        name: "test-vs-train",
        task: "Finding pictures seen in training",
        question: "test pictures, searched among the training pictures, whose classes the network learned",
        gallery: Subset::Train,
        curve: |calibration| &calibration.learned,
    },
    Question {
        name: UNSEEN,
        task: "Finding unseen pictures",
        question: "test pictures, each searched among the other test pictures, which the network never saw",
        gallery: Subset::Test,
        curve: |calibration| &calibration.unseen,
    },
];

pub struct Protocol {
    pub question: Question,
    /// Ids of the queries that have something to find: the metrics are not defined for other pictures.
    pub queries: Vec<usize>,
    /// Number of pictures in the gallery.
    pub gallery: usize,
    /// The measurements of each query.
    pub measured: Vec<Measured>,
    /// The nearest [`NEIGHBOURS`] of each query.
    pub nearest: Vec<Vec<Neighbour>>,
    /// In the order of `METRICS`.
    pub scores: Vec<Score>,
    pub classes: Vec<Class>,
    pub at_k: Vec<AtK>,
    pub confusion: Confusion,
    pub hubness: Hubness,
    pub distances: Distances,
    /// How well the model's calibration predicts which of the nearest neighbours are of the query's class.
    pub reliability: Reliability,
}

/// Precision@5 of the queries of one class.
#[derive(Serialize)]
pub struct Class {
    pub label_name: String,
    pub queries: usize,
    #[serde(flatten)]
    pub score: Score,
}

pub fn ids(embeddings: &Embeddings, subset: Subset) -> Vec<usize> {
    (0..embeddings.len()).filter(|id| embeddings.splits[*id] == subset.name()).collect()
}

/// Each class's label and name.
pub fn classes(embeddings: &Embeddings) -> BTreeMap<i32, String> {
    embeddings.labels.iter().copied().zip(embeddings.label_names.iter().cloned()).collect()
}

/// Searches for every question, in the order of [`QUESTIONS`].
pub fn ask(embeddings: &Embeddings) -> Result<Vec<Answers>> {
    let (train, test) = (ids(embeddings, Subset::Train), ids(embeddings, Subset::Test));
    if train.is_empty() || test.len() < 2 {
        return Err(damaged!("{} train and {} test embeddings are too few to measure", train.len(), test.len()));
    }
    let one = |question: &Question| {
        let among = if question.gallery == Subset::Train { &train } else { &test };
        let answers = answers(*question, embeddings, &test, among)?;
        let name = question.name;
        match test.len() - answers.queries.len() {
            0 => {}
            all if all == test.len() => return Err(damaged!("{name}: no test image has another of its class to find")),
            some => tracing::warn!("{name}: {some} test images have no other of their class to find and are left out"),
        }
        Ok(answers)
    };
    QUESTIONS.iter().map(one).collect()
}

/// Computes everything that the report says about the answers to one question.
pub fn evaluate(answers: Answers, embeddings: &Embeddings, calibration: &Calibration, context: &Context) -> Protocol {
    let Answers { question, among, queries, measured, nearest, precision, confusion, appeared } = answers;
    let name = question.name;
    let scores = Score::of_all(&measured, &mut context.rng(&format!("bootstrap {name}")));
    let labels = classes(embeddings);
    let mut rng = context.rng(&format!("bootstrap classes {name}"));
    let class = |(label, name): (&i32, &String)| {
        let of_class = queries.iter().zip(&measured).filter(|(query, _)| embeddings.labels[**query] == *label);
        let (values, chances): (Vec<f64>, Vec<f64>) =
            of_class.map(|(_, measured)| (measured.values[PRECISION_AT_5], measured.chances[PRECISION_AT_5])).unzip();
        let score = Score::of(&values, *chances.first()?, &mut rng);
        Some(Class { label_name: name.clone(), queries: values.len(), score })
    };
    let of_class = labels.iter().filter_map(class).collect();
    let curve = (question.curve)(calibration);
    let foretold: Vec<(f64, bool)> = queries
        .iter()
        .zip(&nearest)
        .flat_map(|(query, nearest)| nearest.iter().map(move |it| (*query, it)))
        .map(|(query, it)| (curve.chance(it.distance), embeddings.labels[it.id] == embeddings.labels[query]))
        .collect();
    Protocol {
        question,
        gallery: among.len(),
        scores,
        classes: of_class,
        at_k: precision.finish(),
        confusion,
        hubness: Hubness::of(&among, &appeared),
        distances: Distances::measure(embeddings, &queries, &among),
        reliability: Reliability::of(&foretold),
        queries,
        measured,
        nearest,
    }
}

/// What the answers to all queries show together.
pub struct Answers {
    pub question: Question,
    /// Ids of the gallery.
    among: Vec<usize>,
    pub queries: Vec<usize>,
    /// The measurements of each query.
    pub measured: Vec<Measured>,
    nearest: Vec<Vec<Neighbour>>,
    precision: PrecisionAt,
    confusion: Confusion,
    /// By id: how often the picture is among the nearest of a query, and how often of a query of another class.
    appeared: Vec<hubness::Appeared>,
}

fn answers(question: Question, embeddings: &Embeddings, test: &[usize], among: &[usize]) -> Result<Answers> {
    let mut sizes: BTreeMap<i32, usize> = BTreeMap::new();
    among.iter().for_each(|id| *sizes.entry(embeddings.labels[*id]).or_default() += 1);
    let relevant = |query: usize| {
        let all = sizes.get(&embeddings.labels[query]).copied().unwrap_or(0);
        all - usize::from(among.binary_search(&query).is_ok())
    };
    let queries: Vec<usize> = test.iter().copied().filter(|query| relevant(*query) > 0).collect();
    let asked = queries.iter().map(|id| Query::nearest(embeddings.row(*id), relevant(*id).max(MOST)).without(*id));
    let (mut measured, mut nearest, mut precision) = (Vec::new(), Vec::new(), PrecisionAt::default());
    let mut confusion = Confusion::new(&classes(embeddings));
    let mut appeared = vec![hubness::Appeared::default(); embeddings.len()];
    let gallery = FlatIndex::of_some(embeddings.dimension, &embeddings.values, among.to_vec())?;
    gallery.stream(asked, |place, neighbours| {
        let (query, label) = (queries[place], embeddings.labels[queries[place]]);
        let ranking = Ranking {
            label,
            labels: neighbours.iter().map(|neighbour| embeddings.labels[neighbour.id]).collect(),
            relevant: relevant(query),
            others: sizes.iter().filter(|(other, _)| **other != label).map(|(_, size)| *size).collect(),
        };
        measured.push(Measured::of(&ranking));
        precision.add(ranking.labels.iter().map(|found| *found == label));
        ranking.labels.iter().take(NEIGHBOURS).for_each(|found| confusion.count(label, *found));
        for neighbour in neighbours.iter().take(hubness::K) {
            appeared[neighbour.id].count(embeddings.labels[neighbour.id] == label);
        }
        // A truncated list would keep the memory of the full list.
        nearest.push(neighbours[..neighbours.len().min(NEIGHBOURS)].to_vec());
        Ok(())
    })?;
    let among = among.to_vec();
    Ok(Answers { question, among, queries, measured, nearest, precision, confusion, appeared })
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
            label_names: ["a", "a", "b", "a"].map(str::to_owned).to_vec(),
            values: vec![0.0, 1.0, 2.0, 3.0],
            ..Embeddings::default()
        };
        let answers = answers(QUESTIONS[0], &embeddings, &[1, 2], &[0, 1, 2, 3]).unwrap();
        assert_eq!(answers.queries, [1]);
        let found: Vec<(usize, f32)> = answers.nearest[0].iter().map(|it| (it.id, it.distance)).collect();
        assert_eq!(found, [(0, 1.0), (2, 1.0), (3, 2.0)]);
        // Two are relevant; the two nearest are one of the class and one of another.
        assert_eq!(answers.measured[0].values[4], 0.5);
        assert_eq!(answers.confusion.counts, [[2, 1], [0, 0]]);
        assert_eq!((answers.appeared[2].times, answers.appeared[2].wrong, answers.appeared[1].times), (1, 1, 0));
    }
}
