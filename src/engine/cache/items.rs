//! Stores what a stage made of each single item, so that if one picture changes, only that one is worked on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::blobs::Blobs;
use super::sealed::{self, Found};
use crate::base::failpoint;
use crate::base::files;

/// Larger results become blobs. Smaller ones are kept in the table, because each blob is a file. In bytes.
const INLINE: usize = 4096;

type Digest = [u8; 32];

/// What was made of one item.
#[derive(Debug, Clone, PartialEq)]
pub enum ItemResult {
    Bytes(Vec<u8>),
    Blob { bytes: u64, digest: String },
}

impl ItemResult {
    /// Keeps small `bytes` as they are, and stores large ones as a blob.
    pub fn store(bytes: Vec<u8>, blobs: &Blobs) -> Result<Self> {
        if bytes.len() <= INLINE {
            return Ok(Self::Bytes(bytes));
        }
        Ok(Self::Blob { bytes: bytes.len() as u64, digest: blobs.put(&bytes)? })
    }

    /// Whether it can be used. A blob must be there and undamaged.
    pub fn is_there(&self, blobs: &Blobs) -> bool {
        match self {
            Self::Bytes(_) => true,
            Self::Blob { bytes, digest } => blobs.has(digest, *bytes) && blobs.is_sound(digest),
        }
    }

    /// Stores it as a blob, if it is not one yet. Returns its length and digest.
    pub fn blob(&self, blobs: &Blobs) -> Result<(u64, String)> {
        Ok(match self {
            Self::Bytes(bytes) => (bytes.len() as u64, blobs.put(bytes)?),
            Self::Blob { bytes, digest } => (*bytes, digest.clone()),
        })
    }

    pub fn read(self, blobs: &Blobs) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Blob { digest, .. } => blobs.read(&digest),
        }
    }
}

/// How often a table is written while it grows.
const WRITTEN_EVERY: Duration = Duration::from_secs(10);

/// The results of items by one recipe, by the digest of each item.
#[derive(Default)]
pub struct ItemTable {
    path: PathBuf,
    made: HashMap<Digest, ItemResult>,
    changed: bool,
    /// When it was last read or written.
    synced: Option<Instant>,
}

impl ItemTable {
    /// Reads the table of `recipe`, the digest of everything that matters besides the item. A missing or damaged table
    /// counts as empty.
    pub fn read(root: &Path, recipe: &str) -> Result<Self> {
        let path = Self::path(root, recipe);
        let made = Self::find(root, recipe)?.or_warn(&path).unwrap_or_default();
        Ok(Self { path, made, changed: false, synced: Some(Instant::now()) })
    }

    fn path(root: &Path, recipe: &str) -> PathBuf {
        root.join("items").join(recipe)
    }

    fn find(root: &Path, recipe: &str) -> Result<Found<HashMap<Digest, ItemResult>>> {
        sealed::read(&Self::path(root, recipe), |bytes| parse(sealed::open(&name(recipe), bytes)?))
    }

    /// Whether the table is damaged.
    pub(super) fn is_damaged(root: &Path, recipe: &str) -> Result<bool> {
        Ok(matches!(Self::find(root, recipe)?, Found::Damaged))
    }

    pub fn get(&self, item: &Digest) -> Option<&ItemResult> {
        self.made.get(item)
    }

    pub fn insert(&mut self, item: Digest, made: ItemResult) {
        self.made.insert(item, made);
        self.changed = true;
    }

    /// Whether it is time to write the table, so that little is lost if the process is killed.
    pub fn is_due(&self) -> bool {
        self.synced.is_some_and(|synced| synced.elapsed() > WRITTEN_EVERY)
    }

    pub fn write(&mut self) -> Result<()> {
        self.synced = Some(Instant::now());
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        let mut rows: Vec<(&Digest, &ItemResult)> = self.made.iter().collect();
        rows.sort_unstable_by_key(|(item, _)| **item);
        let mut bytes = Vec::new();
        for (item, made) in rows {
            bytes.extend(item);
            match made {
                ItemResult::Bytes(value) => {
                    bytes.extend((value.len() as u64).to_le_bytes());
                    bytes.extend(value);
                }
                ItemResult::Blob { bytes: length, digest } => {
                    bytes.extend((length | BLOB).to_le_bytes());
                    bytes.extend(blake3::Hash::from_hex(digest)?.as_bytes());
                }
            }
        }
        let recipe = self.path.file_name().unwrap_or_default().to_string_lossy();
        files::write_atomically(&self.path, &sealed::seal(&name(&recipe), bytes))?;
        failpoint::point("items-written");
        Ok(())
    }
}

/// This bit of the length is set for a blob.
const BLOB: u64 = 1 << 63;

fn name(recipe: &str) -> String {
    format!("items/{recipe}")
}

fn parse(mut rest: &[u8]) -> Option<HashMap<Digest, ItemResult>> {
    let mut made = HashMap::new();
    while !rest.is_empty() {
        let (item, after) = rest.split_first_chunk::<32>()?;
        let (length, after) = after.split_first_chunk::<8>()?;
        let length = u64::from_le_bytes(*length);
        let (value, after) = if length & BLOB == 0 {
            let (value, after) = after.split_at_checked(length as usize)?;
            (ItemResult::Bytes(value.to_vec()), after)
        } else {
            let (digest, after) = after.split_first_chunk::<32>()?;
            let digest = blake3::Hash::from_bytes(*digest).to_hex().to_string();
            (ItemResult::Blob { bytes: length & !BLOB, digest }, after)
        };
        made.insert(*item, value);
        rest = after;
    }
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let folder = tempfile::tempdir().unwrap();
            let mut table = ItemTable::read(folder.path(), "recipe").unwrap();
            for value in &values {
                let made = match value.len() {
                    30.. => ItemResult::Blob { bytes: 7, digest: blake3::hash(value).to_hex().to_string() },
                    _ => ItemResult::Bytes(value.clone()),
                };
                table.insert(*blake3::hash(value).as_bytes(), made);
            }
            table.write().unwrap();
            let read = ItemTable::read(folder.path(), "recipe").unwrap();
            prop_assert_eq!(&read.made, &table.made);
            if !values.is_empty() {
                let mut bytes = files::read(&table.path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                files::write(&table.path, &bytes).unwrap();
                prop_assert!(ItemTable::read(folder.path(), "recipe").unwrap().made.is_empty());
                prop_assert!(ItemTable::is_damaged(folder.path(), "recipe").unwrap());
            }
        }
    }
}
