//! Unpacks an archive as a stream: only the members that its layout names, and only if they are valid.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow};
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
use super::readers::{Bounded, Counted, Members, most_unpacked};

const MOST_NAME_BYTES: u64 = 4096;
/// Folder in which tar's POSIX format stores the content of a sparse file.
const SPARSE: &str = "GNUSparseFile.";
const HOLES: &str = "it is a sparse file, which cannot be unpacked";
/// A folder in an incremental archive of GNU tar.
const INCREMENTAL: u8 = b'D';
/// Longest name of a member, in bytes: the limit of common systems.
const MOST_PATH_BYTES: usize = 4096;

/// A member to take.
enum Wanted {
    Names(&'static Layout),
    Batch(&'static Layout),
    /// A picture of a class: the number of components of its path, and whether it is below a part such as `train`.
    Picture(usize, bool),
}

/// What to do with a member.
enum Verdict {
    Take(String, Wanted),
    /// Ignore it without a message.
    Leave,
    PassOver(SkipReason),
    /// It should be unpacked but cannot be, for this reason.
    Refuse(String),
}

/// Unpacks the gzip-compressed tar `archive`, called `name` in messages, into `outputs`. Returns what it skipped.
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
            Err(damaged!("{name}: the member {path}: {why}; skip it with `on_bad_image: skip`"))
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
            // Some systems treat names that differ only in case as one file.
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
                return Err(damaged!("{name}: the member {} has another layout than those before it", shown(&path)));
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
                    return Err(damaged!("{shown} is a link, but must be a file of images"));
                }
            }
        }
        // An archive ends with any number of zeros.
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
            Err(damaged!("{name}: it has no batch of images, only class names in {names}"))
        }
        None if found.is_empty() => {
            skipped.tell();
            Err(damaged!("{name}: it has no batches of CIFAR-10 or CIFAR-100, and no pictures at <class>/<picture>"))
        }
        // A binary archive has other files too, such as a page about it.
        Some(_) => Ok(SkippedFiles::default()),
        None => Ok(skipped),
    }
}

/// Whether tar's POSIX format says that the file is sparse. In the first version of the format, the file keeps its
/// own name.
fn has_holes(entry: &mut Entry<impl Read>) -> bool {
    let Ok(Some(mut records)) = entry.pax_extensions() else { return false };
    records.any(|record| record.is_ok_and(|record| record.key_bytes().starts_with(b"GNU.sparse.")))
}

/// Decides what to do with a member. Fails for a member that would be written outside the folder.
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
    /// Bytes of the archive that were read.
    packed: &'a Cell<u64>,
    /// Bytes of the pictures that hard links lead to.
    linked: u64,
    /// Names of the unpacked pictures, by their paths in the archive: hard links lead to them.
    linkable: HashMap<PathBuf, String>,
}

impl Pictures<'_> {
    /// Writes the picture unchanged; it is not decoded here. Returns the reason if it cannot be used.
    fn take(&mut self, member: &Member, entry: &mut Entry<impl Read>) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        if entry.header().entry_type() == EntryType::Link {
            let target = entry.link_name().ok().flatten().unwrap_or_default().into_owned();
            let Some(name) = self.linkable.get(&plain_path(&target)) else {
                return Ok(Some(format!("it is a link to {}, but no picture before it has this path", shown(&target))));
            };
            bytes = self.outputs.read(name)?;
            self.linked += bytes.len() as u64;
            if self.linked > most_unpacked(self.packed) {
                return Err(damaged!("{}: its hard links lead to more bytes than the limit", self.archive));
            }
        } else {
            if member.size > MOST_PICTURE_BYTES {
                return Ok(Some(format!("it has {} bytes, more than the limit for a picture", member.size)));
            }
            let read = entry.read_to_end(&mut bytes);
            read.map_err(|error| fault(&error, format!("{} cannot be read", member.shown())))?;
        }
        self.linkable.insert(plain_path(member.path), member.name.to_owned());
        self.outputs.write(member.name, &bytes).with_context(|| format!("cannot unpack {}", self.archive))?;
        Ok(None)
    }
}

/// `path` without its components `.`.
fn plain_path(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

struct Member<'a> {
    /// Its name in the result.
    name: &'a str,
    size: u64,
    /// Its path in the archive.
    path: &'a Path,
    archive: &'a str,
    outputs: &'a Outputs,
}

impl Member<'_> {
    /// Its name in messages.
    fn shown(&self) -> String {
        format!("{}: the member {}", self.archive, shown(self.path))
    }

    fn names(&self, layout: &Layout, entry: &mut impl Read) -> Result<()> {
        let mut text = String::new();
        let read = entry.take(MOST_NAME_BYTES + 1).read_to_string(&mut text);
        read.map_err(|error| fault(&error, format!("{} is not text", self.shown())))?;
        if self.size > MOST_NAME_BYTES {
            return Err(damaged!("{} has {} bytes, too many for a list of class names", self.shown(), self.size));
        }
        layout.class_names(&text, &format!("{}: {}", self.archive, shown(self.path)))?;
        self.outputs.write(self.name, text.as_bytes())
    }

    fn batch(&self, layout: &Layout, entry: &mut impl Read) -> Result<()> {
        let (length, most) = (layout.record() as u64, layout.most_records);
        let records = self.size / length;
        if !self.size.is_multiple_of(length) || records == 0 || records > most as u64 {
            return Err(damaged!(
                "{} has {} bytes, but must have 1 to {most} records of {length} bytes",
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
    fault(error, format!("{name} is not a valid gzip-compressed tar archive"))
}

/// A failed download does not mean that the archive is damaged.
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
