//! Reads everything that is stored, to find damaged files, and repairs them.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rayon::prelude::*;
use walkdir::WalkDir;

use super::file_stamp::FileStamp;
use super::folders::NoFolders;
use super::sealed::{self, Found};
use super::work::own_folder;
use super::{Contents, DigestCache, FileIssue, ItemTable, NAMESPACES, OutputDir, Store, StoredResult};
use crate::base::files;
use crate::base::signal;

/// At most how much of the store each run reads again.
const SCRUBBED_BYTES: u64 = 1 << 20;
const SCRUBBED_FILES: usize = 64;
const CURSOR: &str = "scrub";

/// The damage found, and how much was read to find it.
#[derive(Debug, Default)]
pub struct Damage {
    pub files: usize,
    pub bytes: u64,
    /// Blobs whose content does not match their digest.
    pub blobs: Vec<String>,
    /// Results with the paths of their files that are missing or damaged in the store.
    pub results: Vec<(StoredResult, Vec<(String, FileIssue)>)>,
    /// Damaged files of the cache itself, such as tables and the history.
    pub own: Vec<PathBuf>,
    /// Errors of files that could not be read. These files may be undamaged.
    pub unreadable: Vec<String>,
}

impl Damage {
    pub fn is_none(&self) -> bool {
        self.blobs.is_empty() && self.results.is_empty() && self.own.is_empty()
    }
}

impl Store {
    /// Reads every stored byte. Nothing is written.
    pub fn verify(&self, watch: impl Fn(u64) + Sync) -> Result<Damage> {
        type Looked = (String, u64, Result<bool>);
        let shelves = self.blobs.shelves()?.into_par_iter().map(|shelf| -> Result<Vec<Looked>> {
            signal::check()?;
            let inspection = |digest: String| {
                let bytes = self.blobs.stamp(&digest).map_or(0, |stamp| stamp.bytes);
                let sound = self.blobs.check(&digest);
                (digest, bytes, sound)
            };
            let looked: Vec<_> = self.blobs.on_shelf(&shelf)?.into_iter().map(inspection).collect();
            watch(looked.iter().map(|(_, bytes, _)| bytes).sum());
            Ok(looked)
        });
        let all: Vec<Looked> = shelves.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let mut damage = Damage { files: all.len(), bytes: all.iter().map(|it| it.1).sum(), ..Damage::default() };
        let (mut there, mut damaged) = (HashSet::new(), HashSet::new());
        for (digest, _, sound) in all {
            match sound {
                Ok(true) => drop(there.insert(digest)),
                Ok(false) => drop(damaged.insert(digest)),
                Err(error) => {
                    damage.unreadable.push(format!("{error:#}"));
                    there.insert(digest);
                }
            }
        }
        let issue = |digest: &str| match (there.contains(digest), damaged.contains(digest)) {
            (true, _) => None,
            (_, true) => Some(FileIssue::Modified),
            _ => Some(FileIssue::Missing),
        };
        for key in self.keys()? {
            let stored = match self.find_result(&key)? {
                Found::Whole(stored) => stored,
                Found::Damaged => {
                    damage.own.push(self.result_path(&key));
                    continue;
                }
                Found::Absent => continue,
            };
            let issues: Vec<(String, FileIssue)> = match self.contents(&stored.digest) {
                None => {
                    vec![("the list of its files".to_owned(), issue(&stored.digest).unwrap_or(FileIssue::Modified))]
                }
                Some(contents) => {
                    contents.iter().filter_map(|file| Some((file.path.to_owned(), issue(file.digest)?))).collect()
                }
            };
            if !issues.is_empty() {
                damage.results.push((stored, issues));
            }
        }
        damage.blobs = damaged.into_iter().collect();
        damage.blobs.sort_unstable();
        damage.own.extend(self.damaged_files()?);
        Ok(damage)
    }

    /// The keys in the file names of stored results.
    fn keys(&self) -> Result<Vec<String>> {
        let names = files::names(&self.results_dir())?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json")).map(str::to_owned).collect())
    }

