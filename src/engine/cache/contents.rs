//! The list of a result's files, each with its path, length and digest.

use anyhow::{Context, Result, ensure};

use super::sealed::{is_below, is_digest};

const DIGEST: usize = 64;

/// The files of a result, sorted by path. It is kept as one text, whose hash is the digest of the result. So a result
/// of 100,000 files takes one read, and no allocation for each file.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Contents {
    text: String,
    /// For each file: where its path begins, where its path ends, and where its digest begins. Offsets in `text`.
    spans: Vec<(u32, u32, u32)>,
    /// For each folder: where its path begins and ends in `text`. Sorted by path.
    folders: Vec<(u32, u32)>,
    digest: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct File<'a> {
    /// Relative, with `/` between parts.
    pub path: &'a str,
    pub bytes: u64,
    /// BLAKE3 in hexadecimal.
    pub digest: &'a str,
}

/// A file as a stage wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub bytes: u64,
    /// BLAKE3 in hexadecimal.
    pub digest: String,
}

impl Contents {
    /// Makes the list from `(path, bytes, digest)`, in any order.
    pub fn new(mut files: Vec<(String, u64, String)>) -> Result<Self> {
        files.sort();
        let text = files.iter().map(|(path, bytes, digest)| format!("{path}\0{bytes}\0{digest}\n")).collect();
        Self::parse(text)
    }

    /// Reads the text of a list. The text may be forged.
    ///
    /// # Errors
    /// If it is not a list of files. If a path leads outside of the output directory, is listed twice, or is both a
    /// file and a folder.
    pub fn parse(text: String) -> Result<Self> {
        let mut spans: Vec<(u32, u32, u32)> = Vec::with_capacity(text.len() / 100);
        ensure!(u32::try_from(text.len()).is_ok(), "a result has too many files");
        let mut start = 0;
        while start < text.len() {
            let rest = &text.as_bytes()[start..];
            let span = || {
                let path = rest.iter().position(|byte| *byte == 0)?;
                let bytes = rest[path + 1..].iter().position(|byte| *byte == 0)?;
                let digest = path + bytes + 2;
                (rest.get(digest + DIGEST) == Some(&b'\n')).then_some((path, digest))
            };
            let (path, digest) = span().context("a list of files is damaged")?;
            let name = &text[start..start + path];
            ensure!(is_below(name), "a list of files names {name:?}, which is not below its folder");
            let before = spans.last().map_or("", |(start, end, _)| &text[*start as usize..*end as usize]);
            ensure!(before < name, "a list of files has {name:?} twice, or out of order");
            let bytes = &text[start + path + 1..start + digest - 1];
            let plain = bytes.bytes().all(|byte| byte.is_ascii_digit()) && bytes.parse::<u64>().is_ok();
            ensure!(plain, "a list of files has {bytes:?} for the length of {name:?}");
            let digested = is_digest(&text[start + digest..start + digest + DIGEST]);
            ensure!(digested, "a list of files has no digest for {name:?}");
            spans.push((start as u32, (start + path) as u32, (start + digest) as u32));
            start += digest + DIGEST + 1;
        }
        let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
        let folders = folders(&text, &spans);
        let contents = Self { text, spans, folders, digest };
        let both = contents.folders().find(|folder| contents.find(folder).is_some());
        ensure!(both.is_none(), "a list of files has {:?} as a file and as a folder", both.unwrap_or_default());
        Ok(contents)
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The digest of the result: the hash of the text.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub fn file(&self, place: usize) -> File<'_> {
        let (start, path, digest) = self.spans[place];
        let (start, path, digest) = (start as usize, path as usize, digest as usize);
        let bytes = self.text[path + 1..digest - 1].parse().unwrap_or_default();
        File { path: &self.text[start..path], bytes, digest: &self.text[digest..digest + DIGEST] }
    }

    pub fn path(&self, place: usize) -> &str {
        let (start, end, _) = self.spans[place];
        &self.text[start as usize..end as usize]
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = File<'_>> + ExactSizeIterator {
        (0..self.len()).map(|place| self.file(place))
    }

    pub fn find(&self, path: &str) -> Option<usize> {
        self.spans.binary_search_by(|(start, end, _)| self.text[*start as usize..*end as usize].cmp(path)).ok()
    }

    pub fn digest_of(&self, path: &str) -> Result<blake3::Hash> {
        let place = self.find(path).with_context(|| format!("{path} is not in the result that is read"))?;
        Ok(blake3::Hash::from_hex(self.file(place).digest)?)
    }

    /// Every folder that holds a file or a folder, as sorted relative paths. The first is "", the root.
    pub fn folders(&self) -> impl ExactSizeIterator<Item = &str> {
        self.folders.iter().map(|(start, end)| &self.text[*start as usize..*end as usize])
    }

    pub fn has_folder(&self, path: &str) -> bool {
        self.folders.binary_search_by(|(start, end)| self.text[*start as usize..*end as usize].cmp(path)).is_ok()
    }

