//! Searches a gallery of embeddings for similar pictures, and gives answers for users.

use std::borrow::Cow;

use anyhow::Result;
use serde::Serialize;

use crate::base::error::Failure;
use crate::learning::calibration::{CLOSE, Calibration};
use crate::learning::dataset::Subset;
use crate::retrieval::copies::COPY;
use crate::retrieval::embeddings::Embeddings;
use crate::retrieval::search::{FlatIndex, Graph, Neighbour, Query, distance};

/// A gallery that can be searched.
pub struct Searcher {
    /// The embeddings without their values, which are in `vectors`.
    pub embeddings: Embeddings,
    vectors: Box<dyn Vectors>,
    calibration: Calibration,
}

/// The vectors of a gallery, and how they are searched.
pub trait Vectors: Send + Sync {
    /// Vectors of `ids`, in the same order.
    fn of(&self, ids: &[usize]) -> Result<Vec<Cow<'_, [f32]>>>;

    /// The nearest pictures among those that `options` allow.
    fn nearest(&self, query: &Query, options: &SearchOptions) -> Result<Vec<Neighbour>>;
}

impl Vectors for FlatIndex<'static> {
    fn of(&self, ids: &[usize]) -> Result<Vec<Cow<'_, [f32]>>> {
        Ok(ids.iter().map(|id| Cow::Borrowed(self.row(*id))).collect())
    }

    fn nearest(&self, query: &Query, options: &SearchOptions) -> Result<Vec<Neighbour>> {
        match (options.among, options.graph) {
            (Some(ids), _) => self.search_among(query, ids),
            (None, Some((graph, ef))) => Ok(graph.search(self, query, ef)?.0),
            (None, None) => Ok(self.search(std::slice::from_ref(query))?.remove(0)),
        }
    }
}

/// A neighbour with everything that is known about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    /// Rank of the neighbour, from 1.
    pub rank: usize,
    pub id: usize,
    pub path: String,
    pub label_name: String,
    pub split: String,
    pub distance: f32,
    /// Match probability: how likely it is that the neighbour is of the query's class.
    pub chance: f64,
    /// Ids of its copies that are also near.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<usize>,
}

/// The answer to one query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// Name of the query.
    pub query: String,
    /// Whether the match probability of the nearest neighbour is at least one half.
    pub close: bool,
    pub results: Vec<Hit>,
}

/// Options of a search.
#[derive(Clone, Copy)]
pub struct SearchOptions<'a> {
    /// Number of neighbours. Without it, there are five, or all if there are fewer.
    pub k: Option<usize>,
    /// Show copies of an answer as one answer.
    pub distinct: bool,
    /// Search with this graph, and look at this many candidates. Without it, the search is exact.
    pub graph: Option<(&'a Graph, usize)>,
    /// Only these ids can be answers. They are in ascending order.
    pub among: Option<&'a [usize]>,
}

/// A picture that is used as a query.
pub struct Asked<'a> {
    pub name: String,
    pub vector: &'a [f32],
    /// Its id, if it is in the gallery itself.
    pub id: Option<usize>,
}

impl Searcher {
    pub fn new(mut embeddings: Embeddings, calibration: Calibration) -> Result<Self> {
        if embeddings.is_empty() {
            return Err(Failure::Usage("there are no pictures to search: the gallery is empty".to_owned()).into());
        }
        let index = FlatIndex::of_rows(embeddings.dimension, std::mem::take(&mut embeddings.values))?;
        Ok(Self::with_vectors(embeddings, Box::new(index), calibration))
    }

    /// `embeddings` must not have values. These are in `vectors`.
    pub fn with_vectors(embeddings: Embeddings, vectors: Box<dyn Vectors>, calibration: Calibration) -> Self {
        Self { embeddings, vectors, calibration }
    }

