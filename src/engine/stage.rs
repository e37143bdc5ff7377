//! The contract of a stage: its parameters, what it reads, and how it runs.

mod inputs;
mod outputs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::files;
use crate::base::progress::{Bar, Progress};
use crate::base::seed;
use crate::base::signal;
use crate::engine::cache::{KeyDocument, Made, Table, read_kept, write_kept};

pub use inputs::{Ancestor, Input, Inputs, Need};
pub use outputs::{Output, Outputs};

/// What was made of single items is kept so often, should the run be killed.
const KEPT_EVERY: Duration = Duration::from_secs(10);

/// A step of the pipeline. Its fields are its parameters: `Default` gives their defaults, serde their names
/// and types (add `#[serde(default, deny_unknown_fields)]`), schemars what editors show of them.
///
/// Everything that can change the output must be a parameter, the seed, or an input: the cache sees no more.
pub trait Stage: Serialize + DeserializeOwned + JsonSchema + Default + Send + Sync + 'static {
    const NAME: &'static str;
    /// Raise it whenever the code gives other bytes for the same inputs.
    const VERSION: u32;
    /// One line for `--help` and reports.
    const ABOUT: &'static str;
    /// The stages whose results this one reads; `needs` in the manifest names an instance of each.
    const NEEDS: &'static [&'static str] = &[];
    /// Those of them of which `needs` may name several instances.
    const MANY: &'static [&'static str] = &[];
    /// Parameters that cannot change the output, and so stay out of the key.
    const UNKEYED: &'static [&'static str] = &[];

    /// What commands outside the pipeline find in its result.
    const PROVIDES: Option<ArtifactKind> = None;

    /// Range checks; `Err` names the parameter and says what would be right.
    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }

    /// What stands in the key for the content read: by default each input's digest. A stage that reads only a
    /// part of an input, or something outside the project, digests that instead.
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
        Ok(inputs.digests())
    }

    /// What it reads outside the project's results: no result may be checked out there. `project` is the manifest's folder.
    fn outside(&self, project: &Path) -> Vec<PathBuf> {
        let _ = project;
        Vec::new()
    }

    /// Refuses early what [`Stage::run`] would refuse in the end. `ready` has those results that are there of all that
    /// this one comes from, by way of others too; it is asked again before each of the others is made.
    fn foresee(&self, ready: &Inputs) -> Result<()> {
        let _ = ready;
        Ok(())
    }

    /// Reads only `context`'s inputs and writes only to its outputs.
    fn run(&self, context: &Context) -> Result<()>;
}

/// What a result is to commands outside the pipeline, by a name in the plural, such as "embeddings". The engine only compares kinds;
/// the layers above define them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactKind(pub &'static str);

/// A parameter outside its range.
#[derive(Debug)]
pub struct Invalid {
    pub parameter: &'static str,
    pub message: String,
}

/// `Err` with `message` for `parameter` unless `holds`.
pub fn require(holds: bool, parameter: &'static str, message: impl Into<String>) -> Result<(), Invalid> {
    if holds { Ok(()) } else { Err(Invalid { parameter, message: message.into() }) }
}

/// What a running stage is given.
pub struct Context {
    pub inputs: Inputs,
    /// All that the result depends on.
    pub document: KeyDocument,
    /// What is written here is the result.
    pub outputs: Outputs,
    scratch: PathBuf,
    pub seed: u64,
    pub progress: Progress,
    reuse: bool,
    items: AtomicU64,
    mapped: Mutex<Mapped>,
    notes: Mutex<Notes>,
}

/// What a stage adds to the report of its run, by name.
pub type Notes = BTreeMap<&'static str, serde_json::Value>;

/// What [`Context::map`] and [`Context::place`] leave.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    /// Files that are blobs already.
    pub placed: Vec<(String, u64, String)>,
    pub tables: Vec<String>,
    /// Items worked on, and all of them.
    pub made: usize,
    pub items: usize,
}

impl Context {
    /// `reuse`: what was made of single items is taken from earlier runs.
    pub(crate) fn new(
        inputs: Inputs,
        document: KeyDocument,
        (output, scratch): (PathBuf, PathBuf),
        progress: Progress,
        reuse: bool,
    ) -> Self {
        let (seed, items, mapped, notes) = (document.seed, AtomicU64::new(0), Mutex::default(), Mutex::default());
        let outputs = Outputs::new(output);
        Self { inputs, document, outputs, scratch, seed, progress, reuse, items, mapped, notes }
    }

