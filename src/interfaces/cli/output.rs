//! Output files that users name: written completely or not at all, and never over a file of another kind.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Session;
use crate::base::error::Failure;
use crate::base::files;
use crate::base::signal;
use crate::base::text::legible_path;
use crate::engine::cache::Store;
use crate::learning::images::{SkipReason, is_picture, known_as};

/// The kind of an output file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Embeddings,
    Page,
    Events,
    /// Appended to an existing file.
    Summary,
}

/// A file or device that a command writes to.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    /// A device, a pipe or an open file. It is written to, and never replaced.
    special: bool,
}

/// Extensions of well-known kinds of files, except pictures.
const ENDINGS: [&str; 44] = [
    "7z",
    "arrow",
    "bz2",
    "c",
    "cpp",
    "csv",
    "db",
    "doc",
    "docx",
    "feather",
    "gz",
    "h",
    "hnsw",
    "htm",
    "html",
    "ipynb",
    "js",
    "json",
    "jsonl",
    "lock",
    "md",
    "mov",
    "mp4",
    "ndjson",
    "npy",
    "npz",
    "onnx",
    "parquet",
    "pdf",
    "pt",
    "py",
    "rs",
    "safetensors",
    "sh",
    "sqlite",
    "tar",
    "tgz",
    "toml",
    "tsv",
    "xls",
    "xlsx",
    "yaml",
    "yml",
    "zip",
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings (Parquet)",
            Self::Page => "a page (HTML)",
            Self::Events => "events (a JSON object a line)",
            Self::Summary => "a summary (Markdown)",
        }
    }

    fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Embeddings => &["parquet"],
            Self::Page => &["html", "htm"],
            Self::Events => &["ndjson", "jsonl"],
            Self::Summary => &["md"],
        }
    }

    /// Returns whether a file with these first and last bytes is of this kind.
    fn is_told_by(self, start: &[u8], end: &[u8]) -> bool {
        let text = start.trim_ascii_start();
        match self {
            // Only files of this program have metadata with such names in the footer.
            Self::Embeddings => start.starts_with(b"PAR1") && end.windows(FACTS.len()).any(|bytes| bytes == FACTS),
            Self::Page => PAGES.iter().any(|page| text.starts_with(page)),
            Self::Events => text.starts_with(b"{\"event\":"),
            Self::Summary => !is_known(start) && !start.contains(&0),
        }
    }

    /// The part of a message that suggests `--force`, if the command has this option.
    fn or_force(self) -> &'static str {
        match self {
            Self::Embeddings | Self::Page => ", or add --force",
            Self::Events | Self::Summary => "",
        }
    }
}

/// The prefix of the metadata keys in a file of embeddings.
const FACTS: &[u8] = b"similiai.";
/// Bytes read at the start of a file to recognise its kind.
const START: u64 = 512;
/// Bytes read at its end.
const END: u64 = 64 << 10;

const PAGES: [&[u8]; 3] = [b"<!DOCTYPE html", b"<!doctype html", b"<html"];

/// Returns whether these first bytes show a well-known kind of file.
fn is_known(start: &[u8]) -> bool {
    let starts: [&[u8]; 15] = [
        b"PAR1",
        b"PK\x03\x04",
        b"\x1F\x8B",
        b"BZh",
        b"\xFD7zXZ",
        b"\x28\xB5\x2F\xFD",
        b"RIFF",
        b"ID3",
        b"#!",
        b"-----BEGIN",
        b"SQLite format 3",
        b"%PDF",
        b"\x7FELF",
        b"ARROW1",
        b"\x93NUMPY",
    ];
    image::guess_format(start).is_ok()
        || known_as(start).is_some()
        // A tar archive has this magic number in its first header.
        || start.get(257..262) == Some(b"ustar")
        || starts.iter().chain(&PAGES).any(|known| start.trim_ascii_start().starts_with(known))
}

