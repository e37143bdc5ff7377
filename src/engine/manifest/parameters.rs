//! The names of the parameters of a stage, and the types that its schema allows.

use serde_yaml::Value;

use crate::engine::stage::Kind;

/// The parameters of a stage.
pub(super) struct Parameters {
    pub names: Vec<String>,
    /// JSON Schema of all of them.
    schema: serde_json::Value,
}

impl Parameters {
    pub fn of(kind: &Kind) -> anyhow::Result<Self> {
        let (defaults, schema) = ((kind.defaults)()?, (kind.schema)().to_value());
        let mut names: Vec<String> =
            defaults.as_mapping().into_iter().flatten().filter_map(|(key, _)| Some(key.as_str()?.to_owned())).collect();
        // Some parameters are serialised only if they are set, so the defaults do not have them.
        let all = schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key);
        names.extend(all.filter(|key| defaults.get(key.as_str()).is_none()).cloned());
        Ok(Self { names, schema })
    }

    /// The schema of a parameter, or of a key inside of it.
    pub fn at<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> &serde_json::Value {
        path.into_iter().fold(&self.schema, |schema, key| &schema["properties"][key])
    }
}

/// Whether a value of this JSON type fits a schema.
pub(super) fn takes(schema: &serde_json::Value, kind: &str) -> bool {
    let any = |key: &str| schema[key].as_array().into_iter().flatten().any(|one| takes(one, kind));
    let named = match &schema["type"] {
        serde_json::Value::String(name) => name == kind,
        serde_json::Value::Array(names) => names.iter().any(|name| name == kind),
        _ => schema["const"].is_string() && kind == "string",
    };
    named || any("anyOf") || any("oneOf")
}

/// The path to the first null in `value` that the schema does not allow.
pub(super) fn null_in(value: &Value, schema: &serde_json::Value) -> Option<Vec<String>> {
    match value {
        Value::Null => (schema.is_object() && !takes(schema, "null")).then(Vec::new),
        Value::Mapping(mapping) => mapping.iter().find_map(|(key, value)| {
            let key = key.as_str()?;
            let mut path = null_in(value, &schema["properties"][key])?;
            path.insert(0, key.to_owned());
            Some(path)
        }),
        _ => None,
    }
}
