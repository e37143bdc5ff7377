//! Exact k-nearest neighbours by Euclidean distance.

use rayon::prelude::*;

/// One neighbour of a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    pub id: usize,
    pub distance: f32,
}

/// The vectors that are searched, each under its id.
pub struct Gallery<'a> {
    ids: Vec<usize>,
    vectors: Vec<&'a [f32]>,
}

impl<'a> Gallery<'a> {
    pub fn new(items: impl IntoIterator<Item = (usize, &'a [f32])>) -> Self {
        let (ids, vectors) = items.into_iter().unzip();
        Self { ids, vectors }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The `k` nearest, nearest first; of equal distances the smaller id comes first. `without` is left out by
    /// its id: the query itself, where it stands in the gallery.
    pub fn nearest(&self, query: &[f32], k: usize, without: Option<usize>) -> Vec<Neighbour> {
        let all = self.ids.iter().zip(&self.vectors).filter(|(id, _)| Some(**id) != without);
        let mut found: Vec<Neighbour> =
            all.map(|(id, vector)| Neighbour { id: *id, distance: squared(query, vector) }).collect();
        let order = |a: &Neighbour, b: &Neighbour| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id));
        if k < found.len() {
            found.select_nth_unstable_by(k, order);
            found.truncate(k);
        }
        found.sort_unstable_by(order);
        found.iter_mut().for_each(|neighbour| neighbour.distance = neighbour.distance.sqrt());
        found
    }

    /// [`Gallery::nearest`] for many queries side by side, each `(query, k, without)`.
    pub fn nearest_all(&self, queries: &[(&[f32], usize, Option<usize>)]) -> Vec<Vec<Neighbour>> {
        queries.par_iter().map(|(query, k, without)| self.nearest(query, *k, *without)).collect()
    }
}

/// Squared distance, summed in 16 lanes and then in order: the same bits on every machine.
fn squared(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a, b) = (a.chunks(LANES), b.chunks(LANES));
    for (a, b) in a.zip(b) {
        for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
            *sum += (x - y) * (x - y);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_sorting_everything(
            points in prop::collection::vec(prop::collection::vec(-3i8..3, 3), 1..40), k in 0usize..50, query in 0usize..40,
        ) {
            let points: Vec<Vec<f32>> = points.iter().map(|p| p.iter().map(|x| f32::from(*x)).collect()).collect();
            let query = query % points.len();
            let gallery = Gallery::new(points.iter().map(Vec::as_slice).enumerate());
            let found: Vec<usize> = gallery.nearest(&points[query], k, Some(query)).iter().map(|n| n.id).collect();
            let exact = |id: &usize| points[*id].iter().zip(&points[query]).map(|(a, b)| ((a - b) * (a - b)) as i64).sum::<i64>();
            let mut expected: Vec<usize> = (0..points.len()).filter(|id| *id != query).collect();
            expected.sort_by_key(|id| (exact(id), *id));
            expected.truncate(k);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn distances_are_euclidean() {
        let points = [[0.0f32, 0.0], [3.0, 4.0]];
        let gallery = Gallery::new(points.iter().map(|p| p.as_slice()).enumerate());
        assert_eq!(gallery.nearest(&[0.0, 0.0], 2, None)[1], Neighbour { id: 1, distance: 5.0 });
    }
}
