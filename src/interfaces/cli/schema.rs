//! `similiai schema`

use anyhow::Result;
use serde_json::{Value, json};

use super::Session;
use crate::engine::stage::Kind;

pub fn run(session: &Session) -> Result<()> {
    session.screen.print(&serde_json::to_string_pretty(&schema(session.kinds))?);
    Ok(())
}

/// Returns the JSON Schema of `pipeline.yaml`.
pub fn schema(kinds: &[Kind]) -> Value {
    let instances: Vec<Value> = kinds.iter().map(|kind| instance(kind, true)).collect();
    let overlays: Vec<Value> = kinds.iter().map(|kind| instance(kind, false)).collect();
    let seed = json!({"type": "integer", "minimum": 0, "description": "Number that all random draws come from"});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pipeline.yaml",
        "type": "object",
        "required": ["version", "stages"],
        "additionalProperties": false,
        "properties": {
            "version": {"const": 1},
            "seed": seed,
            "cache": {
                "description": "Cache that several machines share",
                "type": "object",
                "required": ["remote"],
                "additionalProperties": false,
                "properties": {
                    "remote": {"type": "string", "description": "An address such as s3://bucket/prefix, or a folder"},
                    "mode": {"enum": ["off", "read-only", "read-write"], "default": "read-only"},
                },
            },
            "stages": {
                "description": "Instances of stages, by name",
                "type": "object",
                "propertyNames": {"pattern": "^[A-Za-z0-9_-]+$", "not": {"const": "all"}},
                "additionalProperties": {"anyOf": instances},
            },
            "profiles": {
                "description": "Named sets of parameters that override those of the instances",
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "properties": {"seed": seed},
                    "additionalProperties": {"anyOf": overlays},
                },
            },
        },
    })
}

/// Returns the schema of an instance, or, if not `complete`, of what a profile overrides.
fn instance(kind: &Kind, complete: bool) -> Value {
    let mut schema = (kind.schema)().to_value();
    schema["description"] = kind.about.into();
    schema["title"] = kind.name.into();
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("$schema");
        // Every parameter has a default.
        fields.remove("required");
    }
    let names = json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true});
    let seed = kind.draws.then(|| ("seed", json!({"type": "integer", "minimum": 0})));
    let own = [
        ("uses", json!({"const": kind.name})),
        ("needs", names),
        ("out", json!({"type": "string", "description": "Output directory; artifacts/<instance> by default"})),
    ];
    for (name, value) in own.into_iter().chain(seed) {
        schema["properties"][name] = value;
    }
    if complete {
        schema["required"] = json!(["uses"]);
    }
    schema
}
