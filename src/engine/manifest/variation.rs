//! Profiles and single parameters that change a manifest for one command.

use serde::{Deserialize, Serialize};

use crate::base::text::{legible_name, shell_word};

/// Names the manifest without any profile, in `pipeline.lock` and for `--profile`.
pub const DEFAULT_PROFILE: &str = "default";

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variation {
    /// Each overrides those before it.
    pub profiles: Vec<String>,
    /// `INSTANCE.PARAMETER=VALUE`
    pub sets: Vec<String>,
}

impl Variation {
    /// The profiles to apply.
    pub fn profiles(&self) -> impl Iterator<Item = &String> {
        self.profiles.iter().filter(|name| *name != DEFAULT_PROFILE)
    }

    /// The name of its results in `pipeline.lock`.
    pub fn name(&self) -> String {
        let names: Vec<&str> = self.profiles().map(String::as_str).collect();
        if names.is_empty() { DEFAULT_PROFILE.to_owned() } else { names.join("+") }
    }

    pub fn is_empty(&self) -> bool {
        self.profiles().next().is_none() && self.sets.is_empty()
    }

    /// The options of a command line, each after a space.
    pub fn options(&self) -> String {
        let word = |text: &String| shell_word(legible_name(text));
        let profiles = self.profiles().map(|name| format!(" --profile {}", word(name)));
        profiles.chain(self.sets.iter().map(|set| format!(" --set {}", word(set)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_can_be_typed_again() {
        let variation = Variation {
            profiles: ["own", "default", "quick"].map(str::to_owned).into(),
            sets: ["fetch.source=my photos".to_owned(), "train.epochs=5".to_owned()].into(),
        };
        assert_eq!(
            variation.options(),
            " --profile own --profile quick --set 'fetch.source=my photos' --set train.epochs=5"
        );
        assert_eq!(variation.name(), "own+quick");
        assert_eq!((Variation::default().name(), Variation::default().options()), ("default".into(), String::new()));
    }
}
