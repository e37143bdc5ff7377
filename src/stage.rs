//! The contract of a stage: its parameters, what it reads, and how it runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::KeyDocument;
use crate::progress::{Bar, Progress};

/// A step of the pipeline. Its fields are its parameters: `Default` gives their defaults, serde their names
/// and types (add `#[serde(default, deny_unknown_fields)]`).
///
/// Everything that can change the output must be a parameter, the seed, or an input: the cache sees no more.
pub trait Stage: Serialize + DeserializeOwned + Default + Send + Sync + 'static {
    const NAME: &'static str;
    /// Raise it whenever the code gives other bytes for the same inputs.
    const VERSION: u32;
    /// One line for `--help` and reports.
    const ABOUT: &'static str;
    /// The stages whose results this one reads; `needs` in the manifest names an instance of each.
    const NEEDS: &'static [&'static str] = &[];
    /// Parameters that cannot change the output, and so stay out of the key.
    const UNKEYED: &'static [&'static str] = &[];

    /// Range checks; `Err` names the parameter and says what would be right.
    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }

    /// What stands in the key for the content read: by default each input's digest. A stage that reads only a
    /// part of an input, or something outside the project, digests that instead.
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
        Ok(inputs.digests())
    }

    /// Reads only `context`'s inputs and writes only below its output folder.
    fn run(&self, context: &Context) -> Result<()>;
}

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

/// The result of a stage that another one reads.
#[derive(Debug, Clone)]
pub struct Input {
    pub instance: String,
    pub stage: &'static str,
    pub folder: PathBuf,
    pub digest: String,
}

/// The inputs of one instance.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The manifest's folder: relative paths in parameters start here.
    pub project: PathBuf,
    pub results: Vec<Input>,
}

impl Inputs {
    /// The folder with the result of the one input that is an instance of `stage`.
    pub fn folder(&self, stage: &str) -> Result<&Path> {
        let mut found = self.results.iter().filter(|input| input.stage == stage);
        let input = found.next().with_context(|| format!("no input is an instance of `{stage}`"))?;
        if let Some(second) = found.next() {
            bail!(
                "`{}` and `{}` are both instances of `{stage}`; name one in `needs`",
                input.instance,
                second.instance
            );
        }
        Ok(&input.folder)
    }

    /// Digests by stage; by instance where several instances of one stage are read.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let name = |input: &Input| match self.results.iter().filter(|other| other.stage == input.stage).count() {
            1 => input.stage.to_owned(),
            _ => input.instance.clone(),
        };
        self.results.iter().map(|input| (name(input), input.digest.clone())).collect()
    }
}

/// What a running stage is given.
pub struct Context {
    pub inputs: Inputs,
    /// All that the result depends on.
    pub document: KeyDocument,
    /// Empty at the start; what is in it at the end is the result.
    pub output: PathBuf,
    /// A folder that may not exist yet, for what an interrupted run goes on from: it outlives the run, and nothing in
    /// it may change the result.
    pub scratch: PathBuf,
    pub seed: u64,
    pub progress: Progress,
    images: AtomicU64,
}

impl Context {
    pub fn new(
        inputs: Inputs,
        document: KeyDocument,
        (output, scratch): (PathBuf, PathBuf),
        progress: Progress,
    ) -> Self {
        let seed = document.seed;
        Self { inputs, document, output, scratch, seed, progress, images: AtomicU64::new(0) }
    }

    pub fn input(&self, stage: &str) -> Result<&Path> {
        self.inputs.folder(stage)
    }

    pub fn bar(&self, label: &str, total: u64) -> Bar {
        self.progress.bar(label, total)
    }

    /// A random stream of its own for each purpose, derived from the manifest's seed.
    pub fn rng(&self, purpose: &str) -> ChaCha8Rng {
        rng(self.seed, purpose)
    }

    /// Counts images handled, for the `images_per_second` of `run --json`.
    pub fn count_images(&self, count: usize) {
        self.images.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn images(&self) -> u64 {
        self.images.load(Ordering::Relaxed)
    }
}

/// The random stream that belongs to `seed` and `purpose`.
pub fn rng(seed: u64, purpose: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(purpose.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// A stage with its type erased: what the manifest and the runner hold.
pub trait AnyStage: Send + Sync {
    fn kind(&self) -> &'static Kind;
    /// The parameters that can change the output, sorted by name.
    fn keyed_parameters(&self) -> Result<serde_json::Value>;
    fn check(&self) -> Result<(), Invalid>;
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>>;
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
    /// Every parameter with its default.
    pub defaults: fn() -> Result<serde_yaml::Value>,
    pub parse: fn(serde_yaml::Value) -> Result<Box<dyn AnyStage>, WrongParameter>,
}

/// The row for stage `S`.
pub const fn kind<S: Stage>() -> Kind {
    Kind {
        name: S::NAME,
        version: S::VERSION,
        about: S::ABOUT,
        needs: S::NEEDS,
        defaults: || Ok(serde_yaml::to_value(S::default())?),
        parse: |value| Ok(Box::new(Typed(serde_path_to_error::deserialize::<_, S>(value)?))),
    }
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

    fn run(&self, context: &Context) -> Result<()> {
        self.0.run(context)
    }
}
