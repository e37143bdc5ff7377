//! The store: maps each key to a result, and each result to its files, which are shared blobs.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::blobs::Blobs;
use super::digest_cache::DigestCache;
use super::sealed::{self, Found, is_digest};
use super::work::Work;
use super::{Contents, ItemTable, KeyDocument, Written};
use crate::base::error::Failure;
use crate::base::failpoint;
use crate::base::files;
use crate::damaged;

/// How long to wait for a lock: a killed process may still hold it for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// The folders of the cache.
const FOLDERS: [&str; 9] =
    ["altered", "blobs", "items", "laid", "people", "people/items", "results", "scratch", "store"];

/// A result: its key, its key document, and the digest of its list of files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredResult {
    pub key: String,
    /// Digest of the result's [`Contents`].
    pub digest: String,
    pub document: KeyDocument,
    pub files: usize,
    pub bytes: u64,
    /// The recipes of the [`ItemTable`]s that it uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
}

pub struct Store {
    pub(super) root: PathBuf,
    pub blobs: Blobs,
    pub digests: Arc<DigestCache>,
    work: Arc<Work>,
    /// The lock file, while this process holds the project.
    held: Mutex<Option<File>>,
    /// Contents read or made by this process, by digest.
    known: Mutex<HashMap<String, Arc<Contents>>>,
}

impl Store {
    pub fn new(root: PathBuf) -> Self {
        let work = Arc::new(Work::new(root.join("tmp")));
        let (blobs, digests) = (Blobs::new(&root, work.clone()), Arc::new(DigestCache::new(&root)));
        Self { root, blobs, digests, work, held: Mutex::default(), known: Mutex::default() }
    }

