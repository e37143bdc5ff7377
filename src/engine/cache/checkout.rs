//! Checks out a result: puts its files into the output directory, and removes the files of an earlier result.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::file_stamp::{FileStamp, time_after};
use super::folders::NoFolders;
use super::inspection::Inspection;
use super::output_dir::{below, there};
use super::stamp_index::StampIndex;
use super::{CheckedOut, Contents, FileIssue, OutputDir, Reason, Store, StoredResult};
use crate::base::failpoint;
use crate::base::files;

/// How a check-out ended.
pub enum Checkout {
    /// The files are there. The reasons say what had to be corrected.
    Done(Vec<Reason>),
    /// The store no longer has all files. The output directory was not changed.
    Broken(Vec<Reason>),
}

impl Store {
    /// Checks out a result: unmodified files stay, missing and modified ones are replaced, and files of an earlier result
    /// are removed. Files that are not in the store are moved away. With `made`, the blobs were just written or read,
    /// and are not checked again.
    pub fn check_out(&self, dir: &OutputDir, stored: &StoredResult, made: bool) -> Result<Checkout> {
        let Some(contents) = self.contents(&stored.digest) else {
            return Ok(Checkout::Broken(vec![Reason::lost_list()]));
        };
        dir.check(false)?;
        let earlier = self.checked_out(dir.instance)?;
        let now = CheckedOut {
            key: stored.key.clone(),
            digest: stored.digest.clone(),
            out: dir.out.to_owned(),
            replaced: Vec::new(),
        };
        let again = earlier.as_ref() == Some(&now);
        let before = earlier.as_ref().and_then(|checked_out| self.contents(&checked_out.digest)).unwrap_or_default();
        files::create_folder(&self.root)?;
        let as_of = time_after(&self.root, 0)?;
        let mut inspection = self.inspect_knowing(dir, &contents, &self.known(dir, &contents, &before)?)?;
        if again && inspection.is_sound() {
            if inspection.learned {
                self.write_index(dir, &stored.digest, as_of, inspection)?;
            }
            return Ok(Checkout::Done(Vec::new()));
        }
        if !made {
            let broken = self.broken(&contents, &inspection)?;
            if !broken.is_empty() {
                return Ok(Checkout::Broken(broken));
            }
        }
        let replaced = earlier.filter(|_| !again).map(|checked_out| {
            // A crash may have left files of even earlier results.
            checked_out.replaced.into_iter().chain([(checked_out.digest, checked_out.out)]).collect()
        });
        let replaced: Vec<(String, PathBuf)> = replaced.unwrap_or_default();
        let announced = CheckedOut { replaced, ..now.clone() };
        if !again {
            // Noted before any file is changed, so that after a crash the next run can finish.
            self.note_checked_out(dir.instance, &announced)?;
            failpoint::point("checkout-announced");
        }
        let mut aside = Vec::new();
        for (digest, out) in &announced.replaced {
            self.remove_replaced(dir, digest, out, &contents, &mut aside)?;
        }
        for path in &inspection.untracked {
            self.keep_aside(dir, &below(&dir.folder(), path), path, &mut aside)?;
        }
        // A file that changed in the same clock tick as the inspection could change again with the same stamp.
        for stamp in inspection.stamps.iter_mut().filter(|stamp| stamp.is_racy(as_of)) {
            stamp.invalidate();
        }
        let (mut last, mut previous) = (0, None);
        for (at, issue) in &inspection.issues {
            let file = contents.file(*at);
            let path = dir.folder().join(file.path);
            if *issue == FileIssue::Modified {
                let previous = match &mut previous {
                    Some(previous) => previous,
                    none => none.insert(self.previous(dir, &announced)?),
                };
                self.free(dir, &path, file.path, previous, &mut aside)?;
            }
            path.parent().map_or(Ok(()), files::create_folder)?;
            self.blobs.check_out(file.digest, &path)?;
            failpoint::point("file-checked-out");
            let stamp = FileStamp::of(&path).with_context(|| format!("{} is gone", path.display()))?;
            last = last.max(stamp.changed);
            inspection.stamps[*at] = stamp;
        }
        // Other programs may have written into the folders meanwhile. The next inspection lists them again.
        inspection.folders.iter_mut().for_each(FileStamp::invalidate);
        let as_of = time_after(&self.root, last)?;
        let mut reasons = if again { inspection.reasons(&contents, Reason::Repaired) } else { Vec::new() };
        self.write_index(dir, &stored.digest, as_of, inspection)?;
        self.note_checked_out(dir.instance, &now)?;
        failpoint::point("checkout-finished");
        reasons.extend((!aside.is_empty()).then_some(Reason::KeptAside(aside)));
        Ok(Checkout::Done(reasons))
    }

    /// The contents of all results that were checked out in `dir`, of any instance.
    fn previous(&self, dir: &OutputDir, now: &CheckedOut) -> Result<Vec<Arc<Contents>>> {
        let all = self.all_checked_out()?.into_iter().map(|(_, checked_out)| checked_out).chain([now.clone()]);
        let all =
            all.flat_map(|checked_out| checked_out.replaced.into_iter().chain([(checked_out.digest, checked_out.out)]));
        Ok(all.filter(|(_, out)| out == dir.out).filter_map(|(digest, _)| self.contents(&digest)).collect())
    }

