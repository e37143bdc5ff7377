//! Writes the files of a result and records each one, so that no file of another program gets into the result.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use parking_lot::{Mutex, MutexGuard};

use crate::base::files;
use crate::engine::cache::{Written, is_below};

/// The files of a result while it is made.
#[derive(Debug)]
pub struct Outputs {
    folder: PathBuf,
    written: Mutex<BTreeMap<String, Written>>,
}

impl Outputs {
    /// Writes into `folder`, which must be empty.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, written: Mutex::default() }
    }

    /// Creates the file `name`, with `/` between folders. It becomes part of the result when it is
    /// [finished](Output::finish).
    ///
    /// # Errors
    /// If `name` leads outside of the result, or if the file exists already.
    pub fn create(&self, name: &str) -> Result<Output<'_>> {
        if !is_below(name) {
            bail!("{name:?} is not a valid name for a file of a result");
        }
        let path = self.folder.join(name);
        path.parent().map_or(Ok(()), files::create_folder)?;
        let file = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Output { outputs: self, name: name.to_owned(), file: BufWriter::new(file), hasher: blake3::Hasher::new() })
    }

    /// Creates the file `name` with these `bytes`.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut output = self.create(name)?;
        output.write_all(bytes).with_context(|| format!("cannot write {name}"))?;
        output.finish()
    }

    /// Reads a finished file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        files::read(&self.folder.join(name))
    }

    /// Removes a finished file from the result.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.lock().remove(name);
        let path = self.folder.join(name);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        self.clear(&path);
        Ok(())
    }

    /// Renames a finished file.
    pub fn rename(&self, name: &str, to: &str) -> Result<()> {
        let [from, path] = [name, to].map(|name| self.folder.join(name));
        if !is_below(to) || path.exists() {
            bail!("{to:?} is not a valid name for a file of a result, or it exists already");
        }
        path.parent().map_or(Ok(()), files::create_folder)?;
        std::fs::rename(&from, &path).with_context(|| format!("cannot move {} to {to}", from.display()))?;
        self.clear(&from);
        let mut written = self.lock();
        if let Some(file) = written.remove(name) {
            written.insert(to.to_owned(), file);
        }
        Ok(())
    }

    /// Removes the folders above `path` that are empty now.
    fn clear(&self, path: &Path) {
        let mut above = path.ancestors().skip(1).take_while(|folder| **folder != self.folder);
        let _ = above.find(|folder| std::fs::remove_dir(folder).is_err());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Written>> {
        self.written.lock()
    }

    /// All finished files, by name.
    pub fn written(&self) -> BTreeMap<String, Written> {
        self.lock().clone()
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct Output<'a> {
    outputs: &'a Outputs,
    name: String,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Output<'_> {
    /// Finishes the file, and adds it to the result.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().with_context(|| format!("cannot write {}", self.name))?;
        let written = Written { bytes: self.hasher.count(), digest: self.hasher.finalize().to_hex().to_string() };
        self.outputs.lock().insert(self.name, written);
        Ok(())
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_noted_and_stays_below() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let outputs = Outputs::new(folder.path().to_owned());
        outputs.write("a/b.txt", b"hello")?;
        let digest = blake3::hash(b"hello").to_hex().to_string();
        assert_eq!(outputs.written(), [("a/b.txt".to_owned(), Written { bytes: 5, digest })].into());
        for name in ["", "/a", "../a", "a/../b", "a/b.txt", "a"] {
            assert!(outputs.create(name).is_err(), "{name}");
        }
        Ok(())
    }
}
