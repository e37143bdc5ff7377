//! Exact search: a blocked matrix product finds the candidates, and the direct distance decides among them.
//!
//! Let c be the mean of the gallery. Then ‖q − g‖² = ‖q − c‖² + (‖g − c‖² − 2 (q − c)·(g − c)). The part in brackets is
//! the *score*, one chain of fused multiply-adds. A vector is measured directly unless its score shows that it is
//! farther than the worst neighbour found so far, by more than the rounding error of the chain. So the answer is the
//! same as if all vectors were sorted by (direct distance, id). It does not depend on the batch, the number of threads
//! or the vector unit.

use std::borrow::Cow;
use std::sync::OnceLock;

use anyhow::{Result, anyhow, ensure};
use rayon::prelude::*;

use super::best::{Best, ROUNDOFF};
use super::kernels::{screen, squared_distances};
use super::{Neighbour, Query, distance};
use crate::base::simd::Simd;
use crate::learning::nn::kernels::{LANES, ROWS, Target, Window, convolve};

/// With fewer queries, distances are measured directly. To arrange the gallery for the matrix product would take
/// longer.
const FEW: usize = 8;
/// Queries that share a pass over the gallery.
const BLOCK: usize = 128;
/// Number of rows that a thread measures directly at a time.
const ROWS_AT_ONCE: usize = 2048;
/// Number of queries that are answered before the next queries are taken from a stream.
const AT_ONCE: usize = 4096;
/// Number of neighbours asked for before the next queries are taken. If each query asks for thousands, they take some
/// hundred megabytes together.
const NEIGHBOURS_AT_ONCE: usize = 1 << 21;

/// The vectors to search, each with its id.
pub struct FlatIndex<'a> {
    dimension: usize,
    ids: Vec<usize>,
    /// (ids, dimension)
    rows: Cow<'a, [f32]>,
    panels: OnceLock<Panels>,
}

/// The gallery in the form that the matrix product needs.
struct Panels {
    /// The mean of all rows.
    centre: Vec<f32>,
    /// (panels, dimension, [`LANES`]): −2 (g − c)
    weights: Vec<f32>,
    /// ‖g − c‖², for [`LANES`] of each panel.
    norms: Vec<[f32; LANES]>,
    /// The greatest ‖g − c‖.
    longest: f64,
}

impl<'a> FlatIndex<'a> {
    /// An index of all `rows` (count, dimension), with their positions as ids.
    ///
    /// # Errors
    /// If a value is not finite.
    pub fn of_rows(dimension: usize, rows: impl Into<Cow<'a, [f32]>>) -> Result<Self> {
        let rows = rows.into();
        Self::with_ids(dimension, (0..rows.len() / dimension.max(1)).collect(), rows)
    }

    /// An index of those `rows` (count, dimension) whose positions are `ids`.
    ///
    /// # Errors
    /// If a value is not finite.
    pub fn of_some(dimension: usize, rows: &[f32], ids: Vec<usize>) -> Result<Self> {
        let some = ids.iter().flat_map(|id| &rows[id * dimension..][..dimension]).copied().collect();
        Self::with_ids(dimension, ids, Cow::Owned(some))
    }

