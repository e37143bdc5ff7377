//! Looking without running: what is fresh, what is stale, and why.

use anyhow::Result;
use serde::Serialize;

use super::Project;
use crate::cache::{KeyDocument, Lookup, Record};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The result lies at its place and belongs to the manifest as it is now.
    Fresh,
    /// A result lies there, but not this one, or not whole.
    Stale,
    /// No result lies there.
    Missing,
}

#[derive(Debug, Serialize)]
pub struct Assessment {
    pub name: String,
    pub state: State,
    pub reasons: Vec<String>,
    /// Absent while an input is not fresh: the key depends on its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip)]
    pub document: Option<KeyDocument>,
}

impl Project {
    /// Every instance in order. Nothing is run or laid, and no lock is needed.
    pub fn assess(&self) -> Result<Vec<Assessment>> {
        let mut results: Vec<Option<Record>> = Vec::new();
        let mut assessments = Vec::new();
        for place in 0..self.manifest.instances.len() {
            let (assessment, record) = self.assess_one(place, &results)?;
            results.push(record.filter(|_| assessment.state == State::Fresh));
            assessments.push(assessment);
        }
        Ok(assessments)
    }

    fn assess_one(&self, place: usize, results: &[Option<Record>]) -> Result<(Assessment, Option<Record>)> {
        let instance = &self.manifest.instances[place];
        let laid = self.store.laid(&instance.name)?;
        let unlaid = if laid.is_some() { State::Stale } else { State::Missing };
        let assessment = |state, reasons, document: Option<(String, KeyDocument)>| {
            let (key, document) = document.unzip();
            Assessment { name: instance.name.clone(), state, reasons, key, document }
        };
        let pending = instance.needs.iter().filter(|need| results[**need].is_none());
        let pending: Vec<String> =
            pending.map(|need| format!("{} is not fresh", self.manifest.instances[*need].name)).collect();
        if !pending.is_empty() {
            return Ok((assessment(unlaid, pending, None), None));
        }
        let document = match self.inputs(place, results).and_then(|inputs| self.document(place, &inputs)) {
            Ok(document) => document,
            Err(error) => return Ok((assessment(unlaid, vec![format!("{error:#}")], None), None)),
        };
        let key = document.key()?;
        let found = self.store.look_up(&key)?;
        let keyed = Some((key.clone(), document.clone()));
        if laid.is_none_or(|laid| laid.key != key || laid.out != instance.out) {
            let mut reasons = self.changes(place, &document)?;
            if matches!(found, Lookup::Hit(_)) {
                reasons.push("a stored result fits".to_owned());
            }
            return Ok((assessment(unlaid, reasons, keyed), None));
        }
        Ok(match found {
            Lookup::Miss => (assessment(State::Stale, vec!["its last result is gone".to_owned()], keyed), None),
            Lookup::Broken(why) => (assessment(State::Stale, vec![why], keyed), None),
            Lookup::Hit(record) => {
                let unsound = self.store.unsound(&record, &self.manifest.project, &instance.out);
                let reasons: Vec<String> = unsound.told("missing or changed").into_iter().collect();
                let state = if reasons.is_empty() { State::Fresh } else { State::Stale };
                (assessment(state, reasons, keyed), Some(record))
            }
        })
    }
}
