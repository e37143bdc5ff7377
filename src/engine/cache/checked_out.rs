//! Notes which result of each instance is checked out, and where, in one small file for each instance.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Store;
use super::output_dir::there;
use super::sealed::{self, Found, is_digest};
use super::stamp_index::StampIndex;
use crate::base::files;

/// The result that is checked out for an instance, and its output directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckedOut {
    pub key: String,
    pub digest: String,
    pub out: PathBuf,
    /// While a check-out is under way: digests and output directories of earlier results whose files are being removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "leaving")]
    pub(super) replaced: Vec<(String, PathBuf)>,
}

/// Whether `out` can be an output directory: below the project and not in the cache, or an absolute path.
fn is_output_dir(out: &Path) -> bool {
    let climbs = |part: Component| matches!(part, Component::ParentDir | Component::CurDir);
    out.file_name().is_some() && !out.components().any(climbs) && !out.starts_with("artifacts/.cache")
}

impl CheckedOut {
    /// Whether all paths and digests are valid. The file may be forged.
    fn is_plain(&self) -> bool {
        let outs = self.replaced.iter().map(|(_, out)| out).chain([&self.out]);
        let digests = self.replaced.iter().map(|(digest, _)| digest).chain([&self.digest, &self.key]);
        outs.into_iter().all(|out| is_output_dir(out)) && digests.into_iter().all(|digest| is_digest(digest))
    }
}

impl Store {
    fn checked_out_path(&self, instance: &str) -> PathBuf {
        self.root.join("laid").join(format!("{instance}.json"))
    }

    pub(super) fn index_path(&self, instance: &str) -> PathBuf {
        self.root.join("laid").join(format!("{instance}.index"))
    }

    /// The result of `instance` that is checked out now.
    pub fn checked_out(&self, instance: &str) -> Result<Option<CheckedOut>> {
        Ok(self.find_checked_out(instance)?.or_warn(&self.checked_out_path(instance)))
    }

    fn find_checked_out(&self, instance: &str) -> Result<Found<CheckedOut>> {
        let parse = |bytes: &[u8]| sealed::from_json(&name(instance), bytes).filter(CheckedOut::is_plain);
        sealed::read(&self.checked_out_path(instance), parse)
    }

    pub(super) fn note_checked_out(&self, instance: &str, checked_out: &CheckedOut) -> Result<()> {
        let json = sealed::to_json(&name(instance), checked_out)?.to_string();
        files::write_atomically(&self.checked_out_path(instance), json.as_bytes())
    }

    /// Removes the note of what is checked out for `instance`. The files themselves stay.
    pub fn forget_checked_out(&self, instance: &str) -> Result<()> {
        for path in [self.checked_out_path(instance), self.index_path(instance)] {
            if there(fs::remove_file(&path), &path)?.is_some() {
                files::sync_folder(&self.root.join("laid"))?;
            }
        }
        Ok(())
    }

    /// Damaged notes and stamp indices.
    pub(super) fn damaged_checked_out(&self) -> Result<Vec<PathBuf>> {
        let folder = self.root.join("laid");
        let mut damaged = Vec::new();
        for name in files::names(&folder)? {
            let path = folder.join(&name);
            let is_damaged = match name.rsplit_once('.') {
                Some((instance, "json")) => matches!(self.find_checked_out(instance)?, Found::Damaged),
                Some((_, "index")) => StampIndex::is_damaged(&path)?,
                _ => false,
            };
            damaged.extend(is_damaged.then_some(path));
        }
        Ok(damaged)
    }

    /// All checked out results, with the names of their instances.
    pub fn all_checked_out(&self) -> Result<Vec<(String, CheckedOut)>> {
        let names = files::names(&self.root.join("laid"))?;
        let instances = names.iter().filter_map(|name| name.strip_suffix(".json"));
        let checked_out =
            instances.map(|name| Ok(self.checked_out(name)?.map(|checked_out| (name.to_owned(), checked_out))));
        checked_out.filter_map(Result::transpose).collect()
    }

    /// The instance whose result has the file at `path`, or whose default output directory contains `path`.
    pub fn owner(&self, project: &Path, path: &Path) -> Result<Option<String>> {
        let Ok(folder) = files::folder_of(path).canonicalize() else { return Ok(None) };
        let Some(path) = path.file_name().map(|name| folder.join(name)) else { return Ok(None) };
        for (name, checked_out) in self.all_checked_out()? {
            let Ok(folder) = project.join(&checked_out.out).canonicalize() else { continue };
            let Ok(below) = path.strip_prefix(folder) else { continue };
            let is_own = checked_out.out == Path::new("artifacts").join(&name);
            let has = || below.to_str().and_then(|below| self.contents(&checked_out.digest)?.find(below)).is_some();
            if is_own || has() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// A text that changes when a check-out of a new result begins, and again when it is finished.
    pub fn checked_out_version(&self) -> Result<String> {
        let line = |(name, checked_out): (String, CheckedOut)| {
            let path = self.checked_out_path(&name);
            let changed = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
            let changed = changed.with_context(|| format!("cannot look at {}", path.display()))?;
            Ok(format!("{name} {} {changed:?}\n", checked_out.digest))
        };
        self.all_checked_out()?.into_iter().map(line).collect()
    }
}

fn name(instance: &str) -> String {
    format!("laid/{instance}.json")
}
