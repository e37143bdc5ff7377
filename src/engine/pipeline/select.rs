//! Which instances a command is about.

use anyhow::Result;

use super::Project;

#[derive(Debug, Default, Clone)]
pub struct Selection {
    /// Instances, or `all`.
    pub targets: Vec<String>,
    /// What stands before this instance is taken as it is.
    pub from: Option<String>,
    /// What stands after this instance is left alone.
    pub until: Option<String>,
}

impl Project {
    /// For each instance: whether it was named, whether it takes part, and whether it may run.
    pub(super) fn select(&self, selection: &Selection) -> Result<Vec<Part>> {
        let instances = &self.manifest.instances;
        let all = selection.targets.iter().any(|target| target == "all");
        let named = selection.targets.iter().filter(|target| *target != "all");
        let named = named.chain(&selection.from).chain(&selection.until).map(String::as_str);
        self.manifest.must_have(named)?;
        let named = selection.targets.iter().filter(|target| *target != "all").map(|name| self.manifest.find(name));
        let named = named.collect::<Result<Vec<usize>>>()?;
        let mut parts: Vec<Part> = (0..instances.len())
            .map(|place| {
                let named = all || named.contains(&place);
                Part { named, active: named, may_run: true }
            })
            .collect();
        self.close_over_needs(&mut parts);
        if let Some(until) = &selection.until {
            let mut wanted = vec![Part::default(); instances.len()];
            wanted[self.manifest.find(until)?].active = true;
            self.close_over_needs(&mut wanted);
            parts.iter_mut().zip(wanted).for_each(|(part, wanted)| part.active &= wanted.active);
        }
        if let Some(from) = &selection.from {
            let start = self.manifest.find(from)?;
            let mut after = vec![false; instances.len()];
            for place in start..instances.len() {
                after[place] = place == start || instances[place].needs.iter().any(|need| after[*need]);
            }
            parts.iter_mut().zip(after).for_each(|(part, after)| part.may_run = after);
        }
        Ok(parts)
    }

    /// Needs stand before what needs them, so one pass backwards is enough.
    fn close_over_needs(&self, parts: &mut [Part]) {
        for place in (0..parts.len()).rev() {
            if parts[place].active {
                self.manifest.instances[place].needs.iter().for_each(|need| parts[*need].active = true);
            }
        }
    }
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Part {
    pub named: bool,
    pub active: bool,
    /// May run; otherwise only its stored result is taken.
    pub may_run: bool,
}
