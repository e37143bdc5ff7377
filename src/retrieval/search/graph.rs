//! Approximate search by a hierarchical navigable small world (Malkov and Yashunin 2018), for galleries that are too
//! large to compare a query with every vector.
//!
//! The graph links vectors that are rounded to bytes, which take a quarter of the memory. The neighbours that it finds
//! are then measured and sorted by the vectors themselves.
//!
//! One thread builds the graph in the order of the ids, and distances of bytes are whole numbers. So the bytes of the
//! graph depend only on the vectors and the parameters, and not on the machine's cores and vector units.

use std::cell::Cell;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use super::kernels::squared_distance;
use super::{FlatIndex, Neighbour, Query};
use crate::base::files;
use crate::damaged;

/// The first bytes of a saved graph.
const MAGIC: &[u8; 8] = b"SIMILIX1";
/// The largest value of a byte.
const FULL: f32 = 127.0;

/// Parameters of the graph, as in section 4 of Malkov and Yashunin 2018.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Links of each vector. In the lowest layer, there are twice as many.
    pub m: usize,
    /// Candidates to look at for the links of a new vector.
    pub ef_construction: usize,
    /// Candidates to look at for a query, unless the query says otherwise.
    pub ef: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { m: 16, ef_construction: 128, ef: 64 }
    }
}

/// What is saved together with the links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    /// BLAKE3 digest of the file with the vectors.
    gallery: String,
    dimension: usize,
    vectors: usize,
    /// The largest absolute value in all vectors. It becomes the largest byte.
    greatest: f32,
    parameters: Parameters,
}

/// Largest number of links of a vector in one layer above the lowest.
const MOST_LINKS: usize = 256;
/// Largest dimension of an embedding.
const MOST_DIMENSIONS: usize = 1 << 16;
/// Largest number of layers. Each layer has a small share of the vectors of the layer below.
const MOST_LAYERS: i16 = 64;

/// Checks a graph in the format of usearch 2.26, because the library itself trusts it. Returns `None` if it is not
/// valid.
///
/// The format is: (rows, columns: u32), rows of bytes, a head of 64 bytes, the graph's head (size, links, links in the
/// lowest layer, top layer, entry: u64), and the layers of each vector (i16). Then there are for each vector its key
/// (u64), its layers (i16), and for each layer a count and a fixed number of slots (u32). The head of 64 bytes must be
/// like that of `like`, an index of the same kind without vectors.
fn links_are_sound(bytes: &[u8], header: &Header, like: &[u8]) -> Option<()> {
    fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
        Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
    }
    fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    }
    let sound = |holds: bool| holds.then_some(());
    let (count, m) = (header.vectors, header.parameters.m);
    sound((u32_at(bytes, 0)?, u32_at(bytes, 4)?) == (count, header.dimension))?;
    let kind = 8usize.checked_add(count.checked_mul(header.dimension)?)?;
    let (own, like) = (bytes.get(kind..kind + 64)?, like.get(8..8 + 64)?);
    // Magic and major version; kinds of distance, number, key and slot; how many vectors, how many removed, dimensions.
    sound(own[..9] == like[..9] && own[13..17] == like[13..17] && own[41..].iter().all(|byte| *byte == 0))?;
    let said = [17, 25, 33].map(|at| u64_at(own, at));
    sound(said == [Some(count as u64), Some(0), Some(header.dimension as u64)])?;
    let head = kind + 64;
    let number = |place: usize| u64_at(bytes, head + 8 * place);
    let (links, lowest, top, entry) = (number(1)?, number(2)?, number(3)?, number(4)?);
    sound(number(0)? == count as u64 && links == m as u64 && lowest == 2 * m as u64)?;
    sound(entry < count.max(1) as u64 && top < MOST_LAYERS as u64)?;
    let start = head + 40;
    let layers = bytes.get(start..start.checked_add(count.checked_mul(2)?)?)?;
    let layers: Vec<i16> = layers.as_chunks().0.iter().map(|layer| i16::from_le_bytes(*layer)).collect();
    sound(layers.iter().all(|layer| (0..=top as i16).contains(layer)))?;
    sound(count == 0 || layers[entry as usize] == top as i16)?;
    let mut at = start + 2 * count;
    for (slot, layer) in layers.iter().enumerate() {
        let said = i16::from_le_bytes(bytes.get(at + 8..at + 10)?.try_into().ok()?);
        sound(u64_at(bytes, at)? == slot as u64 && said == *layer)?;
        at += 10;
        for level in 0..=*layer {
            let room = if level == 0 { 2 * m } else { m };
            let linked = u32_at(bytes, at)?;
            sound(linked <= room)?;
            for neighbour in 0..linked {
                let other = u32_at(bytes, at + 4 + 4 * neighbour)?;
                sound(layers.get(other).is_some_and(|reached| *reached >= level))?;
            }
            at += 4 + 4 * room;
        }
    }
    sound(at == bytes.len())
}

