//! Remembers the digests of files outside the store, so that an unchanged file is not read again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::file_stamp::{FileStamp, time_after};
use super::sealed::{self, Found};
use crate::base::failpoint;
use crate::base::files;

const FILE: &str = "seen";

/// Digests of files with the stamps they had, and facts that were computed from known contents.
pub struct DigestCache {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    table: Option<Table>,
    changed: bool,
    /// The saved digests are not used: every file is read again.
    ignored: bool,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Table {
    files: BTreeMap<PathBuf, KnownFile>,
    facts: BTreeMap<String, Fact>,
}

#[derive(Clone, Serialize, Deserialize)]
struct KnownFile {
    #[serde(rename = "signature")]
    stamp: FileStamp,
    as_of: i64,
    digest: String,
}

#[derive(Serialize, Deserialize)]
struct Fact {
    /// Digest of the data that the fact was computed from.
    of: String,
    value: String,
}

impl DigestCache {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), state: Mutex::default() }
    }

    /// From now on every file is read again.
    pub fn ignore(&self) {
        self.state.lock().ignored = true;
    }

    pub fn is_ignored(&self) -> bool {
        self.state.lock().ignored
    }

    fn with<T>(&self, act: impl FnOnce(&mut Table) -> (T, bool)) -> T {
        let mut state = self.state.lock();
        if state.table.is_none() {
            let known = if state.ignored { None } else { self.find().ok() };
            state.table = Some(known.and_then(|found| found.or_warn(&self.path())).unwrap_or_default());
        }
        let (value, changed) = act(state.table.get_or_insert_default());
        state.changed |= changed;
        value
    }

    fn path(&self) -> PathBuf {
        self.root.join(FILE)
    }

    fn find(&self) -> Result<Found<Table>> {
        sealed::read(&self.path(), |bytes| serde_json::from_slice(sealed::open(FILE, bytes)?).ok())
    }

    /// The path of the table, if the table is damaged.
    pub(super) fn damaged(&self) -> Result<Option<PathBuf>> {
        Ok(matches!(self.find()?, Found::Damaged).then(|| self.path()))
    }

    /// The digest of the file at `path`. The file is read only if it may have changed since its digest was saved.
    pub fn digest(&self, path: &Path) -> Result<String> {
        let now = || FileStamp::of(&path.canonicalize().ok()?);
        let before = now();
        let known = self.with(|table| (table.files.get(path).cloned(), false));
        if let Some(known) = known
            && before == Some(known.stamp)
            && !known.stamp.is_racy(known.as_of)
        {
            return Ok(known.digest);
        }
        // On a read-only file system, its clock cannot be read. Then the digest is not saved.
        let as_of = before.and_then(|before| time_after(&self.root, before.changed).ok());
        let before = now();
        let digest = files::digest(path)?;
        if let (Some(stamp), Some(as_of)) = (before, as_of)
            && now() == before
        {
            let known = KnownFile { stamp, as_of, digest: digest.clone() };
            self.with(|table| (table.files.insert(path.to_owned(), known), true));
        }
        Ok(digest)
    }

    /// A fact called `name` that depends only on `of`. It is computed once for each `of`.
    pub fn fact(&self, name: &str, of: &impl Serialize, work_out: impl FnOnce() -> Result<String>) -> Result<String> {
        let of = blake3::hash(&serde_json::to_vec(of)?).to_hex().to_string();
        let known = self.with(|table| {
            let known = table.facts.get(name).filter(|fact| fact.of == of);
            (known.map(|fact| fact.value.clone()), false)
        });
        if let Some(value) = known {
            return Ok(value);
        }
        let value = work_out()?;
        let fact = Fact { of, value: value.clone() };
        self.with(|table| (table.facts.insert(name.to_owned(), fact), true));
        Ok(value)
    }

    /// Saves new digests and facts for the next process.
    pub fn save(&self) -> Result<()> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.changed) {
            let table = state.table.as_ref().context("nothing is known")?;
            files::write_atomically(&self.path(), &sealed::seal(FILE, serde_json::to_vec(table)?))?;
            failpoint::point("digests-written");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_read_again_only_when_it_may_have_changed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a");
        fs::write(&path, "one")?;
        let digests = DigestCache::new(folder.path());
        let first = digests.digest(&path)?;
        digests.save()?;
        // A wrong digest in the table shows that the file was not read again.
        let bytes = fs::read(digests.path())?;
        let table = std::str::from_utf8(sealed::open(FILE, &bytes).unwrap())?.replace(&first, &"0".repeat(64));
        fs::write(digests.path(), sealed::seal(FILE, table.clone().into()))?;
        assert_eq!(DigestCache::new(folder.path()).digest(&path)?, "0".repeat(64));
        // A modified table is ignored.
        fs::write(digests.path(), sealed::seal("another", table.clone().into()))?;
        assert_eq!(DigestCache::new(folder.path()).digest(&path)?, first);
        fs::write(digests.path(), sealed::seal(FILE, table.into()))?;
        let careful = DigestCache::new(folder.path());
        careful.ignore();
        assert_eq!(careful.digest(&path)?, first);
        fs::write(&path, "two")?;
        assert_eq!(DigestCache::new(folder.path()).digest(&path)?, blake3::hash(b"two").to_hex().to_string());
        Ok(())
    }

    #[test]
    fn a_fact_is_worked_out_once_for_what_it_follows_from() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let digests = DigestCache::new(folder.path());
        assert_eq!(digests.fact("sum", &[1, 2], || Ok("3".into()))?, "3");
        assert_eq!(digests.fact("sum", &[1, 2], || anyhow::bail!("again"))?, "3");
        assert_eq!(digests.fact("sum", &[1, 3], || Ok("4".into()))?, "4");
        Ok(())
    }
}
