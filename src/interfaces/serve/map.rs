//! The report's map of test pictures, and the places of other pictures on it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::report::results;
use crate::retrieval::search::{FlatIndex, Neighbour, Query};
use crate::retrieval::searcher::Searcher;

/// Number of nearest pictures on the map that decide a picture's place, which is the weighted mean of theirs.
const NEAREST: usize = 5;

/// A place on the map; x and y are from 0 to 1, and y goes up
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Place {
    x: f32,
    y: f32,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Point {
    /// Id of a picture of the gallery
    pub id: usize,
    #[serde(flatten)]
    pub place: Place,
}

pub struct Map {
    pub method: String,
    pub points: BTreeMap<usize, Place>,
    /// The embeddings of the pictures on the map.
    gallery: FlatIndex<'static>,
}

impl Map {
    /// # Errors
    /// If `drawn` names pictures that `searcher` does not have.
    pub fn new(drawn: results::Map, searcher: &Searcher) -> Result<Self> {
        let points: BTreeMap<usize, Place> =
            drawn.points.iter().map(|&results::Point { id, x, y }| (id, Place { x, y })).collect();
        let all = searcher.embeddings.len();
        ensure!(points.keys().all(|id| *id < all), "the map is of another gallery");
        let ids: Vec<usize> = points.keys().copied().collect();
        let rows = searcher.vectors(&ids)?.iter().flat_map(|row| row.iter()).copied().collect::<Vec<f32>>();
        let gallery = FlatIndex::with_ids(searcher.embeddings.dimension, ids, rows.into())?;
        Ok(Self { method: drawn.method, points, gallery })
    }

    /// Returns the place of each picture, from its vector and, for a picture of the gallery, its id.
    pub fn places(&self, pictures: &[(&[f32], Option<usize>)]) -> Result<Vec<Option<Place>>> {
        let known = |id: &Option<usize>| id.and_then(|id| self.points.get(&id)).copied();
        let others = pictures.iter().filter(|(_, id)| known(id).is_none());
        let queries: Vec<Query> = others.map(|(vector, _)| Query::nearest(vector, NEAREST)).collect();
        let near = |found: Vec<Neighbour>| {
            let near = found.iter().filter_map(|it| Some((*self.points.get(&it.id)?, it.distance)));
            mean(&near.collect::<Vec<_>>())
        };
        let mut found = self.gallery.search(&queries)?.into_iter().map(near);
        Ok(pictures.iter().map(|(_, id)| known(id).or_else(|| found.next().flatten())).collect())
    }
}

/// Returns the mean of the places, weighted by the inverse of the squared distances.
fn mean(near: &[(Place, f32)]) -> Option<Place> {
    let weight = |distance: f32| 1.0 / distance.powi(2).max(1e-12);
    let all: f32 = near.iter().map(|(_, distance)| weight(*distance)).sum();
    let along = |pick: fn(&Place) -> f32| near.iter().map(|(at, far)| weight(*far) * pick(at)).sum::<f32>() / all;
    (!near.is_empty()).then(|| Place { x: along(|at| at.x), y: along(|at| at.y) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_between_the_nearest_and_nearer_to_the_nearer() {
        let at = |x, y| Place { x, y };
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[(at(0.2, 0.4), 0.0), (at(0.9, 0.9), 1.0)]), Some(at(0.2, 0.4)));
        let Place { x, y } = mean(&[(at(0.0, 1.0), 0.5), (at(1.0, 0.0), 1.0)]).unwrap();
        assert!((x - 0.2).abs() < 1e-6 && (y - 0.8).abs() < 1e-6, "{x} {y}");
    }
}
