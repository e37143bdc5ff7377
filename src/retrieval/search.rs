//! Nearest neighbours by Euclidean distance.

mod best;
mod exact;
mod graph;
mod kernels;

use std::cmp::Ordering;

use crate::base::simd::Simd;

pub use exact::FlatIndex;
pub use graph::{Graph, Parameters};

/// File name of an approximate index.
pub const INDEX: &str = "index.hnsw";

/// A neighbour of a query. Nearer neighbours come first. Of equal distances, the smaller id comes first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    pub id: usize,
    pub distance: f32,
}

impl Eq for Neighbour {}

impl Ord for Neighbour {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Neighbour {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A search in a gallery.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub vector: &'a [f32],
    /// Largest number of neighbours.
    pub most: usize,
    /// Largest distance of a neighbour.
    pub reach: f32,
    /// An id to leave out: the query itself, if it is in the gallery.
    pub without: Option<usize>,
}

/// The Euclidean distance between two vectors.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    let mut square = [0.0];
    kernels::squared_distances(Simd::current(), a, b, &mut square);
    square[0].sqrt()
}

impl<'a> Query<'a> {
    /// Searches for the `k` nearest neighbours.
    pub fn nearest(vector: &'a [f32], k: usize) -> Self {
        Self { vector, most: k, reach: f32::INFINITY, without: None }
    }

    /// Searches for all neighbours within a distance.
    pub fn within(vector: &'a [f32], reach: f32) -> Self {
        Self { vector, most: usize::MAX, reach, without: None }
    }

    pub fn without(self, id: usize) -> Self {
        Self { without: Some(id), ..self }
    }
}
