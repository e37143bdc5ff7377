//! The place where people find an instance's files, and where other instances read them: looking whether they are
//! right, and laying what is not. Which result lies where is noted in `laid.rs`.

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
use super::{Contents, Fault, Laid, Place, Reason, Record, Store};
use crate::base::failpoint;
use crate::base::files;

/// How something is called that stood where the folder itself should.
const ROOT: &str = "folder";

/// What a look at a place showed.
#[derive(Default)]
pub struct Look {
    /// Places in the contents.
    pub faults: Vec<(usize, Fault)>,
    /// Paths of what does not belong there.
    pub strays: Vec<String>,
    /// The files as they look; right ones only mean something.
    stamps: Vec<FileStamp>,
    folders: Vec<FileStamp>,
    /// Something had to be read that need not be read again.
    learned: bool,
}

impl Look {
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty() && self.strays.is_empty()
    }

    /// One of each kind of fault, worded by `reason`.
    pub fn reasons(&self, contents: &Contents, reason: fn(Fault, Vec<String>) -> Reason) -> Vec<Reason> {
        let of = |kind: Fault| -> Vec<String> {
            let faults = self.faults.iter().filter(|(_, fault)| *fault == kind);
            faults.map(|(place, _)| contents.path(*place).to_owned()).collect()
        };
        let all = [
            (Fault::Missing, of(Fault::Missing)),
            (Fault::Altered, of(Fault::Altered)),
            (
                Fault::Stray,
                self.strays.iter().map(|name| if name.is_empty() { "." } else { name }.to_owned()).collect(),
            ),
        ];
        all.into_iter().filter(|(_, paths)| !paths.is_empty()).map(|(kind, paths)| reason(kind, paths)).collect()
    }
}