    /// The files that were added, removed or changed since `earlier`.
    pub fn changes_since(&self, earlier: &Self) -> Changes {
        let mut changes = Changes::default();
        for file in self.iter() {
            match earlier.find(file.path) {
                None => changes.added.push(file.path.to_owned()),
                Some(place) if earlier.file(place).digest != file.digest => changes.changed.push(file.path.to_owned()),
                Some(_) => {}
            }
        }
        let removed = earlier.iter().filter(|file| self.find(file.path).is_none());
        changes.removed.extend(removed.map(|file| file.path.to_owned()));
        changes
    }
}

/// Where the path of each folder begins and ends in `text`, without duplicates.
fn folders(text: &str, spans: &[(u32, u32, u32)]) -> Vec<(u32, u32)> {
    let mut folders = vec![(0, 0)];
    let mut last = "";
    for (start, end, _) in spans {
        let folder = folder_of(&text[*start as usize..*end as usize]);
        if folder != last {
            last = folder;
            let parents = folder.match_indices('/').map(|(length, _)| length).chain([folder.len()]);
            folders.extend(parents.map(|length| (*start, start + length as u32)));
        }
    }
    let path = |(start, end): &(u32, u32)| &text[*start as usize..*end as usize];
    folders.sort_unstable_by(|one, two| path(one).cmp(path(two)));
    folders.dedup_by(|one, two| path(one) == path(two));
    folders
}

/// The folder of a path with `/` between its parts.
pub(super) fn folder_of(path: &str) -> &str {
    path.rfind('/').map_or("", |end| &path[..end])
}

#[derive(Debug, Default, Clone, PartialEq, serde::Serialize)]
pub struct Changes {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn contents(files: &BTreeMap<String, u8>) -> Contents {
        let digest = |content: &u8| blake3::hash(&[*content]).to_hex().to_string();
        Contents::new(files.iter().rev().map(|(path, content)| (path.clone(), 1, digest(content))).collect()).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_compared(
            one in prop::collection::btree_map("[a-c](/[a-c\n]){0,2}", 0u8..3, 0..8),
            two in prop::collection::btree_map("[a-c](/[a-c\n]){0,2}", 0u8..3, 0..8),
        ) {
            let both = |files: &BTreeMap<String, u8>| {
                files.keys().any(|path| files.keys().any(|other| other.starts_with(&format!("{path}/"))))
            };
            prop_assume!(!both(&one) && !both(&two));
            let (before, after) = (contents(&one), contents(&two));
            prop_assert_eq!(&Contents::parse(before.text().to_owned()).unwrap(), &before);
            prop_assert!(before.iter().map(|file| file.path).eq(one.keys()));
            let changes = after.changes_since(&before);
            prop_assert!(changes.added.iter().eq(two.keys().filter(|path| !one.contains_key(*path))));
            prop_assert!(changes.removed.iter().eq(one.keys().filter(|path| !two.contains_key(*path))));
            let changed = two.iter().filter(|(path, content)| one.get(*path).is_some_and(|old| old != *content));
            prop_assert!(changes.changed.iter().eq(changed.map(|(path, _)| path)));
            prop_assert_eq!(before.digest() == after.digest(), changes == Changes::default());
        }
    }

    #[test]
    fn folders_have_their_parents() {
        let files = ["a/b/c.txt", "a/d.txt", "e.txt"].map(|path| (path.to_owned(), 0));
        assert_eq!(contents(&files.into()).folders().collect::<Vec<_>>(), ["", "a", "a/b"]);
    }

    #[test]
    fn a_damaged_list_is_refused() {
        for text in ["a", "a\0", "a\x001\0short\n", "a\x001\0"] {
            assert!(Contents::parse(text.to_owned()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_list_that_no_stage_makes_is_refused() {
        let digest = "0".repeat(64);
        let parse = |files: &[(&str, &str, &str)]| {
            Contents::parse(files.iter().map(|(path, bytes, digest)| format!("{path}\0{bytes}\0{digest}\n")).collect())
        };
        assert!(parse(&[("a", "1", &digest), ("a-b", "2", &digest), ("b/c", "3", &digest)]).is_ok());
        for path in ["", "/etc/x", "../x", "a/../../x", "./x", "a//x"] {
            assert!(parse(&[(path, "1", &digest)]).is_err(), "{path}");
        }
        for files in [["a", "a"], ["b", "a"]] {
            assert!(parse(&files.map(|path| (path, "1", digest.as_str()))).is_err(), "{files:?}");
        }
        assert!(parse(&[("a", "1", &digest), ("a-b", "1", &digest), ("a/b", "1", &digest)]).is_err());
        for bytes in ["", "-1", "+1", "1e3", "99999999999999999999"] {
            assert!(parse(&[("a", bytes, &digest)]).is_err(), "{bytes}");
        }
        for digest in ["A".repeat(64), "/".repeat(64)] {
            assert!(parse(&[("a", "1", &digest)]).is_err(), "{digest}");
        }
        let both = ["x", "x/y"].map(|path| (path.to_owned(), 1, digest.clone()));
        assert!(Contents::new(both.to_vec()).unwrap_err().to_string().contains("as a file and as a folder"));
    }
}