impl Output {
    /// Checks the path. Call this before any work is done. `force` allows overwriting another kind of file.
    ///
    /// # Errors
    /// If the file exists and is of another kind, if its extension is of another kind, or if neither its folder nor
    /// the folder above exists.
    pub fn new(path: &Path, kind: Kind, force: bool) -> Result<Self> {
        let usage = |why: String| Err(Failure::Usage(why).into());
        let path = match path == Path::new("-") {
            true if kind == Kind::Embeddings => Path::new("/dev/stdout"),
            true => {
                return usage("`-` is standard output, and this command uses it; give the name of a file".to_owned());
            }
            false => path,
        };
        let shown = legible_path(path);
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return usage(format!("{shown} is the name of a folder; name a file in it"));
        }
        // The number of a file that is already open.
        let is_number =
            path.starts_with("/dev/fd") || path.starts_with("/proc") && files::folder_of(path).ends_with("fd");
        let names = ["/dev/stdin", "/dev/stdout", "/dev/stderr"].map(Path::new);
        let open = is_number || names.contains(&path);
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => return usage(format!("{shown} is a folder; name a file in it")),
            Ok(metadata) if !metadata.is_file() || open => return Ok(Self { path: path.to_owned(), special: true }),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound && !open => {}
            Err(error) => return Err(error).with_context(|| format!("cannot access {shown}")),
        }
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
        let of_picture = is_picture(path) || matches!(SkipReason::of_name(path), SkipReason::Kind(_));
        let of_another = of_picture || ENDINGS.contains(&ending.as_str());
        if of_another && !kind.endings().contains(&ending.as_str()) && !force {
            let (what, right, or_force) = (kind.name(), kind.endings()[0], kind.or_force());
            return usage(format!(
                "{shown} is the name of another kind of file, not of {what}; use the extension .{right}{or_force}"
            ));
        }
        let path = target(path)?;
        let (start, end) = match ends(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), Vec::new()),
            ends => ends.with_context(|| format!("cannot read {shown}"))?,
        };
        // A file without an extension and of no known kind may come from an earlier run.
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_plain = ending.is_empty() && !is_hidden && !is_known(&start);
        if !(start.is_empty() || is_plain || kind.is_told_by(&start, &end) || force) {
            let (what, or_force) = (kind.name(), kind.or_force());
            return usage(format!("{shown} holds something else, not {what}; choose another name{or_force}"));
        }
        let folder = files::folder_of(&path);
        if !folder.exists() && !files::folder_of(folder).exists() {
            return usage(format!(
                "there is no folder {}; create it, or correct the path",
                files::folder_of(folder).display()
            ));
        }
        Ok(Self { path, special: false })
    }

    /// Fails if the output is one of the `inputs`, the manifest, a file in the cache or a part of a result. Writing
    /// would destroy it.
    pub fn must_spare<P: AsRef<Path>>(&self, session: &Session, inputs: impl IntoIterator<Item = P>) -> Result<()> {
        let path = legible_path(&self.path);
        let is_it = |input: &Path| !self.special && files::is_same_file(input, &self.path);
        if is_it(&session.manifest) || inputs.into_iter().any(|input| is_it(input.as_ref())) {
            return Err(Failure::Usage(format!("{path} is read by this command; choose another name")).into());
        }
        let project = files::folder_of(&session.manifest);
        let cache = project.join("artifacts/.cache");
        let folder = files::folder_of(&self.path).canonicalize();
        if folder.is_ok_and(|folder| cache.canonicalize().is_ok_and(|cache| folder.starts_with(cache))) {
            return Err(Failure::Usage(format!("{path} is in the cache; choose another name")).into());
        }
        match Store::new(cache).owner(project, &self.path)? {
            Some(owner) => {
                Err(Failure::Usage(format!("{path} is part of the result of `{owner}`; choose another name")).into())
            }
            None => Ok(()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether this is standard output. If so, the command must print nothing else there.
    pub fn is_stdout(&self) -> bool {
        let stdout = if Path::new("/dev/stdout").exists() { "/dev/stdout" } else { "/dev/fd/1" };
        self.special && files::is_same_file(&self.path, Path::new(stdout))
    }

    /// Calls `fill` with the path of a temporary file, then puts its content in place.
    pub fn write(&self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let failed = || format!("cannot write {}", self.path.display());
        if self.special {
            let file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
            fill(file.path())?;
            let mut content = file.reopen().with_context(failed)?;
            // Opening a pipe blocks until another process reads from it.
            let copied = signal::while_waiting(|| {
                let mut to = File::options().write(true).append(self.is_stdout()).open(&self.path)?;
                std::io::copy(&mut content, &mut to)
            });
            return copied.map(drop).with_context(failed);
        }
        let folder = files::folder_of(&self.path);
        if !folder.exists() {
            fs::create_dir(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
            tracing::info!("created the folder {}", folder.display());
        }
        files::replace(&self.path, fill)
    }

    pub fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.write(|path| files::write(path, bytes))
    }
}

/// The first and the last bytes of a file.
fn ends(path: &Path) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut file = File::open(path)?;
    let (mut start, mut end) = (Vec::new(), Vec::new());
    file.by_ref().take(START).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(END)))?;
    file.take(END).read_to_end(&mut end)?;
    Ok((start, end))
}

