//! Approximate search by a hierarchical navigable small world (Malkov and Yashunin 2018), for galleries so large that
//! comparing a query with everything takes too long.
//!
//! The graph links vectors rounded to bytes, a quarter of the memory, and what it finds is measured and sorted by the
//! vectors themselves. It is built by one thread in the order of the ids, and distances of bytes are whole numbers: its own
//! bytes depend on nothing but the vectors and the parameters, whatever the machine's cores and vector units.

use std::cell::Cell;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use super::kernels::squared_distance;
use super::{Gallery, Neighbour, Query};
use crate::{damaged, files};

/// What a saved graph begins with.
const MAGIC: &[u8; 8] = b"SIMILIX1";
/// The greatest byte.
const FULL: f32 = 127.0;

/// Of the graph, as in the paper, section 4.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Links of each vector; twice as many in the lowest layer.
    pub m: usize,
    /// Candidates looked at for the links of a new vector.
    pub ef_construction: usize,
    /// Candidates looked at for a query, where it does not say otherwise.
    pub ef: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { m: 16, ef_construction: 128, ef: 64 }
    }
}

/// What stands beside the links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    /// BLAKE3 of the file with the vectors.
    gallery: String,
    dimension: usize,
    vectors: usize,
    /// The greatest value of all, which becomes the greatest byte.
    greatest: f32,
    parameters: Parameters,
}

impl Header {
    fn to_bytes(&self, row: &[f32]) -> Vec<i8> {
        let scale = if self.greatest > 0.0 { FULL / self.greatest } else { 0.0 };
        row.iter().map(|value| (value * scale).round().clamp(-FULL, FULL) as i8).collect()
    }
}

thread_local! {
    /// Distances measured by this thread since it was last set to 0.
    static MEASURED: Cell<usize> = const { Cell::new(0) };
}

/// A gallery with links between near vectors.
pub struct Graph {
    header: Header,
    index: Index,
}

fn said(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("the approximate index: {error}")
}

impl Graph {
    /// Links `rows` (count, dimension), which stand in a file with the digest `gallery`. `step` is called for each, and
    /// its error ends the work.
    pub fn build(
        gallery: &str,
        dimension: usize,
        rows: &[f32],
        parameters: Parameters,
        mut step: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        ensure!(dimension > 0 && rows.len().is_multiple_of(dimension), "vectors need a dimension");
        ensure!(rows.iter().all(|value| value.is_finite()), "a vector has a value that is not finite");
        let vectors = rows.len() / dimension;
        let greatest = rows.iter().fold(0.0f32, |greatest, value| greatest.max(value.abs()));
        let header = Header { gallery: gallery.to_owned(), dimension, vectors, greatest, parameters };
        let mut graph = Self::empty(header)?;
        // One context: it draws the layers, and a new index has as many as the machine has cores.
        graph.index.reset().map_err(said)?;
        graph.measure_by_our_distance();
        graph.index.reserve_capacity_and_threads(vectors, 1).map_err(said)?;
        for (id, row) in rows.chunks_exact(dimension).enumerate() {
            graph.index.add(id as u64, &graph.header.to_bytes(row)).map_err(said)?;
            step()?;
        }
        graph.ready()
    }

    fn empty(header: Header) -> Result<Self> {
        let Parameters { m, ef_construction, .. } = header.parameters;
        let options = IndexOptions {
            dimensions: header.dimension,
            metric: MetricKind::L2sq,
            quantization: ScalarKind::I8,
            connectivity: m,
            expansion_add: ef_construction,
            // The number of neighbours asked for is what widens a search.
            expansion_search: 1,
            multi: false,
        };
        Ok(Self { index: Index::new(&options).map_err(said)?, header })
    }

    fn measure_by_our_distance(&mut self) {
        let distance = squared_distance(self.header.dimension);
        self.index.change_metric::<i8>(Box::new(move |a, b| {
            MEASURED.set(MEASURED.get() + 1);
            distance(a, b)
        }));
    }

    /// As many searches at once as this pool has threads: a larger one must load the graph itself.
    fn ready(self) -> Result<Self> {
        let threads = rayon::current_num_threads() + 1;
        self.index.reserve_capacity_and_threads(self.header.vectors, threads).map_err(said)?;
        Ok(self)
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let header = serde_json::to_vec(&self.header)?;
        let mut bytes = [&MAGIC[..], &(header.len() as u64).to_le_bytes(), &header].concat();
        let start = bytes.len();
        bytes.reserve_exact(self.index.serialized_length() + blake3::OUT_LEN);
        bytes.resize(start + self.index.serialized_length(), 0);
        self.index.save_to_buffer(&mut bytes[start..]).map_err(said)?;
        bytes.extend(blake3::hash(&bytes).as_bytes());
        files::write(path, &bytes)
    }

