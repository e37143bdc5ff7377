//! Pictures of people in files and folders of their own: found, embedded, and remembered by their content.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};
use image::RgbImage;
use rayon::prelude::*;
use walkdir::WalkDir;

use crate::cache::{Made, Seen, Store, Table};
use crate::embeddings::{Embeddings, Row};
use crate::failure::Failure;
use crate::images::{decode, is_picture};
use crate::model::Model;
use crate::progress::Progress;
use crate::{files, interrupt};

/// Pictures decoded before they are embedded and remembered.
const BATCH: usize = 64;

/// A picture file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// As it was named, or below the folder that was named.
    pub path: String,
    /// Of the folder it lies in, where that lies in a folder that was named; empty otherwise.
    pub class: String,
}

/// Every picture named, and those below every folder named, each once, by path. What hides is passed over.
///
/// # Errors
/// If a name is that of nothing, or of a file that is no picture by its name.
pub fn find(sources: &[PathBuf]) -> Result<Vec<Found>> {
    let mut found = BTreeSet::new();
    for source in sources {
        if !source.exists() {
            return Err(Failure::Usage(format!("there is no file or folder {}", source.display())).into());
        }
        if source.is_file() {
            found.insert(Found { path: text(source)?, class: String::new() });
            continue;
        }
        let shown =
            |entry: &walkdir::DirEntry| entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".");
        for entry in WalkDir::new(source).into_iter().filter_entry(shown) {
            let entry = entry.with_context(|| format!("cannot list {}", source.display()))?;
            // A link to a picture is one too; a link to a folder might lead round in a circle.
            if !is_picture(entry.path()) || !entry.path().is_file() {
                continue;
            }
            let class = match entry.depth() {
                0 | 1 => None,
                _ => entry.path().parent().and_then(Path::file_name).and_then(|class| class.to_str()),
            };
            found.insert(Found { path: text(entry.path())?, class: class.unwrap_or_default().to_owned() });
        }
    }
    Ok(found.into_iter().collect())
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not valid Unicode", path.display()))?.to_owned())
}

/// Pictures with their embeddings.
pub struct Collection {
    /// By path.
    pub embeddings: Embeddings,
    /// Pictures that cannot be read, each with the reason.
    pub bad: Vec<String>,
    /// How many of the others had to be embedded now.
    pub made: usize,
}

/// Embeds pictures. What `memory` has, by content, is taken from there.
pub fn embed(found: Vec<Found>, model: &Model, memory: &mut Memory, progress: &Progress) -> Result<Collection> {
    let dimension = model.configuration.dimension;
    let bar = progress.bar("pictures", found.len() as u64);
    let digests: Vec<Result<String>> = found
        .par_iter()
        .map(|picture| {
            interrupt::check()?;
            memory
                .seen
                .digest(&Path::new(&picture.path).canonicalize().unwrap_or_else(|_| PathBuf::from(&picture.path)))
        })
        .collect();
    interrupt::check()?;
    let known = |digest: &Result<String>| digest.as_ref().ok().is_some_and(|digest| memory.get(digest).is_some());
    let missing: Vec<usize> = (0..found.len()).filter(|place| !known(&digests[*place])).collect();
    bar.resume((found.len() - missing.len()) as u64);
    let faults = Mutex::new(HashMap::new());
    let mut made = 0;
    for places in missing.chunks(BATCH) {
        interrupt::check()?;
        let picture = |place: &usize| -> Option<(usize, RgbImage)> {
            let path = &found[*place].path;
            let read = match &digests[*place] {
                Ok(_) => files::read(Path::new(path)).and_then(|bytes| Ok(model.prepare(&decode(&bytes, path)?))),
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
            };
            read.map(|image| (*place, image))
                .map_err(|error| {
                    let mut faults = faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    faults.insert(*place, format!("{error:#}"));
                })
                .ok()
        };
        let (places_read, images): (Vec<usize>, Vec<RgbImage>) =
            places.par_iter().filter_map(picture).collect::<Vec<_>>().into_iter().unzip();
        let rows = model.embed(images)?;
        for (place, row) in places_read.iter().zip(rows.chunks_exact(dimension)) {
            if let Ok(digest) = &digests[*place] {
                memory.insert(digest, row)?;
            }
        }
        made += places_read.len();
        bar.inc(places.len() as u64);
    }
    memory.save();
    let faults = faults.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut good, mut values) = (Vec::new(), Vec::new());
    for (place, picture) in found.iter().enumerate() {
        if let Some(row) = digests[place].as_ref().ok().and_then(|digest| memory.get(digest)) {
            good.push(picture);
            values.extend(row);
        }
    }
    let classes: BTreeSet<&str> = good.iter().map(|it| it.class.as_str()).filter(|class| !class.is_empty()).collect();
    let label = |class: &str| classes.iter().position(|other| *other == class).map_or(-1, |place| place as i32);
    let embeddings = Embeddings {
        dimension,
        paths: good.iter().map(|picture| picture.path.clone()).collect(),
        labels: good.iter().map(|picture| label(&picture.class)).collect(),
        label_names: good.iter().map(|picture| picture.class.clone()).collect(),
        splits: vec![String::new(); good.len()],
        values,
        facts: model.facts()?,
    };
    let bad = (0..found.len()).filter_map(|place| faults.get(&place).cloned()).collect();
    Ok(Collection { embeddings, bad, made })
}

impl Collection {
    /// What stands beside the embeddings.
    pub fn rows(&self) -> Vec<Row> {
        let all = &self.embeddings;
        let row = |id: usize| Row {
            path: all.paths[id].clone(),
            label: all.labels[id],
            label_name: all.label_names[id].clone(),
            split: all.splits[id].clone(),
        };
        (0..all.len()).map(row).collect()
    }
}

/// The embeddings that one model made of pictures, by the pictures' content.
pub struct Memory {
    seen: Seen,
    table: Table,
}

impl Memory {
    /// Beside what `store` has of the pipeline.
    pub fn open(store: &Store, model: &Model) -> Result<Self> {
        let folder = store.of_people();
        files::create_folder(&folder)?;
        Ok(Self { seen: Seen::new(&folder), table: Table::read(&folder, &model.digest) })
    }

    fn get(&self, picture: &str) -> Option<Vec<f32>> {
        let picture = blake3::Hash::from_hex(picture).ok()?;
        match self.table.get(picture.as_bytes())? {
            Made::Bytes(bytes) => Some(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()),
            Made::Blob { .. } => None,
        }
    }

    fn insert(&mut self, picture: &str, row: &[f32]) -> Result<()> {
        let bytes = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.table.insert(*blake3::Hash::from_hex(picture)?.as_bytes(), Made::Bytes(bytes));
        Ok(())
    }

    /// For the next time; where that cannot be written, the next time just takes longer.
    fn save(&mut self) {
        if let Err(error) = self.table.write().and_then(|()| self.seen.save()) {
            tracing::warn!("the embeddings cannot be kept for the next time: {error:#}");
        }
    }
}
