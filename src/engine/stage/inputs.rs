//! The inputs of an instance: the results that it reads, and all results that these come from.

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

/// A result that another one comes from, directly or through others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ancestor {
    pub instance: String,
    /// The instances whose results it reads.
    pub needs: Vec<String>,
    pub key: String,
    /// Digest of its content.
    pub digest: String,
    pub document: KeyDocument,
}

/// An instance whose result another one reads. The result may not exist yet.
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
    /// The instances in `needs` of the manifest.
    pub needs: Vec<Need>,
    pub results: Vec<Input>,
    /// The results that it reads and all results that they come from, each after what it needs. They are not in the key
    /// unless [`Stage::reads`](super::Stage::reads) adds them.
    pub lineage: Vec<Ancestor>,
    /// In a dry run: not all results are checked out, so nothing can be computed from their files.
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

    /// The folder of [`Self::result`].
    pub fn folder(&self, stage: &str) -> Result<&Path> {
        Ok(&self.result(stage)?.folder)
    }

    /// The digest of a file outside of the results. The file is read only if it may have changed.
    pub fn file_digest(&self, path: &Path) -> Result<String> {
        self.store.digests.digest(path)
    }

    /// A digest that depends only on `of`, such as the digest of part of an input. It is computed once and remembered.
    pub fn fact(&self, name: &str, of: &impl Serialize, work_out: impl FnOnce() -> Result<String>) -> Result<String> {
        let name = format!("{}/{name}", self.instance);
        self.store.digests.fact(&name, &(self.reader, of), || {
            ensure!(!self.not_checked_out, "its inputs are not checked out; only a run can tell");
            work_out()
        })
    }

    /// The digests of all results, by stage. If several instances of one stage are read, by instance.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let name = |input: &Input| match self.results.iter().filter(|other| other.stage == input.stage).count() {
            1 => input.stage.to_owned(),
            _ => input.instance.clone(),
        };
        self.results.iter().map(|input| (name(input), input.contents.digest().to_owned())).collect()
    }
}