    /// The graph at `path`, if it links the vectors in the file with the digest `gallery`.
    ///
    /// # Errors
    /// If a byte of it is not as it was saved, or if it belongs to other vectors.
    pub fn load(path: &Path, gallery: &str) -> Result<Self> {
        let bytes = files::read(path)?;
        // Before anything else: what reads the links trusts them.
        let sound = bytes.split_last_chunk::<32>().filter(|(rest, sum)| blake3::hash(rest).as_bytes() == *sum);
        let opened = sound.and_then(|(rest, _)| {
            let (length, rest) = rest.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
            let (header, links) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
            Some((serde_json::from_slice::<Header>(header).ok()?, links))
        });
        let (header, links) = opened.ok_or_else(|| damaged!("{} is damaged, or no index", path.display()))?;
        if header.gallery != gallery {
            let (has, wants) = (short(&header.gallery), short(gallery));
            return Err(damaged!(
                "{} was made for other embeddings ({has}…, and these are {wants}…); run `similiai run all`",
                path.display()
            ));
        }
        let mut graph = Self::empty(header)?;
        let loaded = graph.index.load_from_buffer(links).map_err(said);
        loaded.with_context(|| format!("cannot read {}", path.display()))?;
        graph.measure_by_our_distance();
        graph.ready()
    }

    pub fn parameters(&self) -> Parameters {
        self.header.parameters
    }

    /// Probably the neighbours of `query` in `gallery`, nearest first, and how many distances were measured to find them;
    /// `ef` candidates are looked at.
    ///
    /// # Errors
    /// If the query has a value that is not finite, or another dimension than the gallery.
    pub fn search(&self, gallery: &Gallery, query: &Query, ef: usize) -> Result<(Vec<Neighbour>, usize)> {
        let (has, wants) = (gallery.len(), self.header.vectors);
        ensure!(has == wants, "the index links {wants} vectors, and the gallery has {has}");
        gallery.check(query).map_err(|why| anyhow!("the query {why}"))?;
        let (bytes, width) = (self.header.to_bytes(query.vector), ef.max(query.most).min(has));
        MEASURED.set(0);
        let found = match query.without {
            None => self.index.search(&bytes, width),
            Some(id) => self.index.filtered_search(&bytes, width, |other| other != id as u64),
        };
        let places: Vec<usize> = found.map_err(said)?.keys.into_iter().map(|id| id as usize).collect();
        Ok((gallery.nearest_of(query, &places), MEASURED.get() + places.len()))
    }

    /// [`Graph::search`] for many queries side by side.
    pub fn search_all(&self, gallery: &Gallery, queries: &[Query], ef: usize) -> Result<Vec<(Vec<Neighbour>, usize)>> {
        queries.par_iter().map(|query| self.search(gallery, query, ef)).collect()
    }
}

/// The first digits of a digest, enough for people.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    const DIMENSION: usize = 24;

    fn rows() -> Vec<f32> {
        let mut rng = crate::stage::rng(1, "rows");
        (0..1500 * DIMENSION).map(|_| rng.gen_range(-1.0..1.0)).collect()
    }

    fn build(rows: &[f32]) -> Graph {
        Graph::build("abc", DIMENSION, rows, Parameters::default(), || Ok(())).unwrap()
    }

    #[test]
    fn what_it_finds_is_nearly_what_exact_search_finds() {
        let rows = rows();
        let graph = build(&rows);
        let exact = Gallery::of_rows(DIMENSION, &rows).unwrap();
        let queries: Vec<Query> =
            rows.chunks_exact(DIMENSION).enumerate().map(|(id, row)| Query::nearest(row, 10).without(id)).collect();
        let expected = exact.search(&queries).unwrap();
        let recall = |ef| {
            let found = graph.search_all(&exact, &queries, ef).unwrap();
            let right = |((found, measured), expected): (&(Vec<Neighbour>, usize), &Vec<Neighbour>)| {
                assert!(found.len() == 10 && found.is_sorted() && *measured >= 10);
                found.iter().filter(|neighbour| expected.contains(neighbour)).count()
            };
            found.iter().zip(&expected).map(right).sum::<usize>() as f64 / (10 * rows.len() / DIMENSION) as f64
        };
        let (narrow, wide) = (recall(10), recall(200));
        assert!(wide > 0.99 && narrow < wide, "{narrow} {wide}");
    }

    #[test]
    fn the_same_vectors_give_the_same_bytes_and_answers() {
        let (folder, rows) = (tempfile::tempdir().unwrap(), rows());
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        let graph = build(&rows);
        graph.save(&one).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| build(&rows).save(&two)).unwrap();
        assert_eq!(files::read(&one).unwrap(), files::read(&two).unwrap());
        let again = Graph::load(&one, "abc").unwrap();
        let gallery = Gallery::of_rows(DIMENSION, &rows[..]).unwrap();
        let ask =
            |graph: &Graph| graph.search(&gallery, &Query::nearest(&rows[..DIMENSION], 5).without(0), 64).unwrap();
        assert_eq!(ask(&again), ask(&graph));
        assert_eq!(again.parameters(), Parameters::default());
    }

    #[test]
    fn a_damaged_or_foreign_one_is_refused() {
        let (folder, rows) = (tempfile::tempdir().unwrap(), rows());
        let path = folder.path().join("index");
        build(&rows[..50 * DIMENSION]).save(&path).unwrap();
        let message = |gallery| Graph::load(&path, gallery).err().unwrap().to_string();
        assert!(message("xyz").contains("other embeddings (abc…, and these are xyz…)"), "{}", message("xyz"));
        let good = files::read(&path).unwrap();
        for place in (0..good.len()).step_by(211) {
            let mut bad = good.clone();
            bad[place] ^= 0x10;
            files::write(&path, &bad).unwrap();
            assert!(message("abc").contains("is damaged"), "{place}");
        }
        files::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(message("abc").contains("is damaged"));
    }
}
