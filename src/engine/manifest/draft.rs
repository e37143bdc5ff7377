//! Drafts of instances, whose settings a profile and `--set` still change.

use std::collections::BTreeMap;

use serde_yaml::Value;

/// Where a setting was written.
#[derive(Clone)]
pub(super) enum Origin {
    Text(Vec<String>),
    Set { text: String, key: usize },
}

/// The settings of an instance, with where they were written.
pub(super) struct Draft {
    pub name: String,
    pub settings: BTreeMap<String, (Value, Origin)>,
}

impl Draft {
    /// Overrides a setting. A mapping is merged into an earlier one key by key. Any other value replaces the earlier
    /// one.
    pub fn overlay(&mut self, key: String, value: Value, origin: Origin) {
        let merged = match self.settings.remove(&key) {
            Some((old, _)) => merge(old, value),
            None => value,
        };
        self.settings.insert(key, (merged, origin));
    }
}

fn merge(old: Value, new: Value) -> Value {
    match (old, new) {
        (Value::Mapping(mut old), Value::Mapping(new)) => {
            for (key, value) in new {
                let merged = match old.remove(&key) {
                    Some(below) => merge(below, value),
                    None => value,
                };
                old.insert(key, merged);
            }
            Value::Mapping(old)
        }
        (_, new) => new,
    }
}
