//! Moves files of the user that are in the way to `altered/` in the cache, instead of deleting them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::output_dir::below;
use super::sealed::is_below;
use super::{OutputDir, Store};
use crate::base::files;

/// The new name of a file or link that was in the place of the output directory itself.
const ROOT: &str = "folder";

impl Store {
    /// Moves `path`, which is `name` in the output directory, to `altered/`, and adds its new path to `aside`.
    pub(super) fn keep_aside(&self, dir: &OutputDir, path: &Path, name: &str, aside: &mut Vec<String>) -> Result<()> {
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        if !(name.is_empty() || is_below(name)) {
            bail!("{} is not below {}, so it is not moved", path.display(), dir.folder().display());
        }
        let destination = self.move_aside(path, dir.instance, if name.is_empty() { ROOT } else { name })?;
        let shown = destination.strip_prefix(dir.project).unwrap_or(&destination);
        aside.push(shown.display().to_string());
        Ok(())
    }

    /// Moves `path` to `altered/<instance>/<name>`, with a number at the end if that is taken. Returns the new path.
    pub(super) fn move_aside(&self, path: &Path, instance: &str, name: &str) -> Result<PathBuf> {
        let metadata = path.symlink_metadata().with_context(|| format!("cannot look at {}", path.display()))?;
        let numbered = |name: &str| {
            let name = name.to_owned();
            std::iter::once(name.clone()).chain((2..).map(move |number| format!("{name}.{number}")))
        };
        // Do not follow a link that was moved here earlier.
        let altered = self.root.join("altered");
        let mut folders = numbered(instance).map(|instance| altered.join(instance));
        let folder = folders.find(|folder| leads_to(folder, name)).context("no free name")?;
        let free = |path: &PathBuf| path.symlink_metadata().is_err();
        let destination = numbered(name).map(|name| folder.join(name)).find(free).context("no free name")?;
        destination.parent().map_or(Ok(()), files::create_folder)?;
        let moved = fs::rename(path, &destination).or_else(|error| {
            // A rename cannot cross file systems. Only files and links are copied instead.
            #[cfg(unix)]
            if metadata.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(path)?, &destination)?;
                return fs::remove_file(path);
            }
            if !metadata.is_file() {
                return Err(error);
            }
            fs::copy(path, &destination)?;
            files::open_to_sync(&destination)?.sync_all()?;
            fs::remove_file(path)
        });
        moved.with_context(|| format!("cannot keep {} aside as {}", path.display(), destination.display()))?;
        Ok(destination)
    }
}

/// Whether `name` can be created below `folder`: no file or link is in the place of a folder on the way.
fn leads_to(folder: &Path, name: &str) -> bool {
    let mut ways = Path::new(name).ancestors().skip(1).map(|way| below(folder, &way.to_string_lossy()));
    ways.all(|way| way.symlink_metadata().map_or(true, |metadata| metadata.is_dir()))
}
