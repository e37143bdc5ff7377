//! Pictures of users, in their own files and folders: finds them, embeds them, and caches the embeddings by content.

mod shards;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use image::RgbImage;
use rayon::prelude::*;
use walkdir::WalkDir;

pub use shards::{Shard, join, seal};

use crate::base::error::Failure;
use crate::base::files;
use crate::base::progress::Progress;
use crate::base::signal;
use crate::base::text::legible_path;
use crate::engine::cache::{DigestCache, ItemResult, ItemTable, PEOPLE, Store};
use crate::learning::images::{
    MOST_BYTES, SkipReason, SkippedFiles, Wanted, decode_for, is_no_fault_of_it, is_picture, read_picture,
};
use crate::learning::model::Model;
use crate::retrieval::embeddings::{self, Embeddings};

/// Number of pictures that are decoded and then embedded together.
const BATCH: usize = 64;
/// Raise this whenever a picture is decoded, prepared or embedded in a different way than before.
const VERSION: u32 = 3;

/// A picture file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The path as the user gave it, or a path below the folder that the user gave.
    pub path: String,
    /// The name of the folder that has the picture, if that folder is inside one that the user gave. Otherwise empty.
    /// Folders with the same name are one class.
    pub class: String,
}

/// What was found in files and folders.
#[derive(Debug, Default)]
pub struct Search {
    /// Sorted by path. Each file is there once, even if it was named or linked several times.
    pub found: Vec<Found>,
    /// Files that should be readable but are not, each with the reason.
    pub bad: Vec<String>,
    /// Files that are not readable pictures.
    pub skipped: SkippedFiles,
}

/// Finds all files that are named, and all pictures below the folders that are named. Hidden files are skipped.
///
/// # Errors
/// If a named file or folder does not exist.
pub fn find(sources: &[PathBuf]) -> Result<Search> {
    let absent = |source: &&PathBuf| matches!(source.metadata(), Err(error) if error.kind() == ErrorKind::NotFound);
    let absent: Vec<String> = sources.iter().filter(absent).map(|source| legible_path(source)).collect();
    if !absent.is_empty() {
        return Err(Failure::Usage(format!("there is no file or folder {}", absent.join(", nor "))).into());
    }
    let mut search = PictureSearch::default();
    sources.iter().for_each(|source| search.source(source));
    let mut found: Vec<Found> = search.files.into_values().collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Search { found, bad: search.bad, skipped: search.skipped })
}

#[derive(Default)]
struct PictureSearch {
    /// By their canonical paths.
    files: BTreeMap<PathBuf, Found>,
    bad: Vec<String>,
    skipped: SkippedFiles,
}

impl PictureSearch {
    fn source(&mut self, source: &Path) {
        match source.metadata() {
            Err(error) => self.bad.push(format!("cannot read {}: {error}", source.display())),
            Ok(metadata) if metadata.is_dir() => self.folder(source),
            Ok(metadata) if metadata.is_file() => self.add(source, ""),
            Ok(_) => self.bad.push(format!("{}: {}", source.display(), SkipReason::Special)),
        }
    }

