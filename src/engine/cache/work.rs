//! Working folders: each process has its own, and other processes do not clear it while that process is alive.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::base::files;

/// How often to try to make a folder, if another program removes it right away.
const TRIES: usize = 5;

#[derive(Debug)]
pub struct Work {
    /// Holds the folders of all processes. It is on the file system of the store.
    root: PathBuf,
    own: Mutex<Option<Own>>,
}

#[derive(Debug)]
struct Own {
    folder: TempDir,
    /// Held while the process is alive. It tells other processes that the folder is in use.
    _lock: File,
}

impl Work {
    pub fn new(root: PathBuf) -> Self {
        Self { root, own: Mutex::default() }
    }

    /// The folder of this process. It is made at the first use, and again if something removed it.
    pub fn folder(&self) -> Result<PathBuf> {
        let mut own = self.own.lock();
        if let Some(own) = own.as_ref().filter(|own| own.folder.path().is_dir()) {
            return Ok(own.folder.path().to_owned());
        }
        let made = self.make()?;
        let path = made.folder.path().to_owned();
        *own = Some(made);
        Ok(path)
    }

    fn make(&self) -> Result<Own> {
        let failed = || format!("cannot work in {}", self.root.display());
        for _ in 0..TRIES {
            own_folder(&self.root)?;
            let folder = TempDir::with_prefix_in("run-", &self.root).with_context(failed)?;
            let Ok(lock) = open_mark(folder.path()) else { continue };
            lock.lock().with_context(failed)?;
            // Before it was locked, another process may have removed it as a leftover.
            if files::is_still_at(&lock, &mark(folder.path())) {
                return Ok(Own { folder, _lock: lock });
            }
        }
        bail!("{}: another program removes its folders as soon as they are made", failed());
    }

    /// Removes the folders of processes that are no longer alive.
    pub fn clear(&self) -> Result<()> {
        if !own_folder(&self.root)? {
            return Ok(());
        }
        let entries = fs::read_dir(&self.root).with_context(|| format!("cannot list {}", self.root.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot list {}", self.root.display()))?.path();
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if !metadata.is_dir() {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                continue;
            }
            let left = open_mark(&path).is_ok_and(|folder| folder.try_lock().is_ok());
            if left {
                files::remove_folder(&path)?;
            }
        }
        Ok(())
    }
}

/// Makes a folder at `path` if there is none. A link or file at `path` is removed: the target of a link does not belong
/// to the cache. Returns whether the folder was already there.
pub fn own_folder(path: &Path) -> Result<bool> {
    let found = path.symlink_metadata();
    if found.as_ref().is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(true);
    }
    if found.is_ok() {
        // If the removal fails, the next line reports the error. If another thread was faster, all is well.
        drop(fs::remove_file(path));
    }
    files::create_folder(path)?;
    Ok(false)
}

/// What a process locks while it uses `folder`: the folder itself. Windows cannot lock a folder, so there it is a file
/// in it.
fn mark(folder: &Path) -> PathBuf {
    if cfg!(windows) { folder.join("in-use") } else { folder.to_owned() }
}

fn open_mark(folder: &Path) -> std::io::Result<File> {
    File::options().read(true).write(cfg!(windows)).create(cfg!(windows)).truncate(false).open(mark(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_processes_that_are_gone_are_cleared() -> Result<()> {
        let root = tempfile::tempdir()?;
        let (one, two) = (Work::new(root.path().join("tmp")), Work::new(root.path().join("tmp")));
        let folder = one.folder()?;
        fs::write(folder.join("a"), "a")?;
        fs::create_dir_all(root.path().join("tmp/run-gone/files"))?;
        fs::write(root.path().join("tmp/alone"), "b")?;
        two.clear()?;
        assert_eq!(files::list(root.path())?, [format!("tmp/{}/a", folder.file_name().unwrap().display())]);
        assert_eq!(one.folder()?, folder);
        files::remove_folder(&folder)?;
        assert!(one.folder()?.is_dir());
        drop(one);
        two.clear()?;
        // A link is removed, and its target stays.
        let home = tempfile::tempdir()?;
        fs::write(home.path().join("diary.txt"), "mine")?;
        fs::remove_dir(root.path().join("tmp"))?;
        std::os::unix::fs::symlink(home.path(), root.path().join("tmp"))?;
        two.clear()?;
        assert_eq!(files::list(home.path())?, ["diary.txt"]);
        assert_eq!(fs::read_dir(root.path().join("tmp"))?.count(), 0);
        Ok(())
    }
}
