//! The options of the last run, so that other commands look at what it made.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Store;
use super::sealed::{self, Found};
use super::store::unlink;
use crate::base::files;

const LAST_RUN: &str = "last_run.json";

impl Store {
    pub(super) fn last_run_path(&self) -> PathBuf {
        self.root.join(LAST_RUN)
    }

    /// The options of the last run. `None` if they are not known.
    pub fn last_run<T: DeserializeOwned>(&self) -> Option<T> {
        match sealed::read(&self.last_run_path(), |bytes| sealed::from_json(LAST_RUN, bytes)) {
            Ok(Found::Whole(options)) => Some(options),
            _ => None,
        }
    }

    pub(super) fn last_run_is_damaged(&self) -> Result<bool> {
        let parse = |bytes: &[u8]| sealed::from_json::<serde_json::Value>(LAST_RUN, bytes);
        Ok(matches!(sealed::read(&self.last_run_path(), parse)?, Found::Damaged))
    }

    pub fn keep_last_run<T: Serialize + DeserializeOwned + PartialEq>(&self, options: &T) -> Result<()> {
        if self.last_run().as_ref() == Some(options) {
            return Ok(());
        }
        let path = self.last_run_path();
        unlink(&path)?;
        files::write_atomically(&path, sealed::to_json(LAST_RUN, options)?.to_string().as_bytes())
    }
}
