//! The files of a result as they were when it was made, wherever they still are.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Contents, Store};

pub struct ResultFiles {
    /// Where they lie.
    pub folder: PathBuf,
    /// What they were.
    pub contents: Arc<Contents>,
    /// Where they still are once others lie there.
    pub store: Arc<Store>,
}

impl ResultFiles {
    /// BLAKE3 of the file at `path`, if there is one.
    pub fn digest(&self, path: &str) -> Option<&str> {
        Some(self.contents.file(self.contents.find(path)?).digest)
    }

    /// The very bytes with that digest; `None` where they are no longer here.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let digest = self.digest(path)?;
        let places = [self.folder.join(path), self.store.blobs.path(digest)];
        // What cannot be read in its place may just be replaced: then the store has it.
        let mut found = places.iter().filter(|place| place.is_file()).filter_map(|place| std::fs::read(place).ok());
        found.find(|bytes| blake3::hash(bytes).to_hex().as_str() == digest)
    }
}
