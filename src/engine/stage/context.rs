//! The context of a running stage: its inputs and outputs, and helpers such as `map` for single items.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::{Inputs, Outputs};
use crate::base::files;
use crate::base::progress::{Bar, Progress};
use crate::base::seed;
use crate::base::signal;
use crate::engine::cache::{ItemResult, ItemTable, KeyDocument, read_kept, write_kept};

/// Everything that a stage can use while it runs.
pub struct Context {
    pub inputs: Inputs,
    /// The key document.
    pub document: KeyDocument,
    /// Files written here become the result.
    pub outputs: Outputs,
    scratch: PathBuf,
    /// The seed of the instance; 0 for a stage that says it draws nothing, so that its result cannot depend on it.
    pub seed: u64,
    pub progress: Progress,
    reuse: bool,
    items: AtomicU64,
    mapped: Mutex<Mapped>,
    notes: Mutex<Notes>,
}

/// Fields that a stage adds to the report of its run, by name.
pub type Notes = BTreeMap<&'static str, serde_json::Value>;

/// What [`Context::map`] and [`Context::add_item`] did.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    /// Files of the result that are blobs already: path, bytes, digest.
    pub files: Vec<(String, u64, String)>,
    pub tables: Vec<String>,
    /// Items worked on, and all of them.
    pub made: usize,
    pub items: usize,
}

impl Context {
    /// With `reuse`, results of single items are taken from earlier runs.
    pub(crate) fn new(
        inputs: Inputs,
        document: KeyDocument,
        (output, scratch): (PathBuf, PathBuf),
        progress: Progress,
        reuse: bool,
    ) -> Self {
        let seed = document.seed.unwrap_or_default();
        let (items, mapped, notes) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        let outputs = Outputs::new(output);
        Self { inputs, document, outputs, scratch, seed, progress, reuse, items, mapped, notes }
    }

    /// The results of `make` for all items, in their order; `make` works on a batch. The result of an earlier run for an
    /// item with the same digest is reused, so `make` may depend only on the item and on `recipe`. The stage and its
    /// version are part of the recipe.
    pub fn map<T: Sync>(
        &self,
        (label, batch): (&str, usize),
        recipe: &impl Serialize,
        items: &[T],
        digest: impl Fn(&T) -> blake3::Hash + Send + Sync,
        make: impl Fn(&[&T]) -> Result<Vec<Vec<u8>>>,
    ) -> Result<Vec<ItemResult>> {
        let blobs = &self.inputs.store.blobs;
        let recipe = serde_json::to_vec(&(&self.document.stage, self.document.version, recipe))?;
        let recipe = blake3::hash(&recipe).to_hex().to_string();
        let mut table = if self.reuse { self.inputs.store.items(&recipe)? } else { ItemTable::default() };
        let digests: Vec<blake3::Hash> = items.par_iter().map(digest).collect();
        let mut made: Vec<Option<ItemResult>> = digests
            .par_iter()
            .map(|digest| table.get(digest.as_bytes()).filter(|made| made.is_there(blobs)).cloned())
            .collect();
        let missing: Vec<usize> = (0..items.len()).filter(|at| made[*at].is_none()).collect();
        let bar = self.bar(label, items.len() as u64);
        bar.resume((items.len() - missing.len()) as u64);
        for batch in missing.chunks(batch) {
            self.check_signal()?;
            let results = make(&batch.iter().map(|at| &items[*at]).collect::<Vec<&T>>())?;
            let results =
                results.into_par_iter().map(|bytes| ItemResult::store(bytes, blobs)).collect::<Result<Vec<_>>>()?;
            ensure!(results.len() == batch.len(), "{} results for {} items", results.len(), batch.len());
            for (at, result) in batch.iter().zip(results) {
                table.insert(*digests[*at].as_bytes(), result.clone());
                made[*at] = Some(result);
            }
            bar.inc(batch.len() as u64);
            self.count_items(batch.len());
            if self.reuse && table.is_due() {
                table.write()?;
            }
        }
        if self.reuse {
            table.write()?;
        }
        let mut mapped = self.mapped.lock();
        mapped.tables.push(recipe);
        mapped.made += missing.len();
        mapped.items += items.len();
        Ok(made.into_iter().flatten().collect())
    }

