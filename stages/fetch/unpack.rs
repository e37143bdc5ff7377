//! Unpacking CIFAR-10's archive as a stream: only the members the format names, and those only if they are sound.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Component, Path};

use anyhow::{Context, Result, anyhow};
use flate2::bufread::GzDecoder;
use similiai::images::{cifar10, class_names};
use similiai::{damaged, files};
use tar::{Archive, EntryType};

use super::download::Lost;

/// Names file, batches, an HTML page and headers: no sound archive unpacks to more than this.
const MOST_BYTES: u64 = (cifar10::BATCHES.len() * cifar10::MOST_RECORDS * cifar10::RECORD) as u64 + (1 << 20);
const MOST_NAME_BYTES: u64 = 4096;

/// Unpacks the gzip-compressed tar `archive`, called `name` in messages, into `folder`.
pub fn cifar10(archive: &mut impl Read, name: &str, folder: &Path) -> Result<()> {
    let mut gzip = GzDecoder::new(BufReader::with_capacity(1 << 18, archive));
    let mut found: Vec<String> = Vec::new();
    {
        let mut tar = Archive::new(Bounded { reader: &mut gzip, left: MOST_BYTES });
        let entries = tar.entries().map_err(|error| broken(name, &error))?;
        for entry in entries {
            let mut entry = entry.map_err(|error| broken(name, &error))?;
            let path = entry.path().map_err(|error| broken(name, &error))?.into_owned();
            if let Some(member) = named_by_format(&path, entry.header().entry_type(), name)? {
                if found.contains(&member) {
                    return Err(damaged!("{name}: the member {} stands there twice", path.display()));
                }
                let size = entry.size();
                unpack_member(&mut entry, &member, size, &path, name, folder)?;
                found.push(member);
            }
        }
        // The archive ends with zeros, whatever their number.
        let mut rest = tar.into_inner();
        nothing_but(&mut rest, Some(0), name)?;
    }
    nothing_but(&mut gzip.into_inner(), None, name)?;
    if !found.iter().any(|member| member == cifar10::NAMES) {
        return Err(damaged!("{name}: the member {} with the class names is missing", cifar10::NAMES));
    }
    if found.len() == 1 {
        return Err(damaged!("{name}: there is no batch of images in it, such as {}", cifar10::BATCHES[0]));
    }
    Ok(())
}

/// The plain name of a member to take; `None` for one to pass over; an error for one that no honest archive has.
fn named_by_format(path: &Path, kind: EntryType, name: &str) -> Result<Option<String>> {
    let shown = path.display();
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(damaged!("{name}: the member {shown} would be written outside its folder"));
    }
    if !matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::Directory | EntryType::XGlobalHeader) {
        return Err(damaged!("{name}: the member {shown} is a link, a device or another special file"));
    }
    let plain = path.file_name().and_then(|plain| plain.to_str()).unwrap_or_default();
    let known = plain == cifar10::NAMES || cifar10::BATCHES.contains(&plain);
    Ok((known && matches!(kind, EntryType::Regular | EntryType::Continuous)).then(|| plain.to_owned()))
}

fn unpack_member(entry: &mut impl Read, member: &str, size: u64, path: &Path, name: &str, folder: &Path) -> Result<()> {
    let shown = path.display();
    let target = folder.join(member);
    if member == cifar10::NAMES {
        let mut text = String::new();
        let read = entry.take(MOST_NAME_BYTES + 1).read_to_string(&mut text);
        read.map_err(|error| fault(&error, format!("{name}: the member {shown} is no text")))?;
        if size > MOST_NAME_BYTES {
            return Err(damaged!("{name}: the member {shown} has {size} bytes; class names are shorter"));
        }
        class_names(&text, &format!("{name}: {shown}"))?;
        return files::write(&target, text.as_bytes());
    }
    let records = size / cifar10::RECORD as u64;
    if !size.is_multiple_of(cifar10::RECORD as u64) || records == 0 || records > cifar10::MOST_RECORDS as u64 {
        return Err(damaged!(
            "{name}: the member {shown} has {size} bytes, where 1 to {} records of {} are right",
            cifar10::MOST_RECORDS,
            cifar10::RECORD
        ));
    }
    let write_error = || format!("cannot write {}", target.display());
    let mut file = BufWriter::new(File::create(&target).with_context(write_error)?);
    let mut bytes = vec![0; cifar10::RECORD];
    for record in 0..records {
        entry
            .read_exact(&mut bytes)
            .map_err(|error| fault(&error, format!("{name}: the member {shown} ends in record {record}")))?;
        if usize::from(bytes[0]) >= cifar10::CLASSES {
            return Err(damaged!(
                "{name}: the member {shown} has label {} in record {record}; labels go from 0 to 9",
                bytes[0]
            ));
        }
        file.write_all(&bytes).with_context(write_error)?;
    }
    file.flush().with_context(write_error)
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

/// Refuses to unpack more than the format allows.
struct Bounded<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Err(std::io::Error::other(format!(
                "it unpacks to more than {MOST_BYTES} bytes, which the format never does"
            )));
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.reader.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}
