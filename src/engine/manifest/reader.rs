//! Parses the text of a manifest into a checked [`Manifest`]; each error has its position in the text.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;

use serde_yaml::Value;

use super::draft::Origin;
use super::parameters::Parameters;
use super::position::{ALIASED, DEPTH, Positions, Side};
use super::{Manifest, ManifestError, PerInstance, SourceSpan, Variation, did_you_mean};
use crate::engine::stage::Kind;

/// Longest name of an instance. Files of the cache are named after instances.
pub(super) const LONGEST_NAME: usize = 100;

/// Longest key of a `--set`: instance, parameter, and keys inside of the parameter.
pub(super) const LONGEST_KEY: usize = 2 * LONGEST_NAME;

/// How many characters of a long text a message shows.
pub(super) const SHOWN: usize = 50;

/// How deep merges (`<<`) may be nested.
const MERGES: usize = 64;

/// How many brackets may be open at once, also in strings and comments. With more, the parsers become slow.
const BRACKETS: usize = 500;

/// The first line at which more than [`BRACKETS`] brackets are open.
fn nests_at(text: &str) -> Option<usize> {
    let mut open = 0usize;
    for (number, line) in text.lines().enumerate() {
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if open > BRACKETS {
                return Some(number + 1);
            }
        }
    }
    None
}

pub(super) struct Reader<'a> {
    positions: Positions<'a>,
    pub(super) kinds: &'static [Kind],
    /// The parameters of each stage, computed at the first use.
    known: RefCell<HashMap<&'static str, Rc<Parameters>>>,
}

pub(super) type Checked<T> = Result<T, ManifestError>;

pub(super) fn parse(
    source: &str,
    text: &str,
    project: PathBuf,
    kinds: &'static [Kind],
    variation: &Variation,
) -> Checked<Manifest> {
    if let Some(line) = nests_at(text) {
        let message = format!("{source}, line {line}: brackets are nested more than {BRACKETS} levels deep");
        return Err(ManifestError::new(message, None));
    }
    let reader = Reader { positions: Positions::of(source, text), kinds, known: RefCell::default() };
    if let Some(span) = reader.positions.too_deep.clone() {
        let message = format!("lists and mappings are nested more than {DEPTH} levels deep here");
        return Err(ManifestError::new(message, Some(span)));
    }
    if let Some(span) = reader.positions.too_large.clone() {
        let message = format!("aliases expand to more than {ALIASED} values in total");
        return Err(ManifestError::new(message, Some(span)));
    }
    let root = reader.yaml(text)?;
    let root = reader.mapping(&root, &[])?;
    reader.known_keys(&root, &[], &["version", "seed", "cache", "stages", "profiles"])?;
    if root.get("version") != Some(&Value::from(1)) {
        return Err(reader.error("`version` must be 1", &["version"], Side::Value));
    }
    let mut seed = match root.get("seed") {
        None => 42,
        Some(seed) => reader.seed(seed, &Origin::Text(vec!["seed".into()]))?,
    };
    let cache = root.get("cache").map(|cache| {
        let wrong = |error: serde_yaml::Error| {
            let error = reader.error(format!("`cache` is not valid: {error}"), &["cache"], Side::Value);
            error.help(Some("write cache: {remote: s3://bucket/prefix, mode: read-only} (or read-write, off)".into()))
        };
        serde_yaml::from_value(cache.clone()).map_err(wrong)
    });
    let cache = cache.transpose()?;
    let mut drafts = reader.drafts(root.get("stages"))?;
    for profile in variation.profiles() {
        reader.overlay_profile(root.get("profiles"), profile, &mut drafts, &mut seed)?;
    }
    let set = |set: &String| reader.overlay_set(set, &mut drafts, &mut seed).err();
    let mut wrong: Vec<ManifestError> = variation.sets.iter().filter_map(set).collect();
    let instances = reader.instances(drafts, seed).unwrap_or_else(|error| {
        wrong.push(error);
        PerInstance::default()
    });
    ManifestError::tell(wrong)?;
    Ok(Manifest { project, seed, variation: variation.clone(), cache, instances })
}