    /// For each item, in order, what `make` gives for a batch of them. What it gave an earlier run for an item with the
    /// same digest is taken from there, so `make` may look at nothing but the item and `way`: all that matters besides,
    /// with the stage and its version.
    pub fn map<T: Sync>(
        &self,
        (label, batch): (&str, usize),
        way: &impl Serialize,
        items: &[T],
        digest: impl Fn(&T) -> blake3::Hash + Send + Sync,
        make: impl Fn(&[&T]) -> Result<Vec<Vec<u8>>>,
    ) -> Result<Vec<Made>> {
        let blobs = &self.inputs.store.blobs;
        let way = serde_json::to_vec(&(&self.document.stage, self.document.version, way))?;
        let way = blake3::hash(&way).to_hex().to_string();
        let mut table = if self.reuse { self.inputs.store.items(&way)? } else { Table::default() };
        let digests: Vec<blake3::Hash> = items.par_iter().map(digest).collect();
        let mut made: Vec<Option<Made>> = digests
            .par_iter()
            .map(|digest| table.get(digest.as_bytes()).filter(|made| made.is_there(blobs)).cloned())
            .collect();
        let missing: Vec<usize> = (0..items.len()).filter(|place| made[*place].is_none()).collect();
        let bar = self.bar(label, items.len() as u64);
        bar.resume((items.len() - missing.len()) as u64);
        let mut kept = Instant::now();
        for places in missing.chunks(batch) {
            self.go_on()?;
            let results = make(&places.iter().map(|place| &items[*place]).collect::<Vec<&T>>())?;
            let results = results.into_par_iter().map(|bytes| Made::store(bytes, blobs)).collect::<Result<Vec<_>>>()?;
            ensure!(results.len() == places.len(), "{} results for {} items", results.len(), places.len());
            for (place, result) in places.iter().zip(results) {
                table.insert(*digests[*place].as_bytes(), result.clone());
                made[*place] = Some(result);
            }
            bar.inc(places.len() as u64);
            self.count_items(places.len());
            if self.reuse && kept.elapsed() > KEPT_EVERY {
                table.write()?;
                kept = Instant::now();
            }
        }
        if self.reuse {
            table.write()?;
        }
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        mapped.tables.push(way);
        mapped.made += missing.len();
        mapped.items += items.len();
        Ok(made.into_iter().flatten().collect())
    }

