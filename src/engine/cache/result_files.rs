//! Reads the files of a result as they were when it was made, from the output directory or from the store.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Contents, Store};

pub struct ResultFiles {
    /// The output directory.
    pub folder: PathBuf,
    /// Paths and digests of the files.
    pub contents: Arc<Contents>,
    /// Still has the files after another result was checked out.
    pub store: Arc<Store>,
}

impl ResultFiles {
    /// BLAKE3 of the file at `path`, if there is one.
    pub fn digest(&self, path: &str) -> Option<&str> {
        Some(self.contents.file(self.contents.find(path)?).digest)
    }

    /// The content of the file at `path`, checked against its digest. `None` if neither the output directory nor the
    /// store still has it.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let digest = self.digest(path)?;
        let places = [self.folder.join(path), self.store.blobs.path(digest)];
        // A run may be replacing the file in the output directory right now. Then the store has it.
        let mut found = places.iter().filter(|place| place.is_file()).filter_map(|place| std::fs::read(place).ok());
        found.find(|bytes| blake3::hash(bytes).to_hex().as_str() == digest)
    }
}