impl Reader<'_> {
    pub(super) fn error(&self, message: impl Into<String>, path: &[&str], side: Side) -> ManifestError {
        let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
        ManifestError::new(message, self.positions.span(&path, side))
    }

    pub(super) fn error_at(&self, message: impl Into<String>, origin: &Origin, side: Side) -> ManifestError {
        let span = match origin {
            Origin::Text(path) => self.positions.span(path, side),
            Origin::Set { text, key } => {
                let (column, length) = match side {
                    Side::Key => (1, *key),
                    Side::Value => (key + 2, text.chars().count() - key - 1),
                };
                let text: String = text.chars().take(LONGEST_KEY + SHOWN).collect();
                let length = length.min(text.chars().count() + 1 - column);
                Some(SourceSpan { source: "--set".into(), line: 0, column, length, text })
            }
        };
        ManifestError::new(message, span)
    }

    fn yaml(&self, text: &str) -> Checked<Value> {
        let read = serde_yaml::from_str::<Value>(text).and_then(|mut value| {
            // If a merged mapping has a `<<` itself, another round is needed.
            for _ in 0..MERGES {
                let before = value.clone();
                value.apply_merge()?;
                if value == before {
                    return Ok(value);
                }
            }
            Err(serde::de::Error::custom(format!("merges (`<<`) are nested more than {MERGES} levels deep")))
        });
        read.map_err(|error| {
            let span = error.location().map(|at| self.positions.at(at.line(), at.column(), 1));
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            ManifestError::new(format!("this is not valid YAML: {message}"), span)
        })
    }

    pub(super) fn mapping(&self, value: &Value, path: &[&str]) -> Checked<BTreeMap<String, Value>> {
        let wrong = || self.error("a mapping `key: value` is expected here", path, Side::Value);
        let mapping = value.as_mapping().ok_or_else(wrong)?;
        let entry = |(key, value): (&Value, &Value)| match key.as_str() {
            Some(key) => Ok((key.to_owned(), value.clone())),
            None => {
                let path: Vec<&str> = path.to_vec();
                Err(self.no_text(key, &path))
            }
        };
        mapping.iter().map(entry).collect()
    }

    /// An error for a key that YAML does not read as text without quotes: 2024, true, null.
    pub(super) fn no_text(&self, value: &Value, path: &[&str]) -> ManifestError {
        let shown = serde_yaml::to_string(value).unwrap_or_default();
        let shown = shown.trim_end();
        let path: Vec<&str> = path.iter().copied().chain([shown]).collect();
        let error = self.error(format!("`{shown}` must be text here, but YAML reads another type"), &path, Side::Key);
        error.help(Some(format!("write it in quotes: '{shown}'")))
    }

    pub(super) fn parameters(&self, kind: &'static Kind) -> Checked<Rc<Parameters>> {
        if let Some(known) = self.known.borrow().get(kind.name) {
            return Ok(known.clone());
        }
        let made = Parameters::of(kind).map_err(|error| ManifestError::new(error.to_string(), None))?;
        Ok(self.known.borrow_mut().entry(kind.name).or_insert(Rc::new(made)).clone())
    }

    fn known_keys(&self, mapping: &BTreeMap<String, Value>, path: &[&str], known: &[&str]) -> Checked<()> {
        match mapping.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let path: Vec<&str> = path.iter().copied().chain([key.as_str()]).collect();
                let error = self.error(format!("unknown key `{key}`"), &path, Side::Key);
                Err(error.help(did_you_mean(key, known.iter().copied())))
            }
        }
    }

    pub(super) fn seed(&self, value: &Value, origin: &Origin) -> Checked<u64> {
        value.as_u64().ok_or_else(|| self.error_at("`seed` must be a whole number, 0 or more", origin, Side::Value))
    }
}
