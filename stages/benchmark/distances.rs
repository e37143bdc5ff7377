//! Distances between pictures of one class, and between pictures of different classes.

use rayon::prelude::*;
use serde::Serialize;
use similiai::retrieval::embeddings::Embeddings;
use similiai::retrieval::search::distance;

/// Largest number of queries whose distances to the gallery are measured; if there are more, this many are taken at
/// even intervals.
const QUERIES: usize = 1000;
/// Number of bins. They reach up to twice the length of the longest embedding.
const BINS: usize = 100;

#[derive(Debug, Serialize)]
pub struct Distances {
    pub queries: usize,
    /// Width of a bin; the first bin starts at 0.
    pub width: f64,
    /// Number of pairs of one class in each bin.
    pub same: Vec<u64>,
    /// Number of pairs of different classes in each bin.
    pub different: Vec<u64>,
    /// Area that both histograms share, each scaled to 1 (Inman and Bradley 1989): 0 if distance alone separates the
    /// classes, 1 if it says nothing about them. `None` if all pairs are of one kind.
    pub overlap: Option<f64>,
}

impl Distances {
    pub fn measure(embeddings: &Embeddings, queries: &[usize], among: &[usize]) -> Self {
        let count = queries.len().min(QUERIES);
        let queries: Vec<usize> = (0..count).map(|place| queries[place * queries.len() / count]).collect();
        let norm = |row: &[f32]| row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let longest = embeddings.values.chunks_exact(embeddings.dimension).map(norm).fold(1e-9, f64::max);
        let width = 2.0 * longest / BINS as f64;
        let histograms = || [vec![0u64; BINS], vec![0u64; BINS]];
        let one = |mut sums: [Vec<u64>; 2], query: &usize| {
            for other in among.iter().filter(|other| *other != query) {
                let far = f64::from(distance(embeddings.row(*query), embeddings.row(*other)));
                let same = embeddings.labels[*query] == embeddings.labels[*other];
                sums[usize::from(!same)][((far / width) as usize).min(BINS - 1)] += 1;
            }
            sums
        };
        // Sums of whole numbers do not depend on their order.
        let [mut same, mut different] = queries.par_iter().fold(histograms, one).reduce(histograms, |mut all, some| {
            all.iter_mut().flatten().zip(some.iter().flatten()).for_each(|(all, some)| *all += some);
            all
        });
        let used = (0..BINS).rev().find(|bin| same[*bin] + different[*bin] > 0).map_or(1, |bin| bin + 1);
        same.truncate(used);
        different.truncate(used);
        Self { queries: queries.len(), width, overlap: overlap(&same, &different), same, different }
    }

    /// Share of each bin among all pairs of its kind.
    pub fn shares(counts: &[u64]) -> impl Iterator<Item = f64> + '_ {
        let all = counts.iter().sum::<u64>().max(1) as f64;
        counts.iter().map(move |count| *count as f64 / all)
    }
}

fn overlap(a: &[u64], b: &[u64]) -> Option<f64> {
    let some = [a, b].iter().all(|counts| counts.iter().any(|count| *count > 0));
    some.then(|| Distances::shares(a).zip(Distances::shares(b)).map(|(a, b)| a.min(b)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_counted_once() {
        let embeddings = Embeddings {
            dimension: 1,
            labels: vec![0, 0, 1, 1],
            values: vec![0.0, 0.1, 1.0, 0.9],
            ..Embeddings::default()
        };
        let found = Distances::measure(&embeddings, &[0, 2], &[0, 1, 2, 3]);
        // 0–1 and 2–3 are near; 0–2, 0–3, 2–0 and 2–1 are far.
        assert_eq!((found.same.iter().sum::<u64>(), found.different.iter().sum::<u64>()), (2, 4));
        assert_eq!((found.overlap, found.queries), (Some(0.0), 2));
        assert_eq!(found.same.len(), found.different.len());
        assert!(found.different.last() == Some(&2) && (found.width - 0.02).abs() < 1e-6);
    }

    #[test]
    fn the_overlap_is_the_common_area() {
        assert_eq!(overlap(&[1, 1, 0], &[0, 2, 2]), Some(0.5));
        assert_eq!(overlap(&[3, 1], &[6, 2]), Some(1.0));
        assert_eq!(overlap(&[3, 1], &[0, 0]), None);
    }
}
