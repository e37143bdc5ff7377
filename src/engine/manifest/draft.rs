//! An instance while manifest, profile and overrides are laid over each other.

use std::collections::BTreeMap;

use serde_yaml::Value;

/// Where a setting was written.
#[derive(Clone)]
pub(super) enum Origin {
    Text(Vec<String>),
    Set { text: String, key: usize },
}

/// An instance while it is put together: settings with where they come from.
pub(super) struct Draft {
    pub name: String,
    pub settings: BTreeMap<String, (Value, Origin)>,
}

impl Draft {
    /// A mapping is laid over a mapping key by key; anything else is replaced.
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