    /// An index of `rows` (count, dimension), each with its id.
    ///
    /// # Errors
    /// If a value is not finite, or the number of ids is not the number of rows.
    pub fn with_ids(dimension: usize, ids: Vec<usize>, rows: Cow<'a, [f32]>) -> Result<Self> {
        ensure!(dimension > 0 && rows.len() == ids.len() * dimension, "a gallery needs as many vectors as ids");
        if let Some(place) = rows.par_iter().position_first(|value| !value.is_finite()) {
            anyhow::bail!("the vector of id {} in the gallery has a value that is not finite", ids[place / dimension]);
        }
        Ok(Self { dimension, ids, rows, panels: OnceLock::new() })
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Prepares for many queries at once. Without this call, the first such search does it.
    pub fn arrange(&self) {
        self.panels();
    }

    /// The neighbours of each query, nearest first.
    ///
    /// # Errors
    /// If a query has a value that is not finite, or another dimension than the gallery.
    pub fn search(&self, queries: &[Query]) -> Result<Vec<Vec<Neighbour>>> {
        for (place, query) in queries.iter().enumerate() {
            self.check(query).map_err(|why| anyhow!("query {place} {why}"))?;
        }
        let simd = Simd::current();
        if queries.len() < FEW {
            return Ok(queries.iter().map(|query| self.measure_all(simd, query)).collect());
        }
        let panels = self.panels();
        // If there are too few blocks to keep all cores busy, several tasks share a block. Each of them searches a part
        // of the gallery.
        let blocks = queries.len().div_ceil(BLOCK);
        let parts = (4 * rayon::current_num_threads()).div_ceil(blocks).min(panels.norms.len().div_ceil(8)).max(1);
        let part = panels.norms.len().div_ceil(parts).max(1);
        let tasks: Vec<(usize, usize)> =
            (0..blocks).flat_map(|block| (0..parts).map(move |number| (block, number))).collect();
        let found = tasks.into_par_iter().map(|(block, number)| {
            let queries = &queries[block * BLOCK..][..BLOCK.min(queries.len() - block * BLOCK)];
            let end = ((number + 1) * part).min(panels.norms.len());
            self.pass(simd, panels, queries, (number * part).min(end)..end)
        });
        let mut found = found.collect::<Vec<Vec<Best>>>().into_iter();
        let mut all = Vec::with_capacity(queries.len());
        while let Some(mut bests) = found.next() {
            for others in found.by_ref().take(parts - 1) {
                bests.iter_mut().zip(others).for_each(|(best, other)| best.join(other));
            }
            all.extend(bests);
        }
        Ok(all.into_par_iter().map(Best::sorted).collect())
    }

    /// The neighbours of one query among the vectors at `places`.
    ///
    /// # Errors
    /// As [`FlatIndex::search`].
    pub fn search_among(&self, query: &Query, places: &[usize]) -> Result<Vec<Neighbour>> {
        self.check(query).map_err(|why| anyhow!("the query {why}"))?;
        Ok(self.nearest_of(query, places))
    }

    /// Like [`FlatIndex::search`], for any number of queries. `visit` gets the answers in order. Only some of the
    /// answers are in memory at a time.
    pub fn stream<'q>(
        &self,
        queries: impl IntoIterator<Item = Query<'q>>,
        mut visit: impl FnMut(usize, Vec<Neighbour>) -> Result<()>,
    ) -> Result<()> {
        let mut queries = queries.into_iter();
        let mut place = 0;
        loop {
            let (mut some, mut neighbours) = (Vec::new(), 0);
            while some.len() < AT_ONCE
                && neighbours < NEIGHBOURS_AT_ONCE
                && let Some(query) = queries.next()
            {
                neighbours += query.most.min(self.len());
                some.push(query);
            }
            if some.is_empty() {
                return Ok(());
            }
            for neighbours in self.search(&some)? {
                visit(place, neighbours)?;
                place += 1;
            }
        }
    }

    /// The vector at a position. The position is the id if the index has all rows.
    pub fn row(&self, place: usize) -> &[f32] {
        &self.rows[place * self.dimension..][..self.dimension]
    }

    /// Says what is wrong with a query.
    pub(super) fn check(&self, query: &Query) -> Result<(), String> {
        let (has, needs) = (query.vector.len(), self.dimension);
        if has != needs {
            return Err(format!("has {has} values, and the gallery's vectors have {needs}"));
        }
        if !query.vector.iter().all(|value| value.is_finite()) {
            return Err("has a value that is not finite".to_owned());
        }
        if query.reach.is_nan() { Err("has a largest distance that is not a number".to_owned()) } else { Ok(()) }
    }

    /// The nearest neighbours among the vectors at `places`.
    pub(super) fn nearest_of(&self, query: &Query, places: &[usize]) -> Vec<Neighbour> {
        let mut best = Best::new(query);
        for place in places {
            best.offer(Neighbour { id: self.ids[*place], distance: distance(query.vector, self.row(*place)) });
        }
        best.sorted()
    }

    /// Measures the distances from one query to all rows.
    fn measure_all(&self, simd: Simd, query: &Query) -> Vec<Neighbour> {
        let some = |(number, rows): (usize, &[f32])| {
            let mut squares = vec![0.0; rows.len() / self.dimension];
            squared_distances(simd, query.vector, rows, &mut squares);
            let mut best = Best::new(query);
            let mut most = best.most_squared();
            for (at, square) in squares.into_iter().enumerate() {
                if f64::from(square) <= most {
                    best.offer(Neighbour { id: self.ids[number * ROWS_AT_ONCE + at], distance: square.sqrt() });
                    most = best.most_squared();
                }
            }
            best
        };
        let parts: Vec<Best> = self.rows.par_chunks(ROWS_AT_ONCE * self.dimension).enumerate().map(some).collect();
        let mut best = Best::new(query);
        parts.into_iter().for_each(|part| best.join(part));
        best.sorted()
    }

