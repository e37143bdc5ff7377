//! A folder of pictures with one folder a class, like torchvision's `ImageFolder`, or with such folders below
//! `train`, `val` and `test`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use similiai::base::error::first_of;
use similiai::base::text::legible_name;
use similiai::damaged;
use similiai::engine::stage::{Context, Inputs};
use similiai::learning::dataset::{self, Skipped, Subset, Survey, is_list, part};
use similiai::learning::images::{MOST_BYTES, OnBadImage, SkipReason, SkippedFiles, is_picture};
use unicode_normalization::UnicodeNormalization;

use super::ARCHIVE;

/// Number of unusable pictures that an error names.
const NAMED: usize = 5;

/// A picture of a class.
struct Picture {
    path: PathBuf,
    /// `<class>/<picture>`, in Unicode normalization form C. If there are parts, the name of the part comes first.
    name: String,
}

impl Picture {
    /// The class, after the name of the part if there are parts.
    fn class(&self) -> &str {
        self.name.rsplit_once('/').map_or("", |(class, _)| class)
    }
}

/// What was found below a folder.
#[derive(Default)]
struct Found {
    /// Sorted by name.
    pictures: Vec<Picture>,
    skipped: SkippedFiles,
    /// Classes with a file or folder that cannot be used.
    spoilt: BTreeSet<String>,
}

/// Finds all pictures below `source`, and what to skip there.
fn find(source: &Path) -> Result<Found> {
    let mut found = Found::default();
    let parts = parts(source)?;
    for part in &parts {
        found.classes(&source.join(part), Some(part))?;
    }
    if parts.is_empty() {
        found.classes(source, None)?;
    } else {
        found.files_beside(source)?;
    }
    found.pictures.sort_by(|a, b| a.name.cmp(&b.name));
    found.names_once();
    Ok(found)
}

/// Finds the pictures of each class, for a new project.
pub fn survey(source: &Path) -> Result<Survey> {
    let found = find(source)?;
    let mut survey = Survey { skipped: found.skipped, ..Survey::default() };
    for picture in found.pictures {
        let (part, class) = picture.class().split_once('/').map_or((None, picture.class()), |(p, c)| (Some(p), c));
        survey.has_parts |= part.and_then(dataset::part).is_some_and(|subset| subset == Subset::Test);
        *survey.classes.entry(class.to_owned()).or_default() += 1;
    }
    Ok(survey)
}

/// The folders called `train`, `val` and so on. Empty if there is another folder, or if one of them has no folders.
fn parts(source: &Path) -> Result<Vec<String>> {
    let mut parts = Vec::new();
    for name in entries(source)? {
        let path = source.join(&name);
        if is_hidden(&name) || !path.is_dir() {
            continue;
        }
        let folders = |path: &Path| entries(path).map(|names| names.iter().any(|name| path.join(name).is_dir()));
        match name.into_string() {
            Ok(name) if part(&name).is_some() && folders(&path).unwrap_or(false) => parts.push(name),
            _ => return Ok(Vec::new()),
        }
    }
    Ok(parts)
}

impl Found {
    fn classes(&mut self, folder: &Path, part: Option<&str>) -> Result<()> {
        for name in entries(folder)? {
            let path = folder.join(&name);
            if is_hidden(&name) {
                self.hidden(&path);
                continue;
            }
            match path.metadata() {
                Err(error) => self.skipped.add(&path, SkipReason::Unreadable(error.to_string())),
                Ok(metadata) if metadata.is_dir() => match name.to_str() {
                    None => self.skipped.add(&path, SkipReason::NotUnicode),
                    Some(class) => {
                        let before = self.pictures.len();
                        self.class(&path, &part.map_or(class.to_owned(), |part| format!("{part}/{class}")));
                        if self.pictures.len() == before {
                            self.skipped.add(&path, SkipReason::EmptyClass);
                        }
                    }
                },
                Ok(_) if is_picture(&path) => self.skipped.add(&path, SkipReason::Misplaced),
                Ok(_) => self.skipped.add(&path, SkipReason::of_name(&path)),
            }
        }
        Ok(())
    }

