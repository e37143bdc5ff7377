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
    /// Files are written here before they are moved into the store.
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

    /// Whether there is a blob of this length. Its content is not read.
    pub fn has(&self, digest: &str, bytes: u64) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
    }

    /// Whether the blob is there, can be read, and its content matches the digest.
    pub fn is_sound(&self, digest: &str) -> bool {
        self.check(digest).unwrap_or(false)
    }

    /// Like [`Self::is_sound`], but a file that cannot be read is an error. It must not be taken for a damaged one.
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
    /// If the blob is missing, or its content does not match the digest.
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

    /// Stores `bytes` and returns their digest. Call [`Self::sync`] afterwards: without it, a crash may lose the name
    /// of the new file.
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
        // The file was moved, so there is nothing to remove.
        let _ = written.keep();
        Ok(digest)
    }

    /// Moves a finished file into the store. Returns its length and digest.
    pub fn take(&self, path: &Path) -> Result<(u64, String)> {
        let digest = files::digest(path)?;
        let settled = files::open_to_sync(path).and_then(|file| settle(&file).and_then(|()| file.metadata()));
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

    /// Syncs the folders of these blobs to the disk.
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

    /// The sorted names of the folders that hold blobs (shelves). Files with such a name are listed too.
    pub fn shelves(&self) -> Result<Vec<String>> {
        Ok(files::names(&self.folder)?.into_iter().filter(|name| name.len() == 2).collect())
    }

    /// Files and links with the name of a shelf.
    pub fn false_shelves(&self) -> Result<Vec<PathBuf>> {
        let paths = self.shelves()?.into_iter().map(|shelf| self.folder.join(shelf));
        Ok(paths.filter(|path| !files::is_folder(path)).collect())
    }

    /// The sorted digests of the blobs on a shelf.
    pub fn on_shelf(&self, shelf: &str) -> Result<Vec<String>> {
        let names = files::names(&self.folder.join(shelf))?;
        // Files with other names were not made by the cache.
        Ok(names.into_iter().map(|name| format!("{shelf}{name}")).filter(|digest| is_digest(digest)).collect())
    }

    pub fn all(&self) -> Result<Vec<String>> {
        let shelves = self.shelves()?.into_par_iter().map(|shelf| self.on_shelf(&shelf));
        Ok(shelves.collect::<Result<Vec<_>>>()?.concat())
    }

    pub fn stamp(&self, digest: &str) -> Option<FileStamp> {
        FileStamp::of(&self.path(digest))
    }

    /// Puts the file at the free path `place`. It shares its blocks with the blob if the file system can do that.
    /// Otherwise it is a hard link, or a copy if that fails. On Windows it is never a hard link, because blobs are not
    /// read-only there.
    pub fn check_out(&self, digest: &str, place: &Path) -> Result<()> {
        let stored = self.path(digest);
        let attempt = || -> std::io::Result<()> {
            if share_blocks(&stored, place) {
                return Ok(());
            }
            let linked = if cfg!(windows) { Err(ErrorKind::Unsupported.into()) } else { fs::hard_link(&stored, place) };
            match linked {
                // Another program made a file there first. It stays.
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
        attempt().with_context(|| format!("cannot check out {}", place.display()))
    }
}

/// Makes a file read-only, against programs that write in place, and syncs it to the disk. Windows does not move or
/// remove read-only files, so it stays writable there.
fn settle(file: &File) -> std::io::Result<()> {
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o444))?;
    file.sync_all()
}

/// Makes a copy that shares its blocks until one of the two is written. False if the file system cannot do that.
fn share_blocks(stored: &Path, place: &Path) -> bool {
    use std::sync::atomic::{AtomicBool, Ordering};
    // After the first failure, it is not tried again in this process.
    static NONE: AtomicBool = AtomicBool::new(false);
    if NONE.load(Ordering::Relaxed) {
        return false;
    }
    let shared = reflink_copy::reflink(stored, place).is_ok();
    NONE.fetch_or(!shared, Ordering::Relaxed);
    shared
}
