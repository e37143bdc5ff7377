//! The CSV lists that name images, their classes and their subset of the split.

use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::files;
use crate::damaged;

/// Whether each image is for training or for testing.
pub const SPLIT: &str = "split.csv";
/// The list of all prepared images, beside the folders of their classes.
pub const IMAGES: &str = "images.csv";
/// How they were prepared.
pub const PREPARATION: &str = "preparation.json";
/// Where pictures had files of their own: which one each image was made of.
pub const SOURCES: &str = "sources.csv";
/// Pictures that were left out, with the reasons.
pub const SKIPPED: &str = "skipped.csv";

/// Labels are bytes in the archives of CIFAR, and in what is learned from.
const MOST_CLASSES: usize = 256;

/// Fails where there are more classes.
pub fn check_class_count(classes: usize) -> Result<()> {
    if classes > MOST_CLASSES {
        return Err(damaged!("there are {classes} classes, and at most {MOST_CLASSES} are supported"));
    }
    Ok(())
}

/// Whether no class may be called so, as a file beside the folders of the classes is; on some systems names that differ
/// only in case are the same.
pub fn is_list(name: &str) -> bool {
    [IMAGES, PREPARATION, SOURCES, SKIPPED].iter().any(|list| list.eq_ignore_ascii_case(name))
}

/// A picture that was left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    pub source: String,
    pub why: String,
}

/// The part of a collection that a folder of that name holds.
pub fn part(folder: &str) -> Option<Subset> {
    match folder.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Subset::Train),
        "val" | "valid" | "validation" | "test" | "testing" => Some(Subset::Test),
        _ => None,
    }
}

/// A row of the list of all images; sorted by path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub path: String,
    pub label: i32,
    pub label_name: String,
    /// The archive's own part.
    pub part: Subset,
}

/// A row of `split.csv`; sorted by path.
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

/// As [`read`] reads them.
pub fn to_bytes<R: Serialize>(rows: &[R]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().try_for_each(|row| writer.serialize(row)).context("cannot write a list")?;
    writer.into_inner().context("cannot write a list")
}
