//! Reading the manifest: profile and overrides laid over it, every name and value checked, each fault with its place.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use serde_yaml::{Mapping, Value};

use super::draft::{Draft, Origin};
use super::position::{ALIASED, DEPTH, Positions, Side};
use super::{Instance, Manifest, ManifestError, Place, did_you_mean};
use crate::base::files;
use crate::engine::stage::{AnyStage, Kind};

/// `out` in the one way of writing it; `None` where results have no business.
fn folder_of_results(out: &str) -> Option<PathBuf> {
    let path: PathBuf =
        files::expanded(Path::new(out)).components().filter(|part| *part != Component::CurDir).collect();
    let cache = Path::new("artifacts/.cache");
    let climbs = path.components().any(|part| part == Component::ParentDir);
    (!climbs && path.file_name().is_some() && !path.starts_with(cache) && !cache.starts_with(&path)).then_some(path)
}

/// Of an instance: files of the cache are called by it.
const LONGEST_NAME: usize = 100;

/// In a `--set`: instance, parameter and what is in it.
const LONGEST_KEY: usize = 2 * LONGEST_NAME;

/// Of a text in a message that is longer than anybody reads, so many characters.
const SHOWN: usize = 50;

/// Rounds of merges (`<<`) in merges.
const MERGES: usize = 64;

/// Open brackets, those in strings and comments too: the parsers take long over more.
const BRACKETS: usize = 500;

/// The line at which more brackets are open than any manifest has.
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

struct Reader<'a> {
    positions: Positions<'a>,
    kinds: &'static [Kind],
    /// What parameters each stage has, once it was asked.
    known: RefCell<HashMap<&'static str, Rc<Parameters>>>,
}

/// The parameters of a stage.
struct Parameters {
    names: Vec<String>,
    /// JSON Schema of all of them.
    schema: serde_json::Value,
}

impl Parameters {
    fn of(kind: &Kind) -> anyhow::Result<Self> {
        let (defaults, schema) = ((kind.defaults)()?, (kind.schema)().to_value());
        let mut names: Vec<String> =
            defaults.as_mapping().into_iter().flatten().filter_map(|(key, _)| Some(key.as_str()?.to_owned())).collect();
        // Those that stand in a key only where they are given.
        let all = schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key);
        names.extend(all.filter(|key| defaults.get(key.as_str()).is_none()).cloned());
        Ok(Self { names, schema })
    }

    /// The schema of a parameter, or of a part of it.
    fn at<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> &serde_json::Value {
        path.into_iter().fold(&self.schema, |schema, key| &schema["properties"][key])
    }
}

/// Whether a value of this JSON type fits a schema.
fn takes(schema: &serde_json::Value, kind: &str) -> bool {
    let any = |key: &str| schema[key].as_array().into_iter().flatten().any(|one| takes(one, kind));
    let named = match &schema["type"] {
        serde_json::Value::String(name) => name == kind,
        serde_json::Value::Array(names) => names.iter().any(|name| name == kind),
        _ => schema["const"].is_string() && kind == "string",
    };
    named || any("anyOf") || any("oneOf")
}

/// Where null stands that the schema does not allow: the path to it.
fn null_in(value: &Value, schema: &serde_json::Value) -> Option<Vec<String>> {
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

pub(super) type Checked<T> = Result<T, ManifestError>;

pub(super) fn parse(
    source: &str,
    text: &str,
    project: PathBuf,
    kinds: &'static [Kind],
    profile: Option<&str>,
    sets: &[String],
) -> Checked<Manifest> {
    if let Some(line) = nests_at(text) {
        let message = format!("{source}, line {line}: brackets stand in each other more than {BRACKETS} deep");
        return Err(ManifestError::new(message, None));
    }
    let reader = Reader { positions: Positions::of(source, text), kinds, known: RefCell::default() };
    if let Some(place) = reader.positions.too_deep.clone() {
        let message = format!("lists and mappings stand in each other more than {DEPTH} deep here");
        return Err(ManifestError::new(message, Some(place)));
    }
    if let Some(place) = reader.positions.too_large.clone() {
        let message = format!("aliases stand for more than {ALIASED} values in all");
        return Err(ManifestError::new(message, Some(place)));
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
            let error = reader.error(format!("`cache` is not right: {error}"), &["cache"], Side::Value);
            error.help(Some("write cache: {remote: s3://bucket/prefix, mode: read-only}, or read-write, or off".into()))
        };
        serde_yaml::from_value(cache.clone()).map_err(wrong)
    });
    let cache = cache.transpose()?;
    let mut drafts = reader.drafts(root.get("stages"))?;
    if let Some(profile) = profile {
        reader.overlay_profile(root.get("profiles"), profile, &mut drafts, &mut seed)?;
    }
    let set = |set: &String| reader.overlay_set(set, &mut drafts, &mut seed).err();
    let mut wrong: Vec<ManifestError> = sets.iter().filter_map(set).collect();
    let instances = reader.instances(drafts, seed).unwrap_or_else(|error| {
        wrong.push(error);
        Vec::new()
    });
    ManifestError::tell(wrong)?;
    Ok(Manifest { project, seed, profile: profile.map(str::to_owned), cache, instances })
}

