//! How uncertain a mean over queries is: percentile bootstrap intervals (Efron 1979), plain and paired.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{COUNT, Measured};

const RESAMPLES: usize = 2000;
/// With fewer pairs, there is no verdict. Even if all of them point in one direction, this happens by chance more often
/// than once in twenty (sign test: 2 / 2⁵).
const LEAST_PAIRS: usize = 6;

/// The value of a metric over all queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub value: f64,
    /// Lower end of the 95 % percentile bootstrap interval over queries, with 2,000 resamples.
    pub low: f64,
    pub high: f64,
    pub chance: f64,
}

impl Score {
    /// One score for each metric, in their order. All scores use the same resamples.
    pub fn of_all(measured: &[Measured], rng: &mut ChaCha8Rng) -> Vec<Self> {
        let values: Vec<[f64; COUNT]> = measured.iter().map(|it| it.values).collect();
        let intervals = intervals(&values, rng);
        let mean_of = |pick: &dyn Fn(&Measured) -> f64| mean(measured.iter().map(pick));
        let score = |(at, (low, high))| Self {
            value: mean_of(&|it| it.values[at]),
            low,
            high,
            chance: mean_of(&|it| it.chances[at]),
        };
        intervals.into_iter().enumerate().map(score).collect()
    }

    /// The score of one metric.
    pub fn of(values: &[f64], chance: f64, rng: &mut ChaCha8Rng) -> Self {
        let (low, high) = interval(values, rng);
        Self { value: mean(values.iter().copied()), low, high, chance }
    }
}

/// Shows the value with its interval.
impl std::fmt::Display for Score {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(to, "{:.3} ({:.3}–{:.3})", self.value, self.low, self.high)
    }
}

/// How two runs differ over the same queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    pub queries: usize,
    pub before: f64,
    pub after: f64,
    /// `after` minus `before`.
    pub difference: f64,
    /// Lower end of the 95 % percentile bootstrap interval of the difference. Each draw takes a query with its scores
    /// in both runs.
    pub low: f64,
    pub high: f64,
    pub verdict: Verdict,
}

/// How the run `after` compares with the run `before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Better,
    Worse,
    CannotTell,
}

impl Verdict {
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::CannotTell => "no significant difference",
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { before, after, difference, low, high, verdict, .. } = self;
        let verdict = verdict.in_words();
        write!(to, "{before:.3} → {after:.3}, {difference:+.3} (95 %: {low:+.3} to {high:+.3}): {verdict}")
    }
}

impl Difference {
    /// Compares two runs from the scores of each query, as pairs (before, after).
    pub fn paired(pairs: &[(f64, f64)], rng: &mut ChaCha8Rng) -> Self {
        let differences: Vec<f64> = pairs.iter().map(|(before, after)| after - before).collect();
        let (low, high) = interval(&differences, rng);
        let verdict = match (low > 0.0, high < 0.0) {
            _ if pairs.len() < LEAST_PAIRS => Verdict::CannotTell,
            (true, _) => Verdict::Better,
            (_, true) => Verdict::Worse,
            _ => Verdict::CannotTell,
        };
        let (before, after) = (mean(pairs.iter().map(|pair| pair.0)), mean(pairs.iter().map(|pair| pair.1)));
        let difference = mean(differences.iter().copied());
        Self { queries: pairs.len(), before, after, difference, low, high, verdict }
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

fn interval(values: &[f64], rng: &mut ChaCha8Rng) -> (f64, f64) {
    let rows: Vec<[f64; 1]> = values.iter().map(|value| [*value]).collect();
    intervals(&rows, rng)[0]
}

/// The interval of the mean of each column.
fn intervals<const N: usize>(rows: &[[f64; N]], rng: &mut ChaCha8Rng) -> [(f64, f64); N] {
    if rows.is_empty() {
        return [(0.0, 0.0); N];
    }
    let mut means = std::array::from_fn::<Vec<f64>, N, _>(|_| Vec::with_capacity(RESAMPLES));
    for _ in 0..RESAMPLES {
        let mut sums = [0.0; N];
        for _ in 0..rows.len() {
            // Numbers of 32 bits are drawn equally on every machine, and faster.
            let row = &rows[rng.gen_range(0..rows.len() as u32) as usize];
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        means.iter_mut().zip(sums).for_each(|(means, sum)| means.push(sum / rows.len() as f64));
    }
    means.map(|mut means| {
        means.sort_by(f64::total_cmp);
        let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
        (at(0.025), at(0.975))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seed::rng;

    #[test]
    fn an_interval_is_as_wide_as_theory_says() {
        // For a share p of n values, the standard error is √(p (1 − p) / n).
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0)).collect();
        let Score { value, low, high, .. } = Score::of(&values, 0.1, &mut rng(1, "test"));
        let error = (0.25f64 * 0.75 / 400.0).sqrt();
        assert_eq!(value, 0.25);
        assert!(
            (value - low - 1.96 * error).abs() < 0.01 && (high - value - 1.96 * error).abs() < 0.01,
            "{low} {high}"
        );
    }

    #[test]
    fn pairs_tell_what_the_intervals_of_both_would_not() {
        // Queries differ a lot. The runs differ by only 0.05, on every other query.
        let pairs: Vec<(f64, f64)> = (0..400)
            .map(|i| {
                let hard = f64::from(i % 10) / 10.0;
                (hard, hard + if i % 2 == 0 { 0.05 } else { 0.0 })
            })
            .collect();
        let found = Difference::paired(&pairs, &mut rng(1, "test"));
        assert_eq!((found.verdict, found.queries), (Verdict::Better, 400));
        assert!((found.difference - 0.025).abs() < 1e-9 && found.low < 0.025 && 0.025 < found.high, "{found:?}");
        let back: Vec<(f64, f64)> = pairs.iter().map(|(a, b)| (*b, *a)).collect();
        assert_eq!(Difference::paired(&back, &mut rng(1, "test")).verdict, Verdict::Worse);
        let same: Vec<(f64, f64)> = pairs.iter().map(|(a, _)| (*a, *a)).collect();
        assert_eq!(Difference::paired(&same, &mut rng(1, "test")).verdict, Verdict::CannotTell);
    }

    #[test]
    fn a_handful_of_pairs_tells_nothing() {
        for count in 0..10 {
            let found = Difference::paired(&vec![(0.0, 1.0); count], &mut rng(1, "test"));
            let expected = if count < LEAST_PAIRS { Verdict::CannotTell } else { Verdict::Better };
            assert_eq!(found.verdict, expected, "{count}");
        }
    }

    #[test]
    fn runs_that_are_alike_are_seldom_told_apart() {
        // About 5 in 100 of the 95 % intervals do not include the true difference of 0.
        let mut draws = rng(3, "alike");
        let wrong = (0..200).filter(|trial| {
            let pairs: Vec<(f64, f64)> = (0..100).map(|_| (draws.r#gen::<f64>(), draws.r#gen::<f64>())).collect();
            Difference::paired(&pairs, &mut rng(*trial, "test")).verdict != Verdict::CannotTell
        });
        let wrong = wrong.count();
        assert!((2..=22).contains(&wrong), "{wrong} of 200");
    }
}
