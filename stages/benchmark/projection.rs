//! The map: the test embeddings in two dimensions, with similar pictures close together.

use anyhow::Result;
use nalgebra::{DMatrix, SymmetricEigen};
use rand::seq::SliceRandom;
use similiai::engine::stage::Context;
use similiai::report::results::{Map, Point};
use similiai::retrieval::embeddings::Embeddings;
use similiai::retrieval::search::{FlatIndex, Query};

use super::tsne::{self, Neighbours};

/// Largest number of pictures on the map; if there are more, this many are drawn at random.
const MOST: usize = 1000;
/// Effective number of neighbours of a picture in t-SNE.
const PERPLEXITY: usize = 30;

pub fn project(embeddings: &Embeddings, test: &[usize], context: &Context) -> Result<Map> {
    let mut ids = test.to_vec();
    if ids.len() > MOST {
        ids.shuffle(&mut context.rng("map"));
        ids.truncate(MOST);
        ids.sort_unstable();
    }
    let rows: Vec<&[f32]> = ids.iter().map(|id| embeddings.row(*id)).collect();
    let Principal { plane, effective_dimensions } = principal(&rows);
    let perplexity = PERPLEXITY.min((ids.len() - 1) / 3);
    let (method, places) = match perplexity {
        0 | 1 => ("PCA", plane),
        _ => ("t-SNE", near_in_the_plane(&rows, &plane, perplexity)?),
    };
    let points = ids.iter().zip(scaled(&places)).map(|(id, [x, y])| Point { id: *id, x, y }).collect();
    Ok(Map { method: method.to_owned(), perplexity: perplexity as f32, of: test.len(), points, effective_dimensions })
}

/// Runs t-SNE with exact neighbours. It starts from the plane of principal components, as Kobak and Berens 2019
/// advise.
fn near_in_the_plane(rows: &[&[f32]], plane: &[[f32; 2]], perplexity: usize) -> Result<Vec<[f32; 2]>> {
    let dimension = rows[0].len();
    let gallery = FlatIndex::of_rows(dimension, rows.concat())?;
    let queries = rows.iter().enumerate();
    let queries: Vec<Query> = queries.map(|(place, row)| Query::nearest(row, 3 * perplexity).without(place)).collect();
    let found = gallery.search(&queries)?;
    let neighbours: Vec<Neighbours> =
        found.into_iter().map(|found| found.iter().map(|it| (it.id, it.distance)).collect()).collect();
    // The start is scaled down: only the order of the pictures matters, not their distances.
    let spread = (plane.iter().map(|[x, _]| x * x).sum::<f32>() / plane.len() as f32).sqrt().max(f32::MIN_POSITIVE);
    let start: Vec<[f32; 2]> = plane.iter().map(|point| point.map(|value| value / spread * 1e-4)).collect();
    Ok(tsne::place(&neighbours, &start, perplexity as f64))
}

struct Principal {
    /// Each row, along the two directions with the largest variance.
    plane: Vec<[f32; 2]>,
    effective_dimensions: f64,
}

