//! Selects the instances that a command works on.

use anyhow::Result;

use super::Project;
use crate::engine::manifest::{InstanceId, PerInstance};

#[derive(Debug, Default, Clone)]
pub struct Selection {
    /// Names of instances, or `all`.
    pub targets: Vec<String>,
    /// Only this instance and those that need it may run. For the others, stored results are used.
    pub from: Option<String>,
    /// Only this instance and those that it needs are selected.
    pub until: Option<String>,
}

impl Project {
    /// The part of each instance in the run.
    pub(super) fn select(&self, selection: &Selection) -> Result<PerInstance<Part>> {
        let instances = &self.manifest.instances;
        let all = selection.targets.iter().any(|target| target == "all");
        let named = selection.targets.iter().filter(|target| *target != "all");
        let named = named.chain(&selection.from).chain(&selection.until).map(String::as_str);
        self.manifest.must_have(named)?;
        let named = selection.targets.iter().filter(|target| *target != "all").map(|name| self.manifest.find(name));
        let named = named.collect::<Result<Vec<InstanceId>>>()?;
        let part = |id| {
            let named = all || named.contains(&id);
            Part { named, active: named, may_run: true }
        };
        let mut parts: PerInstance<Part> = instances.ids().map(part).collect();
        self.close_over_needs(&mut parts);
        if let Some(until) = &selection.until {
            let mut wanted = instances.filled(Part::default());
            wanted[self.manifest.find(until)?].active = true;
            self.close_over_needs(&mut wanted);
            instances.ids().for_each(|id| parts[id].active &= wanted[id].active);
        }
        if let Some(from) = &selection.from {
            let start = self.manifest.find(from)?;
            // Each instance comes after those it needs, so one pass is enough.
            for id in instances.ids() {
                parts[id].may_run = id == start || instances[id].needs.iter().any(|need| parts[*need].may_run);
            }
        }
        Ok(parts)
    }

    /// Selects everything that the selected instances need. Each instance comes after those it needs, so one pass
    /// backwards is enough.
    fn close_over_needs(&self, parts: &mut PerInstance<Part>) {
        for id in parts.ids().rev() {
            if parts[id].active {
                self.manifest.instances[id].needs.iter().for_each(|need| parts[*need].active = true);
            }
        }
    }
}

/// The part of an instance in a run.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Part {
    /// The command line names it, or `all`.
    pub named: bool,
    /// It takes part in the run.
    pub active: bool,
    /// It may run. Otherwise only its stored result can be used.
    pub may_run: bool,
}