    /// Fails if a folder of the cache is a link or a file. The target of a link does not belong to the cache.
    pub fn must_be_own(&self) -> Result<()> {
        for path in std::iter::once(self.root.clone()).chain(FOLDERS.map(|name| self.root.join(name))) {
            if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
                return Err(damaged!(
                    "{} must be a folder, not a link or a file; remove it, and the next run makes a new one (to keep \
                     results on another disk, make `artifacts` itself a link)",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    /// From now on every file is hashed again, ignoring cached sizes and times.
    pub fn ignore_stamps(&self) {
        self.digests.ignore();
    }

    /// Locks the project for this process. The lock is released when the guard is dropped or the process ends.
    pub fn lock(&self) -> Result<Lock<'_>> {
        files::create_folder(&self.root)?;
        let path = self.lock_path();
        let start = Instant::now();
        let file = loop {
            unlink(&path)?;
            let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            match file.try_lock() {
                // If the file was removed or replaced meanwhile, locking it means nothing.
                Ok(()) if files::is_still_at(&file, &path) => break file,
                Ok(()) | Err(fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(()) | Err(fs::TryLockError::WouldBlock) => return Err(self.busy()),
                Err(fs::TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        };
        self.hold(file)?;
        // Remove what killed runs left.
        self.work.clear()?;
        failpoint::point("lock-taken");
        Ok(Lock(self))
    }

    /// Takes a shared lock: until the guard is dropped, no run can change anything. `None` if there is no lock file
    /// that can be locked, for example on a read-only file system.
    pub fn share(&self) -> Result<Option<File>> {
        let path = self.lock_path();
        if files::is_no_file(&path) {
            return Ok(None);
        }
        let Ok(file) = File::open(path) else { return Ok(None) };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Err(self.busy()),
            Err(fs::TryLockError::Error(_)) => Ok(None),
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }

    fn busy(&self) -> anyhow::Error {
        let holder = fs::read_to_string(holder_path(&self.lock_path())).unwrap_or_default();
        Failure::Busy(holder.trim().to_owned()).into()
    }

    fn hold(&self, file: File) -> Result<()> {
        write_holder(&self.lock_path())?;
        *self.held.lock() = Some(file);
        Ok(())
    }

    /// Fails if the lock file was replaced since this process locked it, because another run may be active. A lock file
    /// that was only removed is put back.
    pub fn must_be_held(&self) -> Result<()> {
        let path = self.lock_path();
        let mut held = self.held.lock();
        if held.as_ref().is_none_or(|held| files::is_still_at(held, &path)) {
            return Ok(());
        }
        match File::options().create_new(true).read(true).write(true).open(&path) {
            Ok(file) if file.try_lock().is_ok() => {
                tracing::warn!("{} was removed while this run held it; it is put back", path.display());
                write_holder(&path)?;
                *held = Some(file);
                Ok(())
            }
            _ => Err(self.busy()),
        }
    }

    /// The folder of one of [`NAMESPACES`](super::NAMESPACES).
    pub fn namespace(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn results_dir(&self) -> PathBuf {
        self.root.join("results")
    }

    pub(super) fn result_path(&self, key: &str) -> PathBuf {
        self.results_dir().join(format!("{key}.json"))
    }

    /// The result for `key`. `None`, with a warning, if it is damaged or belongs to another key.
    pub fn result(&self, key: &str) -> Result<Option<StoredResult>> {
        Ok(self.find_result(key)?.or_warn(&self.result_path(key)))
    }

    pub(super) fn find_result(&self, key: &str) -> Result<Found<StoredResult>> {
        if !is_digest(key) {
            return Ok(Found::Absent);
        }
        sealed::read(&self.result_path(key), |bytes| StoredResult::parse(key, bytes))
    }

    pub(super) fn put_result(&self, stored: &StoredResult) -> Result<()> {
        files::write_atomically(&self.result_path(&stored.key), &stored.to_bytes()?)
    }

    /// All results, sorted by key.
    pub fn results(&self) -> Result<Vec<StoredResult>> {
        let names = files::names(&self.results_dir())?;
        names.iter().filter_map(|name| self.result(name.strip_suffix(".json")?).transpose()).collect()
    }

    pub fn remove_result(&self, key: &str) -> Result<()> {
        let path = self.result_path(key);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// The files of the result with this digest. `None` if their list is missing or damaged.
    pub fn contents(&self, digest: &str) -> Option<Arc<Contents>> {
        let mut known = self.known.lock();
        if let Some(contents) = known.get(digest) {
            return Some(contents.clone());
        }
        if !is_digest(digest) {
            return None;
        }
        let text = String::from_utf8(self.blobs.read(digest).ok()?).ok()?;
        let contents = Arc::new(Contents::parse(text).ok()?);
        known.insert(digest.to_owned(), contents.clone());
        Some(contents)
    }

    /// The results of single items for a recipe.
    pub fn items(&self, recipe: &str) -> Result<ItemTable> {
        ItemTable::read(&self.root, recipe)
    }

    /// A new, empty working folder. Its files become part of the store with [`Store::commit`].
    pub fn slot(&self) -> Result<TempDir> {
        let folder = self.work.folder()?;
        TempDir::with_prefix_in("slot-", &folder).with_context(|| format!("cannot work in {}", folder.display()))
    }

    /// The folder for checkpoints of an instance under `key`, from which an interrupted run resumes.
    pub fn scratch(&self, instance: &str, key: &str) -> PathBuf {
        self.root.join("scratch").join(instance).join(key)
    }

    /// Stores the result for `document`: the files in `folder`, which must be exactly those in `written`, and the files
    /// in `placed`, which are blobs already. `items` are the recipes of the tables that it used.
    pub fn commit(
        &self,
        document: KeyDocument,
        (folder, written): (&Path, &BTreeMap<String, Written>),
        placed: Vec<(String, u64, String)>,
        items: Vec<String>,
    ) -> Result<StoredResult> {
        failpoint::point("stage-ended");
        let found = files::list(folder).unwrap_or_default();
        if let Some(lost) = written.keys().find(|path| found.binary_search(path).is_err()) {
            bail!("{lost} vanished from its working folder before it was stored; another program removed it");
        }
        let taken = found.into_par_iter().map(|path| {
            let Some(as_written) = written.get(&path) else {
                bail!("{path} appeared in its working folder; another program wrote it");
            };
            let (bytes, digest) = self.blobs.take(&folder.join(&path))?;
            if (bytes, &digest) != (as_written.bytes, &as_written.digest) {
                bail!("{path} changed in its working folder before it was stored; another program wrote it");
            }
            Ok((path, bytes, digest))
        });
        let mut all = taken.collect::<Result<Vec<_>>>()?;
        all.extend(placed);
        if all.is_empty() {
            bail!("it made no files, and a result must have at least one");
        }
        let contents = Contents::new(all)?;
        let digest = self.blobs.put(contents.text().as_bytes())?;
        self.blobs.sync(contents.iter().map(|file| file.digest).chain([digest.as_str()]))?;
        failpoint::point("contents-placed");
        let bytes = contents.iter().map(|file| file.bytes).sum();
        let (key, files) = (document.key()?, contents.len());
        let stored = StoredResult { key, digest: digest.clone(), document, files, bytes, items };
        self.known.lock().insert(digest, Arc::new(contents));
        self.must_be_held()?;
        self.put_result(&stored)?;
        failpoint::point("result-written");
        Ok(stored)
    }
}

impl StoredResult {
    /// Its sealed JSON, for the local and the remote cache.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(&sealed::to_json(&name(&self.key), self)?)?)
    }

    /// Reads the result for `key`. `None` if it is damaged, invalid, or belongs to another key.
    pub fn parse(key: &str, bytes: &[u8]) -> Option<Self> {
        let stored: Self = sealed::from_json(&name(key), bytes)?;
        let fits = stored.key == key && stored.document.key().ok()? == key;
        let sound = is_digest(&stored.digest) && stored.items.iter().all(|recipe| is_digest(recipe));
        // A result must have at least one file.
        let sound = sound && stored.digest != blake3::hash(b"").to_hex().as_str();
        (fits && sound).then_some(stored)
    }
}

/// Writes the id of this process, for the messages of other processes.
fn write_holder(lock: &Path) -> Result<()> {
    files::write(&holder_path(lock), format!("{}\n", std::process::id()).as_bytes())
}

/// Where the id of the process is that holds the lock: in the lock file. Windows lets nobody read a locked file, so
/// there it is in a file beside it.
fn holder_path(lock: &Path) -> PathBuf {
    if cfg!(windows) { lock.with_extension("holder") } else { lock.to_owned() }
}

/// Removes a link, a pipe or an empty folder from `path`, where a file of the cache should be.
pub(super) fn unlink(path: &Path) -> Result<()> {
    if files::is_folder(path) {
        // A folder that is not empty stays. Then opening the file fails, and the error names it.
        drop(fs::remove_dir(path));
    } else if files::is_no_file(path) {
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn name(key: &str) -> String {
    format!("results/{key}")
}

/// Holds the lock of the project until it is dropped.
#[derive(Debug)]
pub struct Lock<'a>(&'a Store);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        *self.0.held.lock() = None;
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.root).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The files in `folder`, as if a stage had written them.
    pub fn written(folder: &Path) -> BTreeMap<String, Written> {
        let file = |path: String| {
            let bytes = fs::read(folder.join(&path)).unwrap();
            (path, Written { bytes: bytes.len() as u64, digest: blake3::hash(&bytes).to_hex().to_string() })
        };
        files::list(folder).unwrap().into_iter().map(file).collect()
    }

    fn document() -> KeyDocument {
        let (parameters, reads) = (serde_json::json!({}), Default::default());
        KeyDocument { stage: "s".into(), version: 1, seed: None, parameters, reads }
    }

    #[test]
    fn only_what_the_stage_wrote_is_stored() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let store = Store::new(folder.path().join("cache"));
        let work = folder.path().join("work");
        let changes: [(&str, &dyn Fn()); 4] = [
            ("vanished", &|| fs::remove_file(work.join("b")).unwrap()),
            ("appeared", &|| fs::write(work.join("c"), "c").unwrap()),
            ("changed", &|| fs::write(work.join("b"), "B").unwrap()),
            ("vanished", &|| fs::remove_dir_all(&work).unwrap()),
        ];
        for (told, change) in changes {
            files::create_folder(&work)?;
            ["a", "b"].into_iter().try_for_each(|name| fs::write(work.join(name), name))?;
            let written = written(&work);
            change();
            let error = store.commit(document(), (&work, &written), Vec::new(), Vec::new()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
            files::remove_folder(&work)?;
        }
        files::create_folder(&work)?;
        let error = store.commit(document(), (&work, &BTreeMap::new()), Vec::new(), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("a result must have at least one"), "{error}");
        assert_eq!(store.results()?, []);
        Ok(())
    }

    #[test]
    fn a_modified_result_is_none() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let store = Store::new(folder.path().join("cache"));
        let work = tempfile::tempdir()?;
        fs::write(work.path().join("a"), "a")?;
        let stored = store.commit(document(), (work.path(), &written(work.path())), Vec::new(), Vec::new())?;
        assert_eq!(store.result(&stored.key)?.as_ref(), Some(&stored));
        let path = store.result_path(&stored.key);
        let text = files::read_to_string(&path)?;
        let other = StoredResult { digest: "0".repeat(64), ..stored.clone() };
        for altered in
            [text.replace(&stored.digest, &other.digest), serde_json::to_string(&other)?, text.replace("\"a\"", "1")]
        {
            fs::write(&path, &altered)?;
            assert_eq!(store.result(&stored.key)?.is_none(), altered != text, "{altered}");
        }
        // The checksum also covers the name of the file.
        fs::rename(&path, store.result_path(&"1".repeat(64)))?;
        assert_eq!(store.result(&"1".repeat(64))?, None);
        assert_eq!(store.result("../../secret")?, None);
        Ok(())
    }

    #[test]
    fn a_lock_file_that_was_removed_or_replaced_is_noticed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (one, two) = (Store::new(folder.path().to_owned()), Store::new(folder.path().to_owned()));
        let lock = one.lock()?;
        assert!(two.lock().unwrap_err().to_string().contains("another run"));
        fs::remove_file(one.lock_path())?;
        one.must_be_held()?;
        assert!(two.lock().is_err(), "it was put back");
        fs::remove_file(one.lock_path())?;
        let other = two.lock()?;
        assert!(one.must_be_held().is_err());
        two.must_be_held()?;
        drop((lock, other));
        one.must_be_held()?;
        Ok(())
    }
}
