//! The interface of a stage: its parameters, what it reads, and how it runs.

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

/// A kind of step of the pipeline. Its fields are its parameters. `Default` gives their defaults, and serde their names
/// and types: add `#[serde(default, deny_unknown_fields)]`. Editors show the descriptions from schemars.
///
/// Everything that can change the output must be a parameter, the seed, or an input. The cache does not notice anything
/// else.
pub trait Stage: Serialize + DeserializeOwned + JsonSchema + Default + Send + Sync + 'static {
    const NAME: &'static str;
    /// Raise it when the code gives other bytes for the same inputs.
    const VERSION: u32;
    /// One line for `--help` and reports.
    const ABOUT: &'static str;
    /// Whether it draws random numbers. If not, the seed is not in its key.
    const DRAWS: bool = true;
    /// The stages whose results this one reads. In the manifest, `needs` must name an instance of each.
    const NEEDS: &'static [&'static str] = &[];
    /// The stages of `NEEDS` of which there may be several instances.
    const MANY: &'static [&'static str] = &[];
    /// Parameters that cannot change the output. They do not enter the key.
    const UNKEYED: &'static [&'static str] = &[];

    /// The kind of its result, for commands outside the pipeline that use it.
    const PROVIDES: Option<ArtifactKind> = None;

    /// Checks the ranges of parameters. `Err` names the parameter and says what is allowed.
    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }

    /// The digests of everything that the stage reads, for the key. By default these are the digests of all inputs. A
    /// stage that reads only part of an input, or something outside the project, returns the digest of that instead.
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
        Ok(inputs.digests())
    }

    /// Paths outside of the results that the stage reads. No result may be checked out there. `project` is the folder
    /// of the manifest.
    fn external_inputs(&self, project: &Path) -> Vec<PathBuf> {
        let _ = project;
        Vec::new()
    }

    /// Fails early if [`Stage::run`] would fail later. `ready` has the results that exist so far, of all instances that
    /// this one needs directly or through others. It is called before each of those instances runs.
    fn precheck(&self, ready: &Inputs) -> Result<()> {
        let _ = ready;
        Ok(())
    }

    /// How long it takes for each item, compared with other parameters. Twice the value means twice the time. It is used
    /// for estimates only.
    fn effort(&self) -> f64 {
        1.0
    }

    /// How many items it passes on, compared with other parameters; `None` if no parameter says so. It is used for
    /// estimates only.
    fn items(&self) -> Option<f64> {
        None
    }

    /// Makes the result. It must read only the inputs of `context`, and write only to its outputs.
    fn run(&self, context: &Context) -> Result<()>;
}

/// A kind of result that commands outside the pipeline use, named by a plural noun such as "embeddings". The engine
/// only compares kinds. The layers above define them.
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
    /// All parameters, with their defaults.
    fn parameters(&self) -> Result<serde_json::Value>;
    /// The parameters that can change the output, sorted by name.
    fn keyed_parameters(&self) -> Result<serde_json::Value>;
    fn check(&self) -> Result<(), Invalid>;
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>>;
    fn external_inputs(&self, project: &Path) -> Vec<PathBuf>;
    fn precheck(&self, ready: &Inputs) -> Result<()>;
    fn effort(&self) -> f64;
    fn items(&self) -> Option<f64>;
    fn run(&self, context: &Context) -> Result<()>;
}

/// An error of serde about a parameter, with the path of the parameter.
pub type WrongParameter = serde_path_to_error::Error<serde_yaml::Error>;

/// One row of the list of stages.
pub struct Kind {
    pub name: &'static str,
    pub version: u32,
    pub draws: bool,
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
        draws: S::DRAWS,
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
    // Inlined, so that it can be inserted anywhere in the schema of the manifest.
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

    fn parameters(&self) -> Result<serde_json::Value> {
        Ok(serde_json::to_value(&self.0)?)
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

    fn effort(&self) -> f64 {
        self.0.effort()
    }

    fn items(&self) -> Option<f64> {
        self.0.items()
    }

    fn run(&self, context: &Context) -> Result<()> {
        self.0.run(context)
    }
}