    /// Checks the files next to the folders of parts.
    fn files_beside(&mut self, folder: &Path) -> Result<()> {
        for name in entries(folder)? {
            let path = folder.join(&name);
            if is_hidden(&name) {
                self.hidden(&path);
                continue;
            }
            match path.metadata() {
                // This may have been another part.
                Err(error) => self.skipped.add(&path, SkipReason::Unreadable(error.to_string())),
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) if is_picture(&path) => self.skipped.add(&path, SkipReason::Misplaced),
                Ok(_) => self.skipped.add(&path, SkipReason::of_name(&path)),
            }
        }
        Ok(())
    }

    /// Keeps only the first of several pictures with the same name.
    fn names_once(&mut self) {
        let mut once: Vec<Picture> = Vec::with_capacity(self.pictures.len());
        for picture in std::mem::take(&mut self.pictures) {
            match once.last() {
                Some(last) if last.name == picture.name => {
                    let other = last.path.display();
                    let why = format!("its name differs from {other} only in how accents are encoded; rename one");
                    self.spoil(picture.class(), &picture.path, &why);
                }
                _ => once.push(picture),
            }
        }
        self.pictures = once;
    }

    /// Finds the pictures of `class` in `folder`.
    fn class(&mut self, folder: &Path, class: &str) {
        let names = match std::fs::read_dir(folder).and_then(|entries| entries.map(|it| Ok(it?.file_name())).collect())
        {
            Ok(names) => sorted(names),
            Err(error) => {
                self.spoil(class, folder, &error.to_string());
                return;
            }
        };
        for name in names {
            let path = folder.join(&name);
            if is_hidden(&name) {
                self.hidden(&path);
                continue;
            }
            // The file is opened later. Its metadata is quick to read, and shows most problems.
            match path.metadata() {
                Err(error) if is_picture(&path) || error.kind() != std::io::ErrorKind::NotFound => {
                    self.spoil(class, &path, &error.to_string());
                }
                Err(_) => self.skipped.add(&path, SkipReason::of_name(&path)),
                Ok(metadata) if metadata.is_dir() => self.skipped.add(&path, SkipReason::Subfolder),
                Ok(_) if !is_picture(&path) => self.skipped.add(&path, SkipReason::of_name(&path)),
                Ok(metadata) if !metadata.is_file() => self.skipped.add(&path, SkipReason::Special),
                Ok(metadata) if metadata.len() > MOST_BYTES => {
                    self.spoil(class, &path, &format!("it has more than {} MiB", MOST_BYTES >> 20));
                }
                Ok(_) => match name.to_str() {
                    None => self.skipped.add(&path, SkipReason::NotUnicode),
                    Some(name) => match plain(class, name) {
                        Ok(name) => self.pictures.push(Picture { path, name }),
                        Err(why) => self.spoil(class, &path, &why),
                    },
                },
            }
        }
    }

    /// Reports hidden pictures and folders: the user may have wanted to include them.
    fn hidden(&mut self, path: &Path) {
        if is_picture(path) || path.is_dir() {
            self.skipped.add(path, SkipReason::Hidden);
        }
    }

    fn spoil(&mut self, class: &str, path: &Path, why: &str) {
        self.spoilt.insert(class.nfc().collect());
        self.skipped.add(path, SkipReason::Unreadable(why.to_owned()));
    }

    /// Fails if something cannot be used, unless it is to be skipped. Fails if no picture is left.
    fn judge(&self, source: &Path, on_bad_image: OnBadImage) -> Result<()> {
        let is_bad = |why: &SkipReason| matches!(why, SkipReason::Unreadable(_) | SkipReason::NotUnicode);
        let bad = self.skipped.each().into_iter().filter(|(_, why)| is_bad(why));
        let bad: Vec<String> = bad.map(|(path, why)| format!("{}: {why}", legible_name(path))).collect();
        if !bad.is_empty() && on_bad_image == OnBadImage::Fail {
            let (count, named) = (bad.len(), first_of(NAMED, &bad));
            return Err(damaged!(
                "{count} files or folders cannot be used; repair or remove them, or skip them with on_bad_image: \
                 skip:{named}"
            ));
        }
        let has_any = |class: &&String| self.pictures.iter().any(|picture| picture.class() == **class);
        if let Some(empty) = self.spoilt.iter().find(|class| !has_any(class)) {
            let named = first_of(NAMED, &bad);
            return Err(damaged!(
                "no picture of class `{empty}` can be used; repair them, or remove the class:{named}"
            ));
        }
        let classes = self.pictures.iter().filter_map(|picture| picture.class().rsplit('/').next());
        dataset::check_class_count(classes.collect::<BTreeSet<_>>().len())?;
        if self.pictures.is_empty() {
            self.skipped.tell();
            let source = source.display();
            return Err(damaged!(
                "{source}: there is no picture at <class>/<name>.png, .jpg or .webp: each class needs a folder of its \
                 own"
            ));
        }
        Ok(())
    }
}

