//! Retrieval metrics: name, definition, value for a query, and baseline.
//!
//! Precision@1, R-precision and MAP@R are defined as in Musgrave et al. 2020, "A Metric Learning Reality Check",
//! section 3.2.

mod bootstrap;
mod queries;

pub use bootstrap::{Difference, Score, Verdict};
pub use queries::{Scored, differences, parse, to_bytes as queries_to_bytes};

/// File name of the scores of each query.
pub const QUERIES: &str = "queries.csv";

/// The ranked labels of one query's neighbours, and the classes in its gallery.
#[derive(Debug, Clone)]
pub struct Ranking {
    pub label: i32,
    /// Labels of the nearest max(R, 5) items, nearest first.
    pub labels: Vec<i32>,
    /// Number of items of the query's own class in the gallery: R.
    pub relevant: usize,
    /// Number of items of each other class in the gallery.
    pub others: Vec<usize>,
}

impl Ranking {
    fn hit(&self, rank: usize) -> bool {
        self.labels.get(rank) == Some(&self.label)
    }

    fn hits(&self, k: usize) -> f64 {
        (0..k).filter(|rank| self.hit(*rank)).count() as f64
    }

    fn gallery(&self) -> usize {
        self.relevant + self.others.iter().sum::<usize>()
    }

    fn share(&self) -> f64 {
        self.relevant as f64 / self.gallery().max(1) as f64
    }
}

pub struct Metric {
    pub name: &'static str,
    pub definition: &'static str,
    pub of: fn(&Ranking) -> f64,
    /// The baseline: the mean value over random orders of the gallery.
    pub chance: fn(&Ranking) -> f64,
}

pub const COUNT: usize = 6;
/// Positions in [`METRICS`].
pub const PRECISION_AT_5: usize = 0;
pub const MAP_AT_R: usize = 5;

pub const METRICS: [Metric; COUNT] = [
    Metric {
        name: "precision@5",
        definition: "share of the 5 nearest that are of the query's class",
        of: |ranking| ranking.hits(5) / 5.0,
        chance: Ranking::share,
    },
    Metric {
        name: "precision@1",
        definition: "whether the nearest is of the query's class",
        of: |ranking| ranking.hits(1),
        chance: Ranking::share,
    },
    Metric {
        name: "hit@5",
        definition: "whether any of the 5 nearest is of the query's class",
        of: |ranking| f64::from(ranking.hits(5) > 0.0),
        chance: |ranking| 1.0 - none_of(ranking, 5),
    },
    Metric {
        name: "vote@5",
        definition: "whether the most frequent class of the 5 nearest is the query's; if several, that of the nearest",
        of: |ranking| f64::from(vote(&ranking.labels[..ranking.labels.len().min(5)]) == Some(ranking.label)),
        chance: |ranking| vote_by_chance(ranking, 5),
    },
    Metric {
        name: "r-precision",
        definition: "share of the R nearest that are of the query's class; the gallery has R items of that class",
        of: |ranking| ranking.hits(ranking.relevant) / ranking.relevant.max(1) as f64,
        chance: Ranking::share,
    },
    Metric {
        name: "map@r",
        definition: "mean over ranks 1 to R of the precision at that rank if it holds the query's class, else 0",
        of: map_at_r,
        chance: map_at_r_by_chance,
    },
];

fn map_at_r(ranking: &Ranking) -> f64 {
    let mut hits = 0.0;
    let precisions = (0..ranking.relevant).filter(|rank| ranking.hit(*rank)).map(|rank| {
        hits += 1.0;
        hits / (rank + 1) as f64
    });
    // Start from 0, because the sum of nothing would be −0.
    precisions.fold(0.0, |sum, precision| sum + precision) / ranking.relevant.max(1) as f64
}

/// A random rank is of the query's class with probability R / gallery. Then R − 1 of the remaining items are of that
/// class.
fn map_at_r_by_chance(ranking: &Ranking) -> f64 {
    let (r, rest) = (ranking.relevant as f64, (ranking.gallery() as f64 - 1.0).max(1.0));
    let at = |rank: usize| ranking.share() * (1.0 + (rank as f64 - 1.0) * (r - 1.0) / rest) / rank as f64;
    (1..=ranking.relevant).map(at).sum::<f64>() / r.max(1.0)
}

/// Probability that none of `k` random items is of the query's class.
fn none_of(ranking: &Ranking, k: usize) -> f64 {
    let (all, foreign) = (ranking.gallery(), ranking.gallery() - ranking.relevant);
    (0..k.min(all)).map(|drawn| foreign.saturating_sub(drawn) as f64 / (all - drawn) as f64).product()
}

/// The most frequent label. Of equally frequent labels, that of the nearest item.
pub fn vote(labels: &[i32]) -> Option<i32> {
    let count = |label: &i32| labels.iter().filter(|other| *other == label).count();
    let most = labels.iter().map(count).max()?;
    labels.iter().find(|label| count(label) == most).copied()
}

