//! The contract of a stage: its parameters, what it reads, and how it runs.

mod context;
mod inputs;
mod outputs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use context::{Context, Notes};
pub use inputs::{Ancestor, Input, Inputs, Need};
pub use outputs::{Output, Outputs};

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
    fn external_inputs(&self, project: &Path) -> Vec<PathBuf> {
        let _ = project;
        Vec::new()
    }

    /// Refuses early what [`Stage::run`] would refuse in the end. `ready` has those results that are there of all that
    /// this one comes from, by way of others too; it is asked again before each of the others is made.
    fn precheck(&self, ready: &Inputs) -> Result<()> {
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

/// A stage with its type erased: what the manifest and the runner hold.
pub trait AnyStage: Send + Sync {
    fn kind(&self) -> &'static Kind;
    /// The parameters that can change the output, sorted by name.
    fn keyed_parameters(&self) -> Result<serde_json::Value>;
    fn check(&self) -> Result<(), Invalid>;
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>>;
    fn external_inputs(&self, project: &Path) -> Vec<PathBuf>;
    fn precheck(&self, ready: &Inputs) -> Result<()>;
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

    fn external_inputs(&self, project: &Path) -> Vec<PathBuf> {
        self.0.external_inputs(project)
    }

    fn precheck(&self, ready: &Inputs) -> Result<()> {
        self.0.precheck(ready)
    }

    fn run(&self, context: &Context) -> Result<()> {
        self.0.run(context)
    }
}