fn entries(folder: &Path) -> Result<Vec<OsString>> {
    let unlisted = || format!("cannot list {}", folder.display());
    let entries = std::fs::read_dir(folder).with_context(unlisted)?;
    let names = entries.map(|entry| Ok(entry.with_context(unlisted)?.file_name()));
    Ok(sorted(names.collect::<Result<_>>()?))
}

fn sorted(mut names: Vec<OsString>) -> Vec<OsString> {
    names.sort_unstable();
    names
}

fn is_hidden(name: &OsString) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// `<class>/<name>` in Unicode normalization form C; macOS and other systems use different forms for the same name.
/// Refuses a name that not every system can use, that would break a list, or that is the name of a list.
pub fn plain(class: &str, name: &str) -> Result<String, String> {
    let wrong = |part: &&str| part.len() > 255 || part.chars().any(|c| c.is_control() || c == '\\');
    if let Some(part) = class.split('/').chain([name]).find(wrong) {
        return Err(format!("{part:?} is no name for a class or a picture: 255 bytes, no control characters or \\"));
    }
    match class.split('/').find(|class| is_list(class)) {
        Some(taken) => Err(format!("{taken:?} is no name for a class: it is the name of a list of pictures")),
        None => Ok(format!("{class}/{name}").nfc().collect()),
    }
}

/// Digest of the names and contents of all pictures, and of what is skipped.
pub fn digest(source: &Path, on_bad_image: OnBadImage, inputs: &Inputs) -> Result<String> {
    let mut found = find(source)?;
    found.judge(source, on_bad_image)?;
    let mut digest = Digest::default();
    for picture in std::mem::take(&mut found.pictures) {
        match inputs.file_digest(&picture.path) {
            Ok(of_file) => {
                digest.add(&picture.name, &of_file);
                found.pictures.push(picture);
            }
            Err(error) => match error.downcast::<std::io::Error>() {
                Ok(error) => found.spoil(picture.class(), &picture.path, &error.to_string()),
                Err(error) => return Err(error),
            },
        }
    }
    found.judge(source, on_bad_image)?;
    Ok(digest.finish(&found.skipped, source))
}

#[derive(Default)]
struct Digest(blake3::Hasher);

impl Digest {
    fn add(&mut self, name: &str, digest: &str) {
        self.0.update(format!("{name}\0{digest}\n").as_bytes());
    }

    /// Returns the digest. The location of the folder itself has no influence on it.
    fn finish(mut self, skipped: &SkippedFiles, source: &Path) -> String {
        for (path, why) in skipped.each() {
            self.add(&below(path, source), &why.to_string());
        }
        self.0.finalize().to_hex().to_string()
    }
}

/// The part of `path` below `source`, with `/` on every system.
fn below(path: &str, source: &Path) -> String {
    let below = Path::new(path).strip_prefix(source).ok().and_then(Path::to_str).unwrap_or(path);
    below.replace(std::path::MAIN_SEPARATOR, "/")
}

pub fn copy(source: &Path, on_bad_image: OnBadImage, context: &Context) -> Result<()> {
    let mut found = find(source)?;
    let bar = context.bar("pictures", found.pictures.len() as u64);
    let mut digest = Digest::default();
    for picture in std::mem::take(&mut found.pictures) {
        context.check_signal()?;
        match std::fs::read(&picture.path) {
            Ok(bytes) => {
                digest.add(&picture.name, blake3::hash(&bytes).to_hex().as_str());
                context.outputs.write(&picture.name, &bytes)?;
                found.pictures.push(picture);
            }
            Err(error) => found.spoil(picture.class(), &picture.path, &error.to_string()),
        }
        bar.inc(1);
    }
    found.judge(source, on_bad_image)?;
    // A result must have the content that its key names.
    let expected = context.document.reads.get(ARCHIVE);
    if expected.is_none_or(|expected| *expected != digest.finish(&found.skipped, source)) {
        bail!("{} was modified while it was copied; run again", source.display());
    }
    leave(found.skipped, source, context)
}

/// Reports what was skipped below `source`, and lists it in a file.
pub fn leave(skipped: SkippedFiles, source: &Path, context: &Context) -> Result<()> {
    if skipped.is_empty() {
        return Ok(());
    }
    skipped.tell();
    let row = |(path, why): (&str, &SkipReason)| Skipped { source: below(path, source), why: why.to_string() };
    let rows: Vec<Skipped> = skipped.each().into_iter().map(row).collect();
    context.outputs.write(dataset::SKIPPED, &dataset::to_bytes(&rows)?)?;
    context.note("passed_over", &skipped.counted())
}