fn principal(rows: &[&[f32]]) -> Principal {
    let dimension = rows[0].len();
    let mut mean = vec![0.0f64; dimension];
    rows.iter().for_each(|row| mean.iter_mut().zip(*row).for_each(|(sum, value)| *sum += f64::from(*value)));
    mean.iter_mut().for_each(|sum| *sum /= rows.len() as f64);
    let mut covariance = DMatrix::<f64>::zeros(dimension, dimension);
    for row in rows {
        let centred: Vec<f64> = row.iter().zip(&mean).map(|(value, mean)| f64::from(*value) - mean).collect();
        for (i, a) in centred.iter().enumerate() {
            for (j, b) in centred[..=i].iter().enumerate() {
                covariance[(i, j)] += a * b;
            }
        }
    }
    // `symmetric_eigen` reads only the lower half.
    let SymmetricEigen { eigenvectors, eigenvalues } = covariance.symmetric_eigen();
    let mut order: Vec<usize> = (0..dimension).collect();
    order.sort_by(|a, b| eigenvalues[*b].total_cmp(&eigenvalues[*a]).then(a.cmp(b)));
    let along = |row: &&[f32], place: usize| {
        let Some(column) = order.get(place) else { return 0.0 };
        let direction = eigenvectors.column(*column);
        // The sign of a direction is arbitrary. Its largest component is made positive.
        let greatest = direction.iter().copied().reduce(|a, b| if b.abs() > a.abs() { b } else { a });
        let sign = greatest.map_or(1.0, f64::signum);
        let parts = row.iter().zip(&mean).zip(direction.iter());
        (sign * parts.map(|((value, mean), part)| (f64::from(*value) - mean) * part).sum::<f64>()) as f32
    };
    let plane = rows.iter().map(|row| [along(row, 0), along(row, 1)]).collect();
    let (sum, squares): (f64, f64) = (eigenvalues.iter().sum(), eigenvalues.iter().map(|value| value * value).sum());
    Principal { plane, effective_dimensions: if squares > 0.0 { sum * sum / squares } else { 0.0 } }
}

/// Scales both axes to the range 0 to 1, rounded to 1/10,000.
fn scaled(places: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let scale = |axis: usize| {
        let values = || places.iter().map(move |place| place[axis]);
        let (low, high) = (values().fold(f32::MAX, f32::min), values().fold(f32::MIN, f32::max));
        move |value: f32| if high > low { ((value - low) / (high - low) * 1e4).round() / 1e4 } else { 0.5 }
    };
    let (across, up) = (scale(0), scale(1));
    places.iter().map(|[x, y]| [across(*x), up(*y)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use similiai::base::seed::rng;

    /// Three clusters in five dimensions.
    fn clusters(count: usize) -> Vec<Vec<f32>> {
        let mut rng = rng(1, "clusters");
        let row = |place: usize| -> Vec<f32> {
            (0..5).map(|axis| if axis == place % 3 { 4.0 } else { 0.0 } + rng.gen_range(-0.3..0.3)).collect()
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn neighbours_stay_neighbours() {
        let rows = clusters(90);
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let places = near_in_the_plane(&rows, &principal(&rows).plane, 10).unwrap();
        let apart = |a: usize, b: usize| (places[a][0] - places[b][0]).hypot(places[a][1] - places[b][1]);
        let agree = (0..90).filter(|a| {
            let nearest = (0..90).filter(|b| b != a).min_by(|b, c| apart(*a, *b).total_cmp(&apart(*a, *c)));
            nearest.is_some_and(|nearest| nearest % 3 == a % 3)
        });
        assert_eq!(agree.count(), 90);
        assert_eq!(places, near_in_the_plane(&rows, &principal(&rows).plane, 10).unwrap(), "the same every time");
    }

    #[test]
    fn the_plane_holds_most_of_what_varies() {
        // Points on a line through (1, 2, 0), with small deviations from it.
        let rows: Vec<[f32; 3]> = (0..20).map(|i| [i as f32, 2.0 * i as f32, 0.01 * (i % 2) as f32]).collect();
        let rows: Vec<&[f32]> = rows.iter().map(|row| row.as_slice()).collect();
        let found = principal(&rows);
        assert!((found.effective_dimensions - 1.0).abs() < 1e-3, "{}", found.effective_dimensions);
        let step = found.plane[1][0] - found.plane[0][0];
        assert!((step - 5.0f32.sqrt()).abs() < 1e-3 && found.plane[7][1].abs() < 0.1, "{:?}", found.plane);
        assert_eq!(scaled(&[[1.0, 5.0], [2.0, 5.0], [5.0, 5.0]]), [[0.0, 0.5], [0.25, 0.5], [1.0, 0.5]]);
    }
}
