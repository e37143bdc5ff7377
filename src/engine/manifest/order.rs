//! Orders the instances, so that each comes after those it needs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use super::draft::Origin;
use super::position::Side;
use super::reader::{Checked, Reader};
use super::{Instance, InstanceId, ManifestError, PerInstance};

impl Reader<'_> {
    /// Sorts the instances so that each comes after those it needs. Otherwise the order of the manifest is kept.
    pub(super) fn ordered(
        &self,
        instances: PerInstance<Instance>,
        needs_at: &PerInstance<Origin>,
    ) -> Checked<PerInstance<Instance>> {
        let mut order: Vec<InstanceId> = Vec::new();
        let mut left: PerInstance<usize> = instances.iter().map(|instance| instance.needs.len()).collect();
        let mut needed_by: PerInstance<Vec<InstanceId>> = instances.filled(Vec::new());
        for (id, instance) in instances.enumerate() {
            instance.needs.iter().for_each(|need| needed_by[*need].push(id));
        }
        let mut ready: BinaryHeap<Reverse<InstanceId>> =
            instances.ids().filter(|id| left[*id] == 0).map(Reverse).collect();
        while let Some(Reverse(id)) = ready.pop() {
            order.push(id);
            for next in &needed_by[id] {
                left[*next] -= 1;
                if left[*next] == 0 {
                    ready.push(Reverse(*next));
                }
            }
        }
        if order.len() < instances.len() {
            return Err(self.cycle(&instances, &order, needs_at));
        }
        let mut sorted_ids: PerInstance<InstanceId> = instances.ids().collect();
        order.iter().zip(instances.ids()).for_each(|(old, new)| sorted_ids[*old] = new);
        let mut slots: PerInstance<Option<Instance>> = instances.into_iter().map(Some).collect();
        let sorted = order.iter().filter_map(|old| slots[*old].take()).map(|mut instance| {
            instance.needs.iter_mut().for_each(|need| *need = sorted_ids[*need]);
            instance
        });
        Ok(sorted.collect())
    }

    fn cycle(
        &self,
        instances: &PerInstance<Instance>,
        done: &[InstanceId],
        needs_at: &PerInstance<Origin>,
    ) -> ManifestError {
        let done: HashSet<InstanceId> = done.iter().copied().collect();
        let blocked = |id: &InstanceId| !done.contains(id);
        let mut walk: Vec<InstanceId> = instances.ids().find(blocked).into_iter().collect();
        while let Some(next) = walk.last().and_then(|last| instances[*last].needs.iter().copied().find(blocked)) {
            if let Some(start) = walk.iter().position(|seen| *seen == next) {
                walk.drain(..start);
                walk.push(next);
                break;
            }
            walk.push(next);
        }
        let names: Vec<&str> = walk.iter().map(|id| instances[*id].name.as_str()).collect();
        self.error_at(format!("`needs` form a cycle: {}", names.join(" → ")), &needs_at[walk[0]], Side::Value)
    }
}
