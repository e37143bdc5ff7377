//! Seals the cache's own files with a checksum over content and name, so that modified or renamed files are ignored.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::files;

const FIELD: &str = "checksum";

fn checksum(name: &str, content: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes()).update(b"\0").update(content);
    hasher.finalize()
}

/// `content` with its checksum at the end.
pub fn seal(name: &str, mut content: Vec<u8>) -> Vec<u8> {
    let sum = checksum(name, &content);
    content.extend(sum.as_bytes());
    content
}

/// The content that [`seal`] received. `None` if the file was modified or has another name.
pub fn open<'a>(name: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (content, sum) = bytes.split_last_chunk::<32>()?;
    (checksum(name, content).as_bytes() == sum).then_some(content)
}

/// A JSON object with its checksum as an additional field.
pub fn to_json(name: &str, value: &impl Serialize) -> Result<serde_json::Value> {
    let mut value = serde_json::to_value(value)?;
    let sum = checksum(name, &serde_json::to_vec(&value)?);
    value[FIELD] = sum.to_hex().as_str().into();
    Ok(value)
}

/// The value that [`to_json`] received. `None` if the file was modified or has another name.
pub fn from_json<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Option<T> {
    let mut value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let sum = value.as_object_mut()?.remove(FIELD)?;
    let right = checksum(name, &serde_json::to_vec(&value).ok()?);
    (sum.as_str() == Some(right.to_hex().as_str())).then_some(())?;
    serde_json::from_value(value).ok()
}

/// The outcome of reading one of the cache's own files.
#[derive(Debug, PartialEq)]
pub enum Found<T> {
    Absent,
    Damaged,
    Whole(T),
}

impl<T> Found<T> {
    /// The value. A damaged file counts as absent, and a warning names it once.
    pub fn or_warn(self, path: &Path) -> Option<T> {
        match self {
            Self::Whole(value) => Some(value),
            Self::Absent => None,
            Self::Damaged => {
                static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
                if TOLD.lock().insert(path.to_owned()) {
                    tracing::warn!(
                        "{} is damaged and ignored, or an earlier version wrote it; `similiai verify --repair` removes it",
                        path.display()
                    );
                }
                None
            }
        }
    }
}

/// Reads a file with `parse`. A file that cannot be opened or read is an error, not damage: its content may be right.
pub fn read<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Option<T>) -> Result<Found<T>> {
    if files::is_no_file(path) {
        return Ok(Found::Damaged);
    }
    match fs::read(path) {
        Ok(bytes) => Ok(parse(&bytes).map_or(Found::Damaged, Found::Whole)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Found::Absent),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Whether `text` looks like a BLAKE3 digest in hexadecimal. Then it is also safe as a file name.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Longest part and longest path of a file of a result, in bytes. Every system allows these.
const LONGEST_PART: usize = 255;
const LONGEST_PATH: usize = 1024;

/// Whether a relative path with `/` between its parts stays below its folder, and is not too long.
pub fn is_below(path: &str) -> bool {
    let sound = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= LONGEST_PART;
    path.len() <= LONGEST_PATH && path.split('/').all(sound) && !(cfg!(windows) && path.contains(['\\', ':']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_would_lie_elsewhere_is_refused() {
        assert!(is_digest(blake3::hash(b"").to_hex().as_str()));
        for text in ["/etc/passwd", "", &"A".repeat(64), &"a".repeat(63)] {
            assert!(!is_digest(text), "{text}");
        }
        assert!(is_below("cat/00001.png") && is_below("a b"));
        for path in ["", "/etc/x", "../x", "a/../../x", "./x", "a//b", "a/", "a/."] {
            assert!(!is_below(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_bit_or_another_name_is_noticed(content in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = seal("one", content.clone());
            prop_assert_eq!(open("one", &bytes), Some(&content[..]));
            prop_assert_eq!(open("two", &bytes), None);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(open("one", &bytes), None);
        }

        #[test]
        fn json_is_the_same_again_or_nothing(number in any::<u64>(), text in any::<String>()) {
            let value = json!({"number": number, "text": text});
            let mut sealed = to_json("one", &value).unwrap();
            let bytes = serde_json::to_vec_pretty(&sealed).unwrap();
            prop_assert_eq!(from_json::<serde_json::Value>("one", &bytes), Some(value));
            prop_assert_eq!(from_json::<serde_json::Value>("two", &bytes), None);
            sealed["number"] = number.wrapping_add(1).into();
            prop_assert_eq!(from_json::<serde_json::Value>("one", &serde_json::to_vec(&sealed).unwrap()), None);
        }
    }
}