impl Header {
    /// Whether an index with this header could have been made.
    fn fits(&self) -> bool {
        let Parameters { m, ef_construction, ef } = self.parameters;
        (2..=MOST_LINKS).contains(&m)
            && (1..=4096).contains(&ef_construction)
            && (1..=4096).contains(&ef)
            && (1..=MOST_DIMENSIONS).contains(&self.dimension)
            && self.greatest.is_finite()
    }

    fn to_bytes(&self, row: &[f32]) -> Vec<i8> {
        let scale = if self.greatest > 0.0 { FULL / self.greatest } else { 0.0 };
        row.iter().map(|value| (value * scale).round().clamp(-FULL, FULL) as i8).collect()
    }
}

thread_local! {
    /// Number of distances that this thread has measured since this was last set to 0.
    static MEASURED: Cell<usize> = const { Cell::new(0) };
}

/// Links between near vectors of a gallery.
pub struct Graph {
    header: Header,
    index: Index,
}

fn said(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("the approximate index: {error}")
}

impl Graph {
    /// Links `rows` (count, dimension), which are in a file with the digest `gallery`. It calls `step` after each row,
    /// and stops with the error that `step` returns.
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
        // Use only one context, because it draws the layers. A new index has one for each core of the machine.
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
            // The width of a search is the number of neighbours asked for.
            expansion_search: 1,
            multi: false,
        };
        Ok(Self { index: Index::new(&options).map_err(said)?, header })
    }

    /// The bytes of an index of the same kind without vectors.
    fn unlinked(header: &Header) -> Result<Vec<u8>> {
        let mut graph = Self::empty(header.clone())?;
        graph.measure_by_our_distance();
        let mut bytes = vec![0; graph.index.serialized_length()];
        graph.index.save_to_buffer(&mut bytes).map_err(said)?;
        Ok(bytes)
    }

    fn measure_by_our_distance(&mut self) {
        let distance = squared_distance(self.header.dimension);
        self.index.change_metric::<i8>(Box::new(move |a, b| {
            MEASURED.set(MEASURED.get() + 1);
            distance(a, b)
        }));
    }

    /// Allows as many searches at once as this thread pool has threads. A larger pool must load the graph itself.
    fn ready(self) -> Result<Self> {
        let threads = rayon::current_num_threads() + 1;
        self.index.reserve_capacity_and_threads(self.header.vectors, threads).map_err(said)?;
        Ok(self)
    }

    /// The bytes of a file that [`Graph::load`] can read.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let header = serde_json::to_vec(&self.header)?;
        let mut bytes = [&MAGIC[..], &(header.len() as u64).to_le_bytes(), &header].concat();
        let start = bytes.len();
        bytes.reserve_exact(self.index.serialized_length() + blake3::OUT_LEN);
        bytes.resize(start + self.index.serialized_length(), 0);
        self.index.save_to_buffer(&mut bytes[start..]).map_err(said)?;
        bytes.extend(blake3::hash(&bytes).as_bytes());
        Ok(bytes)
    }

    /// Loads the graph at `path`, if it links the vectors in the file with the digest `gallery`.
    ///
    /// # Errors
    /// If a byte has changed since it was saved, or if it belongs to other vectors.
    pub fn load(path: &Path, gallery: &str) -> Result<Self> {
        let bytes = files::read(path)?;
        // Check the digest first, because the code that reads the links trusts them.
        let sound = bytes.split_last_chunk::<32>().filter(|(rest, sum)| blake3::hash(rest).as_bytes() == *sum);
        let opened = sound.and_then(|(rest, _)| {
            let (length, rest) = rest.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
            let (header, links) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
            Some((serde_json::from_slice::<Header>(header).ok()?, links))
        });
        let (header, links) = opened.ok_or_else(|| damaged!("{} is damaged, or not an index", path.display()))?;
        if header.gallery != gallery {
            let (has, wants) = (short(&header.gallery), short(gallery));
            return Err(damaged!(
                "{} was made for other embeddings ({has}…, and these are {wants}…); run `similiai run all`",
                path.display()
            ));
        }
        let fits = header.fits() && links_are_sound(links, &header, &Self::unlinked(&header)?).is_some();
        if !fits {
            return Err(damaged!("{} is damaged: its links are not valid", path.display()));
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

    /// Returns neighbours of `query` in `gallery`, nearest first, and how many distances were measured to find them. It
    /// looks at `ef` candidates, and can miss a neighbour.
    ///
    /// # Errors
    /// If the query has a value that is not finite, or another dimension than the gallery.
    pub fn search(&self, gallery: &FlatIndex, query: &Query, ef: usize) -> Result<(Vec<Neighbour>, usize)> {
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
        ensure!(places.iter().all(|place| *place < has), "the index links to vectors that do not exist");
        Ok((gallery.nearest_of(query, &places), MEASURED.get() + places.len()))
    }

    /// Like [`Graph::search`], for many queries in parallel.
    pub fn search_all(
        &self,
        gallery: &FlatIndex,
        queries: &[Query],
        ef: usize,
    ) -> Result<Vec<(Vec<Neighbour>, usize)>> {
        queries.par_iter().map(|query| self.search(gallery, query, ef)).collect()
    }
}

/// The first digits of a digest, for messages.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    const DIMENSION: usize = 24;

    fn rows() -> Vec<f32> {
        let mut rng = crate::base::seed::rng(1, "rows");
        (0..1500 * DIMENSION).map(|_| rng.gen_range(-1.0..1.0)).collect()
    }

    fn build(rows: &[f32]) -> Graph {
        Graph::build("abc", DIMENSION, rows, Parameters::default(), || Ok(())).unwrap()
    }

    #[test]
    fn what_it_finds_is_nearly_what_exact_search_finds() {
        let rows = rows();
        let graph = build(&rows);
        let exact = FlatIndex::of_rows(DIMENSION, &rows).unwrap();
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
        files::write(&one, &graph.to_bytes().unwrap()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| files::write(&two, &build(&rows).to_bytes().unwrap())).unwrap();
        assert_eq!(files::read(&one).unwrap(), files::read(&two).unwrap());
        let again = Graph::load(&one, "abc").unwrap();
        let gallery = FlatIndex::of_rows(DIMENSION, &rows[..]).unwrap();
        let ask =
            |graph: &Graph| graph.search(&gallery, &Query::nearest(&rows[..DIMENSION], 5).without(0), 64).unwrap();
        assert_eq!(ask(&again), ask(&graph));
        assert_eq!(again.parameters(), Parameters::default());
    }

    #[test]
    fn a_damaged_or_foreign_one_is_refused() {
        let (folder, rows) = (tempfile::tempdir().unwrap(), rows());
        let path = folder.path().join("index");
        files::write(&path, &build(&rows[..50 * DIMENSION]).to_bytes().unwrap()).unwrap();
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
        // If the digest is right, any links give an error or answers from the gallery.
        let gallery = FlatIndex::of_rows(DIMENSION, &rows[..50 * DIMENSION]).unwrap();
        for place in 16..good.len() - 32 {
            let mut bad = good[..good.len() - 32].to_vec();
            bad[place] ^= 0x41;
            bad.extend(blake3::hash(&bad).as_bytes());
            files::write(&path, &bad).unwrap();
            if let Ok(graph) = Graph::load(&path, "abc") {
                let found = graph.search(&gallery, &Query::nearest(&rows[..DIMENSION], 5), 9);
                assert!(found.is_ok_and(|(found, _)| found.iter().all(|it| it.id < 50)) || graph.header.vectors != 50);
            }
        }
    }
}
