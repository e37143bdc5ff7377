//! The folders of a result that are no folders at its place: a file is there, a link, or nothing.

use anyhow::Result;

use super::contents::{Contents, folder_of};
use super::output_dir::{OutputDir, below, there};

/// What lies behind a link is not the result's, so no link is followed; but a folder that the manifest names may be one.
#[derive(Default)]
pub(super) struct NoFolders<'a>(Vec<&'a str>);

impl<'a> NoFolders<'a> {
    pub fn at(place: &OutputDir, contents: &'a Contents) -> Result<Self> {
        let root = place.folder();
        let mut none = Self::default();
        // Sorted, so that a folder comes before those in it.
        for name in contents.folders() {
            let path = below(&root, name);
            let followed = name.is_empty() && !place.is_owned();
            let metadata = if followed { path.metadata() } else { path.symlink_metadata() };
            let is_folder = there(metadata, &path)?.is_some_and(|metadata| metadata.is_dir());
            if !is_folder || none.is_above(name) {
                none.0.push(name);
            }
        }
        Ok(none)
    }

    pub fn has(&self, folder: &str) -> bool {
        self.0.binary_search(&folder).is_ok()
    }

    /// Whether `path` lies in one of them.
    pub fn is_above(&self, path: &str) -> bool {
        !self.0.is_empty() && !path.is_empty() && self.has(folder_of(path))
    }
}