    /// Searches some panels for some queries.
    fn pass(&self, simd: Simd, panels: &Panels, queries: &[Query], range: std::ops::Range<usize>) -> Vec<Best> {
        let dimension = self.dimension;
        let mut centred = vec![0.0; queries.len().next_multiple_of(ROWS) * dimension];
        let mut bests: Vec<Best> = queries.iter().map(Best::new).collect();
        // The part of the limit of a score that does not change: the error bound minus ‖q − c‖².
        let mut offsets = vec![0.0; queries.len()];
        for (query, (to, offset)) in queries.iter().zip(centred.chunks_exact_mut(dimension).zip(&mut offsets)) {
            to.iter_mut().zip(query.vector).zip(&panels.centre).for_each(|((to, value), centre)| *to = value - centre);
            let square: f64 = to.iter().map(|value| f64::from(*value).powi(2)).sum();
            *offset = panels.error(dimension, square.sqrt()) - square;
        }
        let mut limits: Vec<f32> = bests.iter().zip(&offsets).map(|(best, offset)| best.limit(*offset)).collect();
        let mut scores = vec![0.0; queries.len() * LANES];
        let (mut hits, mut direct) = (Vec::new(), [0.0]);
        let window = Window { start: 0, row: 0, pixel: dimension };
        let target = Target { start: 0, pixel: LANES, pixels: queries.len(), lanes: LANES };
        for panel in range {
            let weights = &panels.weights[panel * dimension * LANES..][..dimension * LANES];
            convolve(simd, &centred, window, 1, dimension, weights, &panels.norms[panel], &mut scores, target);
            screen(simd, &scores, &limits, &mut hits);
            for hit in &hits {
                let (at, place) = (hit / LANES, panel * LANES + hit % LANES);
                // The last panel is padded. The limit may also be lower than before.
                if place >= self.len() || scores[*hit] > limits[at] {
                    continue;
                }
                squared_distances(simd, queries[at].vector, self.row(place), &mut direct);
                bests[at].offer(Neighbour { id: self.ids[place], distance: direct[0].sqrt() });
                limits[at] = bests[at].limit(offsets[at]);
            }
        }
        bests
    }

    fn panels(&self) -> &Panels {
        self.panels.get_or_init(|| {
            let (dimension, count) = (self.dimension, self.len());
            // Any centre gives the right answer. A centre near the mean keeps rounding errors small.
            let mut sums = vec![0.0f64; dimension];
            for row in self.rows.chunks_exact(dimension) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            let centre: Vec<f32> = sums.iter().map(|sum| (sum / count.max(1) as f64) as f32).collect();
            let panels = count.div_ceil(LANES);
            let mut weights = vec![0.0f32; panels * dimension * LANES];
            let mut norms = vec![[f32::INFINITY; LANES]; panels];
            let fill = |(panel, (weights, norms)): (usize, (&mut [f32], &mut [f32; LANES]))| {
                let mut longest = 0.0f64;
                for (lane, norm) in norms.iter_mut().enumerate().take(count - (panel * LANES).min(count)) {
                    let mut square = 0.0f64;
                    for (at, (value, centre)) in self.row(panel * LANES + lane).iter().zip(&centre).enumerate() {
                        let apart = value - centre;
                        weights[at * LANES + lane] = -2.0 * apart;
                        square += f64::from(apart).powi(2);
                    }
                    *norm = square as f32;
                    longest = longest.max(square.sqrt());
                }
                longest
            };
            let filled = weights.par_chunks_mut(dimension * LANES).zip(&mut norms).enumerate().map(fill);
            let longest = filled.reduce(|| 0.0, f64::max);
            Panels { centre, weights, norms, longest }
        })
    }
}

