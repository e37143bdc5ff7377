//! Reads, hashes and atomically writes files; every error names the path.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

use crate::base::signal;

/// At most this many bytes are read from a pipe or a device, because it may be endless.
const MOST_OF_A_PIPE: u64 = 1 << 30;

/// All bytes of a file.
///
/// # Errors
/// If the file cannot be read, or if it is a pipe or a device that gives more than 1 GiB.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let is_pipe = path.exists() && !path.is_file();
    let all = || {
        if !is_pipe {
            return fs::read(path);
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST_OF_A_PIPE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = interruptible(path, all).with_context(|| format!("cannot read {}", path.display()))?;
    if is_pipe && bytes.len() as u64 > MOST_OF_A_PIPE {
        bail!("{} is not a regular file and gives more than 1 GiB; store it in a file", path.display());
    }
    Ok(bytes)
}

/// Whether the file at `path` begins with `start`. A pipe is not read, because its bytes would be lost; the answer is
/// true.
pub fn begins_with(path: &Path, start: &[u8]) -> Result<bool> {
    let mut bytes = Vec::new();
    if path.is_file() {
        let read = File::open(path).and_then(|file| file.take(start.len() as u64).read_to_end(&mut bytes));
        read.with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(!path.is_file() || bytes == start)
}

/// Runs `act`, which opens or reads `path`. A pipe may block forever, so a signal then ends the process at once.
fn interruptible<T>(path: &Path, act: impl FnOnce() -> T) -> T {
    if path.exists() && !path.is_file() { signal::while_waiting(act) } else { act() }
}

/// Standard output without a buffer and without the lock of the standard library.
pub fn stdout() -> std::io::Result<File> {
    #[cfg(unix)]
    let copy = std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned()?;
    #[cfg(windows)]
    let copy = std::os::windows::io::AsHandle::as_handle(&std::io::stdout()).try_clone_to_owned()?;
    Ok(File::from(copy))
}

pub fn read_to_string(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `path` with a `~` at its start replaced by the home directory, as in a shell.
pub fn expanded(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

pub fn create(path: &Path) -> Result<File> {
    interruptible(path, || File::create(path)).with_context(|| format!("cannot create {}", path.display()))
}

pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create the folder {}", path.display()))
}

/// Device and inode of a file. They identify it under any name.
#[cfg(unix)]
fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// Whether both paths lead to the same existing file, under whatever name.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    return one.metadata().is_ok_and(|one| other.metadata().is_ok_and(|other| identity(&one) == identity(&other)));
    #[cfg(windows)]
    same_file::is_same_file(one, other).unwrap_or(false)
}

/// Whether the open `file` is still the one at `path`. A link is not followed.
pub fn is_still_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    return file.metadata().is_ok_and(|own| path.symlink_metadata().is_ok_and(|it| identity(&it) == identity(&own)));
    #[cfg(windows)]
    {
        use same_file::Handle;
        let own = file.try_clone().and_then(Handle::from_file);
        own.is_ok_and(|own| Handle::from_path(path).is_ok_and(|there| there == own))
    }
}

/// Whether `path` is a folder. A link to a folder does not count.
pub fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// Whether something exists at `path` that is not a regular file: a folder, a link or a pipe. Reading a pipe may block
/// forever.
pub fn is_no_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file())
}

/// Fails if this process has no permission to write in `folder`.
pub fn check_writable(folder: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    return Ok(rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?);
    #[cfg(windows)]
    tempfile::tempfile_in(folder).map(drop)
}

/// Removes a folder and everything in it. A missing folder is no error.
pub fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The folder that `path` is in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Replaces the file at `path`. After a crash, either the old file or the new one is there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |path| write(path, bytes))
}

/// Like [`write_atomically`], but `write` fills the file whose path it receives.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let file = filled_beside(path, write)?;
    let failed = || format!("cannot write {}", path.display());
    file.as_file().sync_all().with_context(failed)?;
    file.persist(path).map_err(|error| error.error).with_context(failed)?;
    sync_folder(folder_of(path))
}

