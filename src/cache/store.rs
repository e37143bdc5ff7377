//! The store: a folder for each key, filled beside its place and moved there whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::KeyDocument;
use crate::failure::Failure;
use crate::files;

/// Stored files are dated 2000-01-01.
const STAMP: u64 = 946_684_800;

/// The modification time of a stored file: its nanoseconds follow the content, so that one look tells whether the
/// file was touched since, even by a copy of another stored file.
fn stamp(digest: &str) -> SystemTime {
    let nanoseconds = digest.get(..7).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
    UNIX_EPOCH + Duration::new(STAMP, nanoseconds)
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Relative, with `/` between parts.
    pub path: String,
    pub bytes: u64,
    pub digest: String,
}

/// What stands beside a stored result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub key: String,
    /// Digest of the result as a whole: of the paths, lengths and digests below.
    pub digest: String,
    pub document: KeyDocument,
    pub outputs: Vec<Output>,
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

pub enum Lookup {
    Hit(Record),
    Miss,
    /// The result was there but is no longer whole.
    Broken(String),
}

pub struct Store {
    root: PathBuf,
    /// Held while a result takes its place: two instances may have made the same one.
    placing: Mutex<()>,
}

impl Store {
    pub fn new(root: PathBuf) -> Self {
        Self { root, placing: Mutex::new(()) }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the project for this process; the lock goes when the guard, or the process, does.
    pub fn lock(&self) -> Result<File> {
        files::create_folder(&self.root)?;
        let path = self.root.join("lock");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        if let Err(error) = file.try_lock() {
            return match error {
                fs::TryLockError::WouldBlock => {
                    let holder = fs::read_to_string(&path).unwrap_or_default();
                    Err(Failure::Busy(holder.trim().to_owned()).into())
                }
                fs::TryLockError::Error(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
            };
        }
        files::write(&path, format!("{}\n", std::process::id()).as_bytes())?;
        // What a killed run left half done.
        let half_done = self.root.join("tmp");
        files::remove_folder(&half_done)?;
        Ok(file)
    }

    /// The folder that holds the files stored under `key`.
    pub fn folder(&self, key: &str) -> PathBuf {
        self.root.join("store").join(key).join("files")
    }

    fn record_path(&self, key: &str) -> PathBuf {
        self.root.join("store").join(key).join("record.json")
    }

    pub fn record(&self, key: &str) -> Result<Option<Record>> {
        files::read_json(&self.record_path(key))
    }

    /// Finds the result for `key` and verifies that its files are there, untouched.
    pub fn look_up(&self, key: &str) -> Result<Lookup> {
        let Some(record) = self.record(key)? else { return Ok(Lookup::Miss) };
        let folder = self.folder(key);
        Ok(match record.outputs.iter().find_map(|output| fault(&folder, output)) {
            None => Lookup::Hit(record),
            Some(fault) => Lookup::Broken(fault),
        })
    }

    /// A place to work in; nothing of it is seen before [`Slot::commit`].
    pub fn slot(&self) -> Result<Slot> {
        let folder = self.root.join("tmp");
        files::create_folder(&folder)?;
        let folder = TempDir::new_in(&folder).with_context(|| format!("cannot work in {}", folder.display()))?;
        files::create_folder(&folder.path().join("files"))?;
        Ok(Slot { folder })
    }

    /// Where an instance keeps what an interrupted run goes on from.
    pub fn scratch(&self, instance: &str) -> PathBuf {
        self.root.join("scratch").join(instance)
    }

    pub fn note_finished(&self, finished: &Finished) -> Result<()> {
        use std::io::Write;
        let path = self.root.join("history.jsonl");
        let file = File::options().create(true).append(true).open(&path);
        let line = serde_json::to_string(finished)? + "\n";
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// All noted runs, oldest first. A line cut short by a crash is passed over.
    pub fn history(&self) -> Vec<Finished> {
        let text = fs::read_to_string(self.root.join("history.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// What is wrong with a stored file, if anything is.
fn fault(folder: &Path, output: &Output) -> Option<String> {
    let path = folder.join(&output.path);
    let Ok(metadata) = fs::metadata(&path) else { return Some(format!("{} is missing", output.path)) };
    let touched = metadata.modified().ok() != Some(stamp(&output.digest));
    if metadata.len() == output.bytes && !touched {
        return None;
    }
    if metadata.len() != output.bytes || files::digest(&path).ok().as_ref() != Some(&output.digest) {
        return Some(format!("{} was changed", output.path));
    }
    // Touched but the same; stamping it again only spares the next look the digest.
    if let Err(error) =
        File::options().write(true).open(&path).and_then(|file| file.set_modified(stamp(&output.digest)))
    {
        tracing::debug!("cannot stamp {}: {error}", path.display());
    }
    None
}

/// A result in the making.
pub struct Slot {
    folder: TempDir,
}

impl Slot {
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// Makes the result durable, then visible under its key; the record is written last.
    pub fn commit(self, store: &Store, document: KeyDocument) -> Result<Record> {
        let key = document.key()?;
        let folder = self.folder();
        let outputs = files::list(&folder)?.into_par_iter().map(|path| settle(&folder, path));
        let outputs = outputs.collect::<Result<Vec<Output>>>()?;
        let mut hasher = blake3::Hasher::new();
        for output in &outputs {
            hasher.update(format!("{}\0{}\0{}\n", output.path, output.bytes, output.digest).as_bytes());
        }
        let record = Record { digest: hasher.finalize().to_hex().to_string(), document, outputs, key };
        let text = serde_json::to_vec_pretty(&record)?;
        files::write_atomically(&self.folder.path().join("record.json"), &text)?;

        let _placing = store.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(store.look_up(&record.key)?, Lookup::Hit(there) if there.digest == record.digest) {
            return Ok(record);
        }
        let destination = store.root.join("store").join(&record.key);
        files::create_folder(&store.root.join("store"))?;
        files::remove_folder(&destination)?;
        let made = self.folder.keep();
        fs::rename(&made, &destination)
            .with_context(|| format!("cannot move the result to {}", destination.display()))?;
        let parent = File::open(store.root.join("store")).and_then(|folder| folder.sync_all());
        parent.with_context(|| format!("cannot sync {}", store.root.display()))?;
        Ok(record)
    }
}

fn settle(folder: &Path, path: String) -> Result<Output> {
    let full = folder.join(&path);
    let digest = files::digest(&full)?;
    let attempt = || -> std::io::Result<u64> {
        let file = File::options().write(true).open(&full)?;
        file.set_modified(stamp(&digest))?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    };
    let bytes = attempt().with_context(|| format!("cannot sync {}", full.display()))?;
    Ok(Output { path, bytes, digest })
}
