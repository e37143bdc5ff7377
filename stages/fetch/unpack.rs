//! Unpacking an archive as a stream: only what its layout names, and that only if it is sound.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use flate2::bufread::GzDecoder;
use similiai::base::text::legible_path as shown;
use similiai::damaged;
use similiai::engine::stage::Outputs;
use similiai::learning::dataset::part;
use similiai::learning::images::{
    LAYOUTS, Layout, MOST_BYTES as MOST_PICTURE_BYTES, OnBadImage, SkipReason, SkippedFiles, is_picture,
};
use tar::{Archive, Entry, EntryType};

use super::depths::Depths;
use super::download::Lost;
use super::folder::plain;

/// Names file, batches, an HTML page and headers: no sound archive of a binary layout unpacks to more than this …
const MOST_BYTES: u64 = 6 * 10_000 * 3_074 + (1 << 20);
/// … and no other one to more than so many times its own length: pictures are compressed already.
const MOST_TIMES: u64 = 100;
const MOST_NAME_BYTES: u64 = 4096;
/// The folder in which tar's POSIX format has what is left of a sparse file.
const SPARSE: &str = "GNUSparseFile.";
const HOLES: &str = "it has holes (a sparse file), which is not read here";
/// A folder in an incremental archive of GNU tar.
const INCREMENTAL: u8 = b'D';
/// Of a member: as much as systems take.
const MOST_PATH_BYTES: usize = 4096;

