//! A manifest and its store: what is up to date and why, and running what is not.

mod apart;
mod assess;
mod given;
mod job;
mod places;
mod report;
mod run;
mod select;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use anyhow::{Context as _, Result};

pub use apart::Rerun;
pub use assess::{Assessment, State};
pub use given::Given;
pub use report::{Event, Items, Options, Ran, Report};
pub use select::Selection;

use crate::engine::cache::{KeyDocument, Reason, Record, Store};
use crate::engine::diff::FileDiffs;
use crate::engine::manifest::{Instance, Manifest};
use crate::engine::stage::{Ancestor, Input, Inputs, Need};

pub struct Project {
    pub manifest: Manifest,
    pub store: Arc<Store>,
    /// How files of results that differ are compared.
    pub diffs: FileDiffs,
}

impl Project {
    pub fn new(manifest: Manifest, diffs: FileDiffs) -> Result<Self> {
        let store = Arc::new(Store::new(manifest.project.join("artifacts/.cache")));
        store.must_be_own()?;
        Ok(Self { manifest, store, diffs })
    }

    fn inputs(&self, place: usize, results: &[Option<Record>]) -> Result<Inputs> {
        self.inputs_among(place, &self.manifest.instances[place].needs, results)
    }

    /// For the instance at `place`, with the results of those that are `ready`.
    fn inputs_among(&self, place: usize, ready: &[usize], results: &[Option<Record>]) -> Result<Inputs> {
        let instances = &self.manifest.instances;
        let names = |places: &[usize]| places.iter().map(|place| instances[*place].name.clone()).collect();
        let need = |need: &usize| {
            let Instance { name, stage, needs, .. } = &instances[*need];
            Need { instance: name.clone(), stage: stage.kind().name, needs: names(needs) }
        };
        let needs = instances[place].needs.iter().map(need).collect();
        let input = |need: &usize| {
            let instance = &instances[*need];
            let record = results[*need].as_ref().with_context(|| format!("`{}` has no result", instance.name))?;
            Ok(Input {
                instance: instance.name.clone(),
                stage: instance.stage.kind().name,
                folder: self.manifest.place(*need).folder(),
                contents: self.store.contents(&record.digest).context("the list of its files is gone")?,
            })
        };
        let lineage = self.lineage(place, results);
        let results = ready.iter().map(input).collect::<Result<_>>()?;
        let kind = instances[place].stage.kind();
        let reader = (kind.name, kind.version);
        let (instance, project) = (instances[place].name.clone(), self.manifest.project.clone());
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

    /// What the result at `place` comes from, each after what it needs; the order depends on `needs` alone.
    fn lineage(&self, place: usize, results: &[Option<Record>]) -> Vec<Ancestor> {
        fn visit(instances: &[Instance], place: usize, order: &mut Vec<usize>) {
            for need in &instances[place].needs {
                if !order.contains(need) {
                    visit(instances, *need, order);
                    order.push(*need);
                }
            }
        }
        let instances = &self.manifest.instances;
        let mut order = Vec::new();
        visit(instances, place, &mut order);
        let ancestor = |place: usize| {
            let Record { key, digest, document, .. } = results.get(place)?.clone()?;
            let name = |place: &usize| instances[*place].name.clone();
            let needs = instances[place].needs.iter().map(name).collect();
            Some(Ancestor { instance: name(&place), needs, key, digest, document })
        };
        order.into_iter().filter_map(ancestor).collect()
    }

    /// Asks all of `later` whether they would fail, by what is there of what they come from.
    fn foresee(&self, later: &[usize], results: &[Option<Record>]) -> Result<()> {
        for place in later {
            let ready = |need: &usize| results[*need].is_some() && self.manifest.is_needed_by(*need, *place);
            let ready: Vec<usize> = (0..*place).filter(ready).collect();
            let Instance { name, stage, .. } = &self.manifest.instances[*place];
            let inputs = self.inputs_among(*place, &ready, results)?;
            stage.foresee(&inputs).with_context(|| format!("`{name}` would fail, so what it needs is not made"))?;
        }
        Ok(())
    }

    fn document(&self, place: usize, inputs: &Inputs) -> Result<KeyDocument> {
        let instance = &self.manifest.instances[place];
        let kind = instance.stage.kind();
        let reads = instance.stage.reads(inputs).context("cannot read its inputs")?;
        Ok(KeyDocument {
            stage: kind.name.to_owned(),
            version: kind.version,
            seed: instance.seed,
            parameters: instance.stage.keyed_parameters()?,
            reads,
        })
    }

    /// What is different from the result that lies at the instance's place now.
    fn changes(&self, place: usize, document: &KeyDocument) -> Result<Vec<Reason>> {
        let Some(checked_out) = self.store.checked_out(&self.manifest.instances[place].name)? else {
            return Ok(vec![Reason::FirstRun]);
        };
        Ok(match self.store.record(&checked_out.key)? {
            None => vec![Reason::Gone],
            Some(record) => document.changes_since(&record.document, |before, after| {
                Some(self.store.contents(after)?.changes_since(&*self.store.contents(before)?))
            }),
        })
    }
}