    pub fn vector(&self, id: usize) -> Result<Cow<'_, [f32]>> {
        Ok(self.vectors(&[id])?.remove(0))
    }

    /// Vectors of `ids`, in the same order.
    pub fn vectors(&self, ids: &[usize]) -> Result<Vec<Cow<'_, [f32]>>> {
        self.vectors.of(ids)
    }

    pub fn answer(&self, asked: &Asked, options: &SearchOptions) -> Result<Answer> {
        let others = self.others(asked, options);
        let k = options.k.unwrap_or(others.min(5));
        if k > others {
            let why =
                format!("-k {k} asks for more neighbours than there are: the gallery has {others} other pictures");
            return Err(Failure::Usage(why).into());
        }
        let mut most = k;
        loop {
            let query = Query { without: asked.id, ..Query::nearest(asked.vector, most) };
            let found = self.vectors.nearest(&query, options)?;
            let folded =
                if options.distinct { self.fold(&found)? } else { found.into_iter().map(|it| (it, vec![])).collect() };
            if folded.len() >= k || most >= others {
                let results = folded.into_iter().take(k).enumerate();
                let results: Vec<Hit> = results.map(|(rank, (it, copies))| self.result(rank + 1, it, copies)).collect();
                let close = results.first().is_some_and(|best| best.chance >= CLOSE);
                return Ok(Answer { query: asked.name.clone(), close, results });
            }
            most = (2 * most).min(others);
        }
    }

    /// Number of possible answers.
    pub fn others(&self, asked: &Asked, options: &SearchOptions) -> usize {
        match options.among {
            Some(ids) => ids.len() - usize::from(asked.id.is_some_and(|id| ids.binary_search(&id).is_ok())),
            None => self.embeddings.len() - usize::from(asked.id.is_some()),
        }
    }

    /// Returns the first picture of each set of copies, with the ids of the others.
    fn fold(&self, found: &[Neighbour]) -> Result<Vec<(Neighbour, Vec<usize>)>> {
        let ids: Vec<usize> = found.iter().map(|neighbour| neighbour.id).collect();
        let rows = self.vectors(&ids)?;
        // Each entry has its position among the rows.
        let mut folded: Vec<(usize, Vec<usize>)> = Vec::new();
        for (place, row) in rows.iter().enumerate() {
            match folded.iter_mut().find(|(first, _)| distance(&rows[*first], row) <= COPY) {
                Some((_, copies)) => copies.push(ids[place]),
                None => folded.push((place, Vec::new())),
            }
        }
        Ok(folded.into_iter().map(|(place, copies)| (found[place], copies)).collect())
    }

    fn result(&self, rank: usize, Neighbour { id, distance }: Neighbour, copies: Vec<usize>) -> Hit {
        let Embeddings { paths, label_names, splits, .. } = &self.embeddings;
        let (path, label_name, split) = (paths[id].clone(), label_names[id].clone(), splits[id].clone());
        let learned = split == Subset::Train.name();
        let curve = if learned { &self.calibration.learned } else { &self.calibration.unseen };
        Hit { rank, id, path, label_name, split, distance, chance: curve.chance(distance), copies }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::calibration::Curve;

    fn searcher(values: &[f32]) -> Searcher {
        let count = values.len();
        let pairs = (0..200).map(|i| (i as f32 / 100.0, i < 100)).collect();
        let curve = Curve::fit(pairs, Vec::new());
        let embeddings = Embeddings {
            dimension: 1,
            paths: (0..count).map(|id| format!("{id}.png")).collect(),
            labels: vec![0; count],
            label_names: vec![String::new(); count],
            splits: vec![String::new(); count],
            values: values.to_vec(),
            facts: Default::default(),
        };
        Searcher::new(embeddings, Calibration { learned: curve.clone(), unseen: curve }).unwrap()
    }

    fn ids(answer: &Answer) -> Vec<usize> {
        answer.results.iter().map(|result| result.id).collect()
    }

    fn ask<'a>(vector: &'a [f32], id: Option<usize>) -> Asked<'a> {
        Asked { name: "q".to_owned(), vector, id }
    }

    const PLAIN: SearchOptions = SearchOptions { k: None, distinct: false, graph: None, among: None };

    #[test]
    fn answers_leave_out_the_query_and_say_whether_they_are_close() {
        let searcher = searcher(&[0.0, 0.3, 0.5, 5.0]);
        let answer = searcher.answer(&ask(&[0.0], Some(0)), &SearchOptions { k: Some(2), ..PLAIN }).unwrap();
        assert_eq!((ids(&answer), answer.close), (vec![1, 2], true));
        assert!(!searcher.answer(&ask(&[9.0], None), &PLAIN).unwrap().close);
        assert_eq!(searcher.answer(&ask(&[0.0], Some(0)), &PLAIN).unwrap().results.len(), 3);
        let error =
            searcher.answer(&ask(&[0.0], Some(0)), &SearchOptions { k: Some(4), ..PLAIN }).unwrap_err().to_string();
        assert!(error.contains("-k 4 asks for more") && error.contains("3 other pictures"), "{error}");
    }

    #[test]
    fn only_allowed_ids_are_answers() {
        let searcher = searcher(&[0.0, 0.3, 0.5, 5.0, 6.0]);
        let options = SearchOptions { k: Some(2), among: Some(&[0, 2, 4]), ..PLAIN };
        assert_eq!(ids(&searcher.answer(&ask(&[0.0], Some(0)), &options).unwrap()), [2, 4]);
        assert_eq!(ids(&searcher.answer(&ask(&[0.0], None), &options).unwrap()), [0, 2]);
        assert_eq!(searcher.others(&ask(&[0.0], Some(1)), &options), 3);
        let error =
            searcher.answer(&ask(&[0.0], Some(0)), &SearchOptions { k: Some(3), ..options }).unwrap_err().to_string();
        assert!(error.contains("2 other pictures"), "{error}");
    }

    #[test]
    fn copies_of_an_answer_are_folded_into_it() {
        let searcher = searcher(&[1.0, 1.01, 1.02, 2.0, 3.0]);
        let answer =
            searcher.answer(&ask(&[0.9], None), &SearchOptions { k: Some(2), distinct: true, ..PLAIN }).unwrap();
        assert_eq!((ids(&answer), &answer.results[0].copies), (vec![0, 3], &vec![1, 2]));
        // There are fewer answers than asked for, because there are no more.
        let answer =
            searcher.answer(&ask(&[0.9], None), &SearchOptions { k: Some(5), distinct: true, ..PLAIN }).unwrap();
        assert_eq!(ids(&answer), [0, 3, 4]);
    }
}
