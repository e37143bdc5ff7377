//! `similiai config`

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::{ManifestOptions, Session};
use crate::base::files;
use crate::engine::manifest::{Instance, Manifest};

#[derive(clap::Args)]
#[command(after_help = "\
What it prints is a manifest. Without options, it shows the manifest as it was last run.

Examples:
  similiai config                       all parameters of all instances
  similiai config train                 those of one instance
  similiai config --profile quick --set train.epochs=5")]
pub struct Arguments {
    /// Show only these instances
    #[arg(value_name = "INSTANCE")]
    instances: Vec<String>,
    #[command(flatten)]
    manifest: ManifestOptions,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let manifest = session.project_or_last(&arguments.manifest)?.manifest;
    manifest.must_have(arguments.instances.iter().map(String::as_str))?;
    let origins = Origins::new(session, &manifest)?;
    let shown = |instance: &&Instance| arguments.instances.is_empty() || arguments.instances.contains(&instance.name);
    let instances: Vec<&Instance> = manifest.instances.iter().filter(shown).collect();
    let seed = origins.of("", "seed");
    if arguments.json {
        let mut stages = Map::new();
        for instance in instances {
            let leaves = settings(instance, &manifest)?;
            let row = |(path, value): (String, Value)| {
                let from = origins.of(&instance.name, &path);
                (path, json!({"value": value, "from": from}))
            };
            stages.insert(instance.name.clone(), leaves.into_iter().map(row).collect::<Map<_, _>>().into());
        }
        return session.print_json(&json!({"seed": {"value": manifest.seed, "from": seed}, "stages": stages}));
    }
    let mut lines = vec![("version: 1".to_owned(), None), (format!("seed: {}", manifest.seed), Some(seed))];
    lines.push(("stages:".to_owned(), None));
    for instance in instances {
        lines.push((format!("  {}:", instance.name), None));
        let mut open: Vec<String> = Vec::new();
        for (path, value) in settings(instance, &manifest)? {
            let names: Vec<&str> = path.split('.').collect();
            let (last, above) = names.split_last().context("a parameter has no name")?;
            let shared = open.iter().zip(above).take_while(|(open, name)| open == *name).count();
            for (depth, name) in above.iter().enumerate().skip(shared) {
                lines.push((format!("{:1$}{name}:", "", 4 + 2 * depth), None));
            }
            open = above.iter().map(|name| (*name).to_owned()).collect();
            let line = format!("{:1$}{last}: {2}", "", 4 + 2 * above.len(), scalar(&value)?);
            lines.push((line, Some(origins.of(&instance.name, &path))));
        }
    }
    let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|width| *width < 60).max().unwrap_or(0);
    for (line, from) in lines {
        let from = from.map(|from| format!("{:1$}  # {from}", "", width.saturating_sub(line.chars().count())));
        session.screen.print(&format!("{line}{}", from.unwrap_or_default()));
    }
    Ok(())
}

/// All settings of an instance by path, such as `sharpen.amount`. Settings that stand together have the same start.
fn settings(instance: &Instance, manifest: &Manifest) -> Result<Vec<(String, Value)>> {
    let kind = instance.stage.kind();
    let needs: Vec<&str> = instance.needs.iter().map(|need| manifest.instances[*need].name.as_str()).collect();
    let mut all = vec![("uses".to_owned(), json!(kind.name)), ("needs".to_owned(), json!(needs))];
    all.push(("out".to_owned(), json!(instance.out)));
    if kind.draws && instance.seed != manifest.seed {
        all.push(("seed".to_owned(), json!(instance.seed)));
    }
    leaves("", &instance.stage.parameters()?, &mut all);
    Ok(all)
}

fn leaves(path: &str, value: &Value, to: &mut Vec<(String, Value)>) {
    match value.as_object().filter(|fields| !fields.is_empty()) {
        None => to.push((path.to_owned(), value.clone())),
        Some(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(&path, value, to);
            }
        }
    }
}

/// A value on one line of YAML.
fn scalar(value: &Value) -> Result<String> {
    match value {
        Value::String(text) if !text.contains('\n') => Ok(serde_yaml::to_string(text)?.trim_end().to_owned()),
        // JSON is YAML.
        other => Ok(other.to_string()),
    }
}

/// Where settings are written: layers of values, the last first.
struct Origins(Vec<(String, serde_yaml::Value)>);

impl Origins {
    fn new(session: &Session, manifest: &Manifest) -> Result<Self> {
        let mut text: serde_yaml::Value = serde_yaml::from_str(&files::read_to_string(&session.manifest)?)?;
        text.apply_merge()?;
        let mut layers = Vec::new();
        for set in manifest.variation.sets.iter().rev() {
            let path = set.split('=').next().unwrap_or_default();
            let nested = path.rsplit('.').fold(serde_yaml::Value::Null, |value, key| {
                serde_yaml::Value::Mapping([(key.into(), value)].into_iter().collect())
            });
            layers.push(("--set".to_owned(), nested));
        }
        let names: Vec<&String> = manifest.variation.profiles().collect();
        for name in names.into_iter().rev() {
            layers.push((format!("profile {name}"), text["profiles"][name.as_str()].clone()));
        }
        let mut stages = text["stages"].clone();
        if let (Some(stages), Some(seed)) = (stages.as_mapping_mut(), text.get("seed")) {
            stages.insert("seed".into(), seed.clone());
        }
        layers.push(("manifest".to_owned(), stages));
        Ok(Self(layers))
    }

    /// Where the setting at `path` of an instance comes from. Without an instance, it is one of the whole manifest.
    fn of(&self, instance: &str, path: &str) -> String {
        let names: Vec<&str> = [instance].into_iter().filter(|name| !name.is_empty()).chain(path.split('.')).collect();
        let holds = |layer: &serde_yaml::Value| {
            let mut value = layer;
            names.iter().enumerate().all(|(depth, name)| match value.get(*name) {
                Some(inner) => {
                    value = inner;
                    true
                }
                // A value that is not a mapping replaced everything below it.
                None => depth > 1 && !value.is_mapping(),
            })
        };
        let found = self.0.iter().find(|(_, layer)| holds(layer));
        found.map_or_else(|| "default".to_owned(), |(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_last_layer_with_a_setting_is_its_origin() {
        let yaml = |text: &str| serde_yaml::from_str(text).unwrap();
        let origins = Origins(vec![
            ("--set".to_owned(), yaml("train: {augment: {flip: null}}")),
            ("profile own".to_owned(), yaml("{train: {epochs: 5}, seed: 3}")),
            ("manifest".to_owned(), yaml("{train: {epochs: 9, augment: {shift: 2}}, seed: 42}")),
        ]);
        let from = |path| origins.of("train", path);
        assert_eq!([from("augment.flip"), from("epochs"), from("augment.shift")], ["--set", "profile own", "manifest"]);
        assert_eq!(
            [from("margin"), from("augment.jitter"), origins.of("", "seed")],
            ["default", "default", "profile own"]
        );
    }

    #[test]
    fn leaves_have_their_paths() {
        let mut all = Vec::new();
        leaves("", &json!({"a": {"b": 1, "c": []}, "d": {}}), &mut all);
        let all: BTreeMap<String, Value> = all.into_iter().collect();
        assert_eq!(
            all,
            [("a.b".to_owned(), json!(1)), ("a.c".to_owned(), json!([])), ("d".to_owned(), json!({}))].into()
        );
    }
}
