//! Where the results lie that people ask about.

use std::path::PathBuf;

use anyhow::Result;

use super::Project;
use crate::failure::Failure;
use crate::stage::Gives;

/// The result of an instance, in its place.
pub struct Given {
    pub name: String,
    /// In the manifest.
    pub place: usize,
    pub folder: PathBuf,
}

impl Project {
    /// The one instance that gives `what` and fits: called `name`, or needed by the instance at `needed_by`.
    ///
    /// # Errors
    /// If there are several or none, or if it has not run yet.
    pub fn given(&self, what: Gives, name: Option<&str>, needed_by: Option<usize>) -> Result<Given> {
        let manifest = &self.manifest;
        if let Some(name) = name {
            manifest.find(name)?;
        }
        let fits = |place: &usize| {
            let instance = &manifest.instances[*place];
            instance.stage.kind().gives == Some(what)
                && name.is_none_or(|name| instance.name == name)
                && needed_by.is_none_or(|target| manifest.is_needed_by(*place, target))
        };
        let found: Vec<usize> = (0..manifest.instances.len()).filter(fits).collect();
        let names: Vec<&str> = found.iter().map(|place| manifest.instances[*place].name.as_str()).collect();
        let place = match found[..] {
            [place] => place,
            [] => {
                let said = name.map(|name| format!("`{name}` does not give {}", what.in_words()));
                let said = said.unwrap_or_else(|| format!("no instance in the manifest gives {}", what.in_words()));
                return Err(Failure::Usage(said).into());
            }
            _ => {
                let (what, names) = (what.in_words(), names.join("` and `"));
                return Err(Failure::Usage(format!("`{names}` all give {what}; say which one with --of")).into());
            }
        };
        let name = names[0].to_owned();
        if self.store.laid(&name)?.is_none() {
            let (what, run) = (what.in_words(), format!("`similiai run {name}`"));
            return Err(Failure::Usage(format!("there are no {what} yet: `{name}` has not run; run {run}")).into());
        }
        Ok(Given { folder: manifest.place(place).folder(), name, place })
    }
}

impl Gives {
    fn in_words(self) -> &'static str {
        match self {
            Self::Pictures => "prepared pictures",
            Self::Model => "trained networks",
            Self::Embeddings => "embeddings",
            Self::Index => "search indexes",
        }
    }
}
