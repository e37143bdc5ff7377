//! Precision at every k, to show how it falls along the list of neighbours.

use serde::Serialize;

/// Largest k.
pub const MOST: usize = 50;

/// A point of the curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AtK {
    pub k: usize,
    pub value: f64,
    /// 95 % interval of the mean over queries, by the normal distribution.
    pub low: f64,
    pub high: f64,
}

/// Sums over queries, for each k.
#[derive(Default)]
pub struct PrecisionAt {
    queries: usize,
    /// Sums of the precisions, and of their squares, for each k. As long as the shortest list.
    sums: Option<Vec<(f64, f64)>>,
}

impl PrecisionAt {
    /// Adds one query. `hits` says for each neighbour, nearest first, whether it is of the query's class.
    pub fn add(&mut self, hits: impl Iterator<Item = bool>) {
        let mut right = 0;
        let precisions: Vec<f64> = hits
            .take(MOST)
            .enumerate()
            .map(|(before, hit)| {
                right += usize::from(hit);
                right as f64 / (before + 1) as f64
            })
            .collect();
        let sums = self.sums.get_or_insert_with(|| vec![(0.0, 0.0); precisions.len()]);
        sums.truncate(precisions.len());
        sums.iter_mut().zip(precisions).for_each(|(sums, precision)| {
            *sums = (sums.0 + precision, sums.1 + precision * precision);
        });
        self.queries += 1;
    }

    pub fn finish(self) -> Vec<AtK> {
        let count = self.queries.max(1) as f64;
        let point = |(place, (sum, squares)): (usize, (f64, f64))| {
            let value = sum / count;
            let variance = (squares / count - value * value).max(0.0) * count / (count - 1.0).max(1.0);
            let half = 1.96 * (variance / count).sqrt();
            AtK { k: place + 1, value, low: (value - half).max(0.0), high: (value + half).min(1.0) }
        };
        self.sums.unwrap_or_default().into_iter().enumerate().map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_by_hand() {
        let mut precision = PrecisionAt::default();
        precision.add([true, false, true, true].into_iter());
        precision.add([false, false, true].into_iter());
        let points = precision.finish();
        let values: Vec<f64> = points.iter().map(|point| point.value).collect();
        assert_eq!(values, [0.5, 0.25, (2.0 / 3.0 + 1.0 / 3.0) / 2.0], "as long as the shortest list");
        // Two queries with 1 and 0: variance 1/2, standard error 1/2.
        assert_eq!((points[0].low, points[0].high), (0.0, 1.0));
        assert!((points[2].high - 0.5 - 1.96 * (1.0f64 / 36.0).sqrt()).abs() < 1e-12);
    }
}