/// Like [`write_atomically`], but does not wait until the file is on the disk. If the process dies, either the old file
/// or the new one is there. If the machine crashes, both may be lost.
pub fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = filled_beside(path, |path| write(path, bytes))?;
    file.persist(path).map_err(|error| error.error).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// A temporary file in the folder of `path`, filled by `write`.
fn filled_beside(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<tempfile::NamedTempFile> {
    let folder = folder_of(path);
    create_folder(folder)?;
    let file = temporary().tempfile_in(folder).with_context(|| format!("cannot write {}", path.display()))?;
    write(file.path())?;
    Ok(file)
}

/// Syncs `folder` to the disk, so that a crash cannot undo files added, renamed or removed in it. Windows has no call
/// for that: NTFS keeps a journal of such changes.
pub fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let synced = File::open(folder).and_then(|opened| opened.sync_all());
    synced.with_context(|| format!("cannot sync {}", folder.display()))
}

/// Opens a file to sync it. Windows requires permission to write for that.
pub fn open_to_sync(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(cfg!(windows)).open(path)
}

/// The sorted names in `folder`, except those that are not valid Unicode. Empty if `folder` is missing or not a folder.
/// A link is not followed.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    match folder.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Ok(Vec::new()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", folder.display())),
    }
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names: Vec<String> = entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Creates temporary files with the usual permissions. By default, `tempfile` makes them unreadable for other users.
fn temporary() -> tempfile::Builder<'static, 'static> {
    #[cfg_attr(windows, expect(unused_mut))]
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

pub fn length(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?.len())
}

/// Files up to this size are hashed on one core; larger ones in pieces of [`PIECE`] on all cores. In bytes.
const WHOLE: u64 = 1 << 20;
const PIECE: usize = 16 << 20;

/// BLAKE3 of a file's content, in hexadecimal.
pub fn digest(path: &Path) -> Result<String> {
    let attempt = || -> std::io::Result<blake3::Hash> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut hasher = blake3::Hasher::new();
        if length <= WHOLE {
            hasher.update_reader(file)?;
            return Ok(hasher.finalize());
        }
        let mut piece = vec![0; PIECE.min(length as usize)];
        loop {
            let mut filled = 0;
            while filled < piece.len() {
                match file.read(&mut piece[filled..])? {
                    0 => break,
                    count => filled += count,
                }
            }
            hasher.update_rayon(&piece[..filled]);
            if filled < piece.len() {
                return Ok(hasher.finalize());
            }
        }
    };
    Ok(attempt().with_context(|| format!("cannot read {}", path.display()))?.to_hex().to_string())
}

/// Every regular file below `folder`, as sorted relative paths with `/` between their parts.
///
/// # Errors
/// If there is anything other than files and folders.
pub fn list(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in WalkDir::new(folder).min_depth(1) {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        if entry.file_type().is_file() {
            found.push(portable(entry.path().strip_prefix(folder)?)?);
        } else if !entry.file_type().is_dir() {
            bail!("{} is neither a file nor a folder", entry.path().display());
        }
    }
    found.sort();
    Ok(found)
}

fn portable(path: &Path) -> Result<String> {
    let parts: Option<Vec<&str>> = path.iter().map(|part| part.to_str()).collect();
    Ok(parts.with_context(|| format!("{} is not valid Unicode", path.display()))?.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_write_replaces_and_leaves_nothing_else() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a/b.txt");
        write_atomically(&path, b"one")?;
        write_atomically(&path, b"two")?;
        assert_eq!(read(&path)?, b"two");
        assert_eq!(list(folder.path())?, ["a/b.txt"]);
        Ok(())
    }

    #[test]
    fn errors_name_the_path() {
        let message = format!("{:#}", read(Path::new("/no/such/file")).unwrap_err());
        assert!(message.contains("/no/such/file"), "{message}");
    }
}
