//! Match probability: how likely it is that a neighbour at a given distance is of the query's class.

use serde::{Deserialize, Serialize};

/// Below this match probability, a neighbour is not a close match: it is more likely of another class.
pub const CLOSE: f64 = 0.5;
/// Number of neighbours of each held-out picture that a curve is fitted to.
pub const NEIGHBOURS: usize = 10;
/// Nearest neighbours give a curve at most this many points. Each point is made from at least [`PAIRS`] pairs, if there
/// are that many.
const POINTS: usize = 20;
const PAIRS: usize = 25;

/// Curves of match probability, fitted to pictures that were held out of the training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// For neighbours that the network learned from.
    pub learned: Curve,
    /// For neighbours that the network never saw in training. Their distances are different.
    pub unseen: Curve,
}

/// A falling curve of match probability: straight lines between points (distance, probability).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve(Vec<(f64, f64)>);

/// Pairs that were pooled into one point of a curve.
struct Block {
    distances: f64,
    same: f64,
    count: f64,
}

impl Block {
    fn distance(&self) -> f64 {
        self.distances / self.count
    }

    /// Whether the probability does not fall from `before` to this block.
    fn violates(&self, before: &Self) -> bool {
        before.same * self.count <= self.same * before.count || before.chance() <= self.chance()
    }

    /// Probability that a pair is of one class: never exactly 0 or 1 (Laplace's rule of succession).
    fn chance(&self) -> f64 {
        (self.same + 1.0) / (self.count + 2.0)
    }
}

impl Calibration {
    /// Whether [`Curve::fit`] could have made both curves.
    pub fn is_sound(&self) -> bool {
        self.learned.is_sound() && self.unseen.is_sound()
    }
}

impl Curve {
    fn is_sound(&self) -> bool {
        let within = self.0.iter().all(|(distance, chance)| distance.is_finite() && (0.0..=1.0).contains(chance));
        within && self.0.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 >= pair[1].1)
    }

    /// Fits a curve to pairs of (distance, same class) by isotonic regression: it pools adjacent violators (Ayer et al.
    /// 1955).
    ///
    /// `near` holds the pairs of nearest neighbours. They are put into groups of equal size. `far` holds any other
    /// pairs. Only those beyond the last near pair are used, in groups that double in size. They extend the curve to
    /// larger distances, so that a picture unlike all others does not get a high probability.
    pub fn fit(mut near: Vec<(f32, bool)>, mut far: Vec<(f32, bool)>) -> Self {
        let sort = |pairs: &mut Vec<(f32, bool)>| pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        sort(&mut near);
        let last = near.last().map_or(0.0, |pair| pair.0);
        far.retain(|pair| pair.0 > last);
        sort(&mut far);
        let size = near.len().div_ceil(POINTS).max(PAIRS);
        let mut blocks: Vec<Block> = Vec::new();
        for pairs in groups(&near, size, 1).into_iter().chain(groups(&far, size, 2)) {
            let distances = pairs.iter().map(|pair| f64::from(pair.0)).sum();
            let same = pairs.iter().filter(|pair| pair.1).count() as f64;
            let mut block = Block { distances, same, count: pairs.len() as f64 };
            while let Some(before) = blocks.pop_if(|before| block.violates(before)) {
                block = Block {
                    distances: before.distances + block.distances,
                    same: before.same + block.same,
                    count: before.count + block.count,
                };
            }
            blocks.push(block);
        }
        Self(blocks.iter().map(|block| (block.distance(), block.chance())).collect())
    }

    /// Match probability at `distance`: interpolated between two points, and constant beyond the first and the last.
    pub fn chance(&self, distance: f32) -> f64 {
        let (points, distance) = (&self.0, f64::from(distance));
        let after = points.partition_point(|point| point.0 <= distance);
        match (after.checked_sub(1).map(|before| points[before]), points.get(after)) {
            (Some((x, y)), Some((next_x, next_y))) => y + (next_y - y) * (distance - x) / (next_x - x),
            (Some((_, chance)), None) | (None, Some(&(_, chance))) => chance,
            (None, None) => 0.0,
        }
    }
}

