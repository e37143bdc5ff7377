//! The place where people find an instance's files, and where other instances read them: looking whether they are
//! right, and laying what is not. Which result lies where is noted in `checked_out.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::file_stamp::{FileStamp, time_after};
use super::folders::NoFolders;
use super::output_dir::{below, there};
use super::sealed::is_below;
use super::stamp_index::StampIndex;
use super::{CheckedOut, Contents, FileIssue, OutputDir, Reason, Store, StoredResult};
use crate::base::failpoint;
use crate::base::files;

/// How something is called that stood where the folder itself should.
const ROOT: &str = "folder";

/// What a look at a place showed.
#[derive(Default)]
pub struct Inspection {
    /// Places in the contents.
    pub issues: Vec<(usize, FileIssue)>,
    /// Paths of what does not belong there.
    pub untracked: Vec<String>,
    /// The files as they look; right ones only mean something.
    stamps: Vec<FileStamp>,
    folders: Vec<FileStamp>,
    /// Something had to be read that need not be read again.
    learned: bool,
}

impl Inspection {
    pub fn is_sound(&self) -> bool {
        self.issues.is_empty() && self.untracked.is_empty()
    }

    /// One of each kind of fault, worded by `reason`.
    pub fn reasons(&self, contents: &Contents, reason: fn(FileIssue, Vec<String>) -> Reason) -> Vec<Reason> {
        let of = |kind: FileIssue| -> Vec<String> {
            let issues = self.issues.iter().filter(|(_, issue)| *issue == kind);
            issues.map(|(place, _)| contents.path(*place).to_owned()).collect()
        };
        let all = [
            (FileIssue::Missing, of(FileIssue::Missing)),
            (FileIssue::Modified, of(FileIssue::Modified)),
            (
                FileIssue::Untracked,
                self.untracked.iter().map(|name| if name.is_empty() { "." } else { name }.to_owned()).collect(),
            ),
        ];
        all.into_iter().filter(|(_, paths)| !paths.is_empty()).map(|(kind, paths)| reason(kind, paths)).collect()
    }
}

/// What became of laying a result.
pub enum Checkout {
    /// It lies there; what had to be put right.
    Done(Vec<Reason>),
    /// The store has not all of it any more, and the place is as it was.
    Broken(Vec<Reason>),
}

/// What is known of the files at a place, in the order of a result's contents.
struct Known<'a> {
    as_of: i64,
    files: Vec<Option<(FileStamp, &'a str)>>,
    folders: Vec<FileStamp>,
}

