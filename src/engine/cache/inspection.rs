//! Checks whether the files of a result are in an output directory, and unmodified.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rayon::prelude::*;

use super::file_stamp::FileStamp;
use super::folders::NoFolders;
use super::output_dir::{below, there};
use super::stamp_index::StampIndex;
use super::{Contents, FileIssue, OutputDir, Reason, Store};
use crate::base::files;

/// What was found in an output directory.
#[derive(Default)]
pub struct Inspection {
    /// The index of each file in the contents, and what is wrong with it.
    pub issues: Vec<(usize, FileIssue)>,
    /// Paths that are not part of the result.
    pub untracked: Vec<String>,
    /// The stamp of each file. Only stamps of unmodified files are meaningful.
    pub(super) stamps: Vec<FileStamp>,
    pub(super) folders: Vec<FileStamp>,
    /// A file or folder had to be read. The stamps are worth saving, so that it is not read again.
    pub(super) learned: bool,
}

impl Inspection {
    pub fn is_sound(&self) -> bool {
        self.issues.is_empty() && self.untracked.is_empty()
    }

    /// One reason for each kind of issue, made by `reason`.
    pub fn reasons(&self, contents: &Contents, reason: fn(FileIssue, Vec<String>) -> Reason) -> Vec<Reason> {
        let of = |kind: FileIssue| -> Vec<String> {
            let issues = self.issues.iter().filter(|(_, issue)| *issue == kind);
            issues.map(|(at, _)| contents.path(*at).to_owned()).collect()
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

/// Known stamps and digests of the files in an output directory, in the order of the contents of a result.
pub(super) struct Known<'a> {
    as_of: i64,
    files: Vec<Option<(FileStamp, &'a str)>>,
    pub(super) folders: Vec<FileStamp>,
}

impl Store {
    /// What the stamp index says about the files of `contents`. It was written when `earlier` was checked out.
    pub(super) fn known<'a>(&self, dir: &OutputDir, contents: &Contents, earlier: &'a Contents) -> Result<Known<'a>> {
        let unknown = Known { as_of: 0, files: vec![None; contents.len()], folders: Vec::new() };
        if self.digests.is_ignored() {
            return Ok(unknown);
        }
        let Some(index) = StampIndex::read(&self.index_path(dir.instance), earlier.digest(), earlier)? else {
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

    /// Looks for the files of `contents` in `dir`, and reads only those that may have changed.
    ///
    /// # Errors
    /// If a file cannot be read. It may be unmodified, so it is not reported as modified.
    pub fn inspect(&self, dir: &OutputDir, contents: &Contents) -> Result<Inspection> {
        self.inspect_knowing(dir, contents, &self.known(dir, contents, contents)?)
    }

    pub(super) fn inspect_knowing(&self, dir: &OutputDir, contents: &Contents, known: &Known) -> Result<Inspection> {
        let folder = dir.folder();
        let no_folders = NoFolders::at(dir, contents)?;
        let numbers = (0..contents.len()).into_par_iter().with_min_len(512);
        // One path buffer for each thread: with 100,000 allocations, the threads would wait for each other.
        let looked = numbers.map_init(PathBuf::new, |path, at| -> Result<_> {
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
        // Collecting into one `Result` would take a lock for every file.
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
                // A file or link is in the place of a folder of the result.
                inspection.untracked.push(name.to_owned());
            }
            inspection.folders.push(stamp.unwrap_or(nothing));
            let same = known.folders.get(at).is_some_and(|then| stamp == Some(*then) && !then.is_racy(known.as_of));
            if same || !dir.is_owned() || no_folders.has(name) {
                continue;
            }
            inspection.learned = true;
            let named = |entry: String| if name.is_empty() { entry } else { format!("{name}/{entry}") };
            let strange = |path: &String| contents.find(path).is_none() && !contents.has_folder(path);
            inspection.untracked.extend(entries(&path).into_iter().map(named).filter(strange));
        }
        Ok(inspection)
    }
}

/// The names in a folder, except those that are not valid Unicode.
fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}