    fn folder(&mut self, folder: &Path) {
        let mut hidden = Vec::new();
        let mut is_shown = |entry: &walkdir::DirEntry| {
            let is_shown = entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".");
            if !is_shown && (entry.file_type().is_dir() || is_picture(entry.path())) {
                hidden.push(entry.path().to_owned());
            }
            is_shown
        };
        // The order is the same on every machine. If a file has several names, a name that is not a link comes first.
        let order = |entry: &walkdir::DirEntry| (entry.path_is_symlink(), entry.file_name().to_owned());
        let all = WalkDir::new(folder).sort_by_key(order).into_iter();
        for entry in all.filter_entry(&mut is_shown) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.bad.push(format!("{error}"));
                    continue;
                }
            };
            let path = entry.path();
            // A link to a picture is also a picture. A link to a folder might lead back to a folder above it.
            let kind = match entry.path_is_symlink() {
                true => path.metadata().map(|metadata| metadata.file_type()),
                false => Ok(entry.file_type()),
            };
            match kind {
                // A broken link may have pointed to a folder of pictures.
                Err(error) if is_picture(path) || path.extension().is_none() || error.kind() != ErrorKind::NotFound => {
                    self.bad.push(format!("cannot read {}: {error}", path.display()));
                }
                Err(_) => self.skipped.add(path, SkipReason::of_name(path)),
                Ok(kind) if kind.is_dir() && entry.path_is_symlink() && entry.depth() > 0 => {
                    self.skipped.add(path, SkipReason::LinkedFolder);
                }
                Ok(kind) if kind.is_dir() => {}
                Ok(_) if !is_picture(path) => self.skipped.add(path, SkipReason::of_name(path)),
                Ok(kind) if !kind.is_file() => self.skipped.add(path, SkipReason::Special),
                // Whether the file can be read is only known when it is read.
                Ok(_) => {
                    let class = path.parent().filter(|_| entry.depth() > 1).and_then(Path::file_name);
                    self.add(path, class.and_then(|class| class.to_str()).unwrap_or_default());
                }
            }
        }
        hidden.iter().for_each(|path| self.skipped.add(path, SkipReason::Hidden));
    }

    fn add(&mut self, path: &Path, class: &str) {
        let Some(name) = path.to_str() else {
            self.bad.push(format!("{}: {}", path.display(), SkipReason::NotUnicode));
            return;
        };
        let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let found = self.files.entry(file).or_insert_with(|| Found { path: name.to_owned(), class: class.to_owned() });
        if found.class.is_empty() {
            class.clone_into(&mut found.class);
        }
    }
}

/// Pictures with their embeddings.
pub struct Collection {
    /// Sorted by path.
    pub embeddings: Embeddings,
    /// Pictures that cannot be read, each with the reason.
    pub bad: Vec<String>,
    /// Files that are not readable pictures.
    pub skipped: SkippedFiles,
    /// Number of pictures that were not in the cache and had to be embedded.
    pub made: usize,
}

/// Embeds pictures. If `cache` has the embedding of a picture with the same content, it is taken from there.
pub fn embed(search: Search, model: &Model, cache: &mut EmbeddingCache, progress: &Progress) -> Result<Collection> {
    let Search { found, mut bad, skipped } = search;
    let bar = progress.bar("pictures", found.len() as u64);
    let known = found.par_iter().map(|picture| {
        signal::check()?;
        // A file that cannot be read gives an error later, when it is decoded.
        let path = Path::new(&picture.path);
        let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let may_be = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MOST_BYTES);
        let digest = may_be.then(|| cache.digests.digest(&file).ok()).flatten();
        Ok(digest.and_then(|digest| blake3::Hash::from_hex(digest).ok()).filter(|digest| cache.get(digest).is_some()))
    });
    let mut digests: Vec<Option<blake3::Hash>> = known.collect::<Result<_>>()?;
    let missing: Vec<usize> = (0..found.len()).filter(|place| digests[*place].is_none()).collect();
    bar.resume((found.len() - missing.len()) as u64);
    let mut made = 0;
    let mut work = || -> Result<()> {
        for places in missing.chunks(BATCH) {
            signal::check()?;
            let read = places.par_iter().map(|place| {
                let read = signal::check().and_then(|()| cache.read(model, &found[*place].path));
                (*place, read)
            });
            let (mut fresh, mut images) = (Vec::new(), Vec::new());
            let read: Vec<_> = read.collect();
            signal::check()?;
            for (place, read) in read {
                match read {
                    Ok((digest, image)) => {
                        digests[place] = Some(digest);
                        // A copy of a picture that was just read has the same embedding.
                        if let Some(image) = image.filter(|_| !fresh.contains(&digest)) {
                            fresh.push(digest);
                            images.push(image);
                        }
                    }
                    Err(error) if is_no_fault_of_it(&error) => return Err(error),
                    Err(error) => bad.push(format!("{error:#}")),
                }
            }
            made += fresh.len();
            let rows = model.embed(images)?;
            for (digest, row) in fresh.iter().zip(rows.chunks_exact(model.configuration.dimension)) {
                cache.insert(digest, row);
            }
            bar.inc(places.len() as u64);
            if cache.table.is_due() {
                cache.save();
            }
        }
        Ok(())
    };
    let done = work();
    cache.save();
    done?;
    signal::check()?;
    let rows: Vec<Option<Vec<f32>>> = digests.iter().map(|digest| cache.get(digest.as_ref()?)).collect();
    let good: Vec<&Found> = found.iter().zip(&rows).filter(|(_, row)| row.is_some()).map(|(found, _)| found).collect();
    let label_names: Vec<String> = good.iter().map(|picture| picture.class.clone()).collect();
    let embeddings = Embeddings {
        dimension: model.configuration.dimension,
        paths: good.iter().map(|picture| picture.path.clone()).collect(),
        labels: labels(&label_names),
        label_names,
        splits: vec![String::new(); good.len()],
        values: rows.into_iter().flatten().flatten().collect(),
        facts: embeddings::facts_of(model)?,
    };
    Ok(Collection { embeddings, bad, skipped, made })
}