    /// Makes what [`Self::map`] gave a file of the result.
    pub fn place(&self, path: String, made: &Made) -> Result<()> {
        let (bytes, digest) = made.blob(&self.inputs.store.blobs)?;
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner).placed.push((path, bytes, digest));
        Ok(())
    }

    /// The bytes of what [`Self::map`] gave.
    pub fn read(&self, made: Made) -> Result<Vec<u8>> {
        made.read(&self.inputs.store.blobs)
    }

    /// Keeps `bytes` as `name`, for what an interrupted run under this key goes on from: they outlive the run, and must not
    /// change the result.
    pub fn keep(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        write_kept(&self.scratch.join(name), bytes)
    }

    /// What runs of this instance kept as `name`, under this key first, then under others, the latest first. What is
    /// damaged is left out.
    pub fn kept(&self, name: &str) -> Result<Vec<Vec<u8>>> {
        let all = files::folder_of(&self.scratch);
        let mut paths: Vec<PathBuf> = files::names(all)?.into_iter().map(|key| all.join(key).join(name)).collect();
        let written = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
        paths.sort_by_key(|path| (path.starts_with(&self.scratch), written(path)));
        let found = paths.iter().rev().map(|path| Ok(read_kept(path)?.or_warn(path)));
        found.filter_map(Result::transpose).collect()
    }

    /// Whether nothing that earlier runs left may be gone on from.
    pub fn is_anew(&self) -> bool {
        !self.reuse
    }

    /// What a file of the result may say of where it comes from: no path, time or name of a machine.
    pub fn provenance(&self) -> Result<BTreeMap<String, String>> {
        let KeyDocument { stage, version, seed, parameters, .. } = &self.document;
        let facts = [
            ("key", self.document.key()?),
            ("stage", stage.clone()),
            ("stage_version", version.to_string()),
            ("seed", seed.to_string()),
            ("parameters", parameters.to_string()),
            ("program", concat!("similiai ", env!("CARGO_PKG_VERSION")).to_owned()),
        ];
        Ok(facts.into_iter().map(|(name, value)| (format!("similiai.{name}"), value)).collect())
    }

    /// Fails once the run is to end; asked between two steps of long work.
    pub fn go_on(&self) -> Result<()> {
        signal::check()
    }

    pub(crate) fn mapped(&self) -> Mapped {
        std::mem::take(&mut *self.mapped.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn input(&self, stage: &str) -> Result<&Path> {
        self.inputs.folder(stage)
    }

    pub fn bar(&self, label: &str, total: u64) -> Bar {
        self.progress.bar(label, total)
    }

    /// A random stream of its own for each purpose, derived from the manifest's seed.
    pub fn rng(&self, purpose: &str) -> ChaCha8Rng {
        seed::rng(self.seed, purpose)
    }

    /// Counts items handled, for the throughput that `run --json` reports.
    pub fn count_items(&self, count: usize) {
        self.items.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Adds a field called `name` to what `run --json` reports of this instance.
    pub fn note(&self, name: &'static str, value: &impl Serialize) -> Result<()> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).insert(name, serde_json::to_value(value)?);
        Ok(())
    }

    pub(crate) fn notes(&self) -> Notes {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }
}

/// A stage with its type erased: what the manifest and the runner hold.
pub trait AnyStage: Send + Sync {
    fn kind(&self) -> &'static Kind;
    /// The parameters that can change the output, sorted by name.
    fn keyed_parameters(&self) -> Result<serde_json::Value>;
    fn check(&self) -> Result<(), Invalid>;
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>>;
    fn outside(&self, project: &Path) -> Vec<PathBuf>;
    fn foresee(&self, ready: &Inputs) -> Result<()>;
    fn run(&self, context: &Context) -> Result<()>;
}

/// What serde says of a parameter, with its path.
pub type WrongParameter = serde_path_to_error::Error<serde_yaml::Error>;

/// One row of the list of stages.
pub struct Kind {
    pub name: &'static str,
    pub version: u32,
    pub about: &'static str,
    pub needs: &'static [&'static str],
    pub many: &'static [&'static str],
    pub provides: Option<ArtifactKind>,
    /// Every parameter with its default.
    pub defaults: fn() -> Result<serde_yaml::Value>,
    /// JSON Schema of the parameters.
    pub schema: fn() -> schemars::Schema,
    pub parse: fn(serde_yaml::Value) -> Result<Box<dyn AnyStage>, WrongParameter>,
}

/// The row for stage `S`.
pub const fn kind<S: Stage>() -> Kind {
    Kind {
        name: S::NAME,
        version: S::VERSION,
        about: S::ABOUT,
        needs: S::NEEDS,
        many: S::MANY,
        provides: S::PROVIDES,
        defaults: || Ok(serde_yaml::to_value(S::default())?),
        schema: || schema::<S>(),
        parse: |value| Ok(Box::new(Typed(serde_path_to_error::deserialize::<_, S>(value)?))),
    }
}

fn schema<S: Stage>() -> schemars::Schema {
    // Whole for each stage, so that it can stand anywhere in the manifest's.
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|it| it.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<S>()
}

struct Typed<S>(S);

impl<S: Stage> Typed<S> {
    const KIND: Kind = kind::<S>();
}

impl<S: Stage> AnyStage for Typed<S> {
    fn kind(&self) -> &'static Kind {
        &Self::KIND
    }

    fn keyed_parameters(&self) -> Result<serde_json::Value> {
        let mut parameters = serde_json::to_value(&self.0)?;
        if let Some(fields) = parameters.as_object_mut() {
            S::UNKEYED.iter().for_each(|name| drop(fields.remove(*name)));
        }
        Ok(parameters)
    }

    fn check(&self) -> Result<(), Invalid> {
        self.0.check()
    }

    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
        self.0.reads(inputs)
    }

    fn outside(&self, project: &Path) -> Vec<PathBuf> {
        self.0.outside(project)
    }

    fn foresee(&self, ready: &Inputs) -> Result<()> {
        self.0.foresee(ready)
    }

    fn run(&self, context: &Context) -> Result<()> {
        self.0.run(context)
    }
}
