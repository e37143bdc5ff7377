//! Says which instances are fresh, stale or missing and why, without running them.

use anyhow::Result;
use serde::Serialize;

use super::Project;
use crate::engine::cache::{KeyDocument, Reason, StoredResult};
use crate::engine::manifest::{InstanceId, PerInstance};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The right result for the current manifest and inputs is checked out, and unmodified.
    Fresh,
    /// Another result is checked out, or files of it are missing, modified or untracked.
    Stale,
    /// No result is checked out.
    Missing,
}

#[derive(Debug, Serialize)]
pub struct Assessment {
    pub name: String,
    pub state: State,
    pub reasons: Vec<Reason>,
    /// Absent if an input is not fresh, because the key depends on its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip)]
    pub document: Option<KeyDocument>,
}

impl Project {
    /// Assesses every instance, in order. Nothing is run or checked out, and no lock is needed.
    pub fn assess(&self) -> Result<PerInstance<Assessment>> {
        let mut results = self.manifest.instances.filled(None);
        let assess = |id| {
            let (assessment, stored) = self.assess_one(id, &results)?;
            results[id] = stored.filter(|_| assessment.state == State::Fresh);
            Ok(assessment)
        };
        self.manifest.instances.ids().map(assess).collect()
    }

    fn assess_one(
        &self,
        id: InstanceId,
        results: &PerInstance<Option<StoredResult>>,
    ) -> Result<(Assessment, Option<StoredResult>)> {
        let instance = &self.manifest.instances[id];
        let checked_out = self.store.checked_out(&instance.name)?;
        let not_checked_out = if checked_out.is_some() { State::Stale } else { State::Missing };
        let assessment = |state, reasons, document: Option<(String, KeyDocument)>| {
            let (key, document) = document.unzip();
            Assessment { name: instance.name.clone(), state, reasons, key, document }
        };
        let pending = instance.needs.iter().filter(|need| results[**need].is_none());
        let pending: Vec<Reason> =
            pending.map(|need| Reason::NotFresh(self.manifest.instances[*need].name.clone())).collect();
        if !pending.is_empty() {
            return Ok((assessment(not_checked_out, pending, None), None));
        }
        let document = match self.inputs(id, results).and_then(|inputs| self.document(id, &inputs)) {
            Ok(document) => document,
            Err(error) => {
                return Ok((assessment(not_checked_out, vec![Reason::Unreadable(format!("{error:#}"))], None), None));
            }
        };
        let key = document.key()?;
        let found = self.store.result(&key)?;
        let keyed = Some((key.clone(), document.clone()));
        if checked_out.is_none_or(|checked_out| checked_out.key != key || checked_out.out != instance.out) {
            let mut reasons = self.changes(id, &document)?;
            reasons.extend(found.map(|_| Reason::StoredFits));
            return Ok((assessment(not_checked_out, reasons, keyed), None));
        }
        let Some(stored) = found else { return Ok((assessment(State::Stale, vec![Reason::Gone], keyed), None)) };
        let reasons = match self.store.contents(&stored.digest) {
            Some(contents) => {
                self.store.inspect(&self.manifest.output_dir(id), &contents)?.reasons(&contents, Reason::CheckedOut)
            }
            None => vec![Reason::lost_list()],
        };
        let state = if reasons.is_empty() { State::Fresh } else { State::Stale };
        Ok((assessment(state, reasons, keyed), Some(stored)))
    }
}