impl Reader<'_> {
    fn error(&self, message: impl Into<String>, path: &[&str], side: Side) -> ManifestError {
        let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
        ManifestError::new(message, self.positions.place(&path, side))
    }

    fn error_at(&self, message: impl Into<String>, origin: &Origin, side: Side) -> ManifestError {
        let place = match origin {
            Origin::Text(path) => self.positions.place(path, side),
            Origin::Set { text, key } => {
                let (column, length) = match side {
                    Side::Key => (1, *key),
                    Side::Value => (key + 2, text.chars().count() - key - 1),
                };
                let text: String = text.chars().take(LONGEST_KEY + SHOWN).collect();
                let length = length.min(text.chars().count() + 1 - column);
                Some(Place { source: "--set".into(), line: 0, column, length, text })
            }
        };
        ManifestError::new(message, place)
    }

    fn yaml(&self, text: &str) -> Checked<Value> {
        let read = serde_yaml::from_str::<Value>(text).and_then(|mut value| {
            // `<<` of what has a `<<` itself takes another round.
            for _ in 0..MERGES {
                let before = value.clone();
                value.apply_merge()?;
                if value == before {
                    return Ok(value);
                }
            }
            Err(serde::de::Error::custom(format!("merges (`<<`) stand in each other more than {MERGES} deep")))
        });
        read.map_err(|error| {
            let place = error.location().map(|at| self.positions.at(at.line(), at.column(), 1));
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            ManifestError::new(format!("this is not valid YAML: {message}"), place)
        })
    }

    fn mapping(&self, value: &Value, path: &[&str]) -> Checked<BTreeMap<String, Value>> {
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

    /// That something is no text, as it would be in quotes: 2024, true, null.
    fn no_text(&self, value: &Value, path: &[&str]) -> ManifestError {
        let shown = serde_yaml::to_string(value).unwrap_or_default();
        let shown = shown.trim_end();
        let path: Vec<&str> = path.iter().copied().chain([shown]).collect();
        let error = self.error(format!("`{shown}` is not text here, but a number or the like"), &path, Side::Key);
        error.help(Some(format!("write it in quotes: '{shown}'")))
    }

    fn parameters(&self, kind: &'static Kind) -> Checked<Rc<Parameters>> {
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

    fn seed(&self, value: &Value, origin: &Origin) -> Checked<u64> {
        value.as_u64().ok_or_else(|| self.error_at("`seed` must be a whole number, 0 or more", origin, Side::Value))
    }

    fn drafts(&self, stages: Option<&Value>) -> Checked<Vec<Draft>> {
        let missing = || self.error("`stages` is missing", &["stages"], Side::Value);
        let stages = stages.ok_or_else(missing)?;
        self.mapping(stages, &["stages"])?;
        let mut drafts = Vec::new();
        for (name, settings) in stages.as_mapping().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let sound = (1..=LONGEST_NAME).contains(&name.len()) && !name.starts_with('-') && name.chars().all(plain);
            if !sound || name == "all" {
                let message = format!(
                    "`{name}` is no name for an instance: use at most {LONGEST_NAME} letters, digits, - and _; a name does not \
                     begin with -, and `all` is taken"
                );
                return Err(self.error(message, &["stages", name], Side::Key));
            }
            let settings = self.mapping(settings, &["stages", name])?.into_iter().map(|(key, value)| {
                let origin = Origin::Text(vec!["stages".into(), name.into(), key.clone()]);
                (key, (value, origin))
            });
            drafts.push(Draft { name: name.to_owned(), settings: settings.collect() });
        }
        Ok(drafts)
    }

    fn draft<'d>(&self, drafts: &'d mut [Draft], name: &str, origin: &Origin) -> Checked<&'d mut Draft> {
        let Some(place) = drafts.iter().position(|draft| draft.name == name) else {
            let error = self.error_at(format!("there is no stage instance `{name}`"), origin, Side::Key);
            return Err(error.help(did_you_mean(name, drafts.iter().map(|draft| draft.name.as_str()))));
        };
        Ok(&mut drafts[place])
    }

    fn overlay_profile(
        &self,
        profiles: Option<&Value>,
        profile: &str,
        drafts: &mut [Draft],
        seed: &mut u64,
    ) -> Checked<()> {
        let profiles = match profiles {
            Some(profiles) => self.mapping(profiles, &["profiles"])?,
            None => BTreeMap::new(),
        };
        let Some(overlay) = profiles.get(profile) else {
            let error = ManifestError::new(format!("there is no profile `{profile}`"), None);
            return Err(error.help(did_you_mean(profile, profiles.keys().map(String::as_str))));
        };
        for (name, settings) in self.mapping(overlay, &["profiles", profile])? {
            let path = vec!["profiles".to_owned(), profile.to_owned(), name.clone()];
            if name == "seed" {
                *seed = self.seed(&settings, &Origin::Text(path))?;
                continue;
            }
            let draft = self.draft(drafts, &name, &Origin::Text(path.clone()))?;
            for (key, value) in self.mapping(&settings, &["profiles", profile, &name])? {
                let origin = Origin::Text(path.iter().cloned().chain([key.clone()]).collect());
                draft.overlay(key, value, origin);
            }
        }
        Ok(())
    }

    fn overlay_set(&self, set: &str, drafts: &mut [Draft], seed: &mut u64) -> Checked<()> {
        let Some((key, value)) = set.split_once('=') else {
            let error = ManifestError::new(format!("--set {set}: `=` is missing"), None);
            return Err(error.help(Some("write --set INSTANCE.PARAMETER=VALUE, such as train.epochs=5".into())));
        };
        let length = key.chars().count();
        if length > LONGEST_KEY {
            let start: String = key.chars().take(SHOWN).collect();
            let message = format!("--set {start}…: no parameter has a name of {length} characters");
            return Err(ManifestError::new(message, None));
        }
        let origin = Origin::Set { text: set.to_owned(), key: length };
        if key == "seed" {
            *seed = self.seed(&self.value(value, &origin)?, &origin)?;
            return Ok(());
        }
        let Some((name, parameter)) = key.split_once('.') else {
            let error = self.error_at(format!("`{key}` names no parameter"), &origin, Side::Key);
            return Err(error.help(Some("write INSTANCE.PARAMETER=VALUE, such as train.epochs=5".into())));
        };
        let draft = self.draft(drafts, name, &origin)?;
        let value = match self.takes_text(draft, parameter)? {
            // As it stands, whatever YAML would make of it.
            (true, nullable) if !nullable || !["", "~", "null"].contains(&value) => Value::from(value),
            _ => self.value(value, &origin)?,
        };
        let mut parts = parameter.split('.');
        let first = parts.next().unwrap_or_default();
        // prepare.sharpen.amount=2 → sharpen: {amount: 2}
        let nested =
            parts.rev().fold(value, |value, key| Value::Mapping([(Value::from(key), value)].into_iter().collect()));
        draft.overlay(first.to_owned(), nested, origin);
        Ok(())
    }

    /// The value that a `--set` gives: one, to its last character.
    fn value(&self, text: &str, origin: &Origin) -> Checked<Value> {
        let wrong = |why: &str| self.error_at(why, origin, Side::Value);
        // In a list, no part of it can be taken for a comment or a second value: neither the first bracket may close before
        // its end, nor may the last be part of a comment.
        let parse = |end| serde_yaml::from_str::<Value>(&format!("[{text}{end}"));
        match parse("\n]").and_then(|list| parse("]").map(|_| list)) {
            Ok(Value::Sequence(mut list)) if list.len() < 2 => Ok(list.pop().unwrap_or_default()),
            Ok(_) => Err(wrong("this is more than one value; write a list as [a, b]")),
            Err(_) if text.contains('#') => Err(wrong("the value is not valid YAML: `#` begins a comment")),
            Err(_) => Err(wrong("the value is not valid YAML")),
        }
    }

    /// Whether a setting of an instance is text, and whether it may be null.
    fn takes_text(&self, draft: &Draft, parameter: &str) -> Checked<(bool, bool)> {
        if ["uses", "out"].contains(&parameter) {
            return Ok((true, false));
        }
        let uses = draft.settings.get("uses").and_then(|(uses, _)| uses.as_str());
        let Some(kind) = self.kinds.iter().find(|kind| Some(kind.name) == uses) else { return Ok((false, false)) };
        let parameters = self.parameters(kind)?;
        let schema = parameters.at(parameter.split('.'));
        Ok((takes(schema, "string"), takes(schema, "null")))
    }

    fn instances(&self, drafts: Vec<Draft>, seed: u64) -> Checked<Vec<Instance>> {
        let names: Vec<String> = drafts.iter().map(|draft| draft.name.clone()).collect();
        let places: HashMap<&str, usize> =
            names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        let (mut instances, mut needs_at, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        for draft in drafts {
            match self.instance(draft, seed, &names, &places) {
                Ok((instance, at)) => {
                    instances.push(instance);
                    needs_at.push(at);
                }
                Err(error) => wrong.push(error),
            }
        }
        ManifestError::tell(wrong)?;
        for (place, instance) in instances.iter().enumerate() {
            self.check_provided(instance, &instances, &needs_at[place])?;
        }
        self.check_folders(&instances)?;
        self.ordered(instances, &needs_at)
    }

    /// The instance of a draft, and where its needs are written.
    fn instance(
        &self,
        mut draft: Draft,
        seed: u64,
        names: &[String],
        places: &HashMap<&str, usize>,
    ) -> Checked<(Instance, Origin)> {
        let kind = self.kind(&mut draft)?;
        let (needs, at) = self.needs(&mut draft, names, places)?;
        let out = match draft.settings.remove("out") {
            None => PathBuf::from("artifacts").join(&draft.name),
            Some((value, origin)) => value.as_str().and_then(folder_of_results).ok_or_else(|| {
                let message = "`out` must be a folder below the project's, or an absolute one, without `..`";
                self.error_at(message, &origin, Side::Value)
            })?,
        };
        let seed = match draft.settings.remove("seed") {
            None => seed,
            Some((value, origin)) => self.seed(&value, &origin)?,
        };
        let stage = self.stage(kind, draft.settings, &draft.name)?;
        Ok((Instance { name: draft.name, stage, seed, needs, out }, at))
    }

    /// Refuses two instances of which one would write into the folder of the other.
    fn check_folders(&self, instances: &[Instance]) -> Checked<()> {
        let mut first: HashMap<&Path, usize> = HashMap::new();
        let mut clashes = Vec::new();
        for (place, instance) in instances.iter().enumerate() {
            match first.get(&*instance.out) {
                Some(other) => clashes.push((place, *other)),
                None => drop(first.insert(&instance.out, place)),
            }
        }
        for (place, instance) in instances.iter().enumerate() {
            let above = instance.out.ancestors().skip(1).filter_map(|above| first.get(above));
            clashes.extend(above.map(|other| (place.max(*other), place.min(*other))));
        }
        let Some((place, other)) = clashes.into_iter().min() else { return Ok(()) };
        let Instance { name, out, .. } = &instances[place];
        let message = format!("`{}` and `{name}` would both write to {}", instances[other].name, out.display());
        Err(self.error(message, &["stages", name, "out"], Side::Value))
    }

    fn kind(&self, draft: &mut Draft) -> Checked<&'static Kind> {
        let path = ["stages", &draft.name];
        let Some((uses, origin)) = draft.settings.remove("uses") else {
            return Err(self.error(format!("`{}` does not say which stage it `uses`", draft.name), &path, Side::Key));
        };
        let name = uses.as_str().unwrap_or_default();
        self.kinds.iter().find(|kind| kind.name == name).ok_or_else(|| {
            let shown = serde_yaml::to_string(&uses).unwrap_or_default();
            let error = self.error_at(format!("there is no stage `{}`", shown.trim_end()), &origin, Side::Value);
            error.help(did_you_mean(name, self.kinds.iter().map(|kind| kind.name)))
        })
    }

    fn needs(
        &self,
        draft: &mut Draft,
        names: &[String],
        places: &HashMap<&str, usize>,
    ) -> Checked<(Vec<usize>, Origin)> {
        let nowhere = Origin::Text(vec!["stages".into(), draft.name.clone(), "needs".into()]);
        let (value, origin) = draft.settings.remove("needs").unwrap_or((Value::Sequence(Vec::new()), nowhere));
        let Some(list) = value.as_sequence() else {
            return Err(self.error_at("`needs` must be a list of instances, such as [prepare]", &origin, Side::Value));
        };
        let (mut needs, mut seen) = (Vec::new(), HashSet::new());
        for (index, need) in list.iter().enumerate() {
            let place = match &origin {
                Origin::Text(path) => Origin::Text(path.iter().cloned().chain([index.to_string()]).collect()),
                set => set.clone(),
            };
            let Some(name) = need.as_str() else {
                let shown = serde_yaml::to_string(need).unwrap_or_default();
                let shown = shown.trim_end();
                let error = self.error_at(format!("`{shown}` is not text here"), &place, Side::Value);
                return Err(error.help(Some(format!("write the name in quotes: '{shown}'"))));
            };
            let Some(found) = places.get(name).copied() else {
                let error = self.error_at(
                    format!("`{}` needs `{name}`, which is not in `stages`", draft.name),
                    &place,
                    Side::Value,
                );
                return Err(error.help(did_you_mean(name, names.iter().map(String::as_str))));
            };
            if !seen.insert(found) {
                return Err(self.error_at(format!("`{}` needs `{name}` twice", draft.name), &place, Side::Value));
            }
            needs.push(found);
        }
        Ok((needs, origin))
    }

    fn check_provided(&self, instance: &Instance, all: &[Instance], at: &Origin) -> Checked<()> {
        let kind = instance.stage.kind();
        for stage in kind.needs.iter().filter(|stage| !kind.many.contains(stage)) {
            let mut named = instance.needs.iter().filter(|need| all[**need].stage.kind().name == *stage);
            if let (Some(first), Some(second)) = (named.next(), named.next()) {
                let (first, second) = (&all[*first].name, &all[*second].name);
                let message = format!("`{}` needs one instance of `{stage}`, and `needs` names two", instance.name);
                let help = format!("leave `{first}` or `{second}` out");
                return Err(self.error_at(message, at, Side::Value).help(Some(help)));
            }
        }
        let provided = |stage: &&&str| instance.needs.iter().any(|need| all[*need].stage.kind().name == **stage);
        match kind.needs.iter().find(|stage| !provided(stage)) {
            None => Ok(()),
            Some(missing) => {
                let message = format!("`{}` needs an instance of `{missing}`, and `needs` names none", instance.name);
                let candidates = all.iter().filter(|other| other.stage.kind().name == *missing);
                let candidates: Vec<&str> = candidates.map(|other| other.name.as_str()).collect();
                let help = match candidates.as_slice() {
                    [] => format!("add an entry with `uses: {missing}` to `stages`"),
                    names => format!("add to its `needs`: {}", names.join(" or ")),
                };
                Err(self.error_at(message, at, Side::Value).help(Some(help)))
            }
        }
    }

    fn stage(
        &self,
        kind: &'static Kind,
        settings: BTreeMap<String, (Value, Origin)>,
        name: &str,
    ) -> Checked<Box<dyn AnyStage>> {
        let parameters = self.parameters(kind)?;
        let known = &parameters.names;
        let unknown = settings.iter().filter(|(key, _)| !known.contains(key)).map(|(key, (_, origin))| {
            let error = self.error_at(format!("stage `{}` has no parameter `{key}`", kind.name), origin, Side::Key);
            error.help(did_you_mean(key, known.iter().map(String::as_str)))
        });
        ManifestError::tell(unknown.collect())?;
        let nulls = settings.iter().filter_map(|(key, (value, origin))| {
            let path = null_in(value, parameters.at([key.as_str()]))?;
            let path: Vec<&str> = [key.as_str()].into_iter().chain(path.iter().map(String::as_str)).collect();
            let message = format!("parameter `{}` of `{name}` is null, or has nothing behind it", path.join("."));
            let help = "leave it out for the default, or give a value".to_owned();
            Some(self.error_at(message, origin, Side::Value).help(Some(help)))
        });
        ManifestError::tell(nulls.collect())?;
        let origin_of = |parameter: &str| match settings.get(parameter) {
            Some((_, origin)) => origin.clone(),
            None => Origin::Text(vec!["stages".into(), name.into(), parameter.into()]),
        };
        let values = settings.iter().map(|(key, (value, _))| (Value::from(key.as_str()), value.clone()));
        let (mut values, mut wrong): (Mapping, _) = (values.collect(), Vec::new());
        let stage = loop {
            let error = match (kind.parse)(Value::Mapping(values.clone())) {
                Ok(stage) => break stage,
                Err(error) => error,
            };
            let path = error.path().to_string();
            let parts: Vec<&str> = path.split('.').collect();
            let origin = match origin_of(parts[0]) {
                Origin::Text(start) => {
                    Origin::Text(start.into_iter().chain(parts[1..].iter().map(|part| part.to_string())).collect())
                }
                set => set,
            };
            let message = error.into_inner().to_string();
            let error = self.error_at(format!("parameter `{path}` of `{name}`: {message}"), &origin, Side::Value);
            // Without this one, the others can be judged.
            if values.remove(parts[0]).is_none() {
                return Err(error);
            }
            wrong.push(error);
        };
        ManifestError::tell(wrong)?;
        stage.check().map_err(|invalid| {
            let message = format!("parameter `{}` of `{name}` {}", invalid.parameter, invalid.message);
            self.error_at(message, &origin_of(invalid.parameter), Side::Value)
        })?;
        Ok(stage)
    }

    /// Sorts so that needs come first, otherwise as written.
    fn ordered(&self, instances: Vec<Instance>, needs_at: &[Origin]) -> Checked<Vec<Instance>> {
        let mut order: Vec<usize> = Vec::new();
        let mut left: Vec<usize> = instances.iter().map(|instance| instance.needs.len()).collect();
        let mut needed_by = vec![Vec::new(); instances.len()];
        for (place, instance) in instances.iter().enumerate() {
            instance.needs.iter().for_each(|need| needed_by[*need].push(place));
        }
        let mut ready: BinaryHeap<Reverse<usize>> =
            (0..left.len()).filter(|place| left[*place] == 0).map(Reverse).collect();
        while let Some(Reverse(place)) = ready.pop() {
            order.push(place);
            for next in &needed_by[place] {
                left[*next] -= 1;
                if left[*next] == 0 {
                    ready.push(Reverse(*next));
                }
            }
        }
        if order.len() < instances.len() {
            return Err(self.cycle(&instances, &order, needs_at));
        }
        let mut slots: Vec<Option<Instance>> = instances.into_iter().map(Some).collect();
        let mut places = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, old)| places[*old] = new);
        let place_of = |old: usize| places[old];
        let sorted = order.iter().filter_map(|old| slots[*old].take());
        Ok(sorted
            .map(|mut instance| {
                instance.needs.iter_mut().for_each(|need| *need = place_of(*need));
                instance
            })
            .collect())
    }

    fn cycle(&self, instances: &[Instance], done: &[usize], needs_at: &[Origin]) -> ManifestError {
        let done: HashSet<usize> = done.iter().copied().collect();
        let blocked = |place: &usize| !done.contains(place);
        let mut walk: Vec<usize> = (0..instances.len()).find(blocked).into_iter().collect();
        while let Some(next) = walk.last().and_then(|last| instances[*last].needs.iter().copied().find(blocked)) {
            if let Some(start) = walk.iter().position(|seen| *seen == next) {
                walk.drain(..start);
                walk.push(next);
                break;
            }
            walk.push(next);
        }
        let names: Vec<&str> = walk.iter().map(|place| instances[*place].name.as_str()).collect();
        self.error_at(format!("`needs` go round in a circle: {}", names.join(" → ")), &needs_at[walk[0]], Side::Value)
    }
}