    /// Damaged files of the cache itself, except results and blobs.
    fn damaged_files(&self) -> Result<Vec<PathBuf>> {
        let mut damaged = self.blobs.false_shelves()?;
        damaged.extend(self.damaged_checked_out()?);
        for root in std::iter::once(self.root.clone()).chain(NAMESPACES.map(|name| self.namespace(name))) {
            damaged.extend(DigestCache::new(&root).damaged()?);
            let items = root.join("items");
            for recipe in files::names(&items)?.into_iter().filter(|recipe| sealed::is_digest(recipe)) {
                damaged.extend(ItemTable::is_damaged(&root, &recipe)?.then(|| items.join(&recipe)));
            }
        }
        if self.history_lines().iter().any(Option::is_none) {
            damaged.push(self.history_path());
        }
        damaged.extend(self.last_run_is_damaged()?.then(|| self.last_run_path()));
        damaged.extend(matches!(self.cursor()?, Found::Damaged).then(|| self.root.join(CURSOR)));
        // A killed process may leave temporary files. Their names start with a dot.
        let hides = |entry: &walkdir::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
        // Files are at depth 3, below the folder of an instance and the folder of a key.
        let kept = WalkDir::new(self.root.join("scratch")).min_depth(1).max_depth(3).sort_by_file_name();
        for entry in kept.into_iter().filter_entry(|entry| !hides(entry)) {
            let entry = match entry {
                Err(error) if error.io_error().is_some_and(|error| error.kind() == ErrorKind::NotFound) => continue,
                entry => entry?,
            };
            let is_way = entry.depth() < 3 && entry.file_type().is_dir();
            if !is_way && matches!(read_kept(entry.path())?, Found::Damaged) {
                damaged.push(entry.into_path());
            }
        }
        Ok(damaged)
    }

    /// The files in the output directory `dir` that are missing or modified. A hard link to a blob is not read again:
    /// it was read with the store. Files that cannot be read are added to `damage`.
    pub fn verify_output_dir(
        &self,
        dir: &OutputDir,
        contents: &Contents,
        damage: &mut Damage,
    ) -> Result<Vec<(String, FileIssue)>> {
        let folder = dir.folder();
        let no_folders = NoFolders::at(dir, contents)?;
        let blobs = &damage.blobs;
        let issues = (0..contents.len()).into_par_iter().filter_map(|at| {
            let file = contents.file(at);
            let path = folder.join(file.path);
            let stamp = if no_folders.is_above(file.path) { None } else { FileStamp::of(&path) };
            let issue = match stamp {
                None => Some(FileIssue::Missing),
                Some(stamp) if self.blobs.stamp(file.digest).is_some_and(|blob| blob.same_file(&stamp)) => {
                    let damaged = blobs.binary_search_by(|blob| blob.as_str().cmp(file.digest));
                    damaged.ok().map(|_| FileIssue::Modified)
                }
                Some(_) if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) => {
                    Some(FileIssue::Modified)
                }
                Some(stamp) if stamp.bytes != file.bytes => Some(FileIssue::Modified),
                Some(_) => match files::digest(&path) {
                    Ok(digest) => (digest != file.digest).then_some(FileIssue::Modified),
                    Err(error) => return Some(Err(format!("{error:#}"))),
                },
            };
            issue.map(|issue| Ok((file.path.to_owned(), issue)))
        });
        let (issues, unreadable): (Vec<_>, Vec<_>) = issues.collect::<Vec<_>>().into_iter().partition(Result::is_ok);
        damage.unreadable.extend(unreadable.into_iter().filter_map(Result::err));
        Ok(issues.into_iter().filter_map(Result::ok).collect())
    }

    /// Removes damaged files, and restores blobs from undamaged files in output directories. Damaged results are
    /// removed, unless they are checked out: the next run makes those again.
    pub fn repair(&self, damage: &Damage, dirs: &[(OutputDir, &Contents)]) -> Result<()> {
        for path in &damage.own {
            if *path == self.history_path() && !files::is_no_file(path) {
                self.repair_history()?;
            } else {
                self.discard(path)?;
            }
        }
        for digest in &damage.blobs {
            self.discard(&self.blobs.path(digest))?;
        }
        let checked_out: HashSet<String> =
            self.all_checked_out()?.into_iter().map(|(_, checked_out)| checked_out.key).collect();
        for (dir, contents) in dirs {
            for file in contents.iter().filter(|file| !self.blobs.has(file.digest, file.bytes)) {
                let path = dir.folder().join(file.path);
                if files::digest(&path).is_ok_and(|digest| digest == file.digest) {
                    self.blobs.put(&files::read(&path)?)?;
                }
            }
        }
        for (stored, _) in damage.results.iter().filter(|(stored, _)| !checked_out.contains(&stored.key)) {
            self.remove_result(&stored.key)?;
        }
        Ok(())
    }

    fn cursor(&self) -> Result<Found<String>> {
        let parse = |bytes: &[u8]| Some(String::from_utf8_lossy(sealed::open(CURSOR, bytes)?).into_owned());
        sealed::read(&self.root.join(CURSOR), parse)
    }

    /// Removes a damaged file. A folder in its place may hold files of the user, and is moved away.
    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        if files::is_folder(path) {
            let name = path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy();
            let kept = self.move_aside(path, ".cache", &name)?;
            tracing::warn!(
                "{} is a folder, and a file should be there; the folder is kept aside as {}",
                path.display(),
                kept.display()
            );
            return Ok(());
        }
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Reads a small part of the store again, each time the next part. Damaged blobs are removed, so that the run that
    /// follows makes them again. Returns their digests.
    pub fn scrub(&self) -> Result<Vec<String>> {
        let cursor = self.root.join(CURSOR);
        let last = self.cursor()?.or_warn(&cursor).unwrap_or_default();
        let shelves = self.blobs.shelves()?;
        let start = shelves.iter().position(|shelf| last.as_str() < shelf.as_str() || last.starts_with(shelf.as_str()));
        let start = start.unwrap_or(0);
        let (mut bytes, mut read, mut damaged, mut end) = (0, 0, Vec::new(), String::new());
        'shelves: for shelf in &shelves[start..] {
            for digest in self.blobs.on_shelf(shelf)?.into_iter().filter(|digest| *digest > last) {
                if bytes >= SCRUBBED_BYTES || read >= SCRUBBED_FILES {
                    break 'shelves;
                }
                bytes += self.blobs.stamp(&digest).map_or(0, |stamp| stamp.bytes);
                read += 1;
                if !self.blobs.check(&digest)? {
                    self.discard(&self.blobs.path(&digest))?;
                    damaged.push(digest.clone());
                }
                end = digest;
            }
        }
        // After the end, it starts from the beginning. A crash may lose the cursor; that only repeats some reading.
        if end != last {
            files::write_unsynced(&cursor, &sealed::seal(CURSOR, end.into_bytes()))?;
        }
        Ok(damaged)
    }
}