impl Store {
    /// What the index tells of the files of `contents`, where `earlier` was checked out when it was written.
    fn known<'a>(&self, place: &OutputDir, contents: &Contents, earlier: &'a Contents) -> Result<Known<'a>> {
        let unknown = Known { as_of: 0, files: vec![None; contents.len()], folders: Vec::new() };
        if self.digests.is_ignored() {
            return Ok(unknown);
        }
        let Some(index) = StampIndex::read(&self.index_path(place.instance), earlier.digest(), earlier)? else {
            return Ok(unknown);
        };
        let StampIndex { as_of, files, folders, .. } = index;
        if contents.digest() == earlier.digest() {
            let files = files.into_iter().enumerate().map(|(at, stamp)| Some((stamp, earlier.file(at).digest)));
            return Ok(Known { as_of, files: files.collect(), folders });
        }
        let of = |path: &str| earlier.find(path).map(|at| (files[at], earlier.file(at).digest));
        Ok(Known { as_of, files: contents.iter().map(|file| of(file.path)).collect(), folders: Vec::new() })
    }

    /// Looks whether the files of `contents` lie at `place`, reading only what may have changed.
    ///
    /// # Errors
    /// If something there cannot be looked at or read: it may be right.
    pub fn inspect(&self, place: &OutputDir, contents: &Contents) -> Result<Inspection> {
        self.inspect_knowing(place, contents, &self.known(place, contents, contents)?)
    }

    fn inspect_knowing(&self, place: &OutputDir, contents: &Contents, known: &Known) -> Result<Inspection> {
        let folder = place.folder();
        let no_folders = NoFolders::at(place, contents)?;
        let places = (0..contents.len()).into_par_iter().with_min_len(512);
        // One path for all files of a thread: 100,000 allocations would wait for each other.
        let looked = places.map_init(PathBuf::new, |path, at| -> Result<_> {
            let file = contents.file(at);
            path.clone_from(&folder);
            path.push(file.path);
            let metadata = if no_folders.is_above(file.path) { None } else { there(path.symlink_metadata(), path)? };
            let Some(metadata) = metadata else { return Ok((None, Some(FileIssue::Missing), false)) };
            let stamp = FileStamp::from(&metadata);
            let (right, learned) = match known.files[at] {
                Some((then, digest)) if then == stamp && !stamp.is_racy(known.as_of) => (digest == file.digest, false),
                _ => {
                    let may = metadata.is_file() && stamp.bytes == file.bytes;
                    (may && files::digest(path)? == file.digest, true)
                }
            };
            Ok((Some(stamp), (!right).then_some(FileIssue::Modified), learned))
        });
        let mut inspection = Inspection::default();
        let nothing = FileStamp { bytes: 0, modified: 0, changed: 0, inode: 0, device: 0 };
        // A `Result` of the whole would be gathered behind a lock.
        for (at, looked) in looked.collect::<Vec<_>>().into_iter().enumerate() {
            let (stamp, issue, learned) = looked?;
            inspection.stamps.push(stamp.unwrap_or(nothing));
            inspection.issues.extend(issue.map(|issue| (at, issue)));
            inspection.learned |= learned;
        }
        for (at, name) in contents.folders().enumerate() {
            let path = below(&folder, name);
            let stamp = FileStamp::of(&path);
            if stamp.is_some() && !no_folders.is_above(name) && no_folders.has(name) {
                // The thing that stands where a folder of the result should.
                inspection.untracked.push(name.to_owned());
            }
            inspection.folders.push(stamp.unwrap_or(nothing));
            let same = known.folders.get(at).is_some_and(|then| stamp == Some(*then) && !then.is_racy(known.as_of));
            if same || !place.is_owned() || no_folders.has(name) {
                continue;
            }
            inspection.learned = true;
            let named = |entry: String| if name.is_empty() { entry } else { format!("{name}/{entry}") };
            let strange = |path: &String| contents.find(path).is_none() && !contents.has_folder(path);
            inspection.untracked.extend(entries(&path).into_iter().map(named).filter(strange));
        }
        Ok(inspection)
    }

    /// Lays `record` at its place: right files stay, missing and wrong ones are checked out, and what an earlier result left
    /// is taken away. What nobody stored is kept aside. `made`: its blobs were written or read just now.
    pub fn check_out(&self, place: &OutputDir, stored: &StoredResult, made: bool) -> Result<Checkout> {
        let Some(contents) = self.contents(&stored.digest) else {
            return Ok(Checkout::Broken(vec![Reason::lost_list()]));
        };
        place.check(false)?;
        let earlier = self.checked_out(place.instance)?;
        let now = CheckedOut {
            key: stored.key.clone(),
            digest: stored.digest.clone(),
            out: place.out.to_owned(),
            replaced: Vec::new(),
        };
        let again = earlier.as_ref() == Some(&now);
        let before = earlier.as_ref().and_then(|checked_out| self.contents(&checked_out.digest)).unwrap_or_default();
        files::create_folder(&self.root)?;
        let as_of = time_after(&self.root, 0)?;
        let mut inspection = self.inspect_knowing(place, &contents, &self.known(place, &contents, &before)?)?;
        if again && inspection.is_sound() {
            if inspection.learned {
                self.write_index(place, &stored.digest, as_of, inspection)?;
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
            // Those before it too, where a crash left files of them.
            checked_out.replaced.into_iter().chain([(checked_out.digest, checked_out.out)]).collect()
        });
        let replaced: Vec<(String, PathBuf)> = replaced.unwrap_or_default();
        let announced = CheckedOut { replaced, ..now.clone() };
        if !again {
            // Before the files: what a crash leaves undone is then mended by the next run.
            self.note_checked_out(place.instance, &announced)?;
            failpoint::point("checkout-announced");
        }
        let mut aside = Vec::new();
        for (digest, out) in &announced.replaced {
            self.take_away(place, digest, out, &contents, &mut aside)?;
        }
        for untracked_path in &inspection.untracked {
            self.keep_aside(place, &below(&place.folder(), untracked_path), untracked_path, &mut aside)?;
        }
        // Looked at in the tick of its last change: known only until the next look.
        for stamp in inspection.stamps.iter_mut().filter(|stamp| stamp.is_racy(as_of)) {
            stamp.invalidate();
        }
        let (mut last, mut former) = (0, None);
        for (at, issue) in &inspection.issues {
            let file = contents.file(*at);
            let path = place.folder().join(file.path);
            if *issue == FileIssue::Modified {
                let former = match &mut former {
                    Some(former) => former,
                    none => none.insert(self.former(place, &announced)?),
                };
                self.clear(place, &path, file.path, former, &mut aside)?;
            }
            path.parent().map_or(Ok(()), files::create_folder)?;
            self.blobs.check_out(file.digest, &path)?;
            failpoint::point("file-checked-out");
            let stamp = FileStamp::of(&path).with_context(|| format!("{} is gone", path.display()))?;
            last = last.max(stamp.changed);
            inspection.stamps[*at] = stamp;
        }
        // Who else wrote into the folders meanwhile is seen at the next look.
        inspection.folders.iter_mut().for_each(FileStamp::invalidate);
        let as_of = time_after(&self.root, last)?;
        let mut reasons = if again { inspection.reasons(&contents, Reason::Mended) } else { Vec::new() };
        self.write_index(place, &stored.digest, as_of, inspection)?;
        self.note_checked_out(place.instance, &now)?;
        failpoint::point("checkout-finished");
        reasons.extend((!aside.is_empty()).then_some(Reason::KeptAside(aside)));
        Ok(Checkout::Done(reasons))
    }

    /// What was checked out at `place` before, by any instance.
    fn former(&self, place: &OutputDir, now: &CheckedOut) -> Result<Vec<Arc<Contents>>> {
        let all = self.all_checked_out()?.into_iter().map(|(_, checked_out)| checked_out).chain([now.clone()]);
        let all =
            all.flat_map(|checked_out| checked_out.replaced.into_iter().chain([(checked_out.digest, checked_out.out)]));
        Ok(all.filter(|(_, out)| out == place.out).filter_map(|(digest, _)| self.contents(&digest)).collect())
    }

    fn write_index(&self, place: &OutputDir, digest: &str, as_of: i64, inspection: Inspection) -> Result<()> {
        let (files, folders) = (inspection.stamps, inspection.folders);
        StampIndex { digest: digest.to_owned(), as_of, files, folders }.write(&self.index_path(place.instance))
    }

    /// Reads the blobs that must be checked out; damaged ones are removed, so that they are made again.
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

    /// Removes the files of an earlier result that no result has there now.
    fn take_away(
        &self,
        place: &OutputDir,
        digest: &str,
        out: &Path,
        now: &Contents,
        aside: &mut Vec<String>,
    ) -> Result<()> {
        let Some(old) = self.contents(digest) else { return Ok(()) };
        let folder = place.project.join(out);
        let others = self
            .all_checked_out()?
            .into_iter()
            .filter(|(name, checked_out)| name != place.instance && checked_out.out == out);
        let others: Vec<_> = others.filter_map(|(_, checked_out)| self.contents(&checked_out.digest)).collect();
        let stays = |path: &str| {
            (out == place.out && now.find(path).is_some()) || others.iter().any(|other| other.find(path).is_some())
        };
        if out != place.out && !place.owns(out) {
            // The manifest does not name this folder any more, and whoever wrote that we did may be anybody.
            if old.iter().any(|file| !stays(file.path) && folder.join(file.path).exists()) {
                let (instance, folder) = (place.instance, folder.display());
                tracing::info!("what `{instance}` wrote to {folder} before stays there; remove it if nobody needs it");
            }
            return Ok(());
        }
        let former = OutputDir { out, ..*place };
        let no_folders = if folder.exists() { NoFolders::at(&former, &old)? } else { NoFolders::default() };
        for file in old.iter().filter(|file| !stays(file.path)) {
            if no_folders.is_above(file.path) {
                continue;
            }
            let path = folder.join(file.path);
            self.clear(&former, &path, file.path, std::slice::from_ref(&old), aside)?;
            failpoint::point("file-removed");
            // Folders go as they empty; one that still holds something stays.
            let mut folder_of = path.parent();
            while let Some(empty) = folder_of.filter(|empty| *empty != folder && fs::remove_dir(empty).is_ok()) {
                folder_of = empty.parent();
            }
        }
        Ok(())
    }

    /// Makes way at `path`, called `name` below the folder of `place`: what the store has goes, anything else is kept aside.
    /// In a folder that may hold files of people, only what was checked out as one of the `former` goes.
    fn clear(
        &self,
        place: &OutputDir,
        path: &Path,
        name: &str,
        former: &[Arc<Contents>],
        aside: &mut Vec<String>,
    ) -> Result<()> {
        let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
        if metadata.is_dir() && fs::remove_dir(path).is_ok() {
            return Ok(());
        }
        if let Some(digest) = self.stored(path)? {
            let was_checked_out = |it: &Arc<Contents>| it.find(name).is_some_and(|at| it.file(at).digest == digest);
            if place.is_owned() || former.iter().any(was_checked_out) {
                return fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()));
            }
        }
        self.keep_aside(place, path, name, aside)
    }

    /// The digest of the file at `path`, if the store has what it holds.
    fn stored(&self, path: &Path) -> Result<Option<String>> {
        let Some(metadata) = there(path.symlink_metadata(), path)?.filter(fs::Metadata::is_file) else {
            return Ok(None);
        };
        let digest = files::digest(path)?;
        let Some(blob) = self.blobs.stamp(&digest) else { return Ok(None) };
        let is_stored = blob.same_file(&FileStamp::from(&metadata)) || self.blobs.check(&digest)?;
        Ok(is_stored.then_some(digest))
    }

    /// Moves what stands at `path`, called `name` below the folder of `place`, to where people find it again.
    fn keep_aside(&self, place: &OutputDir, path: &Path, name: &str, aside: &mut Vec<String>) -> Result<()> {
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        if !(name.is_empty() || is_below(name)) {
            bail!("{} is not below {}, so it is not moved", path.display(), place.folder().display());
        }
        let destination = self.move_aside(path, place.instance, if name.is_empty() { ROOT } else { name })?;
        let shown = destination.strip_prefix(place.project).unwrap_or(&destination);
        aside.push(shown.display().to_string());
        Ok(())
    }

    /// Moves what stands at `path` to a free place, `name` below the folder of what was altered of `instance`.
    pub(super) fn move_aside(&self, path: &Path, instance: &str, name: &str) -> Result<PathBuf> {
        let metadata = path.symlink_metadata().with_context(|| format!("cannot look at {}", path.display()))?;
        let numbered = |name: &str| {
            let name = name.to_owned();
            std::iter::once(name.clone()).chain((2..).map(move |number| format!("{name}.{number}")))
        };
        // A link that was kept aside earlier is not followed.
        let altered = self.root.join("altered");
        let mut folders = numbered(instance).map(|instance| altered.join(instance));
        let folder = folders.find(|folder| leads_to(folder, name)).context("no free name")?;
        let free = |path: &PathBuf| path.symlink_metadata().is_err();
        let destination = numbered(name).map(|name| folder.join(name)).find(free).context("no free name")?;
        destination.parent().map_or(Ok(()), files::create_folder)?;
        let moved = fs::rename(path, &destination).or_else(|error| {
            // To another file system only plain files and links can go.
            #[cfg(unix)]
            if metadata.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(path)?, &destination)?;
                return fs::remove_file(path);
            }
            if !metadata.is_file() {
                return Err(error);
            }
            fs::copy(path, &destination)?;
            fs::File::open(&destination)?.sync_all()?;
            fs::remove_file(path)
        });
        moved.with_context(|| format!("cannot keep {} aside as {}", path.display(), destination.display()))?;
        Ok(destination)
    }
}

/// Whether only folders, and nothing yet, are on the way from `folder` to `name` below it.
fn leads_to(folder: &Path, name: &str) -> bool {
    let mut ways = Path::new(name).ancestors().skip(1).map(|way| below(folder, &way.to_string_lossy()));
    ways.all(|way| way.symlink_metadata().map_or(true, |metadata| metadata.is_dir()))
}

/// The names in a folder, but for those that are no Unicode.
fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}