/// For each name, its position in the sorted list of all names, or -1 if it is empty.
fn labels(names: &[String]) -> Vec<i32> {
    let classes: BTreeSet<&str> = names.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    let labels: HashMap<&str, i32> = classes.into_iter().zip(0..).collect();
    names.iter().map(|name| labels.get(name.as_str()).copied().unwrap_or(-1)).collect()
}

/// The embeddings that one model made, by the content of the pictures.
pub struct EmbeddingCache {
    folder: PathBuf,
    digests: DigestCache,
    table: ItemTable,
}

impl EmbeddingCache {
    /// Opens the cache in `store`, separate from the results of the pipeline.
    pub fn open(store: &Store, model: &Model) -> Result<Self> {
        let folder = store.namespace(PEOPLE);
        let recipe = blake3::hash(format!("{VERSION} {}", model.digest).as_bytes()).to_hex();
        Ok(Self { digests: DigestCache::new(&folder), table: ItemTable::read(&folder, &recipe)?, folder })
    }

    /// Returns the digest of a picture. If its embedding is not known, also returns the picture, prepared for `model`.
    fn read(&self, model: &Model, path: &str) -> Result<(blake3::Hash, Option<RgbImage>)> {
        let bytes = read_picture(Path::new(path))?;
        let digest = blake3::hash(&bytes);
        if self.get(&digest).is_some() {
            return Ok((digest, None));
        }
        let wanted = Wanted { preparation: Some(model.configuration.preparation.clone()), ..Wanted::default() };
        Ok((digest, decode_for(&bytes, path, &wanted)?.prepared))
    }

    fn get(&self, picture: &blake3::Hash) -> Option<Vec<f32>> {
        match self.table.get(picture.as_bytes())? {
            ItemResult::Bytes(bytes) => {
                Some(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
            }
            ItemResult::Blob { .. } => None,
        }
    }

    fn insert(&mut self, picture: &blake3::Hash, row: &[f32]) {
        let bytes = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.table.insert(*picture.as_bytes(), ItemResult::Bytes(bytes));
    }

    /// Saves the embeddings for the next run. If that fails, the next run only takes longer.
    fn save(&mut self) {
        let saved =
            files::create_folder(&self.folder).and_then(|()| self.table.write()).and_then(|()| self.digests.save());
        if let Err(error) = saved {
            tracing::warn!("cannot save the embeddings for the next run: {error:#}");
        }
    }
}
