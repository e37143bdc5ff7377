//! Reading the manifest: profile and overrides laid over it, every name and value checked, each fault with its place.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_yaml::Value;

use super::draft::{Draft, Origin};
use super::position::{Positions, Side};
use super::{Instance, Manifest, ManifestError, Place, did_you_mean};
use crate::stage::{AnyStage, Kind};

/// `out` in the one way of writing it; `None` where results have no business.
fn folder_of_results(out: &str) -> Option<PathBuf> {
    let path: PathBuf = Path::new(out).components().filter(|part| *part != Component::CurDir).collect();
    let cache = Path::new("artifacts/.cache");
    let climbs = path.components().any(|part| part == Component::ParentDir);
    (!climbs && path.file_name().is_some() && !path.starts_with(cache) && !cache.starts_with(&path)).then_some(path)
}

struct Reader<'a> {
    positions: Positions<'a>,
    kinds: &'static [Kind],
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
    let reader = Reader { positions: Positions::of(source, text), kinds };
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
    for set in sets {
        reader.overlay_set(set, &mut drafts, &mut seed)?;
    }
    let instances = reader.instances(drafts, seed)?;
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
                Some(Place { source: "--set".into(), line: 0, column, length, text: text.clone() })
            }
        };
        ManifestError::new(message, place)
    }

    fn yaml(&self, text: &str) -> Checked<Value> {
        let read = serde_yaml::from_str::<Value>(text).and_then(|mut value| {
            // `<<` of what has a `<<` itself takes another round.
            loop {
                let before = value.clone();
                value.apply_merge()?;
                if value == before {
                    return Ok(value);
                }
            }
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
        let entry = |(key, value): (&Value, &Value)| Some((key.as_str()?.to_owned(), value.clone()));
        mapping.iter().map(entry).collect::<Option<_>>().ok_or_else(wrong)
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
            if name.is_empty() || name == "all" || !name.chars().all(plain) {
                let message = format!("`{name}` is no name for an instance: letters, digits, - and _, and not `all`");
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
        let known: Vec<String> = drafts.iter().map(|draft| draft.name.clone()).collect();
        drafts.iter_mut().find(|draft| draft.name == name).ok_or_else(|| {
            let error = self.error_at(format!("there is no stage instance `{name}`"), origin, Side::Key);
            error.help(did_you_mean(name, known.iter().map(String::as_str)))
        })
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
        let origin = Origin::Set { text: set.to_owned(), key: key.chars().count() };
        let value: Value = serde_yaml::from_str(value)
            .map_err(|_| self.error_at("the value is not valid YAML", &origin, Side::Value))?;
        if key == "seed" {
            *seed = self.seed(&value, &origin)?;
            return Ok(());
        }
        let Some((name, parameter)) = key.split_once('.') else {
            let error = self.error_at(format!("`{key}` names no parameter"), &origin, Side::Key);
            return Err(error.help(Some("write INSTANCE.PARAMETER=VALUE, such as train.epochs=5".into())));
        };
        let draft = self.draft(drafts, name, &origin)?;
        let mut parts = parameter.split('.');
        let first = parts.next().unwrap_or_default();
        // prepare.sharpen.amount=2 → sharpen: {amount: 2}
        let nested =
            parts.rev().fold(value, |value, key| Value::Mapping([(Value::from(key), value)].into_iter().collect()));
        draft.overlay(first.to_owned(), nested, origin);
        Ok(())
    }

    fn instances(&self, drafts: Vec<Draft>, seed: u64) -> Checked<Vec<Instance>> {
        let names: Vec<String> = drafts.iter().map(|draft| draft.name.clone()).collect();
        let mut instances = Vec::new();
        let mut needs_at = Vec::new();
        for mut draft in drafts {
            let kind = self.kind(&mut draft)?;
            let (needs, at) = self.needs(&mut draft, &names)?;
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
            instances.push(Instance { name: draft.name, stage, seed, needs, out });
            needs_at.push(at);
        }
        for (place, instance) in instances.iter().enumerate() {
            self.check_provided(instance, &instances, &needs_at[place])?;
            let within =
                |other: &&Instance| other.out.starts_with(&instance.out) || instance.out.starts_with(&other.out);
            if let Some(other) = instances[..place].iter().find(within) {
                let (name, out) = (&instance.name, instance.out.display());
                let message = format!("`{}` and `{name}` would both write to {out}", other.name);
                return Err(self.error(message, &["stages", &instance.name, "out"], Side::Value));
            }
        }
        self.ordered(instances, &needs_at)
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

    fn needs(&self, draft: &mut Draft, names: &[String]) -> Checked<(Vec<usize>, Origin)> {
        let nowhere = Origin::Text(vec!["stages".into(), draft.name.clone(), "needs".into()]);
        let (value, origin) = draft.settings.remove("needs").unwrap_or((Value::Sequence(Vec::new()), nowhere));
        let Some(list) = value.as_sequence() else {
            return Err(self.error_at("`needs` must be a list of instances, such as [prepare]", &origin, Side::Value));
        };
        let mut needs = Vec::new();
        for (index, need) in list.iter().enumerate() {
            let place = match &origin {
                Origin::Text(path) => Origin::Text(path.iter().cloned().chain([index.to_string()]).collect()),
                set => set.clone(),
            };
            let name = need.as_str().unwrap_or_default();
            let Some(found) = names.iter().position(|candidate| candidate == name) else {
                let error = self.error_at(
                    format!("`{}` needs `{name}`, which is not in `stages`", draft.name),
                    &place,
                    Side::Value,
                );
                return Err(error.help(did_you_mean(name, names.iter().map(String::as_str))));
            };
            if needs.contains(&found) {
                return Err(self.error_at(format!("`{}` needs `{name}` twice", draft.name), &place, Side::Value));
            }
            needs.push(found);
        }
        Ok((needs, origin))
    }

    fn check_provided(&self, instance: &Instance, all: &[Instance], at: &Origin) -> Checked<()> {
        let kind = instance.stage.kind();
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
        let fallback = |error: anyhow::Error| ManifestError::new(error.to_string(), None);
        let defaults = (kind.defaults)().map_err(fallback)?;
        let schema = (kind.schema)().to_value();
        let mut known: Vec<&str> =
            defaults.as_mapping().into_iter().flatten().filter_map(|(key, _)| key.as_str()).collect();
        // Those that stand in a key only where they are given.
        let all = schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        known.extend(all.filter(|key| defaults.get(key).is_none()));
        if let Some((key, (_, origin))) = settings.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            let error = self.error_at(format!("stage `{}` has no parameter `{key}`", kind.name), origin, Side::Key);
            return Err(error.help(did_you_mean(key, known)));
        }
        let values = settings.iter().map(|(key, (value, _))| (Value::from(key.as_str()), value.clone()));
        let origin_of = |parameter: &str| match settings.get(parameter) {
            Some((_, origin)) => origin.clone(),
            None => Origin::Text(vec!["stages".into(), name.into(), parameter.into()]),
        };
        let stage = (kind.parse)(Value::Mapping(values.collect())).map_err(|error| {
            let path = error.path().to_string();
            let parts: Vec<&str> = path.split('.').collect();
            let origin = match origin_of(parts[0]) {
                Origin::Text(start) => {
                    Origin::Text(start.into_iter().chain(parts[1..].iter().map(|part| part.to_string())).collect())
                }
                set => set,
            };
            let message = error.into_inner().to_string();
            self.error_at(format!("parameter `{path}` of `{name}`: {message}"), &origin, Side::Value)
        })?;
        stage.check().map_err(|invalid| {
            let message = format!("parameter `{}` of `{name}` {}", invalid.parameter, invalid.message);
            self.error_at(message, &origin_of(invalid.parameter), Side::Value)
        })?;
        Ok(stage)
    }

    /// Sorts so that needs come first, otherwise as written.
    fn ordered(&self, instances: Vec<Instance>, needs_at: &[Origin]) -> Checked<Vec<Instance>> {
        let mut order: Vec<usize> = Vec::new();
        while order.len() < instances.len() {
            let ready = |place: &usize| {
                !order.contains(place) && instances[*place].needs.iter().all(|need| order.contains(need))
            };
            match (0..instances.len()).find(ready) {
                Some(place) => order.push(place),
                None => return Err(self.cycle(&instances, &order, needs_at)),
            }
        }
        let mut slots: Vec<Option<Instance>> = instances.into_iter().map(Some).collect();
        let place_of = |old: usize| order.iter().position(|place| *place == old).unwrap_or_default();
        let sorted = order.iter().filter_map(|old| slots[*old].take());
        Ok(sorted
            .map(|mut instance| {
                instance.needs.iter_mut().for_each(|need| *need = place_of(*need));
                instance
            })
            .collect())
    }

    fn cycle(&self, instances: &[Instance], done: &[usize], needs_at: &[Origin]) -> ManifestError {
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
