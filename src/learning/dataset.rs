//! The CSV lists that name images, their classes and their subset of the split.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::files;
use crate::damaged;
use crate::learning::images::SkippedFiles;

/// CSV file that says for each image whether it is for training or for testing.
pub const SPLIT: &str = "split.csv";
/// CSV file that lists all prepared images, next to the folders of their classes.
pub const IMAGES: &str = "images.csv";
/// JSON file that says how the images were prepared.
pub const PREPARATION: &str = "preparation.json";
/// CSV file that says which picture file each image was made from, if the pictures had their own files.
pub const SOURCES: &str = "sources.csv";
/// CSV file that lists the skipped pictures, with the reasons.
pub const SKIPPED: &str = "skipped.csv";

/// Largest number of classes: labels are single bytes in the archives of CIFAR and in training.
pub const MOST_CLASSES: usize = 256;

/// Fails if there are more than 256 classes.
pub fn check_class_count(classes: usize) -> Result<()> {
    if classes > MOST_CLASSES {
        return Err(damaged!("there are {classes} classes, and at most {MOST_CLASSES} are supported"));
    }
    Ok(())
}

/// Whether a file next to the class folders has this name, so that no class may have it. Case is ignored, because some
/// systems do not distinguish it.
pub fn is_list(name: &str) -> bool {
    [IMAGES, PREPARATION, SOURCES, SKIPPED].iter().any(|list| list.eq_ignore_ascii_case(name))
}

/// A picture that was skipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    pub source: String,
    pub why: String,
}

/// The subset that a folder with this name holds, for example `train` or `test`.
pub fn part(folder: &str) -> Option<Subset> {
    match folder.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Subset::Train),
        "val" | "valid" | "validation" | "test" | "testing" => Some(Subset::Test),
        _ => None,
    }
}

/// The pictures in a folder with one folder a class.
#[derive(Default)]
pub struct Survey {
    /// Number of pictures of each class.
    pub classes: BTreeMap<String, usize>,
    /// Whether the folder says which pictures are for testing.
    pub has_parts: bool,
    pub skipped: SkippedFiles,
}

/// A row of `images.csv`. Rows are sorted by path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub path: String,
    pub label: i32,
    pub label_name: String,
    /// The subset that the source itself assigns.
    pub part: Subset,
}

/// A row of `split.csv`. Rows are sorted by path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Split {
    pub path: String,
    pub label: i32,
    pub label_name: String,
    pub split: Subset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subset {
    Train,
    Test,
}

impl Subset {
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

pub fn read<R: DeserializeOwned>(path: &Path) -> Result<Vec<R>> {
    let bytes = files::read(path)?;
    let rows = csv::Reader::from_reader(&bytes[..]).deserialize().collect::<Result<_, _>>();
    rows.map_err(|error| damaged!("{} is damaged: {error}", path.display()))
}

/// Writes rows as CSV, so that [`read`] can read them.
pub fn to_bytes<R: Serialize>(rows: &[R]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().try_for_each(|row| writer.serialize(row)).context("cannot write a list")?;
    writer.into_inner().context("cannot write a list")
}
