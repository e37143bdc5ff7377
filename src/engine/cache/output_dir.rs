//! The output directory of an instance, where people and other instances find its files.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::base::error::Failure;
use crate::base::files;

/// Where an instance's files lie.
#[derive(Debug, Clone, Copy)]
pub struct OutputDir<'a> {
    pub instance: &'a str,
    pub project: &'a Path,
    /// Relative to the project, or absolute where the manifest says so.
    pub out: &'a Path,
}

impl OutputDir<'_> {
    pub fn folder(&self) -> PathBuf {
        self.project.join(self.out)
    }

    /// A folder that holds nothing but results. One that the manifest names may hold files of people too.
    pub(crate) fn is_owned(&self) -> bool {
        self.owns(self.out)
    }

    pub(super) fn owns(&self, out: &Path) -> bool {
        out == Path::new("artifacts").join(self.instance)
    }

    /// Fails where the folder that the manifest names, or one above it, is none, for what stands there is somebody
    /// else's; and where nothing of this instance lies yet, if it cannot be written.
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
                Ok(_) => format!("{} is no folder", way.display()),
                Err(error) => format!("{error:#}"),
            };
            let (instance, out) = (self.instance, self.out.display());
            return Err(Failure::Usage(format!("`{instance}` cannot write to its `out`, {out}: {why}")).into());
        }
        Ok(())
    }
}

/// Without a `/` at its end, which would follow a link.
pub(super) fn below(folder: &Path, name: &str) -> PathBuf {
    if name.is_empty() { folder.to_owned() } else { folder.join(name) }
}

/// `None` where nothing is; anything else that keeps a file from being looked at is an error.
pub(super) fn there<T>(found: std::io::Result<T>, path: &Path) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
}
