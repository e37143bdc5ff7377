//! The reasons why an instance runs again or is not fresh, and their texts.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::contents::Changes;
use crate::base::text::legible_name;

/// How many names of a longer list are shown.
const SHOWN: usize = 3;

#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    FirstRun,
    /// The last result is no longer in the store.
    Gone,
    Forced,
    /// The lock file has another result, or none.
    NotLocked,
    /// A result for the new key is in the store.
    StoredFits,
    Stage {
        from: String,
        to: String,
    },
    Version {
        from: u32,
        to: u32,
    },
    /// `None` if the stage draws nothing.
    Seed {
        from: Option<u64>,
        to: Option<u64>,
    },
    Parameter {
        path: String,
        from: Value,
        to: Value,
    },
    InputAdded(String),
    InputRemoved(String),
    /// `files` is `None` if the files of the earlier input are not known.
    InputChanged {
        name: String,
        files: Option<Changes>,
    },
    /// The named instance must run first.
    NotFresh(String),
    MadeAgain(String),
    CheckedOut(FileIssue, Vec<String>),
    /// Files in the output directory that were wrong and were corrected.
    Repaired(FileIssue, Vec<String>),
    /// Files that are missing or damaged in the store.
    Stored(FileIssue, Vec<String>),
    /// The new paths of the user's files that were moved away.
    KeptAside(Vec<String>),
    Unreadable(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileIssue {
    Missing,
    #[serde(rename = "altered")]
    Modified,
    /// Not part of the result.
    #[serde(rename = "stray")]
    Untracked,
}

impl FileIssue {
    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Modified => "modified",
            Self::Untracked => "not part of this result",
        }
    }
}

impl Reason {
    pub fn all(reasons: &[Self]) -> String {
        reasons.iter().map(Self::to_string).collect::<Vec<_>>().join("; ")
    }

    /// The list of a result's files is missing or damaged.
    pub fn lost_list() -> Self {
        Self::Stored(FileIssue::Missing, vec!["the list of its files".to_owned()])
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::FirstRun => "first-run",
            Self::Gone => "gone",
            Self::Forced => "forced",
            Self::NotLocked => "not-locked",
            Self::StoredFits => "stored-fits",
            Self::Stage { .. } => "stage",
            Self::Version { .. } => "version",
            Self::Seed { .. } => "seed",
            Self::Parameter { .. } => "parameter",
            Self::InputAdded(_) => "input-added",
            Self::InputRemoved(_) => "input-removed",
            Self::InputChanged { .. } => "input-changed",
            Self::NotFresh(_) => "not-fresh",
            Self::MadeAgain(_) => "made-again",
            Self::CheckedOut(..) => "laid",
            Self::Repaired(..) => "mended",
            Self::Stored(..) => "stored",
            Self::KeptAside(_) => "kept-aside",
            Self::Unreadable(_) => "unreadable",
        }
    }

    fn facts(&self) -> Value {
        match self {
            Self::Stage { from, to } => json!({"from": from, "to": to}),
            Self::Version { from, to } => json!({"from": from, "to": to}),
            Self::Seed { from, to } => json!({"from": from, "to": to}),
            Self::Parameter { path, from, to } => json!({"path": path, "from": from, "to": to}),
            Self::InputAdded(name) | Self::InputRemoved(name) | Self::NotFresh(name) | Self::MadeAgain(name) => {
                json!({"name": name})
            }
            Self::InputChanged { name, files } => json!({"name": name, "files": files}),
            Self::CheckedOut(issue, files) | Self::Repaired(issue, files) | Self::Stored(issue, files) => {
                json!({"fault": issue, "files": files})
            }
            Self::KeptAside(files) => json!({"files": files}),
            _ => json!({}),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::FirstRun => f.write_str("first run"),
            Self::Gone => f.write_str("its last result is gone"),
            Self::Forced => f.write_str("forced"),
            Self::NotLocked => f.write_str("the stored result is not the locked one"),
            Self::StoredFits => f.write_str("a stored result fits"),
            Self::Stage { from, to } => write!(f, "stage: {from} → {to}"),
            Self::Version { from, to } => write!(f, "code version: {from} → {to}"),
            Self::Seed { from: Some(from), to: Some(to) } => write!(f, "seed: {from} → {to}"),
            Self::Seed { to: Some(to), .. } => write!(f, "now with seed {to}"),
            Self::Seed { .. } => f.write_str("seed no longer used"),
            Self::Parameter { path, from, to } => write!(f, "parameter {path}: {} → {}", shown(from), shown(to)),
            Self::InputAdded(name) => write!(f, "new input {name}"),
            Self::InputRemoved(name) => write!(f, "input {name} removed"),
            Self::InputChanged { name, files: None } => write!(f, "content of {name} changed"),
            Self::InputChanged { name, files: Some(files) } => {
                let kinds = [("changed", &files.changed), ("added", &files.added), ("removed", &files.removed)];
                let kinds = kinds.iter().filter(|(_, paths)| !paths.is_empty());
                let kinds: Vec<String> = kinds.map(|(what, paths)| format!("{} {what}", names(paths))).collect();
                write!(f, "content of {name}: {}", kinds.join(", "))
            }
            Self::NotFresh(name) => write!(f, "{name} is not fresh"),
            Self::MadeAgain(name) => write!(f, "{name} is made again"),
            Self::CheckedOut(issue, files) => write!(f, "{} {}", names(files), issue.name()),
            Self::Repaired(FileIssue::Untracked, files) => {
                write!(f, "{} not part of this result, moved away", names(files))
            }
            Self::Repaired(issue, files) => write!(f, "{} {}, put back", names(files), issue.name()),
            Self::Stored(issue, files) => write!(f, "in the store {} {}", names(files), issue.name()),
            Self::KeptAside(files) => write!(f, "kept aside: {}", names(files)),
            Self::Unreadable(why) => f.write_str(why),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = self.facts();
        row["kind"] = self.kind().into();
        row["text"] = self.to_string().into();
        row.serialize(serializer)
    }
}

/// `1 file (a.png)`, `12 files (a.png, b.png, c.png, …)`
fn names(paths: &[String]) -> String {
    let first: Vec<String> = paths.iter().take(SHOWN).map(|path| legible_name(path)).collect();
    let more = if paths.len() > SHOWN { ", …" } else { "" };
    let files = if paths.len() == 1 { "file" } else { "files" };
    format!("{} {files} ({}{more})", paths.len(), first.join(", "))
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "unset".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_counted_and_the_first_shown() {
        let paths = |count: usize| (0..count).map(|i| format!("{i}.png")).collect::<Vec<_>>();
        assert_eq!(Reason::CheckedOut(FileIssue::Missing, paths(1)).to_string(), "1 file (0.png) missing");
        let files = Some(Changes { changed: paths(4), removed: paths(2), ..Changes::default() });
        assert_eq!(
            Reason::InputChanged { name: "prepare".into(), files }.to_string(),
            "content of prepare: 4 files (0.png, 1.png, 2.png, …) changed, 2 files (0.png, 1.png) removed"
        );
    }

    #[test]
    fn for_programs_each_has_its_kind_and_facts() {
        let row = serde_json::to_value(Reason::Seed { from: Some(1), to: Some(2) }).unwrap();
        assert_eq!(row, json!({"kind": "seed", "from": 1, "to": 2, "text": "seed: 1 → 2"}));
    }
}
