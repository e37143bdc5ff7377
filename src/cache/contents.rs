//! What a result consists of: its files by path, each with its length and digest.

use anyhow::{Context, Result, ensure};

const DIGEST: usize = 64;

/// The files of a result, sorted by path. Kept as the text that the result's digest is made of, so that a result of
/// 100,000 files costs one read and no allocation for each.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Contents {
    text: String,
    /// Where each file's path begins and ends, and its digest begins.
    spans: Vec<(u32, u32, u32)>,
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

impl Contents {
    /// Of `(path, bytes, digest)`, in any order.
    pub fn new(mut files: Vec<(String, u64, String)>) -> Result<Self> {
        files.sort();
        if let Some(pair) = files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            anyhow::bail!("{} stands there twice", pair[0].0);
        }
        let text = files.iter().map(|(path, bytes, digest)| format!("{path}\0{bytes}\0{digest}\n")).collect();
        Self::parse(text)
    }

    pub fn parse(text: String) -> Result<Self> {
        let mut spans = Vec::with_capacity(text.len() / 100);
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
            spans.push((start as u32, (start + path) as u32, (start + digest) as u32));
            start += digest + DIGEST + 1;
        }
        ensure!(u32::try_from(text.len()).is_ok(), "a result has too many files");
        let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
        Ok(Self { text, spans, digest })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The digest of the result as a whole.
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

    /// Every folder that holds a file or a folder, as sorted relative paths; the first is the empty one.
    pub fn folders(&self) -> Vec<&str> {
        let mut folders = vec![""];
        let mut last = "";
        for place in 0..self.len() {
            let path = self.path(place);
            let folder = path.rfind('/').map_or("", |end| &path[..end]);
            if folder != last {
                last = folder;
                let parents = folder.match_indices('/').map(|(end, _)| &folder[..end]);
                folders.extend(parents.chain([folder]));
            }
        }
        folders.sort_unstable();
        folders.dedup();
        folders
    }

    /// Paths that only `self` has, that only `earlier` has, and whose content differs.
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
        assert_eq!(contents(&files.into()).folders(), ["", "a", "a/b"]);
    }

    #[test]
    fn a_damaged_list_is_refused() {
        for text in ["a", "a\0", "a\x001\0short\n", "a\x001\0"] {
            assert!(Contents::parse(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
