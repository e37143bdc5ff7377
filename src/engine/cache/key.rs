//! The key of a result: the digest of its key document, which holds everything that can change the result.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Changes, Reason};

/// Everything that can change a result. It is stored with the result: explanations compare two key documents, so they
/// always agree with the keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyDocument {
    pub stage: String,
    pub version: u32,
    /// Only of a stage that draws random numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    pub parameters: Value,
    /// Digests of the content that the stage reads, by name.
    pub reads: BTreeMap<String, String>,
}

impl KeyDocument {
    /// BLAKE3 of the document as JSON with sorted keys.
    pub fn key(&self) -> Result<String> {
        let canonical = serde_json::to_vec(&serde_json::to_value(self)?)?;
        Ok(blake3::hash(&canonical).to_hex().to_string())
    }

    /// The differences from `earlier`; empty if the keys are equal. `files` receives the earlier and the current digest
    /// of an input, and returns which files changed, if that is known.
    pub fn changes_since(&self, earlier: &Self, files: impl Fn(&str, &str) -> Option<Changes>) -> Vec<Reason> {
        let mut changes = Vec::new();
        if self.stage != earlier.stage {
            changes.push(Reason::Stage { from: earlier.stage.clone(), to: self.stage.clone() });
        }
        if self.version != earlier.version {
            changes.push(Reason::Version { from: earlier.version, to: self.version });
        }
        if self.seed != earlier.seed {
            changes.push(Reason::Seed { from: earlier.seed, to: self.seed });
        }
        compare("", &earlier.parameters, &self.parameters, &mut changes);
        let names: BTreeSet<&String> = self.reads.keys().chain(earlier.reads.keys()).collect();
        for name in names {
            match (earlier.reads.get(name), self.reads.get(name)) {
                (None, Some(_)) => changes.push(Reason::InputAdded(name.clone())),
                (Some(_), None) => changes.push(Reason::InputRemoved(name.clone())),
                (Some(before), Some(after)) if before != after => {
                    changes.push(Reason::InputChanged { name: name.clone(), files: files(before, after) });
                }
                _ => {}
            }
        }
        changes
    }
}

fn compare(path: &str, before: &Value, after: &Value, changes: &mut Vec<Reason>) {
    if before == after {
        return;
    }
    if let (Value::Object(old), Value::Object(new)) = (before, after) {
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            compare(&path, old.get(name).unwrap_or(&Value::Null), new.get(name).unwrap_or(&Value::Null), changes);
        }
    } else {
        changes.push(Reason::Parameter { path: path.to_owned(), from: before.clone(), to: after.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn document(epochs: u32, seed: u64, digest: &str) -> KeyDocument {
        KeyDocument {
            stage: "train".into(),
            version: 1,
            seed: Some(seed),
            parameters: json!({"epochs": epochs, "crop": {"shift": 4}}),
            reads: [("split".to_owned(), digest.to_owned())].into(),
        }
    }

    #[test]
    fn explains_what_changed() {
        let changes = document(80, 42, "b").changes_since(&document(40, 41, "a"), |_, _| None);
        let told = Reason::all(&changes);
        assert_eq!(told, "seed: 41 → 42; parameter epochs: 40 → 80; content of split changed");
    }

    proptest! {
        #[test]
        fn keys_differ_exactly_where_there_is_a_change(
            a in 0u32..3, b in 0u32..3, s in 0u64..2, t in 0u64..2, x in "[ab]", y in "[ab]",
        ) {
            let (one, two) = (document(a, s, &x), document(b, t, &y));
            let same = one.key().unwrap() == two.key().unwrap();
            prop_assert_eq!(same, two.changes_since(&one, |_, _| None).is_empty());
        }
    }
}