/// What became of laying a result.
pub enum Laying {
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
    /// What the index tells of the files of `contents`, where `earlier` was laid when it was written.
    fn known<'a>(&self, place: &Place, contents: &Contents, earlier: &'a Contents) -> Result<Known<'a>> {
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
    pub fn look(&self, place: &Place, contents: &Contents) -> Result<Look> {
        self.look_knowing(place, contents, &self.known(place, contents, contents)?)
    }

    fn look_knowing(&self, place: &Place, contents: &Contents, known: &Known) -> Result<Look> {
        let folder = place.folder();
        let no_folders = NoFolders::at(place, contents)?;
        let places = (0..contents.len()).into_par_iter().with_min_len(512);
        // One path for all files of a thread: 100,000 allocations would wait for each other.
        let looked = places.map_init(PathBuf::new, |path, at| -> Result<_> {
            let file = contents.file(at);
            path.clone_from(&folder);
            path.push(file.path);
            let metadata = if no_folders.is_above(file.path) { None } else { there(path.symlink_metadata(), path)? };
            let Some(metadata) = metadata else { return Ok((None, Some(Fault::Missing), false)) };
            let stamp = FileStamp::from(&metadata);
            let (right, learned) = match known.files[at] {
                Some((then, digest)) if then == stamp && !stamp.is_racy(known.as_of) => (digest == file.digest, false),
                _ => {
                    let may = metadata.is_file() && stamp.bytes == file.bytes;
                    (may && files::digest(path)? == file.digest, true)
                }
            };
            Ok((Some(stamp), (!right).then_some(Fault::Altered), learned))
        });
        let mut look = Look::default();
        let nothing = FileStamp { bytes: 0, modified: 0, changed: 0, inode: 0, device: 0 };
        // A `Result` of the whole would be gathered behind a lock.
        for (at, looked) in looked.collect::<Vec<_>>().into_iter().enumerate() {
            let (stamp, fault, learned) = looked?;
            look.stamps.push(stamp.unwrap_or(nothing));
            look.faults.extend(fault.map(|fault| (at, fault)));
            look.learned |= learned;
        }
        for (at, name) in contents.folders().enumerate() {
            let path = below(&folder, name);
            let stamp = FileStamp::of(&path);
            if stamp.is_some() && !no_folders.is_above(name) && no_folders.has(name) {
                // The thing that stands where a folder of the result should.
                look.strays.push(name.to_owned());
            }
            look.folders.push(stamp.unwrap_or(nothing));
            let same = known.folders.get(at).is_some_and(|then| stamp == Some(*then) && !then.is_racy(known.as_of));
            if same || !place.is_owned() || no_folders.has(name) {
                continue;
            }
            look.learned = true;
            let named = |entry: String| if name.is_empty() { entry } else { format!("{name}/{entry}") };
            let strange = |path: &String| contents.find(path).is_none() && !contents.has_folder(path);
            look.strays.extend(entries(&path).into_iter().map(named).filter(strange));
        }
        Ok(look)
    }

    /// Lays `record` at its place: right files stay, missing and wrong ones are laid, and what an earlier result left
    /// is taken away. What nobody stored is kept aside. `made`: its blobs were written or read just now.
    pub fn lay(&self, place: &Place, record: &Record, made: bool) -> Result<Laying> {
        let Some(contents) = self.contents(&record.digest) else {
            return Ok(Laying::Broken(vec![Reason::lost_list()]));
        };
        place.check(false)?;
        let earlier = self.laid(place.instance)?;
        let now = Laid {
            key: record.key.clone(),
            digest: record.digest.clone(),
            out: place.out.to_owned(),
            leaving: Vec::new(),
        };
        let again = earlier.as_ref() == Some(&now);
        let before = earlier.as_ref().and_then(|laid| self.contents(&laid.digest)).unwrap_or_default();
        files::create_folder(&self.root)?;
        let as_of = time_after(&self.root, 0)?;
        let mut look = self.look_knowing(place, &contents, &self.known(place, &contents, &before)?)?;
        if again && look.is_sound() {
            if look.learned {
                self.write_index(place, &record.digest, as_of, look)?;
            }
            return Ok(Laying::Done(Vec::new()));
        }
        if !made {
            let broken = self.broken(&contents, &look)?;
            if !broken.is_empty() {
                return Ok(Laying::Broken(broken));
            }
        }
        let leaving = earlier.filter(|_| !again).map(|laid| {
            // Those before it too, where a crash left files of them.
            laid.leaving.into_iter().chain([(laid.digest, laid.out)]).collect()
        });
        let leaving: Vec<(String, PathBuf)> = leaving.unwrap_or_default();
        let announced = Laid { leaving, ..now.clone() };
        if !again {
            // Before the files: what a crash leaves undone is then mended by the next run.
            self.put_laid(place.instance, &announced)?;
            failpoint::point("place-announced");
        }
        let mut aside = Vec::new();
        for (digest, out) in &announced.leaving {
            self.take_away(place, digest, out, &contents, &mut aside)?;
        }
        for stray in &look.strays {
            self.keep_aside(place, &below(&place.folder(), stray), stray, &mut aside)?;
        }
        // Looked at in the tick of its last change: known only until the next look.
        for stamp in look.stamps.iter_mut().filter(|stamp| stamp.is_racy(as_of)) {
            stamp.invalidate();
        }
        let (mut last, mut former) = (0, None);
        for (at, fault) in &look.faults {
            let file = contents.file(*at);
            let path = place.folder().join(file.path);
            if *fault == Fault::Altered {
                let former = match &mut former {
                    Some(former) => former,
                    none => none.insert(self.former(place, &announced)?),
                };
                self.clear(place, &path, file.path, former, &mut aside)?;
            }
            path.parent().map_or(Ok(()), files::create_folder)?;
            self.blobs.lay(file.digest, &path)?;
            failpoint::point("file-laid");
            let stamp = FileStamp::of(&path).with_context(|| format!("{} is gone", path.display()))?;
            last = last.max(stamp.changed);
            look.stamps[*at] = stamp;
        }
        // Who else wrote into the folders meanwhile is seen at the next look.
        look.folders.iter_mut().for_each(FileStamp::invalidate);
        let as_of = time_after(&self.root, last)?;
        let mut reasons = if again { look.reasons(&contents, Reason::Mended) } else { Vec::new() };
        self.write_index(place, &record.digest, as_of, look)?;
        self.put_laid(place.instance, &now)?;
        failpoint::point("place-settled");
        reasons.extend((!aside.is_empty()).then_some(Reason::KeptAside(aside)));
        Ok(Laying::Done(reasons))
    }

    /// What was laid at `place` before, by any instance.
    fn former(&self, place: &Place, now: &Laid) -> Result<Vec<Arc<Contents>>> {
        let all = self.all_laid()?.into_iter().map(|(_, laid)| laid).chain([now.clone()]);
        let all = all.flat_map(|laid| laid.leaving.into_iter().chain([(laid.digest, laid.out)]));
        Ok(all.filter(|(_, out)| out == place.out).filter_map(|(digest, _)| self.contents(&digest)).collect())
    }

    fn write_index(&self, place: &Place, digest: &str, as_of: i64, look: Look) -> Result<()> {
        let (files, folders) = (look.stamps, look.folders);
        StampIndex { digest: digest.to_owned(), as_of, files, folders }.write(&self.index_path(place.instance))
    }

    /// Reads the blobs that must be laid; damaged ones are removed, so that they are made again.
    fn broken(&self, contents: &Contents, look: &Look) -> Result<Vec<Reason>> {
        let faults = look.faults.par_iter().map(|(at, _)| {
            let file = contents.file(*at);
            Ok(match self.blobs.stamp(file.digest) {
                None => Some((Fault::Missing, file)),
                Some(_) if self.blobs.check(file.digest)? => None,
                Some(_) => Some((Fault::Altered, file)),
            })
        });
        let faults: Vec<_> = faults.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let of = |kind: Fault| faults.iter().filter(move |(fault, _)| *fault == kind).map(|(_, file)| file);
        for file in of(Fault::Altered).filter(|file| self.blobs.stamp(file.digest).is_some()) {
            self.discard(&self.blobs.path(file.digest))?;
        }
        let paths = |kind| of(kind).map(|file| file.path.to_owned()).collect::<Vec<_>>();
        let kinds = [Fault::Missing, Fault::Altered].into_iter().map(|kind| (kind, paths(kind)));
        Ok(kinds.filter(|(_, paths)| !paths.is_empty()).map(|(kind, paths)| Reason::Stored(kind, paths)).collect())
    }

    /// Removes the files of an earlier result that no result has there now.
    fn take_away(
        &self,
        place: &Place,
        digest: &str,
        out: &Path,
        now: &Contents,
        aside: &mut Vec<String>,
    ) -> Result<()> {
        let Some(old) = self.contents(digest) else { return Ok(()) };
        let folder = place.project.join(out);
        let others = self.all_laid()?.into_iter().filter(|(name, laid)| name != place.instance && laid.out == out);
        let others: Vec<_> = others.filter_map(|(_, laid)| self.contents(&laid.digest)).collect();
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
        let former = Place { out, ..*place };
        let no_folders = if folder.exists() { NoFolders::at(&former, &old)? } else { NoFolders::default() };
        for file in old.iter().filter(|file| !stays(file.path)) {
            if no_folders.is_above(file.path) {
                continue;
            }
            let path = folder.join(file.path);
            self.clear(&former, &path, file.path, std::slice::from_ref(&old), aside)?;
            failpoint::point("file-taken-away");
            // Folders go as they empty; one that still holds something stays.
            let mut folder_of = path.parent();
            while let Some(empty) = folder_of.filter(|empty| *empty != folder && fs::remove_dir(empty).is_ok()) {
                folder_of = empty.parent();
            }
        }
        Ok(())
    }

    /// Makes way at `path`, called `name` below the folder of `place`: what the store has goes, anything else is kept aside.
    /// In a folder that may hold files of people, only what was laid as one of the `former` goes.
    fn clear(
        &self,
        place: &Place,
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
            let was_laid = |it: &Arc<Contents>| it.find(name).is_some_and(|at| it.file(at).digest == digest);
            if place.is_owned() || former.iter().any(was_laid) {
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
    fn keep_aside(&self, place: &Place, path: &Path, name: &str, aside: &mut Vec<String>) -> Result<()> {
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
