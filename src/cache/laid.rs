//! Laying a stored result where people look for it, as hard links where the file system allows.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Record, Store};
use crate::files;

/// Which result lies where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Laid {
    pub key: String,
    /// Relative to the project, or absolute where the manifest says so.
    pub out: PathBuf,
}

/// Laid files, by relative path, that are not what was stored.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Unsound(pub Vec<String>);

impl Unsound {
    /// "1 file was missing: x.png", where `what` is "missing".
    pub fn told(&self, what: &str) -> Option<String> {
        match self.0.as_slice() {
            [] => None,
            [one] => Some(format!("1 file was {what}: {one}")),
            [first, ..] => Some(format!("{} files were {what}, the first {first}", self.0.len())),
        }
    }
}

impl Store {
    fn laid_path(&self, instance: &str) -> PathBuf {
        self.root().join("laid").join(format!("{instance}.json"))
    }

    /// The result that lies at `instance`'s place now.
    pub fn laid(&self, instance: &str) -> Result<Option<Laid>> {
        files::read_json(&self.laid_path(instance))
    }

    /// What lies where for all instances but this one.
    fn others(&self, instance: &str) -> Result<Vec<Laid>> {
        let own = self.laid_path(instance);
        let folder = self.root().join("laid");
        let paths = files::list(&folder)?.into_iter().map(|path| folder.join(path)).filter(|path| *path != own);
        let read = paths.map(|path| files::read_json(&path)).collect::<Result<Vec<Option<Laid>>>>()?;
        Ok(read.into_iter().flatten().collect())
    }

    /// The files of `record` that are missing or changed below `out`.
    pub fn unsound(&self, record: &Record, project: &Path, out: &Path) -> Unsound {
        let stored = self.folder(&record.key);
        let unsound = |path: &String| !same_file(&stored.join(path), &project.join(out).join(path));
        Unsound(record.outputs.iter().map(|output| output.path.clone()).filter(unsound).collect())
    }

    /// Lays `record` at `out`, removes what an earlier result of `instance` left, and touches nothing else. Gives
    /// what had to be mended of this very result.
    pub fn lay(&self, instance: &str, record: &Record, project: &Path, out: &Path) -> Result<Unsound> {
        let earlier = self.laid(instance)?;
        let now = Laid { key: record.key.clone(), out: out.to_owned() };
        let again = earlier.as_ref() == Some(&now);
        if let Some(earlier) = earlier.filter(|earlier| *earlier != now) {
            self.take_away(instance, &earlier, record, project, out)?;
        }
        if !again {
            // Before the files: what a crash leaves undone is then mended by the next run.
            files::write_atomically(&self.laid_path(instance), &serde_json::to_vec(&now)?)?;
        }
        let wrong = self.unsound(record, project, out);
        let (stored, place) = (self.folder(&record.key), project.join(out));
        for path in &wrong.0 {
            lay_file(&stored.join(path), &place.join(path))?;
        }
        Ok(if again { wrong } else { Unsound::default() })
    }

    /// Removes the files of `earlier` that are as they were laid and that nothing else has put there since.
    fn take_away(&self, instance: &str, earlier: &Laid, record: &Record, project: &Path, out: &Path) -> Result<()> {
        let Some(old) = self.record(&earlier.key)? else { return Ok(()) };
        let mut kept: HashSet<String> = HashSet::new();
        if earlier.out == out {
            kept.extend(record.outputs.iter().map(|output| output.path.clone()));
        }
        for other in self.others(instance)?.iter().filter(|other| other.out == earlier.out) {
            kept.extend(
                self.record(&other.key)?.into_iter().flat_map(|record| record.outputs).map(|output| output.path),
            );
        }
        let (stored, place) = (self.folder(&old.key), project.join(&earlier.out));
        for output in old.outputs.iter().filter(|output| !kept.contains(&output.path)) {
            let path = place.join(&output.path);
            if same_file(&stored.join(&output.path), &path) {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
            // Folders go as they empty; one that still holds something stays.
            let mut folder = path.parent();
            while let Some(empty) = folder.filter(|folder| *folder != place && fs::remove_dir(folder).is_ok()) {
                folder = empty.parent();
            }
        }
        Ok(())
    }
}

fn lay_file(stored: &Path, place: &Path) -> Result<()> {
    if let Some(folder) = place.parent() {
        files::create_folder(folder)?;
    }
    let attempt = || -> std::io::Result<()> {
        if place.symlink_metadata().is_ok() {
            fs::remove_file(place)?;
        }
        if fs::hard_link(stored, place).is_err() {
            fs::copy(stored, place)?;
            let stamp = fs::metadata(stored)?.modified()?;
            fs::File::options().write(true).open(place)?.set_modified(stamp)?;
        }
        Ok(())
    };
    attempt().with_context(|| format!("cannot lay {}", place.display()))
}

/// Whether `place` is the stored file itself, or a copy of the same content.
fn same_file(stored: &Path, place: &Path) -> bool {
    let (Ok(one), Ok(two)) = (fs::metadata(stored), fs::symlink_metadata(place)) else { return false };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if (one.dev(), one.ino()) == (two.dev(), two.ino()) {
            return true;
        }
    }
    one.len() == two.len() && matches!((files::digest(stored), files::digest(place)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::super::{KeyDocument, Lookup};
    use super::*;

    fn store_result(store: &Store, version: u32, entries: &[(&str, &str)]) -> Record {
        let slot = store.slot().unwrap();
        for (path, text) in entries {
            files::write_atomically(&slot.folder().join(path), text.as_bytes()).unwrap();
        }
        let reads = Default::default();
        let document = KeyDocument { stage: "s".into(), version, seed: 0, parameters: serde_json::json!({}), reads };
        slot.commit(store, document).unwrap()
    }

    #[test]
    fn lays_mends_and_takes_away() {
        let project = tempfile::tempdir().unwrap();
        let store = Store::new(project.path().join(".cache"));
        let out = Path::new("out");
        let one = store_result(&store, 1, &[("a.txt", "a"), ("deep/b.txt", "b")]);
        store.lay("s", &one, project.path(), out).unwrap();
        let mine = project.path().join("out/mine.txt");
        fs::write(&mine, "mine").unwrap();

        fs::remove_file(project.path().join("out/deep/b.txt")).unwrap();
        let mended = store.lay("s", &one, project.path(), out).unwrap();
        assert_eq!(mended.0, ["deep/b.txt"]);

        let two = store_result(&store, 2, &[("a.txt", "A")]);
        store.lay("s", &two, project.path(), out).unwrap();
        assert_eq!(files::list(&project.path().join("out")).unwrap(), ["a.txt", "mine.txt"]);
        assert_eq!(fs::read_to_string(project.path().join("out/a.txt")).unwrap(), "A");
        assert!(!project.path().join("out/deep").exists());
    }

    #[test]
    fn a_hit_needs_every_file_unchanged() {
        let project = tempfile::tempdir().unwrap();
        let store = Store::new(project.path().join(".cache"));
        let record = store_result(&store, 1, &[("a.txt", "a")]);
        let stored = store.folder(&record.key).join("a.txt");
        fs::File::options().write(true).open(&stored).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        assert!(matches!(store.look_up(&record.key).unwrap(), Lookup::Hit(_)), "touched but equal");
        fs::write(&stored, "b").unwrap();
        assert!(matches!(store.look_up(&record.key).unwrap(), Lookup::Broken(why) if why == "a.txt was changed"));
        fs::remove_file(&stored).unwrap();
        assert!(matches!(store.look_up(&record.key).unwrap(), Lookup::Broken(why) if why == "a.txt is missing"));
    }
}
