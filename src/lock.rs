//! `pipeline.lock`: the digest that each instance must give, for each profile.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::{damaged, files};

pub const FILE: &str = "pipeline.lock";
const VERSION: u32 = 1;
const DEFAULT_PROFILE: &str = "default";

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// profile → instance → digest of its result
    profiles: BTreeMap<String, BTreeMap<String, String>>,
}

impl Lock {
    pub fn read(project: &Path) -> Result<Option<Self>> {
        let path = project.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let damaged = |what: String| damaged!("{} {what}; remove it and run `similiai lock`", path.display());
        let lock = serde_yaml::from_str::<Self>(&files::read_to_string(&path)?);
        let lock = lock.map_err(|error| damaged(format!("is damaged ({error})")))?;
        if lock.version != VERSION {
            return Err(damaged(format!("has version {}, where {VERSION} is known", lock.version)));
        }
        Ok(Some(lock))
    }

    /// Replaces what is locked for `profile`.
    pub fn set(&mut self, profile: Option<&str>, digests: BTreeMap<String, String>) {
        self.version = VERSION;
        self.profiles.insert(profile.unwrap_or(DEFAULT_PROFILE).to_owned(), digests);
    }

    pub fn write(&self, project: &Path) -> Result<()> {
        let text =
            format!("# Made by `similiai lock`; checked by `similiai run --locked`.\n{}", serde_yaml::to_string(self)?);
        files::write_atomically(&project.join(FILE), text.as_bytes())
    }

    /// Fails unless every digest of `found` is the locked one; `all`: and nothing else is locked.
    pub fn check(&self, profile: Option<&str>, found: &BTreeMap<String, String>, all: bool) -> Result<()> {
        let name = profile.unwrap_or(DEFAULT_PROFILE);
        let Some(locked) = self.profiles.get(name) else {
            return Err(Failure::NotReproducible(format!(
                "{FILE} has nothing for profile `{name}`; make it with `similiai lock`"
            ))
            .into());
        };
        let wrong = found.iter().filter(|(instance, digest)| locked.get(*instance) != Some(digest));
        let gone = locked.keys().filter(|instance| all && !found.contains_key(*instance));
        let wrong: Vec<String> = wrong
            .map(|(instance, digest)| match locked.get(instance) {
                Some(expected) => format!("{instance}: {digest} where {expected} is locked"),
                None => format!("{instance}: not in {FILE}"),
            })
            .chain(gone.map(|instance| format!("{instance}: locked, but not run")))
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::NotReproducible(format!("not what {FILE} says:\n  {}", wrong.join("\n  "))).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_each_digest_of_the_profile() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let digests = |digest: &str| BTreeMap::from([("train".to_owned(), digest.to_owned())]);
        let mut lock = Lock::default();
        lock.set(None, digests("a"));
        lock.write(folder.path())?;
        let lock = Lock::read(folder.path())?.unwrap();
        assert!(lock.check(None, &digests("a"), true).is_ok());
        let message = lock.check(None, &digests("b"), true).unwrap_err().to_string();
        assert!(message.contains("train: b where a is locked"), "{message}");
        assert!(lock.check(Some("seed"), &digests("a"), true).is_err());
        assert!(lock.check(None, &BTreeMap::new(), true).is_err() && lock.check(None, &BTreeMap::new(), false).is_ok());
        Ok(())
    }
}