impl Panels {
    /// A bound on the difference between a score plus ‖q − c‖² and the direct squared distance. `length` is ‖q − c‖.
    ///
    /// Let u be the unit roundoff, and let s be ‖q − c‖ + ‖g − c‖. The chain of n + 1 steps is off by at most (n + 1) u
    /// s², the centring by 2 u s², the norms by u s², and the direct sum by (n / 16 + 8) u s². The bound is a little
    /// larger, for the products of these.
    ///
    /// If a sum might overflow, there is no bound, and every vector is measured. If a sum is almost zero, each step is
    /// off by half the smallest positive number.
    fn error(&self, dimension: usize, length: f64) -> f64 {
        let square = (length + self.longest).powi(2);
        if square > f64::from(f32::MAX) / 4.0 {
            return f64::INFINITY;
        }
        let steps = 1.1 * dimension as f64 + 24.0;
        steps * (ROUNDOFF * square + f64::from(f32::from_bits(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sorts all vectors by (direct distance, id).
    fn by_sorting(dimension: usize, rows: &[f32], query: &Query) -> Vec<Neighbour> {
        let all = rows.chunks_exact(dimension).enumerate();
        let all = all.map(|(id, row)| Neighbour { id, distance: distance(query.vector, row) });
        let mut found: Vec<Neighbour> =
            all.filter(|it| Some(it.id) != query.without && it.distance <= query.reach).collect();
        found.sort();
        found.truncate(query.most);
        found
    }

    fn compare(dimension: usize, rows: &[f32], queries: &[Query]) -> Result<(), TestCaseError> {
        let gallery = FlatIndex::of_rows(dimension, rows).unwrap();
        let expected: Vec<_> = queries.iter().map(|query| by_sorting(dimension, rows, query)).collect();
        prop_assert_eq!(&gallery.search(queries).unwrap(), &expected);
        for (query, expected) in queries.iter().zip(&expected) {
            prop_assert_eq!(&gallery.search(&[*query]).unwrap()[0], expected);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn agrees_with_sorting_everything(
            dimension in 1usize..40,
            values in prop::collection::vec(-1.0f32..1.0, 1..3000),
            (k, reach, far) in (0usize..60, 0.1f32..4.0, any::<bool>()),
        ) {
            // Far from the origin, a product alone would lose all precision.
            let offset = if far { 1000.0 } else { 0.0 };
            let values: Vec<f32> = values.iter().map(|value| value + offset).collect();
            let count = values.len() / dimension;
            let rows = &values[..count * dimension];
            let queries: Vec<Query> = rows.chunks_exact(dimension).enumerate().map(|(id, row)| match id % 3 {
                0 => Query::nearest(row, k),
                1 => Query::nearest(row, k).without(id),
                _ => Query::within(row, reach),
            }).collect();
            compare(dimension, rows, &queries)?;
        }

        #[test]
        fn neither_overflow_nor_underflow_hides_a_neighbour(
            (dimension, scale) in (1usize..130, prop::sample::select(vec![1e-38f32, 3e-23, 1e-22, 1e-19, 1e19, 2e19, 1e30, 3e38])),
            values in prop::collection::vec(-1.0f32..1.0, 1300),
        ) {
            let values: Vec<f32> = values.iter().map(|value| value * scale).collect();
            let rows = &values[..1300 / dimension * dimension];
            let queries: Vec<Query> = rows.chunks_exact(dimension).map(|row| Query::nearest(row, 3)).collect();
            compare(dimension, rows, &queries)?;
        }

        #[test]
        fn ties_come_by_id(points in prop::collection::vec(prop::collection::vec(-2i8..2, 3), 10..300), k in 1usize..50) {
            let rows: Vec<f32> = points.iter().flatten().map(|value| f32::from(*value)).collect();
            let queries: Vec<Query> = rows.chunks_exact(3).map(|row| Query::nearest(row, k)).collect();
            compare(3, &rows, &queries)?;
        }
    }

    #[test]
    fn neither_batches_nor_threads_nor_units_matter() {
        let value = |place: usize| ((place as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
        let rows: Vec<f32> = (0..700 * 24).map(value).collect();
        let gallery = FlatIndex::of_rows(24, &rows).unwrap();
        let queries: Vec<Query> = rows.chunks_exact(24).take(300).map(|row| Query::nearest(row, 10)).collect();
        let expected = gallery.search(&queries).unwrap();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| gallery.search(&queries)).unwrap(), expected);
        }
        let mut streamed = Vec::new();
        let keep = |_, found| {
            streamed.push(found);
            Ok(())
        };
        gallery.stream(queries.iter().copied(), keep).unwrap();
        assert_eq!(streamed, expected);
        for simd in Simd::available() {
            let pass = gallery.pass(simd, gallery.panels(), &queries[..100], 0..gallery.panels().norms.len());
            let found: Vec<_> = pass.into_iter().map(Best::sorted).collect();
            assert_eq!(found, expected[..100], "{}", simd.name());
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let rows = [0.0, 1.0, 2.0, 3.0];
        let gallery = FlatIndex::of_rows(2, &rows[..]).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let error = gallery.search(&[Query::nearest(&[0.0, bad], 1)]).unwrap_err().to_string();
            assert_eq!(error, "query 0 has a value that is not finite");
            let error = FlatIndex::of_rows(2, vec![0.0, 1.0, bad, 0.0]).err().unwrap().to_string();
            assert!(error.contains("id 1"), "{error}");
        }
        assert!(gallery.search(&[Query::nearest(&[0.0], 1)]).is_err());
    }

    #[test]
    fn distances_are_euclidean() {
        let gallery = FlatIndex::of_rows(2, vec![0.0, 0.0, 3.0, 4.0]).unwrap();
        assert_eq!(
            gallery.search(&[Query::nearest(&[0.0, 0.0], 2)]).unwrap()[0][1],
            Neighbour { id: 1, distance: 5.0 }
        );
    }
}
