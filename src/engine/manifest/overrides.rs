//! Reads the settings of instances, and applies a profile and `--set` to them.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::draft::{Draft, Origin};
use super::parameters::takes;
use super::position::Side;
use super::reader::{Checked, LONGEST_KEY, LONGEST_NAME, Reader, SHOWN};
use super::{ManifestError, did_you_mean};

impl Reader<'_> {
    pub(super) fn drafts(&self, stages: Option<&Value>) -> Checked<Vec<Draft>> {
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
                    "`{name}` is not a valid instance name: use at most {LONGEST_NAME} letters, digits, - and _; \
                     do not begin with -; `all` is reserved"
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
        let Some(at) = drafts.iter().position(|draft| draft.name == name) else {
            let error = self.error_at(format!("there is no stage instance `{name}`"), origin, Side::Key);
            return Err(error.help(did_you_mean(name, drafts.iter().map(|draft| draft.name.as_str()))));
        };
        Ok(&mut drafts[at])
    }

    pub(super) fn overlay_profile(
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
            let names = || profiles.keys().map(String::as_str);
            let known = match names().collect::<Vec<_>>().join(", ") {
                known if known.is_empty() => "the manifest has no profiles".to_owned(),
                known => format!("the profiles are {known}"),
            };
            return Err(error.help(did_you_mean(profile, names()).or(Some(known))));
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

    pub(super) fn overlay_set(&self, set: &str, drafts: &mut [Draft], seed: &mut u64) -> Checked<()> {
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
            let error = self.error_at(format!("`{key}` does not name a parameter"), &origin, Side::Key);
            return Err(error.help(Some("write INSTANCE.PARAMETER=VALUE, such as train.epochs=5".into())));
        };
        let draft = self.draft(drafts, name, &origin)?;
        let value = match self.takes_text(draft, parameter)? {
            // Text is taken as it stands. YAML would read some texts as other types.
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

    /// Parses the value of a `--set`. The whole text must be one YAML value.
    fn value(&self, text: &str, origin: &Origin) -> Checked<Value> {
        let wrong = |why: &str| self.error_at(why, origin, Side::Value);
        // The text is parsed inside of a list, twice: with `]` on a new line and with `]` right after it. If the text
        // has a comment, only the first form is valid. If it has a second value, the list has two elements or is not
        // valid.
        let parse = |end| serde_yaml::from_str::<Value>(&format!("[{text}{end}"));
        match parse("\n]").and_then(|list| parse("]").map(|_| list)) {
            Ok(Value::Sequence(mut list)) if list.len() < 2 => Ok(list.pop().unwrap_or_default()),
            Ok(_) => Err(wrong("this is more than one value; write a list as [a, b]")),
            Err(_) if text.contains('#') => Err(wrong("the value is not valid YAML: `#` begins a comment")),
            Err(_) => Err(wrong("the value is not valid YAML")),
        }
    }

    /// Whether a setting of an instance can be text, and whether it can be null.
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
}