/// A member to take.
enum Wanted {
    Names(&'static Layout),
    Batch(&'static Layout),
    /// A picture of a class, so many folders deep, and whether it is of a part such as `train`.
    Picture(usize, bool),
}

/// What becomes of a member.
enum Verdict {
    Take(String, Wanted),
    /// Nothing that people would miss.
    Leave,
    PassOver(SkipReason),
    /// It should be taken and cannot be, for this reason.
    Refuse(String),
}

/// Unpacks the gzip-compressed tar `archive`, called `name` in messages, into `outputs`; gives what it passed over.
pub fn unpack(
    archive: &mut impl Read,
    name: &str,
    on_bad_image: OnBadImage,
    outputs: &Outputs,
) -> Result<SkippedFiles> {
    let packed = Cell::new(0);
    let counted = Counted { reader: archive, count: &packed };
    let mut gzip = Members::new(BufReader::with_capacity(1 << 18, counted));
    let mut found: HashSet<String> = HashSet::new();
    let mut pictures = Pictures { outputs, archive: name, packed: &packed, linked: 0, linkable: HashMap::new() };
    let mut skipped = SkippedFiles::default();
    let refuse = |path: &Path, why: String| match on_bad_image {
        OnBadImage::Skip => Ok(SkipReason::Unreadable(why)),
        OnBadImage::Fail => {
            let path = shown(path);
            Err(damaged!("{name}: the member {path}: {why}; leave it out with on_bad_image: skip"))
        }
    };
    let (mut layout, mut depths) = (None, Depths::default());
    {
        let mut tar = Archive::new(Bounded { reader: &mut gzip, packed: &packed, unpacked: 0 });
        let entries = tar.entries().map_err(|error| broken(name, &error))?;
        for entry in entries {
            let mut entry = entry.map_err(|error| broken(name, &error))?;
            let path = entry.path().map_err(|error| broken(name, &error))?.into_owned();
            let length = path.as_os_str().len();
            if length > MOST_PATH_BYTES {
                return Err(damaged!(
                    "{name}: a member has a name of {length} bytes; at most {MOST_PATH_BYTES} are read"
                ));
            }
            let mut verdict = verdict(&path, entry.header().entry_type(), name)?;
            if matches!(verdict, Verdict::Take(..)) && has_holes(&mut entry) {
                verdict = Verdict::Refuse(HOLES.to_owned());
            }
            // Where names differ only in case, some systems know one file.
            if let Verdict::Take(member, wanted) = &verdict {
                let own = match wanted {
                    Wanted::Picture(deep, of_part) => depths.name((*deep, *of_part), member),
                    _ => member.clone(),
                };
                if !found.insert(own.to_lowercase()) {
                    let why = "the archive has this name twice".to_owned();
                    if !matches!(wanted, Wanted::Picture(..)) {
                        return Err(damaged!("{name}: the member {}: {why}", shown(&path)));
                    }
                    verdict = Verdict::Refuse(why);
                }
            }
            let (member, wanted) = match verdict {
                Verdict::Take(member, wanted) => (member, wanted),
                Verdict::Leave => continue,
                Verdict::PassOver(why) => {
                    skipped.add(&path, why);
                    continue;
                }
                Verdict::Refuse(why) => {
                    skipped.add(&path, refuse(&path, why)?);
                    continue;
                }
            };
            let of = match &wanted {
                Wanted::Names(layout) | Wanted::Batch(layout) => Some(layout.names),
                Wanted::Picture(..) => None,
            };
            if *layout.get_or_insert(of) != of {
                return Err(damaged!("{name}: the member {} is of another layout than those before", shown(&path)));
            }
            let is_link = entry.header().entry_type() == EntryType::Link;
            let size = entry.size();
            let member_of = |own| Member { name: own, size, path: &path, archive: name, outputs };
            match &wanted {
                Wanted::Names(layout) if !is_link => member_of(&member).names(layout, &mut entry)?,
                Wanted::Batch(layout) if !is_link => member_of(&member).batch(layout, &mut entry)?,
                Wanted::Picture(deep, of_part) => {
                    let depth = (*deep, *of_part);
                    let own = depths.name(depth, &member);
                    match pictures.take(&member_of(&own), &mut entry)? {
                        None => depths.add(depth, &member, &path),
                        Some(why) => {
                            found.remove(&own.to_lowercase());
                            skipped.add(&path, refuse(&path, why)?);
                        }
                    }
                }
                _ => {
                    let shown = member_of(&member).shown();
                    return Err(damaged!("{shown} is a link, where images should be"));
                }
            }
        }
        // The archive ends with zeros, whatever their number.
        let mut rest = tar.into_inner();
        nothing_but_zeros(&mut rest, name)?;
    }
    for path in depths.settle(outputs)? {
        let why = "it is at another folder depth than most pictures".to_owned();
        skipped.add(&path, refuse(&path, why)?);
    }
    match layout.flatten() {
        Some(names) if !found.contains(names) => {
            Err(damaged!("{name}: the member {names} with the class names is missing"))
        }
        Some(names) if found.len() == 1 => {
            Err(damaged!("{name}: there is no batch of images in it, only their names in {names}"))
        }
        None if found.is_empty() => {
            skipped.tell();
            Err(damaged!("{name}: there are neither batches of CIFAR-10 or CIFAR-100 in it nor <class>/<picture>"))
        }
        // A binary archive has other files too, such as a page about it.
        Some(_) => Ok(SkippedFiles::default()),
        None => Ok(skipped),
    }
}

/// Whether tar's POSIX format says so beside the header, in its first version under the file's own name.
fn has_holes(entry: &mut Entry<impl Read>) -> bool {
    let Ok(Some(mut records)) = entry.pax_extensions() else { return false };
    records.any(|record| record.is_ok_and(|record| record.key_bytes().starts_with(b"GNU.sparse.")))
}

/// Where a member is to go, and what it is; an error for one that no honest archive has.
fn verdict(path: &Path, kind: EntryType, name: &str) -> Result<Verdict> {
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(damaged!("{name}: the member {} would be written outside its folder", shown(path)));
    }
    let parts: Vec<_> = path.iter().filter(|part| *part != ".").collect();
    if matches!(kind, EntryType::Directory | EntryType::XGlobalHeader) || kind.as_byte() == INCREMENTAL {
        return Ok(Verdict::Leave);
    }
    if parts.iter().any(|part| part.as_encoded_bytes().starts_with(b".")) {
        return Ok(if is_picture(path) { Verdict::PassOver(SkipReason::Hidden) } else { Verdict::Leave });
    }
    if kind == EntryType::GNUSparse || parts.iter().any(|part| part.to_string_lossy().starts_with(SPARSE)) {
        return Ok(Verdict::Refuse(HOLES.to_owned()));
    }
    if !matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::Link) {
        return Ok(Verdict::Refuse("it is a symbolic link, a device or another special file".to_owned()));
    }
    let Some((file_name, folders)) = parts.split_last() else { return Ok(Verdict::Leave) };
    for layout in &LAYOUTS {
        if *file_name == layout.names {
            return Ok(Verdict::Take(layout.names.to_owned(), Wanted::Names(layout)));
        }
        if let Some(batch) = layout.batches.iter().find(|batch| **batch == *file_name) {
            return Ok(Verdict::Take((*batch).to_owned(), Wanted::Batch(layout)));
        }
    }
    if !is_picture(path) {
        return Ok(Verdict::PassOver(SkipReason::of_name(path)));
    }
    let Some((class, above)) = folders.split_last() else {
        return Ok(Verdict::Refuse("it is in no folder that names its class".to_owned()));
    };
    let (Some(class), Some(file_name)) = (class.to_str(), file_name.to_str()) else {
        return Ok(Verdict::Refuse(SkipReason::NotUnicode.to_string()));
    };
    let above = above.last().and_then(|above| above.to_str()).filter(|above| part(above).is_some());
    let class = above.map_or(class.to_owned(), |part| format!("{part}/{class}"));
    Ok(match plain(&class, file_name) {
        Ok(member) => Verdict::Take(member, Wanted::Picture(parts.len(), above.is_some())),
        Err(why) => Verdict::Refuse(why),
    })
}