    /// Adds what [`Self::map`] returned for an item to the result, as the file `path`.
    pub fn add_item(&self, path: String, item: &ItemResult) -> Result<()> {
        let (bytes, digest) = item.blob(&self.inputs.store.blobs)?;
        self.mapped.lock().files.push((path, bytes, digest));
        Ok(())
    }

    /// The bytes that [`Self::map`] returned for an item.
    pub fn read(&self, item: ItemResult) -> Result<Vec<u8>> {
        item.read(&self.inputs.store.blobs)
    }

    /// Keeps `bytes` as `name`, so that the next run under this key can resume an interrupted one. They must not change
    /// the result.
    pub fn keep(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        write_kept(&self.scratch.join(name), bytes)
    }

    /// Everything that runs of this instance kept as `name`: first under this key, then under other keys, each with the
    /// latest first. Damaged files are left out.
    pub fn kept(&self, name: &str) -> Result<Vec<Vec<u8>>> {
        let all = files::folder_of(&self.scratch);
        let mut paths: Vec<PathBuf> = files::names(all)?.into_iter().map(|key| all.join(key).join(name)).collect();
        let written = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
        paths.sort_by_key(|path| (path.starts_with(&self.scratch), written(path)));
        let found = paths.iter().rev().map(|path| Ok(read_kept(path)?.or_warn(path)));
        found.filter_map(Result::transpose).collect()
    }

    /// Whether the run must not use anything that earlier runs left.
    pub fn is_from_scratch(&self) -> bool {
        !self.reuse
    }

    /// How the result was made, for the metadata of its files. It has no paths, times or names of machines.
    pub fn provenance(&self) -> Result<BTreeMap<String, String>> {
        let KeyDocument { stage, version, seed, parameters, .. } = &self.document;
        let facts = [
            ("key", self.document.key()?),
            ("stage", stage.clone()),
            ("stage_version", version.to_string()),
            ("parameters", parameters.to_string()),
            ("program", concat!("similiai ", env!("CARGO_PKG_VERSION")).to_owned()),
        ];
        let seed = seed.map(|seed| ("seed", seed.to_string()));
        Ok(facts.into_iter().chain(seed).map(|(name, value)| (format!("similiai.{name}"), value)).collect())
    }

    /// Fails if a signal was received. Call it between two steps of long work.
    pub fn check_signal(&self) -> Result<()> {
        signal::check()
    }

    pub(crate) fn mapped(&self) -> Mapped {
        std::mem::take(&mut *self.mapped.lock())
    }

    pub fn input(&self, stage: &str) -> Result<&Path> {
        self.inputs.folder(stage)
    }

    pub fn bar(&self, label: &str, total: u64) -> Bar {
        self.progress.bar(label, total)
    }

    /// Says how many seconds are left, for a stage that takes most of a run.
    pub fn expect(&self, seconds: f64) {
        self.progress.expect(seconds);
    }

    /// The random stream for `purpose`, made from the seed. Each purpose has its own stream.
    pub fn rng(&self, purpose: &str) -> ChaCha8Rng {
        seed::rng(self.seed, purpose)
    }

    /// Counts items handled, for the throughput that `run --json` reports.
    pub fn count_items(&self, count: usize) {
        self.items.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Adds a field called `name` to what `run --json` reports of this instance.
    pub fn note(&self, name: &'static str, value: &impl Serialize) -> Result<()> {
        self.notes.lock().insert(name, serde_json::to_value(value)?);
        Ok(())
    }

    pub(crate) fn notes(&self) -> Notes {
        std::mem::take(&mut *self.notes.lock())
    }

    pub(crate) fn items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }
}
