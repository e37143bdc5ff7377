//! The images to prepare: records of a binary archive, or picture files in one folder for each class.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use image::RgbImage;
use serde::Serialize;
use similiai::base::files;
use similiai::damaged;
use similiai::engine::stage::Input;
use similiai::learning::dataset::{self, Subset, is_list};
use similiai::learning::images::{Layout, Preparation, Record, Wanted, decode_for};

/// Which pictures of each class to prepare.
#[derive(Clone, Copy, Serialize)]
pub struct Selection {
    /// Number of pictures to skip first.
    pub skip: usize,
    /// Number of pictures to prepare after these; `None`: all.
    pub per_class: Option<usize>,
}

/// An image before it is prepared.
pub struct Original {
    pub label: u8,
    /// Position within its class.
    pub place: usize,
    pub part: Subset,
    pixels: Pixels,
}

enum Pixels {
    Record(Record),
    File { path: PathBuf, name: String, digest: blake3::Hash },
}

pub struct Originals {
    pub originals: Vec<Original>,
    /// The name of each label.
    pub classes: Vec<String>,
}

impl Original {
    pub fn digest(&self) -> blake3::Hash {
        match &self.pixels {
            Pixels::Record(record) => blake3::hash(&record.planes),
            Pixels::File { digest, .. } => *digest,
        }
    }

    /// The picture, prepared for a network.
    pub fn prepared(&self, preparation: &Preparation) -> Result<RgbImage> {
        let wanted = Wanted { preparation: Some(preparation.clone()), ..Wanted::default() };
        match &self.pixels {
            Pixels::Record(record) => Ok(preparation.apply(&record.image())),
            // The error does not name the file: the result is kept by the content, and may be used for another file.
            Pixels::File { path, .. } => {
                decode_for(&files::read(path)?, "it", &wanted)?.prepared.context("it was not prepared")
            }
        }
    }

    /// Path of its file in the result of `fetch`; empty if it has no file of its own.
    pub fn name(&self) -> &str {
        match &self.pixels {
            Pixels::Record(_) => "",
            Pixels::File { name, .. } => name,
        }
    }
}

pub fn load(fetched: &Input, selection: Selection) -> Result<Originals> {
    let mut originals = Vec::new();
    let classes = match Layout::of(&fetched.folder) {
        Some(layout) => records(layout, fetched, selection, |record, place| {
            let (label, part) = (record.label, if record.official_test { Subset::Test } else { Subset::Train });
            originals.push(Original { label, place, part, pixels: Pixels::Record(record) });
        })?,
        None => {
            let classes = folders(fetched, selection)?;
            for (label, pictures) in classes.values().enumerate() {
                for (place, name, part) in pictures {
                    let (path, name, digest) =
                        (fetched.folder.join(name), (*name).to_owned(), fetched.contents.digest_of(name)?);
                    let (label, pixels) = (u8::try_from(label)?, Pixels::File { path, name, digest });
                    originals.push(Original { label, place: *place, part: *part, pixels });
                }
            }
            classes.into_keys().map(str::to_owned).collect()
        }
    };
    Ok(Originals { originals, classes })
}

/// Digest of everything that [`load`] returns.
pub fn digest(fetched: &Input, selection: Selection) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    match Layout::of(&fetched.folder) {
        Some(layout) => {
            let names = records(layout, fetched, selection, |record, _| {
                hasher.update(&[record.label, u8::from(record.official_test)]).update(&record.planes);
            })?;
            hasher.update(names.join("\n").as_bytes());
        }
        None => {
            for (place, name, _) in folders(fetched, selection)?.values().flatten() {
                hasher.update(format!("{name}\0{place}\0{}\n", fetched.contents.digest_of(name)?).as_bytes());
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn records(
    layout: &Layout,
    fetched: &Input,
    selection: Selection,
    mut visit: impl FnMut(Record, usize),
) -> Result<Vec<String>> {
    let mut counts = vec![0; layout.classes];
    let Selection { skip, per_class } = selection;
    let names = layout.select(&fetched.folder, (skip, per_class), |record, place| {
        counts[usize::from(record.label)] = place + 1;
        visit(record, place);
        Ok(())
    })?;
    names.iter().zip(counts).try_for_each(|(name, count)| selection.suffices(name, count))?;
    Ok(names)
}

/// A picture: its position among those of its class, its path, and its part.
type Placed<'a> = (usize, &'a str, Subset);

/// The pictures of each class, by name: `<class>/<picture>` or `<part>/<class>/<picture>`.
fn folders(fetched: &Input, selection: Selection) -> Result<BTreeMap<&str, Vec<Placed<'_>>>> {
    let mut classes: BTreeMap<&str, Vec<Placed>> = BTreeMap::new();
    for file in fetched.contents.iter().filter(|file| !is_list(file.path)) {
        let (class, _) = file.path.rsplit_once('/').with_context(|| format!("{} is in no class", file.path))?;
        let (part, class) = match class.split_once('/') {
            Some((part, class)) => (dataset::part(part).unwrap_or(Subset::Train), class),
            None => (Subset::Train, class),
        };
        let pictures = classes.entry(class).or_default();
        pictures.push((pictures.len(), file.path, part));
    }
    dataset::check_class_count(classes.len())?;
    for (class, pictures) in &mut classes {
        selection.suffices(class, pictures.len())?;
        let end = selection.per_class.map_or(pictures.len(), |count| selection.skip + count);
        *pictures = pictures[selection.skip..end].to_vec();
    }
    Ok(classes)
}

impl Selection {
    /// Fails if the class has too few pictures. `count` is the number of pictures of the class, or of those read so
    /// far.
    fn suffices(&self, class: &str, count: usize) -> Result<()> {
        let needed = self.skip + self.per_class.unwrap_or(1);
        if count >= needed {
            return Ok(());
        }
        let help = match (self.per_class, self.skip) {
            (None, _) => "lower skip_per_class",
            (_, 0) => "lower images_per_class, or set it to null for all of them",
            _ => "lower images_per_class or skip_per_class",
        };
        Err(damaged!("there are {count} pictures of class `{class}`, fewer than the {needed} requested; {help}"))
    }
}
