//! The stamps of checked out files from when they were last known to be unmodified, in a small binary file for each
//! instance.

use std::path::Path;

use anyhow::{Context, Result};

use super::Contents;
use super::file_stamp::FileStamp;
use super::sealed::{self, Found};
use crate::base::failpoint;
use crate::base::files;

const NUMBERS: usize = 5;

#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct StampIndex {
    /// Of the result that is checked out.
    pub digest: String,
    /// The file system's time before its files were inspected, in nanoseconds since 1970.
    pub as_of: i64,
    /// In the order of the result's [`Contents`].
    pub files: Vec<FileStamp>,
    /// In the order of [`Contents::folders`].
    pub folders: Vec<FileStamp>,
}

impl StampIndex {
    /// `None` if the index is missing, damaged or of another result. Then every file is read.
    pub fn read(path: &Path, digest: &str, contents: &Contents) -> Result<Option<Self>> {
        let found = sealed::read(path, |bytes| Some(Self::parse(sealed::open(&name(path), bytes)?, digest, contents)))?;
        Ok(found.or_warn(path).flatten())
    }

    /// Whether the index at `path` is damaged.
    pub fn is_damaged(path: &Path) -> Result<bool> {
        let whole = sealed::read(path, |bytes| sealed::open(&name(path), bytes).map(drop))?;
        Ok(matches!(whole, Found::Damaged))
    }

    fn parse(body: &[u8], digest: &str, contents: &Contents) -> Option<Self> {
        let (head, numbers) = body.split_first_chunk::<64>()?;
        if head != digest.as_bytes() {
            return None;
        }
        let (as_of, numbers) = numbers.split_first_chunk::<8>()?;
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
        let stamp = |bytes: &[u8]| FileStamp {
            bytes: number(&bytes[..8]),
            modified: number(&bytes[8..16]) as i64,
            changed: number(&bytes[16..24]) as i64,
            inode: number(&bytes[24..32]),
            device: number(&bytes[32..]),
        };
        let (files, folders) = numbers.split_at_checked(contents.len() * NUMBERS * 8)?;
        let stamps = |bytes: &[u8]| bytes.chunks_exact(NUMBERS * 8).map(stamp).collect();
        let (files, folders): (_, Vec<FileStamp>) = (stamps(files), stamps(folders));
        let complete = folders.len() == contents.folders().len();
        complete.then(|| Self { digest: digest.to_owned(), as_of: i64::from_le_bytes(*as_of), files, folders })
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let mut bytes = self.digest.clone().into_bytes();
        bytes.extend(self.as_of.to_le_bytes());
        for stamp in self.files.iter().chain(&self.folders) {
            let numbers = [stamp.bytes, stamp.modified as u64, stamp.changed as u64, stamp.inode, stamp.device];
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        files::write_atomically(path, &sealed::seal(&name(path), bytes))
            .context("cannot save the stamps of the files")?;
        failpoint::point("index-written");
        Ok(())
    }
}

fn name(path: &Path) -> String {
    format!("laid/{}", path.file_name().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_found() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("index");
        let contents = Contents::new(vec![("a/b".into(), 1, "0".repeat(64))])?;
        let stamp = FileStamp::of(folder.path()).unwrap();
        let digest = contents.digest().to_owned();
        let index = StampIndex { digest: digest.clone(), as_of: -1, files: vec![stamp], folders: vec![stamp; 2] };
        index.write(&path)?;
        assert_eq!(StampIndex::read(&path, &digest, &contents)?, Some(index));
        assert_eq!(StampIndex::read(&path, &"1".repeat(64), &contents)?, None);
        assert_eq!(StampIndex::read(&path, &digest, &Contents::default())?, None);
        let mut bytes = files::read(&path)?;
        bytes[70] ^= 1;
        files::write(&path, &bytes)?;
        assert_eq!(StampIndex::read(&path, &digest, &contents)?, None);
        assert!(StampIndex::is_damaged(&path)?);
        Ok(())
    }
}
