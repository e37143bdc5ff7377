//! The best neighbours of a query so far, and what may still be of use.

use std::collections::BinaryHeap;

use super::{Neighbour, Query};

/// Unit roundoff of 32-bit floats.
pub const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// The best neighbours found so far.
#[derive(Clone)]
pub struct Best {
    most: usize,
    reach: f32,
    without: Option<usize>,
    /// The worst on top.
    heap: BinaryHeap<Neighbour>,
}

impl Best {
    pub fn new(query: &Query) -> Self {
        let Query { most, reach, without, .. } = *query;
        Self { most, reach, without, heap: BinaryHeap::new() }
    }

    pub fn offer(&mut self, neighbour: Neighbour) {
        if self.without == Some(neighbour.id) || neighbour.distance > self.reach || self.most == 0 {
            return;
        }
        if self.heap.len() < self.most {
            self.heap.push(neighbour);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && neighbour < *worst
        {
            *worst = neighbour;
        }
    }

    /// The greatest squared distance that may still be of use; its root may be rounded up or down.
    pub fn most_squared(&self) -> f64 {
        let worst = self.heap.peek().filter(|_| self.heap.len() >= self.most).map(|worst| worst.distance);
        f64::from(worst.unwrap_or(self.reach).min(self.reach)).powi(2) * (1.0 + 8.0 * ROUNDOFF)
    }

    /// The greatest score that may still be of use.
    pub fn limit(&self, offset: f64) -> f32 {
        ((self.most_squared() + offset) as f32).next_up()
    }

    /// Offers all of `other`.
    pub fn join(&mut self, other: Self) {
        other.heap.into_iter().for_each(|neighbour| self.offer(neighbour));
    }

    /// Nearest first.
    pub fn sorted(self) -> Vec<Neighbour> {
        self.heap.into_sorted_vec()
    }
}
