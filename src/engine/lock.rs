//! `pipeline.lock`: for each profile and instance, the key document of the result and the digests of its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::base::files;
use crate::damaged;
use crate::engine::cache::{Contents, File, KeyDocument, Reason, Store, StoredResult};
use crate::engine::diff::{self, FileDiffs};

pub const FILE: &str = "pipeline.lock";
const VERSION: u32 = 2;
/// A result of more files than this has a digest for each of its folders, not for each file.
const LISTED: usize = 32;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    version: u32,
    made_by: String,
    profiles: BTreeMap<String, Lock>,
}

/// The locked results of one profile, by instance.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lock(pub BTreeMap<String, Locked>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// Digest of the result.
    pub digest: String,
    document: KeyDocument,
    /// Digests by path. The path of a folder ends in `/`.
    outputs: BTreeMap<String, String>,
}

impl LockFile {
    pub fn read(project: &Path) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let path = project.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = files::read_to_string(&path)?;
        let damaged = |what: String| damaged!("{} {what}; remove it and run `similiai lock`", path.display());
        let broken = |error: serde_yaml::Error| damaged(format!("is damaged ({error})"));
        let Versioned { version } = serde_yaml::from_str(&text).map_err(broken)?;
        if version != VERSION {
            return Err(damaged(format!("has version {version}, but this program reads version {VERSION}")));
        }
        serde_yaml::from_str(&text).map(Some).map_err(broken)
    }

    /// The locked results of the profile, or of several, called `name`.
    pub fn profile(&self, name: &str) -> Result<&Lock, String> {
        self.profiles.get(name).ok_or_else(|| format!("{FILE} has nothing for profile `{name}`; run `similiai lock`"))
    }

    /// The lock file `earlier` with `lock` in the place of its results for `profile`.
    pub fn with(earlier: Option<Self>, profile: String, lock: Lock) -> Self {
        let mut profiles = earlier.map(|earlier| earlier.profiles).unwrap_or_default();
        profiles.insert(profile, lock);
        Self { version: VERSION, made_by: concat!("similiai ", env!("CARGO_PKG_VERSION")).to_owned(), profiles }
    }

    pub fn write(&self, project: &Path) -> Result<()> {
        let text = format!(
            "# Made by `similiai lock`; checked by `similiai run --locked` and `similiai verify --rerun`.\n{}",
            serde_yaml::to_string(self)?
        );
        let path = project.join(FILE);
        // If it is a link, the target is written and the link stays.
        files::write_atomically(&path.canonicalize().unwrap_or(path), text.as_bytes())
    }
}

impl Lock {
    pub fn of(&self, instance: &str) -> Result<&Locked, String> {
        self.0.get(instance).ok_or_else(|| format!("`{instance}` is not in {FILE}; run `similiai lock`"))
    }
}

impl Locked {
    pub fn new(stored: &StoredResult, contents: &Contents) -> Self {
        Self { digest: stored.digest.clone(), document: stored.document.clone(), outputs: outline(contents) }
    }

    /// Fails if the locked result has another key document than `document`.
    pub fn must_fit(&self, document: &KeyDocument) -> Result<(), String> {
        let changes = document.changes_since(&self.document, |_, _| None);
        if changes.is_empty() { Ok(()) } else { Err(format!("differs from {FILE}: {}", Reason::all(&changes))) }
    }

    /// How a result differs from the locked one. It names the place inside of a file if the store still has the locked
    /// result.
    pub fn difference(
        &self,
        (store, diffs): (&Store, FileDiffs),
        found: &Contents,
        path: &dyn Fn(&File) -> PathBuf,
    ) -> String {
        if let Some(expected) = store.contents(&self.digest)
            && let Some(difference) =
                diff::first(diffs, (&expected, &|file| store.blobs.path(file.digest)), (found, path))
        {
            return difference;
        }
        let now = outline(found);
        let mut names: Vec<&String> = now.keys().chain(self.outputs.keys()).collect();
        names.sort();
        let first = names.into_iter().find(|name| now.get(*name) != self.outputs.get(*name));
        match first.map(|name| (name, now.get(name), self.outputs.get(name))) {
            Some((name, Some(now), Some(then))) => format!("{name}: digest is {now}, but {then} is locked"),
            Some((name, Some(_), None)) => format!("{name} is not in {FILE}"),
            Some((name, None, _)) => format!("{name} is in {FILE}, but not in the result"),
            None => format!("digest is {}, but {} is locked", found.digest(), self.digest),
        }
    }
}

fn outline(contents: &Contents) -> BTreeMap<String, String> {
    if contents.len() <= LISTED {
        return contents.iter().map(|file| (file.path.to_owned(), file.digest.to_owned())).collect();
    }
    let mut parts: BTreeMap<String, blake3::Hasher> = BTreeMap::new();
    for file in contents.iter() {
        let part = file.path.find('/').map_or(file.path, |end| &file.path[..=end]);
        let hasher = parts.entry(part.to_owned()).or_default();
        hasher.update(file.path.as_bytes()).update(b"\0").update(file.digest.as_bytes()).update(b"\n");
    }
    parts.into_iter().map(|(part, hasher)| (part, hasher.finalize().to_hex().to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(files: &[(&str, &str)]) -> (StoredResult, Contents) {
        let digest = |text: &str| blake3::hash(text.as_bytes()).to_hex().to_string();
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), 1, digest(text)));
        let contents = Contents::new(files.collect()).unwrap();
        let document = KeyDocument {
            stage: "train".into(),
            version: 1,
            seed: Some(7),
            parameters: serde_json::json!({"size": 64}),
            reads: Default::default(),
        };
        let (key, digest) = (document.key().unwrap(), contents.digest().to_owned());
        (StoredResult { key, digest, document, files: contents.len(), bytes: 0, items: Vec::new() }, contents)
    }

    #[test]
    fn what_is_locked_is_read_again_and_compared() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (stored, contents) = locked(&[("a.csv", "a"), ("b.png", "b")]);
        let lock = Lock([("train".to_owned(), Locked::new(&stored, &contents))].into());
        LockFile::with(None, "default".into(), lock.clone()).write(folder.path())?;
        let file = LockFile::read(folder.path())?.unwrap();
        assert_eq!(file.profile("default"), Ok(&lock));
        assert!(file.profile("seed").is_err());

        let locked_then = lock.of("train").unwrap();
        assert_eq!(locked_then.must_fit(&stored.document), Ok(()));
        let mut other = stored.document.clone();
        other.parameters["size"] = 32.into();
        assert!(locked_then.must_fit(&other).unwrap_err().contains("parameter size: 64 → 32"));

        let store = Store::new(folder.path().join("none"));
        let (_, other) = locked(&[("a.csv", "a"), ("b.png", "c")]);
        let told = locked_then.difference((&store, &[]), &other, &|_| PathBuf::new());
        assert!(told.starts_with("b.png: ") && told.ends_with("is locked"), "{told}");
        Ok(())
    }

    #[test]
    fn many_files_are_locked_by_folder() {
        let names: Vec<String> = (0..40).map(|i| format!("{}/{i}.png", ["cat", "dog"][i % 2])).collect();
        let mut files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
        let before = outline(&locked(&files).1);
        assert_eq!(before.keys().collect::<Vec<_>>(), ["cat/", "dog/"]);
        files[3].1 = "y";
        let after = outline(&locked(&files).1);
        assert!(before["cat/"] == after["cat/"] && before["dog/"] != after["dog/"]);
    }
}
