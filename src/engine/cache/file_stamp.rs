//! File stamps: size, times and identity of a file, with which an unchanged file is recognised without reading it.

use std::fs::Metadata;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Size, times, inode and device of a file. Every write changes the time of status change (ctime), and programs cannot
/// set that back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    pub bytes: u64,
    /// Nanoseconds since 1970.
    pub modified: i64,
    /// Last change of content or status (ctime), in nanoseconds since 1970.
    pub changed: i64,
    pub inode: u64,
    pub device: u64,
}

impl FileStamp {
    /// The stamp of a file or folder. Of a link, it is the stamp of the link itself. `None` if nothing is there.
    pub fn of(path: &Path) -> Option<Self> {
        path.symlink_metadata().ok().map(|metadata| Self::from(&metadata))
    }

    /// Whether a file that still has this stamp may have been written since it was read. `as_of` is the file system's
    /// time when its content was known. That clock moves in ticks, so a second write in the same tick leaves the stamp
    /// unchanged. Git calls such files "racily clean".
    pub fn is_racy(&self, as_of: i64) -> bool {
        self.changed.max(self.modified) >= as_of
    }

    /// Changes it to a stamp that no file has.
    pub fn invalidate(&mut self) {
        self.changed = i64::MAX;
    }

    /// Whether both are known to be stamps of one file.
    pub fn same_file(&self, other: &Self) -> bool {
        cfg!(unix) && (self.device, self.inode) == (other.device, other.inode)
    }
}

impl From<&Metadata> for FileStamp {
    #[cfg(unix)]
    fn from(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            bytes: metadata.len(),
            modified: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            changed: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// Windows gives no ctime and no inode here, so the stamp always counts as racy, and the file is always read.
    #[cfg(not(unix))]
    fn from(metadata: &Metadata) -> Self {
        Self { bytes: metadata.len(), modified: i64::MAX, changed: i64::MAX, inode: 0, device: 0 }
    }
}

/// The time of the file system at `folder`, in nanoseconds since 1970. Waits until it is later than `last`.
pub fn time_after(folder: &Path, last: i64) -> Result<i64> {
    let probe = || -> std::io::Result<i64> { Ok(FileStamp::from(&tempfile::tempfile_in(folder)?.metadata()?).changed) };
    let mut now = probe().with_context(|| format!("cannot write in {}", folder.display()))?;
    // A tick lasts 10 milliseconds at most. If `last` is in the future, give up after 20 tries.
    for _ in 0..20 {
        if now > last || cfg!(not(unix)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        now = probe().with_context(|| format!("cannot write in {}", folder.display()))?;
    }
    Ok(now)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_write_shows_even_when_the_time_is_set_back() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a");
        fs::write(&path, "one")?;
        let before = FileStamp::of(&path).unwrap();
        let as_of = time_after(folder.path(), before.changed)?;
        assert!(!before.is_racy(as_of) && before.is_racy(before.changed));
        fs::write(&path, "two")?;
        let modified = UNIX_EPOCH + Duration::from_nanos(before.modified as u64);
        fs::File::options().write(true).open(&path)?.set_modified(modified)?;
        let after = FileStamp::of(&path).unwrap();
        assert_eq!(after.modified, before.modified);
        assert!(after != before);
        Ok(())
    }
}
