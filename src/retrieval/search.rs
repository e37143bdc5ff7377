//! Nearest neighbours by Euclidean distance.

mod best;
mod exact;
mod graph;
mod kernels;

use std::cmp::Ordering;

use crate::base::simd::Simd;

pub use exact::FlatIndex;
pub use graph::{Graph, Parameters};

/// The file of an approximate index.
pub const INDEX: &str = "index.hnsw";

/// One neighbour of a query. Nearer ones come first; of equal distances, the smaller id.
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

/// What is asked of a gallery.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub vector: &'a [f32],
    /// At most so many neighbours …
    pub most: usize,
    /// … at most so far away.
    pub reach: f32,
    /// Left out by its id: the query itself, where it stands in the gallery.
    pub without: Option<usize>,
}

/// Between two vectors.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    let mut square = [0.0];
    kernels::squared_distances(Simd::current(), a, b, &mut square);
    square[0].sqrt()
}

impl<'a> Query<'a> {
    /// The `k` nearest.
    pub fn nearest(vector: &'a [f32], k: usize) -> Self {
        Self { vector, most: k, reach: f32::INFINITY, without: None }
    }

    /// All within a distance.
    pub fn within(vector: &'a [f32], reach: f32) -> Self {
        Self { vector, most: usize::MAX, reach, without: None }
    }

    pub fn without(self, id: usize) -> Self {
        Self { without: Some(id), ..self }
    }
}
