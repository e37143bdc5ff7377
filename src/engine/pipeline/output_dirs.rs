//! Checks that no output directory contains another one, the cache or files that a stage reads, also through links.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Project;
use crate::base::error::Failure;
use crate::engine::manifest::InstanceId;

impl Project {
    /// Fails if an instance would overwrite the files of another instance, the cache, or files that a stage reads.
    pub(super) fn check_output_dirs(&self, active: &[InstanceId]) -> Result<()> {
        let manifest = &self.manifest;
        for dir in active.iter().map(|at| manifest.output_dir(*at)) {
            let is_there = self.store.checked_out(dir.instance)?.is_some_and(|checked_out| checked_out.out == dir.out);
            dir.check(!is_there)?;
        }
        let own = resolved(&manifest.project.join("artifacts"))?;
        let cache = own.join(".cache");
        let refuse = |instance: &str, out: &Path, why: String| {
            let why = format!("`{instance}` cannot write to its `out`, {}: {why}; choose another", out.display());
            Err(Failure::Usage(why).into())
        };
        let mut outs: BTreeMap<PathBuf, &str> = BTreeMap::new();
        let (owned, named): (Vec<_>, Vec<_>) =
            manifest.instances.ids().map(|at| manifest.output_dir(at)).partition(|dir| dir.is_owned());
        outs.extend(owned.iter().map(|dir| (own.join(dir.instance), dir.instance)));
        for dir in named {
            let out = resolved(&dir.folder())?;
            if out.starts_with(&cache) || cache.starts_with(&out) {
                return refuse(dir.instance, dir.out, "the cache is there".to_owned());
            }
            if let Some(other) = outs.insert(out, dir.instance) {
                return refuse(dir.instance, dir.out, format!("`{other}` writes there"));
            }
        }
        for (out, name) in &outs {
            if let Some(other) = out.ancestors().skip(1).find_map(|above| outs.get(above)) {
                return refuse(name, out, format!("it is in the folder of `{other}`"));
            }
        }
        for instance in &manifest.instances {
            for path in instance.stage.external_inputs(&manifest.project) {
                let source = resolved(&path)?;
                let within = source.ancestors().find_map(|above| outs.get_key_value(above));
                // Paths are sorted by their parts, so those below `source` come right after it.
                let below = || outs.range(source.clone()..).next().filter(|(out, _)| out.starts_with(&source));
                if let Some((out, name)) = within.or_else(below) {
                    let why = format!("`{}` reads {}", instance.name, path.display());
                    return refuse(name, out, why);
                }
            }
        }
        Ok(())
    }
}

/// The path with links resolved in the part that exists.
fn resolved(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("cannot look at {}", path.display()))?;
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, there)) = there else { return Ok(path) };
    Ok(there.join(path.strip_prefix(above).unwrap_or(Path::new(""))))
}