/// Probability that the query's class wins the vote of `k` random items, by counting the draws. If classes tie, each is
/// equally likely to have the nearest item.
fn vote_by_chance(ranking: &Ranking, k: usize) -> f64 {
    let k = k.min(ranking.gallery());
    let choose = |n: usize, m: usize| -> f64 {
        if m > n { 0.0 } else { (0..m).map(|i| (n - i) as f64 / (i + 1) as f64).product() }
    };
    let mut won = 0.0;
    for own in 1..=k.min(ranking.relevant) {
        // ways[drawn][tied]: ways to draw items from the other classes, at most `own` of each, with `tied` classes that
        // have `own`.
        let mut ways = vec![vec![0.0; k + 1]; k + 1];
        ways[0][0] = 1.0;
        for size in &ranking.others {
            let mut next = vec![vec![0.0; k + 1]; k + 1];
            for (drawn, row) in ways.iter().enumerate() {
                for (tied, ways) in row.iter().enumerate().filter(|(_, ways)| **ways > 0.0) {
                    for more in 0..=own.min(k - drawn) {
                        next[drawn + more][tied + usize::from(more == own)] += ways * choose(*size, more);
                    }
                }
            }
            ways = next;
        }
        let shared = (0..=k).map(|tied| ways[k - own][tied] / (tied + 1) as f64);
        won += choose(ranking.relevant, own) * shared.sum::<f64>();
    }
    won / choose(ranking.gallery(), k)
}

/// Scores of one query, in the order of [`METRICS`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub values: [f64; COUNT],
    pub chances: [f64; COUNT],
}

impl Measured {
    pub fn of(ranking: &Ranking) -> Self {
        Self {
            values: METRICS.each_ref().map(|it| (it.of)(ranking)),
            chances: METRICS.each_ref().map(|it| (it.chance)(ranking)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seed::rng;
    use rand::seq::SliceRandom;

    fn ranking(labels: &[i32], relevant: usize, others: &[usize]) -> Ranking {
        Ranking { label: 1, labels: labels.to_vec(), relevant, others: others.to_vec() }
    }

    fn value(name: &str, ranking: &Ranking) -> f64 {
        METRICS.iter().find(|metric| metric.name == name).map(|metric| (metric.of)(ranking)).unwrap()
    }

    #[test]
    fn values_by_hand() {
        let mixed = ranking(&[1, 2, 1, 3, 3, 1], 4, &[5, 5]);
        assert_eq!(value("precision@5", &mixed), 0.4);
        assert_eq!(value("precision@1", &mixed), 1.0);
        assert_eq!(value("hit@5", &mixed), 1.0);
        assert_eq!(value("vote@5", &mixed), 1.0, "1 and 3 tie, 1 is nearest");
        assert_eq!(value("r-precision", &mixed), 0.5);
        assert_eq!(value("map@r", &mixed), (1.0 + 2.0 / 3.0) / 4.0);
        assert_eq!(value("hit@5", &ranking(&[2; 5], 4, &[5])), 0.0);
        assert!(value("map@r", &ranking(&[2; 5], 4, &[5])).is_sign_positive());
    }

    #[test]
    fn chance_levels_are_what_random_orders_give() {
        let mut gallery = Vec::new();
        for (label, count) in [(1, 4), (2, 6), (3, 3), (4, 3)] {
            gallery.extend(vec![label; count]);
        }
        let mut rng = rng(1, "test");
        let rankings: Vec<Ranking> = (0..20_000)
            .map(|_| {
                gallery.shuffle(&mut rng);
                ranking(&gallery[..5], 4, &[6, 3, 3])
            })
            .collect();
        for metric in &METRICS {
            let found = rankings.iter().map(metric.of).sum::<f64>() / rankings.len() as f64;
            let chance = (metric.chance)(&rankings[0]);
            assert!((found - chance).abs() < 0.012, "{}: {found} against {chance}", metric.name);
        }
    }

    #[test]
    fn balanced_classes_win_the_vote_alike() {
        assert!((vote_by_chance(&ranking(&[], 160, &[160; 9]), 5) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn places_are_those_of_the_names() {
        assert_eq!((METRICS[PRECISION_AT_5].name, METRICS[MAP_AT_R].name), ("precision@5", "map@r"));
    }

    #[test]
    fn intervals_hold_the_value() {
        let measured: Vec<Measured> = (0..50).map(|i| Measured::of(&ranking(&[1 + i % 2; 5], 5, &[5]))).collect();
        for score in Score::of_all(&measured, &mut rng(1, "test")) {
            assert!(score.low <= score.value && score.value <= score.high && score.low < score.high, "{score:?}");
        }
    }
}