/// The name that seals a file in `scratch/`: instance, key and file name.
fn kept_name(path: &Path) -> String {
    let parts: Vec<_> = path.iter().rev().take(3).map(|part| part.to_string_lossy()).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}

/// Writes a file that a later run resumes from.
pub fn write_kept(path: &Path, bytes: Vec<u8>) -> Result<()> {
    let folder = files::folder_of(path);
    own_folder(files::folder_of(folder))?;
    own_folder(folder)?;
    files::write_atomically(path, &sealed::seal(&kept_name(path), bytes))
}

/// Reads a file that [`write_kept`] wrote.
pub fn read_kept(path: &Path) -> Result<Found<Vec<u8>>> {
    sealed::read(path, |bytes| sealed::open(&kept_name(path), bytes).map(<[u8]>::to_vec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_comes_round_to_everything() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let store = Store::new(folder.path().to_owned());
        let digests = (0..200).map(|i: u32| store.blobs.put(&vec![1; i as usize * 100])).collect::<Result<Vec<_>>>()?;
        let spoilt = &digests[150];
        fs::remove_file(store.blobs.path(spoilt))?;
        fs::write(store.blobs.path(spoilt), "spoilt")?;
        let rounds = std::iter::repeat_with(|| store.scrub()).take(20).collect::<Result<Vec<_>>>()?;
        assert!(rounds.concat().iter().eq([spoilt]));
        assert!(!store.blobs.path(spoilt).exists());
        Ok(())
    }

    #[test]
    fn damage_is_named_and_mended_from_a_whole_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let store = Store::new(folder.path().join("artifacts/.cache"));
        let work = tempfile::tempdir()?;
        fs::write(work.path().join("a.txt"), "a")?;
        let document = super::super::KeyDocument {
            stage: "s".into(),
            version: 1,
            seed: None,
            parameters: serde_json::json!({}),
            reads: Default::default(),
        };
        let written = super::super::store::tests::written(work.path());
        let stored = store.commit(document, (work.path(), &written), Vec::new(), Vec::new())?;
        let contents = store.contents(&stored.digest).unwrap();
        let dir = OutputDir { instance: "s", project: folder.path(), out: std::path::Path::new("artifacts/s") };
        store.check_out(&dir, &stored, true)?;
        let blob = store.blobs.path(contents.file(0).digest);
        fs::remove_file(&blob)?;
        fs::write(&blob, "b")?;
        let mut damage = store.verify(|_| ())?;
        assert_eq!(damage.blobs, [contents.file(0).digest]);
        assert_eq!(damage.results[0].1, [("a.txt".to_owned(), FileIssue::Modified)]);
        assert_eq!(store.verify_output_dir(&dir, &contents, &mut damage)?, []);
        store.repair(&damage, &[(dir, &*contents)])?;
        let after = store.verify(|_| ())?;
        assert!(after.blobs.is_empty() && after.results.is_empty() && blob.exists());
        Ok(())
    }
}
