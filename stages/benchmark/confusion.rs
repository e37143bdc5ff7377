//! Classes of the nearest neighbours, for the queries of each class.

use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Confusion {
    pub classes: Vec<String>,
    /// Numbers of neighbours, of shape (class of the query, class of the neighbour).
    pub counts: Vec<Vec<usize>>,
    #[serde(skip)]
    places: BTreeMap<i32, usize>,
}

impl Confusion {
    pub fn new(classes: &BTreeMap<i32, String>) -> Self {
        let places = classes.keys().enumerate().map(|(place, label)| (*label, place)).collect();
        let counts = vec![vec![0; classes.len()]; classes.len()];
        Self { classes: classes.values().cloned().collect(), counts, places }
    }

    /// Counts a neighbour of class `found` for a query of class `label`.
    pub fn count(&mut self, label: i32, found: i32) {
        self.counts[self.places[&label]][self.places[&found]] += 1;
    }

    /// The counts of a row, as shares of their sum.
    pub fn shares(&self, row: usize) -> impl Iterator<Item = f64> + '_ {
        let all = self.counts[row].iter().sum::<usize>().max(1) as f64;
        self.counts[row].iter().map(move |count| *count as f64 / all)
    }

    /// The most frequent confusion of two different classes: (row, column, share).
    pub fn worst(&self) -> Option<(usize, usize, f64)> {
        let rows = 0..self.classes.len();
        let all = rows.flat_map(|row| self.shares(row).enumerate().map(move |(column, share)| (row, column, share)));
        // Of equal shares, the first one counts.
        all.filter(|(row, column, share)| row != column && *share > 0.0)
            .reduce(|best, next| if next.2 > best.2 { next } else { best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_queries() {
        let mut confusion = Confusion::new(&[(3, "cat".to_owned()), (5, "dog".to_owned())].into());
        assert_eq!(confusion.worst(), None);
        for (label, found) in [(3, 5), (3, 3), (3, 3), (5, 3), (5, 3)] {
            confusion.count(label, found);
        }
        assert_eq!(confusion.counts, [[2, 1], [2, 0]]);
        assert_eq!(confusion.shares(0).collect::<Vec<f64>>(), [2.0 / 3.0, 1.0 / 3.0]);
        assert_eq!(confusion.worst(), Some((1, 0, 1.0)));
    }
}
