//! The history: a line for each run of an instance, with its time and speed; results themselves hold no times.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::store::unlink;
use super::{Store, sealed};
use crate::base::failpoint;
use crate::base::files;

const HISTORY: &str = "history.jsonl";

/// One run of one instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finished {
    pub instance: String,
    pub key: String,
    pub seconds: f64,
    /// Seconds since 1970.
    pub at: u64,
    #[serde(rename = "images_per_second", skip_serializing_if = "Option::is_none")]
    pub items_per_second: Option<f64>,
}

impl Store {
    pub fn note_finished(&self, finished: &Finished) -> Result<()> {
        use std::io::Write;
        let path = self.history_path();
        // If a crash left an incomplete line, start a new one.
        unlink(&path)?;
        let cut = fs::read(&path).is_ok_and(|bytes| bytes.last().is_some_and(|last| *last != b'\n'));
        let line = format!("{}{}\n", if cut { "\n" } else { "" }, sealed::to_json(HISTORY, finished)?);
        let file = File::options().create(true).append(true).open(&path);
        let noted = file.and_then(|mut file| file.write_all(line.as_bytes()));
        noted.with_context(|| format!("cannot write {}", path.display()))?;
        failpoint::point("history-written");
        Ok(())
    }

    pub(super) fn history_path(&self) -> PathBuf {
        self.root.join(HISTORY)
    }

    /// The lines of the history, oldest first. `None` for a damaged line.
    pub(super) fn history_lines(&self) -> Vec<Option<Finished>> {
        let path = self.history_path();
        if files::is_no_file(&path) {
            return vec![None];
        }
        let bytes = fs::read(path).unwrap_or_default();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| sealed::from_json(HISTORY, line)).collect()
    }

    /// All runs, oldest first. Incomplete and damaged lines are skipped.
    pub fn history(&self) -> Vec<Finished> {
        self.history_lines().into_iter().flatten().collect()
    }

    /// Writes the history again without its damaged lines.
    pub(super) fn repair_history(&self) -> Result<()> {
        let mut text = String::new();
        for finished in self.history() {
            text += &(sealed::to_json(HISTORY, &finished)?.to_string() + "\n");
        }
        files::write_atomically(&self.history_path(), text.as_bytes())
    }
}