/// Splits `pairs` into groups. Each is `growth` times the size of the one before. The rest joins the last group.
fn groups(pairs: &[(f32, bool)], mut size: usize, growth: usize) -> Vec<&[(f32, bool)]> {
    let (mut rest, mut groups) = (pairs, Vec::new());
    while !rest.is_empty() {
        let next = if rest.len() < 2 * size { rest.len() } else { size };
        let (group, others) = rest.split_at(next);
        groups.push(group);
        (rest, size) = (others, growth * size);
    }
    groups
}

/// How well match probabilities agree with the neighbours that were found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reliability {
    /// Expected calibration error (Naeini et al. 2015): the mean difference between the match probability and the share
    /// that was right, over groups of similar probability, weighted by their size.
    pub expected_error: f64,
    pub groups: Vec<Group>,
}

/// Neighbours with similar match probabilities.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    pub neighbours: usize,
    /// Mean match probability.
    pub foretold: f64,
    /// Share of the neighbours that are of the query's class.
    pub right: f64,
}

impl Reliability {
    /// Groups pairs of (match probability, same class) by tenths of the probability.
    pub fn of(pairs: &[(f64, bool)]) -> Self {
        let group = |tenth: usize| {
            let within = pairs.iter().filter(|(chance, _)| ((chance * 10.0) as usize).min(9) == tenth);
            let (mut neighbours, mut foretold, mut right) = (0, 0.0, 0);
            for (chance, same) in within {
                neighbours += 1;
                foretold += chance;
                right += usize::from(*same);
            }
            let count = (neighbours as f64).max(1.0);
            Group { neighbours, foretold: foretold / count, right: right as f64 / count }
        };
        let groups: Vec<Group> = (0..10).map(group).filter(|group| group.neighbours > 0).collect();
        let weighted = |group: &Group| group.neighbours as f64 * (group.foretold - group.right).abs();
        let expected_error = groups.iter().map(weighted).sum::<f64>() / (pairs.len() as f64).max(1.0);
        Self { expected_error, groups }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_curve_never_rises_and_stays_between_0_and_1(
            near in prop::collection::vec((0.0f32..1.0, any::<bool>()), 0..400),
            far in prop::collection::vec((0.0f32..2.0, any::<bool>()), 0..400),
        ) {
            let curve = Curve::fit(near, far);
            prop_assert!(curve.is_sound());
            let chances: Vec<f64> = (0..=40).map(|i| curve.chance(i as f32 * 0.05)).collect();
            prop_assert!(chances.windows(2).all(|pair| pair[1] <= pair[0]), "{chances:?}");
            prop_assert!(chances.iter().all(|chance| (0.0..1.0).contains(chance)));
        }
    }

    #[test]
    fn what_is_farther_than_all_neighbours_is_judged_by_other_pairs() {
        let near: Vec<(f32, bool)> = (0..100).map(|i| (i as f32 / 1000.0, true)).collect();
        let far = (0..900).map(|i| (i as f32 / 1000.0, i < 300)).collect();
        assert!(Curve::fit(near.clone(), Vec::new()).chance(0.9) > 0.9);
        let curve = Curve::fit(near, far);
        assert!(curve.chance(0.05) > 0.9 && curve.chance(0.8) < 0.1, "{curve:?}");
    }

    #[test]
    fn a_known_chance_is_found_again() {
        // Of every ten pairs at distance d, 10 · (1 − d) are of the same class.
        let pairs = (0..1000).map(|i| {
            let tenth = i / 100;
            (tenth as f32 / 10.0, i % 10 >= tenth)
        });
        let pairs: Vec<(f32, bool)> = pairs.collect();
        let curve = Curve::fit(pairs.clone(), Vec::new());
        for tenth in 1..10 {
            let distance = tenth as f32 / 10.0;
            assert!((curve.chance(distance) - f64::from(1.0 - distance)).abs() < 0.03, "{distance}");
        }
        let foretold: Vec<(f64, bool)> = pairs.iter().map(|(d, same)| (curve.chance(*d), *same)).collect();
        let reliability = Reliability::of(&foretold);
        assert!(reliability.expected_error < 0.02 && reliability.groups.len() >= 9, "{reliability:?}");
        let wrong: Vec<(f64, bool)> = pairs.iter().map(|(_, same)| (0.95, *same)).collect();
        let of_wrong = Reliability::of(&wrong);
        assert!((of_wrong.expected_error - 0.40).abs() < 1e-9 && of_wrong.groups[0].neighbours == 1000, "{of_wrong:?}");
    }
}
