//! Content-addressed files: each content is stored once, read-only, under its own digest.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::file_stamp::FileStamp;
use super::sealed::is_digest;
use super::work::{Work, own_folder};
use crate::base::failpoint;
use crate::base::files;
use crate::damaged;

#[derive(Clone)]
pub struct Blobs {
    folder: PathBuf,
    /// Where files are written before they are moved here.
    work: Arc<Work>,
}

impl Blobs {
    pub fn new(root: &Path, work: Arc<Work>) -> Self {
        Self { folder: root.join("blobs"), work }
    }

    pub fn path(&self, digest: &str) -> PathBuf {
        let (folder, name) = digest.split_at_checked(2).unwrap_or(("", digest));
        self.folder.join(folder).join(name)
    }

    /// Whether a file of the right length is there; its content is not read.
    pub fn has(&self, digest: &str, bytes: u64) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
    }

    /// Whether its content is the one that its name says.
    pub fn is_sound(&self, digest: &str) -> bool {
        self.check(digest).unwrap_or(false)
    }

    /// The same, where one that cannot be read just now must not be taken for a damaged one.
    pub fn check(&self, digest: &str) -> Result<bool> {
        let path = self.path(digest);
        if files::is_no_file(&path) {
            return Ok(false);
        }
        Ok(files::digest(&path).context("the store has a file that cannot be read; see `similiai verify`")? == digest)
    }

    /// The content with this digest.
    ///
    /// # Errors
    /// If it is not there, or not what its name says.
    pub fn read(&self, digest: &str) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let damaged = || damaged!("{} is damaged; run `similiai verify --repair`", path.display());
        if files::is_no_file(&path) {
            return Err(damaged());
        }
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(damaged!("{} is gone from the store; run `similiai verify --repair`", path.display()));
            }
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        if blake3::hash(&bytes).to_hex().as_str() == digest { Ok(bytes) } else { Err(damaged()) }
    }

    /// Stores `bytes`; gives their digest. Their folder is made durable by [`Self::sync`].
    pub fn put(&self, bytes: &[u8]) -> Result<String> {
        let digest = blake3::hash(bytes).to_hex().to_string();
        if self.has(&digest, bytes.len() as u64) && self.is_sound(&digest) {
            return Ok(digest);
        }
        let work = self.work.folder()?;
        let write = || -> std::io::Result<tempfile::TempPath> {
            let mut file = tempfile::NamedTempFile::new_in(&work)?;
            file.write_all(bytes)?;
            settle(file.as_file())?;
            Ok(file.into_temp_path())
        };
        let written = write().with_context(|| format!("cannot write in {}", work.display()))?;
        self.place(&written, &digest)?;
        // It is not there any more.
        let _ = written.keep();
        Ok(digest)
    }

    /// Moves a finished file here; gives its length and digest.
    pub fn take(&self, path: &Path) -> Result<(u64, String)> {
        let digest = files::digest(path)?;
        let settled = File::open(path).and_then(|file| settle(&file).and_then(|()| file.metadata()));
        let bytes = settled.with_context(|| format!("cannot sync {}", path.display()))?.len();
        if !(self.has(&digest, bytes) && self.is_sound(&digest)) {
            self.place(path, &digest)?;
        }
        Ok((bytes, digest))
    }

    fn place(&self, path: &Path, digest: &str) -> Result<()> {
        failpoint::point("blob-written");
        let destination = self.path(digest);
        let shelf = files::folder_of(&destination);
        if !files::is_folder(shelf) {
            own_folder(shelf)?;
        }
        let moved = fs::rename(path, &destination);
        moved.with_context(|| format!("cannot move a file to {}", destination.display()))?;
        failpoint::point("blob-placed");
        Ok(())
    }

    /// Makes the folders of these durable.
    pub fn sync<'a>(&self, digests: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let folders: BTreeSet<PathBuf> =
            digests.into_iter().filter_map(|digest| Some(self.path(digest).parent()?.to_owned())).collect();
        if !folders.is_empty() {
            folders.into_par_iter().try_for_each(|folder| files::sync_folder(&folder))?;
            files::sync_folder(&self.folder)?;
        }
        Ok(())
    }

    pub fn remove(&self, digest: &str) -> Result<()> {
        let path = self.path(digest);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// The names of the folders that hold blobs, sorted. What has such a name and is no folder holds none.
    pub fn shelves(&self) -> Result<Vec<String>> {
        Ok(files::names(&self.folder)?.into_iter().filter(|name| name.len() == 2).collect())
    }

    /// What stands where such a folder should.
    pub fn false_shelves(&self) -> Result<Vec<PathBuf>> {
        let paths = self.shelves()?.into_iter().map(|shelf| self.folder.join(shelf));
        Ok(paths.filter(|path| !files::is_folder(path)).collect())
    }

    /// The digests of one of them, sorted.
    pub fn on_shelf(&self, shelf: &str) -> Result<Vec<String>> {
        let names = files::names(&self.folder.join(shelf))?;
        // What is called otherwise is nothing of ours.
        Ok(names.into_iter().map(|name| format!("{shelf}{name}")).filter(|digest| is_digest(digest)).collect())
    }

    pub fn all(&self) -> Result<Vec<String>> {
        let shelves = self.shelves()?.into_par_iter().map(|shelf| self.on_shelf(&shelf));
        Ok(shelves.collect::<Result<Vec<_>>>()?.concat())
    }

    pub fn stamp(&self, digest: &str) -> Option<FileStamp> {
        FileStamp::of(&self.path(digest))
    }

    /// Lays the file at `place`, where nothing is: shares its blocks, else is the same file, else is a copy.
    pub fn check_out(&self, digest: &str, place: &Path) -> Result<()> {
        let stored = self.path(digest);
        let attempt = || -> std::io::Result<()> {
            if share_blocks(&stored, place) {
                return Ok(());
            }
            match fs::hard_link(&stored, place) {
                // Somebody was faster: what they wrote stays.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
                Err(_) => {
                    let mut copy = tempfile::NamedTempFile::new_in(place.parent().unwrap_or(Path::new(".")))?;
                    std::io::copy(&mut File::open(&stored)?, &mut copy)?;
                    settle(copy.as_file())?;
                    copy.persist_noclobber(place)?;
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        };
        attempt().with_context(|| format!("cannot lay {}", place.display()))
    }
}

/// Durable, and protected from programs that write in place.
fn settle(file: &File) -> std::io::Result<()> {
    let mut permissions = file.metadata()?.permissions();
    #[cfg(unix)]
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o444);
    #[cfg(not(unix))]
    permissions.set_readonly(true);
    file.set_permissions(permissions)?;
    file.sync_all()
}

/// A copy that costs nothing until one of the two is written; false where the file system has none.
fn share_blocks(stored: &Path, place: &Path) -> bool {
    use std::sync::atomic::{AtomicBool, Ordering};
    // Asked once a process: a file system without it would be asked for every file.
    static NONE: AtomicBool = AtomicBool::new(false);
    if NONE.load(Ordering::Relaxed) {
        return false;
    }
    let shared = reflink_copy::reflink(stored, place).is_ok();
    NONE.fetch_or(!shared, Ordering::Relaxed);
    shared
}
