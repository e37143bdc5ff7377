//! Estimates how long an instance will take, from past runs.

use super::Project;
use crate::engine::cache::Finished;
use crate::engine::manifest::InstanceId;
use crate::engine::stage::AnyStage;

impl Project {
    /// Seconds that an instance will take: as long as it took for the same key, or else as in its last run, scaled by
    /// what changed since then. `None` if it never ran.
    pub(super) fn estimate(&self, id: InstanceId, key: Option<&str>, history: &[Finished]) -> Option<f64> {
        let latest = |is_it: &dyn Fn(&Finished) -> bool| history.iter().rev().find(|run| is_it(run));
        if let Some(same) = latest(&|run| Some(run.key.as_str()) == key) {
            return Some(same.seconds);
        }
        let last_of = |id: InstanceId| latest(&|run| run.instance == self.manifest.instances[id].name);
        let change = |id: InstanceId, of: fn(&dyn AnyStage) -> Option<f64>| -> Option<f64> {
            let stage = &self.manifest.instances[id].stage;
            let then = self.store.result(&last_of(id)?.key).ok()??.document;
            let then = (stage.kind().parse)(serde_yaml::to_value(then.parameters).ok()?).ok()?;
            let ratio = of(&**stage)? / of(&*then)?;
            (ratio.is_finite() && ratio > 0.0).then_some(ratio)
        };
        let needed =
            self.manifest.instances.ids().filter(|other| *other < id && self.manifest.is_needed_by(*other, id));
        let items: f64 = needed.filter_map(|other| change(other, |stage| stage.items())).product();
        let effort = change(id, |stage| Some(stage.effort())).unwrap_or(1.0);
        Some(last_of(id)?.seconds * items * effort)
    }
}
