//! What an instance reads: results of others, and all that these come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::engine::cache::{Contents, KeyDocument, Store};

/// The result of a stage that another one reads.
#[derive(Debug, Clone)]
pub struct Input {
    pub instance: String,
    pub stage: &'static str,
    pub folder: PathBuf,
    /// Its files with their digests.
    pub contents: Arc<Contents>,
}

/// A result that another one comes from, directly or by way of others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ancestor {
    pub instance: String,
    /// The instances whose results it reads.
    pub needs: Vec<String>,
    pub key: String,
    /// Of its content.
    pub digest: String,
    pub document: KeyDocument,
}

/// An instance whose result another one reads, whether there is one yet or not.
#[derive(Debug, Clone)]
pub struct Need {
    pub instance: String,
    pub stage: &'static str,
    /// The instances whose results it reads itself.
    pub needs: Vec<String>,
}

/// The inputs of one instance.
#[derive(Clone)]
pub struct Inputs {
    /// The instance that reads them.
    pub instance: String,
    /// The manifest's folder: relative paths in parameters start here.
    pub project: PathBuf,
    /// What the manifest names.
    pub needs: Vec<Need>,
    pub results: Vec<Input>,
    /// All that they come from and they themselves, each after what it needs. Not in the key unless
    /// [`Stage::reads`](super::Stage::reads) puts it there.
    pub lineage: Vec<Ancestor>,
    /// In a plan: not all of them lie in their places, so nothing can be worked out from their files.
    pub(crate) not_checked_out: bool,
    /// The stage that reads them, with its version.
    pub(crate) reader: (&'static str, u32),
    pub(crate) store: Arc<Store>,
}

impl Inputs {
    /// The one input that is an instance of `stage`.
    pub fn result(&self, stage: &str) -> Result<&Input> {
        let mut found = self.results.iter().filter(|input| input.stage == stage);
        let input = found.next().with_context(|| format!("no input is an instance of `{stage}`"))?;
        if let Some(second) = found.next() {
            bail!(
                "`{}` and `{}` are both instances of `{stage}`; name one in `needs`",
                input.instance,
                second.instance
            );
        }
        Ok(input)
    }

    /// The folder with the result of that input.
    pub fn folder(&self, stage: &str) -> Result<&Path> {
        Ok(&self.result(stage)?.folder)
    }

    /// The digest of a file outside the project's results, read only if it may have changed.
    pub fn file_digest(&self, path: &Path) -> Result<String> {
        self.store.digests.digest(path)
    }

    /// A digest that follows from `of` alone, such as that of a part of an input; worked out once.
    pub fn fact(&self, name: &str, of: &impl Serialize, work_out: impl FnOnce() -> Result<String>) -> Result<String> {
        let name = format!("{}/{name}", self.instance);
        self.store.digests.fact(&name, &(self.reader, of), || {
            ensure!(!self.not_checked_out, "what it reads is not in its place; only a run can tell");
            work_out()
        })
    }

    /// Digests by stage; by instance where several instances of one stage are read.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let name = |input: &Input| match self.results.iter().filter(|other| other.stage == input.stage).count() {
            1 => input.stage.to_owned(),
            _ => input.instance.clone(),
        };
        self.results.iter().map(|input| (name(input), input.contents.digest().to_owned())).collect()
    }
}
