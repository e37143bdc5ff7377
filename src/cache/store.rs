//! The store: for each key a record, which names the content of the result; contents are shared blobs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::blobs::Blobs;
use super::seen::Seen;
use super::{Contents, KeyDocument, Table};
use crate::failure::Failure;
use crate::{fault, files};

/// A process that was killed may hold its lock for a moment longer.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What is kept of a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub key: String,
    /// Digest of the result as a whole: of its [`Contents`].
    pub digest: String,
    pub document: KeyDocument,
    pub files: usize,
    pub bytes: u64,
    /// Tables of what was made of single items.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
}

/// When and how fast an instance ran; kept apart from the results, which are the same bytes on every run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finished {
    pub instance: String,
    pub key: String,
    pub seconds: f64,
    /// Seconds since 1970.
    pub at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_per_second: Option<f64>,
}

pub struct Store {
    pub(super) root: PathBuf,
    pub blobs: Blobs,
    pub seen: Arc<Seen>,
    /// Contents read or made by this process, by digest.
    known: Mutex<HashMap<String, Arc<Contents>>>,
}

impl Store {
    pub fn new(root: PathBuf) -> Self {
        let (blobs, seen) = (Blobs::new(&root), Arc::new(Seen::new(&root)));
        Self { root, blobs, seen, known: Mutex::default() }
    }

    /// Trusts no look of a file: every one is read again.
    pub fn distrust(&self) {
        self.seen.distrust();
    }

    /// Takes the project for this process; the lock goes when the guard, or the process, does.
    pub fn lock(&self) -> Result<File> {
        files::create_folder(&self.root)?;
        let path = self.root.join("lock");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let start = Instant::now();
        while let Err(error) = file.try_lock() {
            match error {
                fs::TryLockError::WouldBlock if start.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                fs::TryLockError::WouldBlock => {
                    let holder = fs::read_to_string(&path).unwrap_or_default();
                    return Err(Failure::Busy(holder.trim().to_owned()).into());
                }
                fs::TryLockError::Error(error) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        files::write(&path, format!("{}\n", std::process::id()).as_bytes())?;
        // What a killed run left half done.
        files::remove_folder(&self.unfinished())?;
        fault::point("lock-taken");
        Ok(file)
    }

    /// What is kept of pictures that are no part of the pipeline.
    pub fn of_people(&self) -> PathBuf {
        self.root.join("people")
    }

    fn unfinished(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn results(&self) -> PathBuf {
        self.root.join("results")
    }

    pub(super) fn record_path(&self, key: &str) -> PathBuf {
        self.results().join(format!("{key}.json"))
    }

    /// What is kept of the result for `key`. A record that does not belong to its key is none.
    pub fn record(&self, key: &str) -> Result<Option<Record>> {
        let path = self.record_path(key);
        let Some(record) = files::read_json::<Record>(&path)? else { return Ok(None) };
        if record.key != key || record.document.key()? != key {
            tracing::warn!("{} is not the record of its key and passed over", path.display());
            return Ok(None);
        }
        Ok(Some(record))
    }

    /// Every record there is, by key.
    pub fn records(&self) -> Result<Vec<Record>> {
        if !self.results().exists() {
            return Ok(Vec::new());
        }
        let keys = files::names(&self.results())?;
        let records = keys.iter().filter_map(|name| self.record(name.strip_suffix(".json")?).transpose());
        records.collect()
    }

    pub fn remove_record(&self, key: &str) -> Result<()> {
        let path = self.record_path(key);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// The files of the result with this digest; `None` where its list is no longer there or damaged.
    pub fn contents(&self, digest: &str) -> Option<Arc<Contents>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(contents) = known.get(digest) {
            return Some(contents.clone());
        }
        let contents = Contents::parse(fs::read_to_string(self.blobs.path(digest)).ok()?).ok()?;
        let contents = Some(contents).filter(|contents| contents.digest() == digest).map(Arc::new)?;
        known.insert(digest.to_owned(), contents.clone());
        Some(contents)
    }

    /// What was made of single items in one way.
    pub fn items(&self, way: &str) -> Table {
        Table::read(&self.root, way)
    }

    /// A folder to work in; nothing of it is seen before [`Store::commit`].
    pub fn slot(&self) -> Result<TempDir> {
        let folder = self.unfinished();
        files::create_folder(&folder)?;
        TempDir::with_prefix_in("slot-", &folder).with_context(|| format!("cannot work in {}", folder.display()))
    }

    /// Where an instance keeps what an interrupted run under `key` goes on from.
    pub fn scratch(&self, instance: &str, key: &str) -> PathBuf {
        self.root.join("scratch").join(instance).join(key)
    }

    /// Stores the files in `folder`, and `placed` ones that are blobs already, as the result for `document`.
    /// `items`: the tables it used.
    pub fn commit(
        &self,
        document: KeyDocument,
        folder: &Path,
        placed: Vec<(String, u64, String)>,
        items: Vec<String>,
    ) -> Result<Record> {
        fault::point("stage-ended");
        let taken = files::list(folder)?.into_par_iter().map(|path| {
            let (bytes, digest) = self.blobs.take(&folder.join(&path))?;
            Ok((path, bytes, digest))
        });
        let mut all = taken.collect::<Result<Vec<_>>>()?;
        all.extend(placed);
        let contents = Contents::new(all)?;
        let digest = self.blobs.put(contents.text().as_bytes())?;
        self.blobs.sync(contents.iter().map(|file| file.digest).chain([digest.as_str()]))?;
        fault::point("contents-placed");
        let bytes = contents.iter().map(|file| file.bytes).sum();
        let (key, files) = (document.key()?, contents.len());
        let record = Record { key, digest: digest.clone(), document, files, bytes, items };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, Arc::new(contents));
        files::write_atomically(&self.record_path(&record.key), &serde_json::to_vec_pretty(&record)?)?;
        fault::point("record-placed");
        Ok(record)
    }

    pub fn note_finished(&self, finished: &Finished) -> Result<()> {
        use std::io::Write;
        let path = self.root.join("history.jsonl");
        let file = File::options().create(true).append(true).open(&path);
        let line = serde_json::to_string(finished)? + "\n";
        let noted = file.and_then(|mut file| file.write_all(line.as_bytes()));
        noted.with_context(|| format!("cannot write {}", path.display()))?;
        fault::point("history-written");
        Ok(())
    }

    /// All noted runs, oldest first. A line cut short by a crash is passed over.
    pub fn history(&self) -> Vec<Finished> {
        let text = fs::read_to_string(self.root.join("history.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
