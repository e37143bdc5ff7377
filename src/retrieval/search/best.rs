//! The best neighbours of a query so far, and bounds for other candidates.

use super::{Neighbour, Query};

/// Unit roundoff of 32-bit floats.
pub const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// Up to this many neighbours are kept sorted, which gives the tightest bound. To sort more would cost too much.
const FEW: usize = 32;

/// The best neighbours found so far.
#[derive(Clone)]
pub struct Best {
    most: usize,
    reach: f32,
    without: Option<usize>,
    /// At most [`FEW`] neighbours are sorted. More neighbours are not sorted: there are up to half as many more than
    /// asked for, and the worst are removed from time to time.
    found: Vec<Neighbour>,
    /// The worst of the best neighbours when the others were last removed. A candidate that is not better cannot be an
    /// answer.
    worst: Option<Neighbour>,
}

impl Best {
    pub fn new(query: &Query) -> Self {
        let Query { most, reach, without, .. } = *query;
        Self { most, reach, without, found: Vec::new(), worst: None }
    }

    pub fn offer(&mut self, neighbour: Neighbour) {
        if self.without == Some(neighbour.id) || neighbour.distance > self.reach || self.most == 0 {
            return;
        }
        if self.worst.is_some_and(|worst| neighbour >= worst) {
            return;
        }
        if self.most <= FEW {
            let place = self.found.partition_point(|other| *other < neighbour);
            self.found.insert(place, neighbour);
            self.found.truncate(self.most);
            self.worst = self.found.get(self.most - 1).copied();
            return;
        }
        self.found.push(neighbour);
        let first = self.worst.is_none() && self.found.len() == self.most;
        if first || self.found.len() >= self.most.saturating_add(self.most / 2) {
            self.sort_out();
        }
    }

    fn sort_out(&mut self) {
        if self.most > FEW && self.found.len() >= self.most {
            self.found.select_nth_unstable(self.most - 1);
            self.found.truncate(self.most);
            self.worst = self.found.last().copied();
        }
    }

    /// The greatest squared distance that a useful candidate can have. Its root may be rounded up or down.
    pub fn most_squared(&self) -> f64 {
        let worst = self.worst.map_or(self.reach, |worst| worst.distance);
        f64::from(worst.min(self.reach)).powi(2) * (1.0 + 8.0 * ROUNDOFF)
    }

    /// The greatest score that a useful candidate can have.
    pub fn limit(&self, offset: f64) -> f32 {
        ((self.most_squared() + offset) as f32).next_up()
    }

    /// Offers all neighbours of `other`.
    pub fn join(&mut self, other: Self) {
        other.found.into_iter().for_each(|neighbour| self.offer(neighbour));
    }

    /// Returns the neighbours, nearest first.
    pub fn sorted(mut self) -> Vec<Neighbour> {
        self.sort_out();
        self.found.sort_unstable();
        self.found
    }
}