    fn write_index(&self, dir: &OutputDir, digest: &str, as_of: i64, inspection: Inspection) -> Result<()> {
        let (files, folders) = (inspection.stamps, inspection.folders);
        StampIndex { digest: digest.to_owned(), as_of, files, folders }.write(&self.index_path(dir.instance))
    }

    /// Reads the blobs that will be checked out. Damaged ones are removed, so that a run makes them again.
    fn broken(&self, contents: &Contents, inspection: &Inspection) -> Result<Vec<Reason>> {
        let issues = inspection.issues.par_iter().map(|(at, _)| {
            let file = contents.file(*at);
            Ok(match self.blobs.stamp(file.digest) {
                None => Some((FileIssue::Missing, file)),
                Some(_) if self.blobs.check(file.digest)? => None,
                Some(_) => Some((FileIssue::Modified, file)),
            })
        });
        let issues: Vec<_> = issues.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let of = |kind: FileIssue| issues.iter().filter(move |(issue, _)| *issue == kind).map(|(_, file)| file);
        for file in of(FileIssue::Modified).filter(|file| self.blobs.stamp(file.digest).is_some()) {
            self.discard(&self.blobs.path(file.digest))?;
        }
        let paths = |kind| of(kind).map(|file| file.path.to_owned()).collect::<Vec<_>>();
        let kinds = [FileIssue::Missing, FileIssue::Modified].into_iter().map(|kind| (kind, paths(kind)));
        Ok(kinds.filter(|(_, paths)| !paths.is_empty()).map(|(kind, paths)| Reason::Stored(kind, paths)).collect())
    }

    /// Removes the files of an earlier result, except those that a current result also has there.
    fn remove_replaced(
        &self,
        dir: &OutputDir,
        digest: &str,
        out: &Path,
        now: &Contents,
        aside: &mut Vec<String>,
    ) -> Result<()> {
        let Some(old) = self.contents(digest) else { return Ok(()) };
        let folder = dir.project.join(out);
        let others = self
            .all_checked_out()?
            .into_iter()
            .filter(|(name, checked_out)| name != dir.instance && checked_out.out == out);
        let others: Vec<_> = others.filter_map(|(_, checked_out)| self.contents(&checked_out.digest)).collect();
        let stays = |path: &str| {
            (out == dir.out && now.find(path).is_some()) || others.iter().any(|other| other.find(path).is_some())
        };
        if out != dir.out && !dir.owns(out) {
            // The manifest no longer names this folder. The note that it did so before may be forged, so nothing is
            // removed.
            if old.iter().any(|file| !stays(file.path) && folder.join(file.path).exists()) {
                let (instance, folder) = (dir.instance, folder.display());
                tracing::info!(
                    "the earlier files of `{instance}` stay in {folder}; remove them if you do not need them"
                );
            }
            return Ok(());
        }
        let old_dir = OutputDir { out, ..*dir };
        let no_folders = if folder.exists() { NoFolders::at(&old_dir, &old)? } else { NoFolders::default() };
        for file in old.iter().filter(|file| !stays(file.path)) {
            if no_folders.is_above(file.path) {
                continue;
            }
            let path = folder.join(file.path);
            self.free(&old_dir, &path, file.path, std::slice::from_ref(&old), aside)?;
            failpoint::point("file-removed");
            // Remove folders that are empty now.
            let mut folder_of = path.parent();
            while let Some(empty) = folder_of.filter(|empty| *empty != folder && fs::remove_dir(empty).is_ok()) {
                folder_of = empty.parent();
            }
        }
        Ok(())
    }

    /// Frees `path`, which is `name` in the output directory. A file that the store has is removed; any other is moved
    /// away. In a directory that may hold files of the user, a file is removed only if one of `previous` had it there.
    fn free(
        &self,
        dir: &OutputDir,
        path: &Path,
        name: &str,
        previous: &[Arc<Contents>],
        aside: &mut Vec<String>,
    ) -> Result<()> {
        let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
        if metadata.is_dir() && fs::remove_dir(path).is_ok() {
            return Ok(());
        }
        if let Some(digest) = self.stored(path)? {
            let was_checked_out = |it: &Arc<Contents>| it.find(name).is_some_and(|at| it.file(at).digest == digest);
            if dir.is_owned() || previous.iter().any(was_checked_out) {
                return fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()));
            }
        }
        self.keep_aside(dir, path, name, aside)
    }

    /// The digest of the file at `path`, if the store has the same content.
    fn stored(&self, path: &Path) -> Result<Option<String>> {
        let Some(metadata) = there(path.symlink_metadata(), path)?.filter(fs::Metadata::is_file) else {
            return Ok(None);
        };
        let digest = files::digest(path)?;
        let Some(blob) = self.blobs.stamp(&digest) else { return Ok(None) };
        let is_stored = blob.same_file(&FileStamp::from(&metadata)) || self.blobs.check(&digest)?;
        Ok(is_stored.then_some(digest))
    }
}
