//! The gallery's pictures, by the paths that its embeddings name, as they were when it was made.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use crate::cache::{Contents, Store};
use crate::files;

pub struct Pictures {
    /// Where they lie.
    pub folder: PathBuf,
    /// What they were.
    pub contents: Arc<Contents>,
    /// Where they still are once others lie there.
    pub store: Arc<Store>,
}

impl Pictures {
    /// BLAKE3 of the picture at `path`, if there is one.
    pub fn digest(&self, path: &str) -> Option<&str> {
        Some(self.contents.file(self.contents.find(path)?).digest)
    }

    /// The very bytes with that digest; `None` where they are no longer here.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(digest) = self.digest(path) else { return Ok(None) };
        for place in [self.folder.join(path), self.store.blobs.path(digest)] {
            if place.exists() {
                let bytes = files::read(&place)?;
                if blake3::hash(&bytes).to_hex().as_str() == digest {
                    return Ok(Some(bytes));
                }
            }
        }
        Ok(None)
    }
}
