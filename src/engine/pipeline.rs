//! Runs the instances of a manifest, and says which are up to date and why.

mod artifact;
mod assessment;
mod estimate;
mod job;
mod output_dirs;
mod report;
mod rerun;
mod runner;
mod selection;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use anyhow::{Context as _, Result};

pub use artifact::Artifact;
pub use assessment::{Assessment, State};
pub use report::{Event, Items, Options, Ran, Report};
pub use rerun::Rerun;
pub use selection::Selection;

use crate::engine::cache::{KeyDocument, Reason, Store, StoredResult};
use crate::engine::diff::FileDiffs;
use crate::engine::manifest::{Instance, InstanceId, Manifest, PerInstance};
use crate::engine::stage::{Ancestor, Input, Inputs, Need};

pub struct Project {
    pub manifest: Manifest,
    pub store: Arc<Store>,
    /// Comparisons of files, for messages about results that differ.
    pub diffs: FileDiffs,
}

impl Project {
    pub fn new(manifest: Manifest, diffs: FileDiffs) -> Result<Self> {
        let store = Arc::new(Store::new(manifest.project.join("artifacts/.cache")));
        store.must_be_own()?;
        Ok(Self { manifest, store, diffs })
    }

    fn inputs(&self, id: InstanceId, results: &PerInstance<Option<StoredResult>>) -> Result<Inputs> {
        self.inputs_among(id, &self.manifest.instances[id].needs, results)
    }

    /// The inputs of instance `id`, with the results of the instances in `ready`.
    fn inputs_among(
        &self,
        id: InstanceId,
        ready: &[InstanceId],
        results: &PerInstance<Option<StoredResult>>,
    ) -> Result<Inputs> {
        let instances = &self.manifest.instances;
        let names = |ids: &[InstanceId]| ids.iter().map(|id| instances[*id].name.clone()).collect();
        let need = |need: &InstanceId| {
            let Instance { name, stage, needs, .. } = &instances[*need];
            Need { instance: name.clone(), stage: stage.kind().name, needs: names(needs) }
        };
        let needs = instances[id].needs.iter().map(need).collect();
        let input = |need: &InstanceId| {
            let instance = &instances[*need];
            let stored = results[*need].as_ref().with_context(|| format!("`{}` has no result", instance.name))?;
            Ok(Input {
                instance: instance.name.clone(),
                stage: instance.stage.kind().name,
                folder: self.manifest.output_dir(*need).folder(),
                contents: self.store.contents(&stored.digest).context("the list of its files is gone")?,
            })
        };
        let lineage = self.lineage(id, results);
        let results = ready.iter().map(input).collect::<Result<_>>()?;
        let kind = instances[id].stage.kind();
        let reader = (kind.name, kind.version);
        let (instance, project) = (instances[id].name.clone(), self.manifest.project.clone());
        Ok(Inputs {
            instance,
            project,
            needs,
            results,
            lineage,
            not_checked_out: false,
            reader,
            store: self.store.clone(),
        })
    }

    /// All results that instance `id` needs directly or through others, each after those it needs. The order depends
    /// only on `needs`.
    fn lineage(&self, id: InstanceId, results: &PerInstance<Option<StoredResult>>) -> Vec<Ancestor> {
        fn visit(instances: &PerInstance<Instance>, id: InstanceId, order: &mut Vec<InstanceId>) {
            for need in &instances[id].needs {
                if !order.contains(need) {
                    visit(instances, *need, order);
                    order.push(*need);
                }
            }
        }
        let instances = &self.manifest.instances;
        let mut order = Vec::new();
        visit(instances, id, &mut order);
        let ancestor = |id: InstanceId| {
            let StoredResult { key, digest, document, .. } = results[id].clone()?;
            let name = |id: &InstanceId| instances[*id].name.clone();
            let needs = instances[id].needs.iter().map(name).collect();
            Some(Ancestor { instance: name(&id), needs, key, digest, document })
        };
        order.into_iter().filter_map(ancestor).collect()
    }

    /// Fails if one of `later` would fail, as far as the results that exist so far can tell.
    fn precheck(&self, later: &[InstanceId], results: &PerInstance<Option<StoredResult>>) -> Result<()> {
        for id in later {
            let ready = |need: &InstanceId| results[*need].is_some() && self.manifest.is_needed_by(*need, *id);
            let ready: Vec<InstanceId> = self.manifest.instances.ids().filter(|need| need < id).filter(ready).collect();
            let Instance { name, stage, .. } = &self.manifest.instances[*id];
            let inputs = self.inputs_among(*id, &ready, results)?;
            stage.precheck(&inputs).with_context(|| format!("`{name}` would fail, so its inputs are not made"))?;
        }
        Ok(())
    }

    fn document(&self, id: InstanceId, inputs: &Inputs) -> Result<KeyDocument> {
        let instance = &self.manifest.instances[id];
        let kind = instance.stage.kind();
        let reads = instance.stage.reads(inputs).context("cannot read its inputs")?;
        Ok(KeyDocument {
            stage: kind.name.to_owned(),
            version: kind.version,
            seed: kind.draws.then_some(instance.seed),
            parameters: instance.stage.keyed_parameters()?,
            reads,
        })
    }

    /// The differences from the result of the instance that is checked out now.
    fn changes(&self, id: InstanceId, document: &KeyDocument) -> Result<Vec<Reason>> {
        let Some(checked_out) = self.store.checked_out(&self.manifest.instances[id].name)? else {
            return Ok(vec![Reason::FirstRun]);
        };
        Ok(match self.store.result(&checked_out.key)? {
            None => vec![Reason::Gone],
            Some(stored) => document.changes_since(&stored.document, |before, after| {
                Some(self.store.contents(after)?.changes_since(&*self.store.contents(before)?))
            }),
        })
    }
}
