//! The key of a result: the digest of a small document that says all that can change it.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Kept beside the result, so that an explanation compares two documents and cannot drift from the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyDocument {
    pub stage: String,
    pub version: u32,
    pub seed: u64,
    pub parameters: Value,
    /// Digests of the content read.
    pub reads: BTreeMap<String, String>,
}

impl KeyDocument {
    /// BLAKE3 of the document as JSON with sorted keys.
    pub fn key(&self) -> Result<String> {
        let canonical = serde_json::to_vec(&serde_json::to_value(self)?)?;
        Ok(blake3::hash(&canonical).to_hex().to_string())
    }

    /// What is different from `earlier`, one phrase each; empty if the keys are equal.
    pub fn changes_since(&self, earlier: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        if self.stage != earlier.stage {
            changes.push(format!("stage: {} → {}", earlier.stage, self.stage));
        }
        if self.version != earlier.version {
            changes.push(format!("code version: {} → {}", earlier.version, self.version));
        }
        if self.seed != earlier.seed {
            changes.push(format!("seed: {} → {}", earlier.seed, self.seed));
        }
        compare("", &earlier.parameters, &self.parameters, &mut changes);
        let names: std::collections::BTreeSet<_> = self.reads.keys().chain(earlier.reads.keys()).collect();
        for name in names {
            match (earlier.reads.get(name), self.reads.get(name)) {
                (None, Some(_)) => changes.push(format!("new input {name}")),
                (Some(_), None) => changes.push(format!("no input {name} any more")),
                (before, after) if before != after => changes.push(format!("content of {name} changed")),
                _ => {}
            }
        }
        changes
    }
}

fn compare(path: &str, before: &Value, after: &Value, changes: &mut Vec<String>) {
    if before == after {
        return;
    }
    if let (Value::Object(old), Value::Object(new)) = (before, after) {
        let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for name in names {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            compare(&path, old.get(name).unwrap_or(&Value::Null), new.get(name).unwrap_or(&Value::Null), changes);
        }
    } else {
        changes.push(format!("parameter {path}: {} → {}", shown(before), shown(after)));
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "unset".to_owned(),
        other => other.to_string(),
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
            seed,
            parameters: json!({"epochs": epochs, "crop": {"shift": 4}}),
            reads: [("split".to_owned(), digest.to_owned())].into(),
        }
    }

    #[test]
    fn explains_what_changed() {
        let changes = document(80, 42, "b").changes_since(&document(40, 41, "a"));
        assert_eq!(changes, ["seed: 41 → 42", "parameter epochs: 40 → 80", "content of split changed"]);
    }

    proptest! {
        #[test]
        fn keys_differ_exactly_where_there_is_a_change(
            a in 0u32..3, b in 0u32..3, s in 0u64..2, t in 0u64..2, x in "[ab]", y in "[ab]",
        ) {
            let (one, two) = (document(a, s, &x), document(b, t, &y));
            let same = one.key().unwrap() == two.key().unwrap();
            prop_assert_eq!(same, two.changes_since(&one).is_empty());
        }
    }
}
