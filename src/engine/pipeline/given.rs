//! Where the results lie that people ask about.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::Project;
use crate::base::error::Failure;
use crate::damaged;
use crate::engine::cache::Contents;
use crate::engine::stage::ArtifactKind;

/// The result of an instance, in its place.
pub struct Given {
    pub name: String,
    /// In the manifest.
    pub place: usize,
    pub folder: PathBuf,
}

impl Project {
    /// The one instance that gives `what` and fits: called `name`, and needed by the instance at `near`, or needing it.
    /// `option` is how to name it.
    ///
    /// # Errors
    /// If there are several or none, or if it has not run yet.
    pub fn given(&self, what: ArtifactKind, name: Option<&str>, near: Option<usize>, option: &str) -> Result<Given> {
        let manifest = &self.manifest;
        if let Some(name) = name {
            manifest.find(name)?;
        }
        let fits = |place: &usize| {
            let instance = &manifest.instances[*place];
            instance.stage.kind().provides == Some(what)
                && name.is_none_or(|name| instance.name == name)
                && near.is_none_or(|near| manifest.is_needed_by(*place, near) || manifest.is_needed_by(near, *place))
        };
        let found: Vec<usize> = (0..manifest.instances.len()).filter(fits).collect();
        let names: Vec<&str> = found.iter().map(|place| manifest.instances[*place].name.as_str()).collect();
        let place = match found[..] {
            [place] => place,
            [] => {
                let said = name.map(|name| format!("`{name}` does not give {}", what.0));
                let said = said.unwrap_or_else(|| format!("no instance in the manifest gives {}", what.0));
                return Err(Failure::Usage(said).into());
            }
            _ => {
                let (what, names) = (what.0, names.join("` and `"));
                return Err(Failure::Usage(format!("`{names}` all give {what}; say which one with {option}")).into());
            }
        };
        let name = names[0].to_owned();
        if self.store.checked_out(&name)?.is_none() {
            let (what, run) = (what.0, format!("`similiai run {name}`"));
            return Err(Failure::NotYet(format!("there are no {what} yet: `{name}` has not run; run {run}")).into());
        }
        Ok(Given { folder: manifest.place(place).folder(), name, place })
    }

    /// The files of a result, as they were stored.
    pub fn contents(&self, given: &Given) -> Result<Arc<Contents>> {
        let checked_out = self.store.checked_out(&given.name)?;
        let contents = checked_out.and_then(|checked_out| self.store.contents(&checked_out.digest));
        contents.ok_or_else(|| damaged!("the list of `{0}`'s files is gone; run `similiai run {0}`", given.name))
    }

    /// The digest of a file of a result.
    ///
    /// # Errors
    /// If the file is another one than the result's: altered, or just being replaced.
    pub fn must_be_unmodified(&self, given: &Given, file: &str) -> Result<String> {
        // Read only if it may have changed since the last time.
        let digest = self.store.digests.digest(&given.folder.join(file))?;
        if self.contents(given)?.digest_of(file)?.to_hex().as_str() == digest {
            return Ok(digest);
        }
        let name = &given.name;
        Err(damaged!("{file} is not the one that `{name}` made; run `similiai run {name}`"))
    }

    /// Refuses a result whose inputs are not those any more that lie in their places.
    pub fn must_be_current(&self, given: &Given) -> Result<()> {
        let Some(checked_out) = self.store.checked_out(&given.name)? else { return Ok(()) };
        let Some(record) = self.store.record(&checked_out.key)? else { return Ok(()) };
        for need in &self.manifest.instances[given.place].needs {
            let input = &self.manifest.instances[*need];
            let read = record.document.reads.get(input.stage.kind().name);
            if let (Some(read), Some(now)) = (read, self.store.checked_out(&input.name)?)
                && *read != now.digest
            {
                let (name, input) = (&given.name, &input.name);
                let mend = format!("run `similiai run {name}`");
                return Err(damaged!(
                    "`{name}` was made of another result of `{input}` than the one that is here; {mend}"
                ));
            }
        }
        Ok(())
    }
}