/// Follows symbolic links, even to a file that does not exist yet.
fn target(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(link) => path = files::folder_of(&path).join(link),
            Err(_) => return Ok(path),
        }
    }
    Err(Failure::Usage(format!("{} is a symbolic link that leads back to itself", path.display())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_of_the_same_kind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let new = |name: &str, kind, force| Output::new(&at(name), kind, force).map_err(|error| error.to_string());
        fs::write(at("photo"), b"\x89PNG\r\n\x1a\n").unwrap();
        fs::write(at("old.parquet"), b"PAR1... similiai.model ...PAR1").unwrap();
        fs::write(at("payroll.parquet"), b"PAR1... name, salary ...PAR1").unwrap();
        fs::write(at("page.html"), b"\n<!DOCTYPE html>").unwrap();
        fs::write(at("notes.md"), "# Notes, é").unwrap();
        fs::write(at(".env"), "TOKEN=1").unwrap();
        fs::write(at("key"), "-----BEGIN OPENSSH PRIVATE KEY-----").unwrap();
        fs::write(at("old"), "what it is cannot be told").unwrap();
        fs::write(at("thesis.tex"), "\\documentclass{article}").unwrap();
        fs::write(at("other.ndjson"), "{\"name\": 1}").unwrap();
        fs::write(at("events.ndjson"), "{\"event\":\"started\"}").unwrap();
        fs::write(at("empty.tex"), "").unwrap();
        for (name, kind) in [
            ("old.parquet", Kind::Embeddings),
            ("new.parquet", Kind::Embeddings),
            ("without-ending", Kind::Embeddings),
            ("old", Kind::Embeddings),
            ("old", Kind::Events),
            ("empty.tex", Kind::Embeddings),
            ("events.ndjson", Kind::Events),
            ("page.html", Kind::Page),
            ("notes.md", Kind::Summary),
            ("new/page.html", Kind::Page),
        ] {
            assert!(new(name, kind, false).is_ok(), "{name}");
        }
        for (name, kind, said) in [
            ("photo", Kind::Embeddings, "holds something else"),
            (".env", Kind::Embeddings, "holds something else"),
            ("key", Kind::Events, "holds something else"),
            ("payroll.parquet", Kind::Embeddings, "holds something else"),
            ("new.png", Kind::Embeddings, "another kind of file"),
            ("new.HEIC", Kind::Page, "another kind of file"),
            ("old.parquet", Kind::Page, "another kind of file"),
            ("thesis.tex", Kind::Embeddings, "holds something else"),
            ("thesis.tex", Kind::Page, "holds something else"),
            ("other.ndjson", Kind::Events, "holds something else"),
            ("package.json", Kind::Events, "another kind of file"),
            ("photo", Kind::Summary, "holds something else"),
            ("photo", Kind::Events, "holds something else"),
        ] {
            assert!(new(name, kind, false).unwrap_err().contains(said), "{name}");
            assert!(new(name, kind, true).is_ok(), "{name}");
        }
        assert!(new("folder/", Kind::Page, true).unwrap_err().contains("name of a folder"));
        assert!(new(".", Kind::Page, true).unwrap_err().contains("is a folder"));
        assert!(new("no/such/page.html", Kind::Page, true).unwrap_err().contains("there is no folder"));
    }

    #[test]
    fn links_and_pipes_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (link, to) in [("link", "real.html"), ("dangling", "fresh.html")] {
            std::os::unix::fs::symlink(to, at(link)).unwrap();
        }
        fs::write(at("real.html"), "<html>").unwrap();
        for (link, to) in [("link", "real.html"), ("dangling", "fresh.html")] {
            Output::new(&at(link), Kind::Page, false).unwrap().write_bytes(b"<html>new").unwrap();
            assert!(at(link).is_symlink());
            assert_eq!(fs::read(at(to)).unwrap(), b"<html>new");
        }
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let reader = std::thread::spawn({
            let path = at("pipe");
            move || fs::read(path).unwrap()
        });
        Output::new(&at("pipe"), Kind::Page, false).unwrap().write_bytes(b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        Output::new(Path::new("/dev/null"), Kind::Embeddings, false).unwrap().write_bytes(b"away").unwrap();
    }
}