/// The pictures of an archive.
struct Pictures<'a> {
    outputs: &'a Outputs,
    archive: &'a str,
    /// Bytes of the archive read, and of the pictures that links lead to.
    packed: &'a Cell<u64>,
    linked: u64,
    /// By their paths in the archive, the names of those that came: hard links lead to them.
    linkable: HashMap<PathBuf, String>,
}

impl Pictures<'_> {
    /// As it is: whether it can be decoded is seen where it is decoded. Gives why it cannot be taken, if so.
    fn take(&mut self, member: &Member, entry: &mut Entry<impl Read>) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        if entry.header().entry_type() == EntryType::Link {
            let target = entry.link_name().ok().flatten().unwrap_or_default().into_owned();
            let Some(name) = self.linkable.get(&plain_path(&target)) else {
                return Ok(Some(format!("it is a link to {}, which is no picture before it", shown(&target))));
            };
            bytes = self.outputs.read(name)?;
            self.linked += bytes.len() as u64;
            if self.linked > most_unpacked(self.packed) {
                return Err(damaged!("{}: its links lead to more bytes than such an archive holds", self.archive));
            }
        } else {
            if member.size > MOST_PICTURE_BYTES {
                return Ok(Some(format!("it has {} bytes, more than any picture that is read", member.size)));
            }
            let read = entry.read_to_end(&mut bytes);
            read.map_err(|error| fault(&error, format!("{} ends before its time", member.shown())))?;
        }
        self.linkable.insert(plain_path(member.path), member.name.to_owned());
        self.outputs.write(member.name, &bytes).with_context(|| format!("cannot unpack {}", self.archive))?;
        Ok(None)
    }
}

/// Without `.` in it.
fn plain_path(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

struct Member<'a> {
    /// Where it goes.
    name: &'a str,
    size: u64,
    /// In the archive.
    path: &'a Path,
    archive: &'a str,
    outputs: &'a Outputs,
}

impl Member<'_> {
    /// How it is called in messages.
    fn shown(&self) -> String {
        format!("{}: the member {}", self.archive, shown(self.path))
    }

    fn names(&self, layout: &Layout, entry: &mut impl Read) -> Result<()> {
        let mut text = String::new();
        let read = entry.take(MOST_NAME_BYTES + 1).read_to_string(&mut text);
        read.map_err(|error| fault(&error, format!("{} is no text", self.shown())))?;
        if self.size > MOST_NAME_BYTES {
            return Err(damaged!("{} has {} bytes; class names are shorter", self.shown(), self.size));
        }
        layout.class_names(&text, &format!("{}: {}", self.archive, shown(self.path)))?;
        self.outputs.write(self.name, text.as_bytes())
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
        let write_error = || format!("cannot write {}", self.name);
        let mut file = self.outputs.create(self.name)?;
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
        file.finish()
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

/// Reads to the end; anything but zeros is an error.
fn nothing_but_zeros(reader: &mut impl Read, name: &str) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = reader.read(&mut buffer).map_err(|error| {
            let what = format!("{name}: there are bytes after the end of the archive, or it is damaged there");
            fault(&error, what)
        })?;
        if count == 0 {
            return Ok(());
        }
        if buffer[..count].iter().any(|byte| *byte != 0) {
            return Err(damaged!("{name}: there are bytes after the end of the archive"));
        }
    }
}

/// Bytes that an honest archive holds, of which so many are read.
fn most_unpacked(packed: &Cell<u64>) -> u64 {
    MOST_BYTES.max(MOST_TIMES * packed.get())
}

/// Reads gzip members that follow one another, as parallel compressors write them (RFC 1952, section 2.2). Zeros after the
/// last one are ignored: tapes and some copies pad a file with them.
struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Members<R> {
    fn new(reader: R) -> Self {
        Self(Some(GzDecoder::new(reader)))
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let reader = member.get_mut();
            loop {
                let rest = reader.fill_buf()?;
                if rest.is_empty() {
                    return Ok(0);
                }
                let (zeros, all) = (rest.iter().take_while(|byte| **byte == 0).count(), rest.len());
                reader.consume(zeros);
                if zeros < all {
                    break;
                }
            }
            self.0 = self.0.take().map(|member| GzDecoder::new(member.into_inner()));
        }
        Ok(0)
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
        let most = most_unpacked(self.packed);
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
