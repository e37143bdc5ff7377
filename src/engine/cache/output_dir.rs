//! The output directory of an instance, where people and other instances find its files.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::base::error::Failure;
use crate::base::files;

/// Where the files of an instance are checked out.
#[derive(Debug, Clone, Copy)]
pub struct OutputDir<'a> {
    pub instance: &'a str,
    pub project: &'a Path,
    /// Relative to the project, or absolute if the manifest names an absolute path.
    pub out: &'a Path,
}

impl OutputDir<'_> {
    pub fn folder(&self) -> PathBuf {
        self.project.join(self.out)
    }

    /// Whether the directory holds nothing but results. A directory named by `out` may also hold files of the user.
    pub(crate) fn is_owned(&self) -> bool {
        self.owns(self.out)
    }

    pub(super) fn owns(&self, out: &Path) -> bool {
        out == Path::new("artifacts").join(self.instance)
    }

    /// Fails if the directory named by `out`, or one above it, is a file or a broken link: that belongs to the user. If
    /// `is_new`, nothing is checked out there yet; then it also fails if the directory is not writable.
    pub fn check(&self, is_new: bool) -> Result<()> {
        let folder = self.folder();
        if self.is_owned() {
            return Ok(());
        }
        for way in folder.ancestors().filter(|way| !way.as_os_str().is_empty()) {
            let is_link_to_nothing = way.is_symlink() && !way.exists();
            let why = match there(way.metadata(), way) {
                Ok(Some(metadata)) if metadata.is_dir() => match files::check_writable(way) {
                    Err(error) if is_new => format!("{}: {error}", way.display()),
                    _ => break,
                },
                Ok(None) if !is_link_to_nothing => continue,
                Ok(_) => format!("{} is not a folder", way.display()),
                Err(error) => format!("{error:#}"),
            };
            let (instance, out) = (self.instance, self.out.display());
            return Err(Failure::Usage(format!("`{instance}` cannot write to its `out`, {out}: {why}")).into());
        }
        Ok(())
    }
}

/// The path of `name` below `folder`. It never ends in `/`, because then the system would follow a link.
pub(super) fn below(folder: &Path, name: &str) -> PathBuf {
    if name.is_empty() { folder.to_owned() } else { folder.join(name) }
}

/// `None` if nothing exists at `path`. Any other error is returned.
pub(super) fn there<T>(found: std::io::Result<T>, path: &Path) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
}
