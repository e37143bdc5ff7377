//! The best neighbours of a query so far, and what may still be of use.

use super::{Neighbour, Query};

/// Unit roundoff of 32-bit floats.
pub const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// Up to so many are kept in order, which gives the tightest bound; of more that would cost too much.
const FEW: usize = 32;

/// The best neighbours found so far.
#[derive(Clone)]
pub struct Best {
    most: usize,
    reach: f32,
    without: Option<usize>,
    /// Few in order; many with up to half as many more, sorted out now and then.
    found: Vec<Neighbour>,
    /// The worst of the best as far as they are sorted out: what is behind it is of no use.
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

    /// The greatest squared distance that may still be of use; its root may be rounded up or down.
    pub fn most_squared(&self) -> f64 {
        let worst = self.worst.map_or(self.reach, |worst| worst.distance);
        f64::from(worst.min(self.reach)).powi(2) * (1.0 + 8.0 * ROUNDOFF)
    }

    /// The greatest score that may still be of use.
    pub fn limit(&self, offset: f64) -> f32 {
        ((self.most_squared() + offset) as f32).next_up()
    }

    /// Offers all of `other`.
    pub fn join(&mut self, other: Self) {
        other.found.into_iter().for_each(|neighbour| self.offer(neighbour));
    }

    /// Nearest first.
    pub fn sorted(mut self) -> Vec<Neighbour> {
        self.sort_out();
        self.found.sort_unstable();
        self.found
    }
}
