//! Files that were skipped in a search for pictures: counted by reason, with the first of each.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::base::text::legible_name;

/// Kinds of pictures that cannot be read, with their extensions.
const KINDS: [(&str, &[&str]); 11] = [
    ("HEIC", &["heic", "heif", "hif"]),
    ("AVIF", &["avif"]),
    ("TIFF", &["tif", "tiff"]),
    ("GIF", &["gif"]),
    ("BMP", &["bmp", "dib"]),
    ("JPEG XL", &["jxl"]),
    ("JPEG 2000", &["jp2", "j2k", "jpf"]),
    ("SVG", &["svg", "svgz"]),
    ("Photoshop", &["psd", "psb"]),
    ("icon", &["ico"]),
    (
        "raw",
        &[
            "raw", "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "sr2", "orf", "rw2", "raf", "pef", "srw", "3fr",
            "x3f",
        ],
    ),
];

/// Why something is passed over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkipReason {
    /// A kind of picture that cannot be read.
    Kind(&'static str),
    /// A link to a folder. It might lead back to a folder above it.
    LinkedFolder,
    NotUnicode,
    /// A pipe, a socket or a device.
    Special,
    /// Its name begins with a dot.
    Hidden,
    /// It is not in the folder of a class.
    Misplaced,
    /// A folder inside the folder of a class.
    Subfolder,
    /// A class without a picture that can be read.
    EmptyClass,
    /// Its name does not have the extension of a picture.
    NoPicture,
    /// It should be readable, but is not.
    Unreadable(String),
}

impl SkipReason {
    /// The reason for a file whose name is not that of a readable picture.
    pub fn of_name(path: &Path) -> Self {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
        let kind = KINDS.iter().find(|(_, endings)| endings.contains(&ending.as_str()));
        kind.map_or(Self::NoPicture, |(name, _)| Self::Kind(name))
    }

    /// Whether users expect such a file to be read.
    fn is_expected(&self) -> bool {
        !matches!(self, Self::NoPicture | Self::Hidden)
    }

    /// Words for what is skipped: for one thing, and for several.
    fn things(&self) -> (&'static str, &'static str) {
        match self {
            Self::LinkedFolder | Self::Subfolder | Self::EmptyClass => ("folder", "folders"),
            Self::Hidden => ("hidden file or folder", "hidden files or folders"),
            _ => ("file", "files"),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Kind(_) => "kind",
            Self::LinkedFolder => "linked-folder",
            Self::NotUnicode => "not-unicode",
            Self::Special => "special",
            Self::Hidden => "hidden",
            Self::Misplaced => "misplaced",
            Self::Subfolder => "subfolder",
            Self::EmptyClass => "empty-class",
            Self::NoPicture => "no-picture",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "{kind} pictures cannot be read; convert them to JPEG or PNG"),
            Self::LinkedFolder => f.write_str("links to folders are not followed; name the folder itself"),
            Self::NotUnicode => f.write_str("its name is not valid Unicode"),
            Self::Special => f.write_str("it is a pipe, a socket or a device"),
            Self::Hidden => f.write_str("its name begins with a dot"),
            Self::Misplaced => f.write_str("it is not at <class>/<picture>"),
            Self::Subfolder => f.write_str("folders within the folder of a class are not read"),
            Self::EmptyClass => f.write_str("the class has no picture that can be read"),
            Self::NoPicture => f.write_str("its name does not have the extension of a picture"),
            Self::Unreadable(why) => f.write_str(why),
        }
    }
}

/// All skipped paths by reason, in the order in which they were found.
#[derive(Debug, Default, Clone)]
pub struct SkippedFiles(BTreeMap<SkipReason, Vec<String>>);

/// The count for one reason, for programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SkippedCount {
    pub reason: &'static str,
    pub text: String,
    pub count: usize,
    pub first: String,
}

impl SkippedFiles {
    pub fn add(&mut self, path: &Path, why: SkipReason) {
        self.0.entry(why).or_default().push(path.display().to_string());
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn append(&mut self, others: Self) {
        others.0.into_iter().for_each(|(why, mut names)| self.0.entry(why).or_default().append(&mut names));
    }

    /// All paths with their reasons, sorted by path.
    pub fn each(&self) -> Vec<(&str, &SkipReason)> {
        let mut all: Vec<_> =
            self.0.iter().flat_map(|(why, paths)| paths.iter().map(move |path| (&**path, why))).collect();
        all.sort_unstable();
        all
    }

    pub fn counted(&self) -> Vec<SkippedCount> {
        let one = |(why, paths): (&SkipReason, &Vec<String>)| SkippedCount {
            reason: why.name(),
            text: why.to_string(),
            count: paths.len(),
            first: legible_name(&paths[0]),
        };
        self.0.iter().map(one).collect()
    }

    /// Logs one line for each reason.
    pub fn tell(&self) {
        for (why, paths) in &self.0 {
            let (one, several) = why.things();
            let things = match paths.len() {
                1 => format!("1 {one} is"),
                count => format!("{count} {several} are"),
            };
            let line = format!("{things} skipped, for example {}: {why}", legible_name(&paths[0]));
            if why.is_expected() { tracing::warn!("{line}") } else { tracing::info!("{line}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_their_endings_and_counted() {
        let mut all = SkippedFiles::default();
        for name in ["b/IMG_2.HEIC", "b/IMG_1.heif", "b/notes.txt", "b/c.CR3"] {
            all.add(Path::new(name), SkipReason::of_name(Path::new(name)));
        }
        let counts: Vec<_> = all.counted().iter().map(|it| (it.reason, it.count, it.first.clone())).collect();
        let expected = [("kind", 2, "b/IMG_2.HEIC"), ("kind", 1, "b/c.CR3"), ("no-picture", 1, "b/notes.txt")];
        assert_eq!(counts, expected.map(|(reason, count, first)| (reason, count, first.to_owned())));
        assert_eq!(all.each()[0].0, "b/IMG_1.heif");
    }
}
