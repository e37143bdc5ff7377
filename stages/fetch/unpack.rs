//! Unpacking an archive as a stream: only what its layout names, and that only if it is sound.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Component, Path};

use anyhow::{Context, Result, anyhow};
use flate2::bufread::GzDecoder;
use similiai::images::{LAYOUTS, Layout, MOST_BYTES as MOST_PICTURE_BYTES, is_picture};
use similiai::{damaged, files};
use tar::{Archive, EntryType};

use super::download::Lost;
use super::folder::plain;

/// Names file, batches, an HTML page and headers: no sound archive of a binary layout unpacks to more than this …
const MOST_BYTES: u64 = 6 * 10_000 * 3_074 + (1 << 20);
/// … and no other one to more than so many times its own length: pictures are compressed already.
const MOST_TIMES: u64 = 100;
const MOST_NAME_BYTES: u64 = 4096;

/// A member to take.
enum Wanted {
    Names(&'static Layout),
    Batch(&'static Layout),
    /// A picture of a class, so many folders deep.
    Picture(String, usize),
}

/// Unpacks the gzip-compressed tar `archive`, called `name` in messages, into `folder`.
pub fn unpack(archive: &mut impl Read, name: &str, folder: &Path) -> Result<()> {
    let packed = Cell::new(0);
    let counted = Counted { reader: archive, count: &packed };
    let mut gzip = GzDecoder::new(BufReader::with_capacity(1 << 18, counted));
    let mut found: HashSet<String> = HashSet::new();
    let (mut layout, mut depth) = (None, None);
    {
        let mut tar = Archive::new(Bounded { reader: &mut gzip, packed: &packed, unpacked: 0 });
        let entries = tar.entries().map_err(|error| broken(name, &error))?;
        for entry in entries {
            let mut entry = entry.map_err(|error| broken(name, &error))?;
            let path = entry.path().map_err(|error| broken(name, &error))?.into_owned();
            let Some((member, wanted)) = wanted(&path, entry.header().entry_type(), name)? else { continue };
            // Where names differ only in case, some systems know one file.
            if !found.insert(member.to_lowercase()) {
                return Err(damaged!("{name}: the member {} stands there twice", path.display()));
            }
            let of = match &wanted {
                Wanted::Names(layout) | Wanted::Batch(layout) => Some(layout.names),
                Wanted::Picture(_, deep) if *depth.get_or_insert(*deep) != *deep => {
                    return Err(damaged!("{name}: the picture {} is not as deep in folders as others", path.display()));
                }
                Wanted::Picture(..) => None,
            };
            if *layout.get_or_insert(of) != of {
                return Err(damaged!("{name}: the member {} is of another layout than those before", path.display()));
            }
            let member = Member { name: &member, size: entry.size(), path: &path, archive: name, folder };
            match &wanted {
                Wanted::Names(layout) => member.names(layout, &mut entry)?,
                Wanted::Batch(layout) => member.batch(layout, &mut entry)?,
                Wanted::Picture(class, _) => member.picture(class, &mut entry)?,
            }
        }
        // The archive ends with zeros, whatever their number.
        let mut rest = tar.into_inner();
        nothing_but(&mut rest, Some(0), name)?;
    }
    nothing_but(&mut gzip.into_inner(), None, name)?;
    match layout.flatten() {
        Some(names) if !found.contains(names) => {
            Err(damaged!("{name}: the member {names} with the class names is missing"))
        }
        Some(names) if found.len() == 1 => {
            Err(damaged!("{name}: there is no batch of images in it, only their names in {names}"))
        }
        None if found.is_empty() => {
            Err(damaged!("{name}: there are neither batches of CIFAR-10 or CIFAR-100 in it nor <class>/<picture>"))
        }
        _ => Ok(()),
    }
}

/// Where a member is to go, and what it is; `None` for one to pass over; an error for one that no honest archive has.
fn wanted(path: &Path, kind: EntryType, name: &str) -> Result<Option<(String, Wanted)>> {
    let shown = path.display();
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(damaged!("{name}: the member {shown} would be written outside its folder"));
    }
    if !matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::Directory | EntryType::XGlobalHeader) {
        return Err(damaged!("{name}: the member {shown} is a link, a device or another special file"));
    }
    let file_name = path.file_name().and_then(|file_name| file_name.to_str()).unwrap_or_default();
    let hidden = path
        .components()
        .any(|part| part.as_os_str().as_encoded_bytes().starts_with(b".") && part != Component::CurDir);
    if !matches!(kind, EntryType::Regular | EntryType::Continuous) || hidden {
        return Ok(None);
    }
    for layout in &LAYOUTS {
        if file_name == layout.names {
            return Ok(Some((file_name.to_owned(), Wanted::Names(layout))));
        }
        if layout.batches.contains(&file_name) {
            return Ok(Some((file_name.to_owned(), Wanted::Batch(layout))));
        }
    }
    if !is_picture(path) {
        return Ok(None);
    }
    let Some(class) = path.parent().and_then(Path::file_name) else {
        return Err(damaged!("{name}: the picture {shown} is in no folder that names its class"));
    };
    let (Some(class), false) = (class.to_str(), file_name.is_empty()) else {
        return Err(damaged!("{name}: the name of {shown} is not valid Unicode"));
    };
    plain(class, file_name).map_err(|why| damaged!("{name}: {why}"))?;
    let depth = path.components().filter(|part| *part != Component::CurDir).count();
    Ok(Some((format!("{class}/{file_name}"), Wanted::Picture(class.to_owned(), depth))))
}

