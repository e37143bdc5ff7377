//! Finds the folders of a result that are missing in the output directory, or are files or links there.

use anyhow::Result;

use super::contents::{Contents, folder_of};
use super::output_dir::{OutputDir, below, there};

/// Paths of the folders that are not real folders. Links are not followed, because their targets do not belong to the
/// result. Only a directory named by `out` may itself be a link.
#[derive(Default)]
pub(super) struct NoFolders<'a>(Vec<&'a str>);

impl<'a> NoFolders<'a> {
    pub fn at(place: &OutputDir, contents: &'a Contents) -> Result<Self> {
        let root = place.folder();
        let mut none = Self::default();
        // They are sorted, so a folder comes before its subfolders.
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

    /// Whether the folder of `path` is one of them.
    pub fn is_above(&self, path: &str) -> bool {
        !self.0.is_empty() && !path.is_empty() && self.has(folder_of(path))
    }
}
