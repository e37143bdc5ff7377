//! What a stage writes: each file is noted as it is written, so that the result is what the stage made and nothing else.

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
    /// Into `folder`, which is empty.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, written: Mutex::default() }
    }

    /// A new file called `name`, with `/` between folders. It is part of the result once it is [finished](Output::finish).
    ///
    /// # Errors
    /// If it would lie outside the result, or is there already.
    pub fn create(&self, name: &str) -> Result<Output<'_>> {
        if !is_below(name) {
            bail!("{name:?} is no name for a file of a result");
        }
        let path = self.folder.join(name);
        path.parent().map_or(Ok(()), files::create_folder)?;
        let file = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Output { outputs: self, name: name.to_owned(), file: BufWriter::new(file), hasher: blake3::Hasher::new() })
    }

    /// A new file with these `bytes`.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut output = self.create(name)?;
        output.write_all(bytes).with_context(|| format!("cannot write {name}"))?;
        output.finish()
    }

    /// A file that is finished.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        files::read(&self.folder.join(name))
    }

    /// Takes a finished file out of the result again.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.lock().remove(name);
        let path = self.folder.join(name);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        self.clear(&path);
        Ok(())
    }

    /// Gives a finished file another name.
    pub fn rename(&self, name: &str, to: &str) -> Result<()> {
        let [from, path] = [name, to].map(|name| self.folder.join(name));
        if !is_below(to) || path.exists() {
            bail!("{to:?} is no name for a file of a result, or it is there already");
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

    /// Folders go as they empty.
    fn clear(&self, path: &Path) {
        let mut above = path.ancestors().skip(1).take_while(|folder| **folder != self.folder);
        let _ = above.find(|folder| std::fs::remove_dir(folder).is_err());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Written>> {
        self.written.lock()
    }

    /// What was written so far, by name.
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
    /// Makes it part of the result.
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
