//! Reads `pipeline.yaml` into a [`Manifest`], and finds every error in it before anything runs.

mod draft;
mod error;
mod instance_id;
mod instances;
mod order;
mod overrides;
mod parameters;
mod position;
mod reader;
mod variation;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

pub use error::{ManifestError, SourceSpan, did_you_mean};
pub use instance_id::{InstanceId, PerInstance};
pub use variation::Variation;

use crate::base::files;
use crate::engine::cache;
use crate::engine::stage::{AnyStage, Kind};

/// A checked manifest, with its profile and overrides applied.
pub struct Manifest {
    /// The folder of the manifest; relative paths start here.
    pub project: PathBuf,
    pub seed: u64,
    /// What the command line changed.
    pub variation: Variation,
    /// The remote cache, with which results are shared with other machines.
    pub cache: Option<cache::Settings>,
    /// Ordered so that each instance comes after those it needs.
    pub instances: PerInstance<Instance>,
}

pub struct Instance {
    pub name: String,
    pub stage: Box<dyn AnyStage>,
    /// The seed of the manifest, unless the instance has its own.
    pub seed: u64,
    pub needs: Vec<InstanceId>,
    /// The output directory, relative to the project or absolute.
    pub out: PathBuf,
}

impl Manifest {
    pub fn load(path: &Path, kinds: &'static [Kind], variation: &Variation) -> Result<Self> {
        if !path.is_file() {
            let message = format!("there is no manifest at {}", path.display());
            let help = "make a project with `similiai init DIR`; or name the folder of one with -C DIR, or the manifest \
                        with --manifest FILE";
            return Err(ManifestError::new(message, None).help(Some(help.to_owned())).into());
        }
        let length = files::length(path)?;
        if length > MOST_BYTES {
            let message = format!("{} has {length} bytes, and a manifest has at most {MOST_BYTES}", path.display());
            return Err(ManifestError::new(message, None).into());
        }
        let text = text(files::read(path)?, &path.display().to_string())?;
        let project = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(reader::parse(&path.display().to_string(), &text, project, kinds, variation)?)
    }

    /// The command that runs `what` as this manifest was made.
    pub fn command(&self, what: &str) -> String {
        format!("`similiai run {what}{}`", self.variation.options())
    }

    /// The output directory of an instance.
    pub fn output_dir(&self, id: InstanceId) -> cache::OutputDir<'_> {
        let Instance { name, out, .. } = &self.instances[id];
        cache::OutputDir { instance: name, project: &self.project, out }
    }

    /// Whether `target` is the instance `id`, or needs it, directly or through others.
    pub fn is_needed_by(&self, id: InstanceId, target: InstanceId) -> bool {
        // Each instance has a higher number than those it needs, so one with a number below `id` cannot need `id`.
        let (mut waiting, mut seen) = (vec![target], HashSet::new());
        while let Some(next) = waiting.pop() {
            if next == id {
                return true;
            }
            if next > id && seen.insert(next) {
                waiting.extend(&self.instances[next].needs);
            }
        }
        false
    }

    /// Fails if one or more of these names is not the name of an instance.
    pub fn must_have<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let is_there = |name: &&str| self.instances.iter().any(|instance| instance.name == *name);
        let absent: Vec<&str> = names.into_iter().filter(|name| !is_there(name)).collect();
        match absent[..] {
            [] => Ok(()),
            [name] => self.find(name).map(drop),
            _ => {
                let message = format!("there are no stage instances `{}` in the manifest", absent.join("`, `"));
                Err(ManifestError::new(message, None).into())
            }
        }
    }

    /// The instance called `name`.
    pub fn find(&self, name: &str) -> Result<InstanceId> {
        let found = self.instances.enumerate().find(|(_, instance)| instance.name == name).map(|(id, _)| id);
        Ok(found.ok_or_else(|| {
            let known = self.instances.iter().map(|instance| instance.name.as_str());
            ManifestError::new(format!("there is no stage instance `{name}` in the manifest"), None)
                .help(did_you_mean(name, known))
        })?)
    }
}

/// Longest manifest in bytes. Real ones are much shorter.
const MOST_BYTES: u64 = 1 << 20;

/// Decodes text as editors save it: UTF-8 with or without a byte order mark, or UTF-16 with one.
fn text(bytes: Vec<u8>, name: &str) -> Result<String, ManifestError> {
    let units = |read: fn([u8; 2]) -> u16| -> Option<String> {
        let (pairs, []) = bytes[2..].as_chunks::<2>() else { return None };
        String::from_utf16(&pairs.iter().map(|pair| read(*pair)).collect::<Vec<u16>>()).ok()
    };
    let text = match bytes[..] {
        [0xFF, 0xFE, ..] => units(u16::from_le_bytes),
        [0xFE, 0xFF, ..] => units(u16::from_be_bytes),
        _ => {
            let start = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
            let text = std::str::from_utf8(&bytes[start..]).map_err(|error| {
                let at = start + error.valid_up_to();
                ManifestError::new(format!("{name} is not UTF-8 text: byte {at} is wrong"), None)
            })?;
            Some(text.to_owned())
        }
    };
    text.ok_or_else(|| ManifestError::new(format!("{name} begins like UTF-16 text, but is not valid UTF-16"), None))
}

#[cfg(test)]
mod tests;