struct Member<'a> {
    /// Where it goes.
    name: &'a str,
    size: u64,
    /// In the archive.
    path: &'a Path,
    archive: &'a str,
    folder: &'a Path,
}

impl Member<'_> {
    /// How it is called in messages.
    fn shown(&self) -> String {
        format!("{}: the member {}", self.archive, self.path.display())
    }

    fn names(&self, layout: &Layout, entry: &mut impl Read) -> Result<()> {
        let mut text = String::new();
        let read = entry.take(MOST_NAME_BYTES + 1).read_to_string(&mut text);
        read.map_err(|error| fault(&error, format!("{} is no text", self.shown())))?;
        if self.size > MOST_NAME_BYTES {
            return Err(damaged!("{} has {} bytes; class names are shorter", self.shown(), self.size));
        }
        layout.class_names(&text, &format!("{}: {}", self.archive, self.path.display()))?;
        files::write(&self.folder.join(self.name), text.as_bytes())
    }

    fn batch(&self, layout: &Layout, entry: &mut impl Read) -> Result<()> {
        let (length, most) = (layout.record() as u64, layout.most_records);
        let records = self.size / length;
        if !self.size.is_multiple_of(length) || records == 0 || records > most as u64 {
            return Err(damaged!(
                "{} has {} bytes, where 1 to {most} records of {length} are right",
                self.shown(),
                self.size
            ));
        }
        let target = self.folder.join(self.name);
        let write_error = || format!("cannot write {}", target.display());
        let mut file = BufWriter::new(File::create(&target).with_context(write_error)?);
        let mut bytes = vec![0; layout.record()];
        for record in 0..records {
            let read = entry.read_exact(&mut bytes);
            read.map_err(|error| fault(&error, format!("{} ends in record {record}", self.shown())))?;
            let label = layout.label(&bytes);
            if usize::from(label) >= layout.classes {
                let last = layout.classes - 1;
                return Err(damaged!(
                    "{} has label {label} in record {record}; labels go from 0 to {last}",
                    self.shown()
                ));
            }
            file.write_all(&bytes).with_context(write_error)?;
        }
        file.flush().with_context(write_error)
    }

    /// As it is: whether it can be decoded is seen where it is decoded.
    fn picture(&self, class: &str, entry: &mut impl Read) -> Result<()> {
        if self.size > MOST_PICTURE_BYTES {
            return Err(damaged!("{} has {} bytes, more than any picture that is read", self.shown(), self.size));
        }
        files::create_folder(&self.folder.join(class))?;
        let target = self.folder.join(self.name);
        let mut bytes = Vec::new();
        let read = entry.read_to_end(&mut bytes);
        read.map_err(|error| fault(&error, format!("{} ends before its time", self.shown())))?;
        files::write(&target, &bytes)
    }
}

fn broken(name: &str, error: &std::io::Error) -> anyhow::Error {
    fault(error, format!("{name} is no sound gzip-compressed tar archive"))
}

/// What the network did is no fault of the archive.
fn fault(error: &std::io::Error, what: String) -> anyhow::Error {
    match Lost::behind(error) {
        Some(lost) => anyhow!("{lost}"),
        None => damaged!("{what}: {error}"),
    }
}

/// Reads to the end; anything but `filler` is an error.
fn nothing_but(reader: &mut impl Read, filler: Option<u8>, name: &str) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = reader.read(&mut buffer).map_err(|error| broken(name, &error))?;
        if count == 0 {
            return Ok(());
        }
        if buffer[..count].iter().any(|byte| Some(*byte) != filler) {
            return Err(damaged!("{name}: there are bytes after the end of the archive"));
        }
    }
}

/// Counts what passes.
struct Counted<'a, R> {
    reader: R,
    count: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// Refuses to unpack more than an honest archive of that length holds.
struct Bounded<'a, R> {
    reader: R,
    packed: &'a Cell<u64>,
    unpacked: u64,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = MOST_BYTES.max(MOST_TIMES * self.packed.get());
        if self.unpacked >= most {
            let what = format!("it unpacks to more than {most} bytes, which no such archive of pictures does");
            return Err(std::io::Error::other(what));
        }
        let most = buffer.len().min(usize::try_from(most - self.unpacked).unwrap_or(usize::MAX));
        let count = self.reader.read(&mut buffer[..most])?;
        self.unpacked += count as u64;
        Ok(count)
    }
}
