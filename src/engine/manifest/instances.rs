//! Makes instances from settings, and checks every name and value.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use serde_yaml::{Mapping, Value};

use super::draft::{Draft, Origin};
use super::parameters::null_in;
use super::position::Side;
use super::reader::{Checked, Reader};
use super::{Instance, InstanceId, ManifestError, PerInstance, did_you_mean};
use crate::base::files;
use crate::engine::stage::{AnyStage, Kind};

/// The normalised path of `out`. `None` if it cannot be an output directory.
fn folder_of_results(out: &str) -> Option<PathBuf> {
    let path: PathBuf =
        files::expanded(Path::new(out)).components().filter(|part| *part != Component::CurDir).collect();
    let cache = Path::new("artifacts/.cache");
    let climbs = path.components().any(|part| part == Component::ParentDir);
    (!climbs && path.file_name().is_some() && !path.starts_with(cache) && !cache.starts_with(&path)).then_some(path)
}

impl Reader<'_> {
    pub(super) fn instances(&self, drafts: Vec<Draft>, seed: u64) -> Checked<PerInstance<Instance>> {
        let names: PerInstance<String> = drafts.iter().map(|draft| draft.name.clone()).collect();
        let ids: HashMap<&str, InstanceId> = names.enumerate().map(|(id, name)| (name.as_str(), id)).collect();
        let (mut instances, mut needs_at, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        for draft in drafts {
            match self.instance(draft, seed, &names, &ids) {
                Ok((instance, at)) => {
                    instances.push(instance);
                    needs_at.push(at);
                }
                Err(error) => wrong.push(error),
            }
        }
        ManifestError::tell(wrong)?;
        let instances: PerInstance<Instance> = instances.into_iter().collect();
        let needs_at: PerInstance<Origin> = needs_at.into_iter().collect();
        for (id, instance) in instances.enumerate() {
            self.check_provided(instance, &instances, &needs_at[id])?;
        }
        self.check_folders(&instances)?;
        self.ordered(instances, &needs_at)
    }

    /// Makes the instance of a draft. Also returns where its `needs` are written.
    fn instance(
        &self,
        mut draft: Draft,
        seed: u64,
        names: &PerInstance<String>,
        ids: &HashMap<&str, InstanceId>,
    ) -> Checked<(Instance, Origin)> {
        let kind = self.kind(&mut draft)?;
        let (needs, at) = self.needs(&mut draft, names, ids)?;
        let out = match draft.settings.remove("out") {
            None => PathBuf::from("artifacts").join(&draft.name),
            Some((value, origin)) => value.as_str().and_then(folder_of_results).ok_or_else(|| {
                let message = "`out` must be a folder below the project, or an absolute path, without `..`";
                self.error_at(message, &origin, Side::Value)
            })?,
        };
        let seed = match draft.settings.remove("seed") {
            None => seed,
            Some((_, origin)) if !kind.draws => {
                let message = format!("stage `{}` draws no random numbers, so it has no seed", kind.name);
                return Err(self.error_at(message, &origin, Side::Key));
            }
            Some((value, origin)) => self.seed(&value, &origin)?,
        };
        let stage = self.stage(kind, draft.settings, &draft.name)?;
        Ok((Instance { name: draft.name, stage, seed, needs, out }, at))
    }

    /// Fails if two instances have the same output directory, or one is inside the other.
    fn check_folders(&self, instances: &PerInstance<Instance>) -> Checked<()> {
        let mut first: HashMap<&Path, InstanceId> = HashMap::new();
        let mut clashes = Vec::new();
        for (id, instance) in instances.enumerate() {
            match first.get(&*instance.out) {
                Some(other) => clashes.push((id, *other)),
                None => drop(first.insert(&instance.out, id)),
            }
        }
        for (id, instance) in instances.enumerate() {
            let above = instance.out.ancestors().skip(1).filter_map(|above| first.get(above));
            clashes.extend(above.map(|other| (id.max(*other), id.min(*other))));
        }
        let Some((id, other)) = clashes.into_iter().min() else { return Ok(()) };
        let Instance { name, out, .. } = &instances[id];
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
        names: &PerInstance<String>,
        ids: &HashMap<&str, InstanceId>,
    ) -> Checked<(Vec<InstanceId>, Origin)> {
        let nowhere = Origin::Text(vec!["stages".into(), draft.name.clone(), "needs".into()]);
        let (value, origin) = draft.settings.remove("needs").unwrap_or((Value::Sequence(Vec::new()), nowhere));
        let Some(list) = value.as_sequence() else {
            return Err(self.error_at("`needs` must be a list of instances, such as [prepare]", &origin, Side::Value));
        };
        let (mut needs, mut seen) = (Vec::new(), HashSet::new());
        for (index, need) in list.iter().enumerate() {
            let origin = match &origin {
                Origin::Text(path) => Origin::Text(path.iter().cloned().chain([index.to_string()]).collect()),
                set => set.clone(),
            };
            let Some(name) = need.as_str() else {
                let shown = serde_yaml::to_string(need).unwrap_or_default();
                let shown = shown.trim_end();
                let error = self.error_at(format!("`{shown}` must be text here"), &origin, Side::Value);
                return Err(error.help(Some(format!("write the name in quotes: '{shown}'"))));
            };
            let Some(found) = ids.get(name).copied() else {
                let error = self.error_at(
                    format!("`{}` needs `{name}`, which is not in `stages`", draft.name),
                    &origin,
                    Side::Value,
                );
                return Err(error.help(did_you_mean(name, names.iter().map(String::as_str))));
            };
            if !seen.insert(found) {
                return Err(self.error_at(format!("`{}` needs `{name}` twice", draft.name), &origin, Side::Value));
            }
            needs.push(found);
        }
        Ok((needs, origin))
    }

    fn check_provided(&self, instance: &Instance, all: &PerInstance<Instance>, at: &Origin) -> Checked<()> {
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
            let message = format!("parameter `{}` of `{name}` is null or has no value", path.join("."));
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
            // Remove the wrong parameter and try again, to find further errors.
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
}
