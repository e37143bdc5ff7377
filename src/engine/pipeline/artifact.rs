//! Finds results by their kind, for commands outside the pipeline.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::Project;
use crate::base::error::Failure;
use crate::damaged;
use crate::engine::cache::Contents;
use crate::engine::manifest::InstanceId;
use crate::engine::stage::ArtifactKind;

/// A result that is checked out.
pub struct Artifact {
    /// Name of the instance.
    pub name: String,
    pub id: InstanceId,
    pub folder: PathBuf,
}

impl Project {
    /// The one instance that provides `what`. If `name` is given, it must have that name. If `near` is given, one of
    /// the two must need the other. `option` is the command line option that names it, for messages;
    /// `None` if there is none.
    ///
    /// # Errors
    /// If there are several or none, or if it has not run yet.
    pub fn artifact(
        &self,
        what: ArtifactKind,
        name: Option<&str>,
        near: Option<InstanceId>,
        option: Option<&str>,
    ) -> Result<Artifact> {
        let manifest = &self.manifest;
        if let Some(name) = name {
            manifest.find(name)?;
        }
        let fits = |id: &InstanceId| {
            let instance = &manifest.instances[*id];
            instance.stage.kind().provides == Some(what)
                && name.is_none_or(|name| instance.name == name)
                && near.is_none_or(|near| manifest.is_needed_by(*id, near) || manifest.is_needed_by(near, *id))
        };
        let found: Vec<InstanceId> = manifest.instances.ids().filter(fits).collect();
        let names: Vec<&str> = found.iter().map(|id| manifest.instances[*id].name.as_str()).collect();
        let id = match found[..] {
            [id] => id,
            [] => {
                let said = name.map(|name| format!("`{name}` does not provide {}", what.0));
                let said = said.unwrap_or_else(|| format!("no instance in the manifest provides {}", what.0));
                return Err(Failure::Usage(said).into());
            }
            _ => {
                let (what, names) = (what.0, names.join("`, `"));
                let choose = option.map(|option| format!("choose one with {option}"));
                let choose = choose.unwrap_or_else(|| "keep only one of them in the manifest".to_owned());
                let said = format!("several instances provide {what} (`{names}`); {choose}");
                return Err(Failure::Usage(said).into());
            }
        };
        let name = names[0].to_owned();
        if self.store.checked_out(&name)?.is_none() {
            let (what, run) = (what.0, self.manifest.command(&name));
            return Err(Failure::NotYet(format!("there are no {what} yet: `{name}` has not run; run {run}")).into());
        }
        Ok(Artifact { folder: manifest.output_dir(id).folder(), name, id })
    }

    /// The list of the files of a result.
    pub fn contents(&self, artifact: &Artifact) -> Result<Arc<Contents>> {
        let checked_out = self.store.checked_out(&artifact.name)?;
        let contents = checked_out.and_then(|checked_out| self.store.contents(&checked_out.digest));
        contents.ok_or_else(|| {
            let (name, run) = (&artifact.name, self.manifest.command(&artifact.name));
            damaged!("the list of `{name}`'s files is gone; run {run}")
        })
    }

    /// The digest of a file of a result.
    ///
    /// # Errors
    /// If the file is not the one of the result: it was modified, or a run is replacing it right now.
    pub fn must_be_unmodified(&self, artifact: &Artifact, file: &str) -> Result<String> {
        let digest = self.store.digests.digest(&artifact.folder.join(file))?;
        if self.contents(artifact)?.digest_of(file)?.to_hex().as_str() == digest {
            return Ok(digest);
        }
        let (name, run) = (&artifact.name, self.manifest.command(&artifact.name));
        Err(damaged!("{file} is not the file that `{name}` made; run {run}"))
    }

    /// Fails if the result was made from other inputs than those that are checked out now.
    pub fn must_be_current(&self, artifact: &Artifact) -> Result<()> {
        let Some(checked_out) = self.store.checked_out(&artifact.name)? else { return Ok(()) };
        let Some(stored) = self.store.result(&checked_out.key)? else { return Ok(()) };
        for need in &self.manifest.instances[artifact.id].needs {
            let input = &self.manifest.instances[*need];
            let read = stored.document.reads.get(input.stage.kind().name);
            if let (Some(read), Some(now)) = (read, self.store.checked_out(&input.name)?)
                && *read != now.digest
            {
                let (name, input) = (&artifact.name, &input.name);
                let run = self.manifest.command("all");
                return Err(damaged!(
                    "`{name}` was made from another result of `{input}` than the one that is checked out; run {run}"
                ));
            }
        }
        Ok(())
    }
}
