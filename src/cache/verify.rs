//! Reading everything that is stored, to find what the disk or a person damaged.

use std::collections::HashSet;
use std::fs;

use anyhow::Result;
use rayon::prelude::*;

use super::signature::Signature;
use super::{Contents, Fault, Place, Record, Store};
use crate::{files, interrupt};

/// What a run re-reads on its way.
const SCRUBBED_BYTES: u64 = 1 << 20;
const SCRUBBED_FILES: usize = 64;

/// What is wrong, and how much was read to find it.
#[derive(Debug, Default)]
pub struct Damage {
    pub files: usize,
    pub bytes: u64,
    /// Blobs whose content is not what their name says.
    pub blobs: Vec<String>,
    /// Results with files, by path, that are missing in the store or damaged there.
    pub results: Vec<(Record, Vec<(String, Fault)>)>,
}

impl Store {
    /// Reads every stored byte.
    pub fn verify(&self, watch: impl Fn(u64) + Sync) -> Result<Damage> {
        let shelves = self.blobs.shelves()?.into_par_iter().map(|shelf| -> Result<Vec<(String, u64, bool)>> {
            interrupt::check()?;
            let look = |digest: String| {
                let bytes = self.blobs.signature(&digest).map_or(0, |looks| looks.bytes);
                let sound = self.blobs.is_sound(&digest);
                (digest, bytes, sound)
            };
            let looked: Vec<_> = self.blobs.on_shelf(&shelf)?.into_iter().map(look).collect();
            watch(looked.iter().map(|(_, bytes, _)| bytes).sum());
            Ok(looked)
        });
        let all = shelves.collect::<Result<Vec<_>>>()?.concat();
        let sound: HashSet<&str> =
            all.iter().filter(|(.., sound)| *sound).map(|(digest, ..)| digest.as_str()).collect();
        let damaged: HashSet<&str> =
            all.iter().filter(|(.., sound)| !sound).map(|(digest, ..)| digest.as_str()).collect();
        let fault = |digest: &str| match (sound.contains(digest), damaged.contains(digest)) {
            (true, _) => None,
            (_, true) => Some(Fault::Altered),
            _ => Some(Fault::Missing),
        };
        let results = self.records()?.into_iter().filter_map(|record| {
            let faults: Vec<(String, Fault)> = match self.contents(&record.digest) {
                None => vec![("the list of its files".to_owned(), Fault::Missing)],
                Some(contents) => {
                    contents.iter().filter_map(|file| Some((file.path.to_owned(), fault(file.digest)?))).collect()
                }
            };
            (!faults.is_empty()).then_some((record, faults))
        });
        let results = results.collect();
        let mut blobs: Vec<String> = damaged.iter().map(|digest| (*digest).to_owned()).collect();
        blobs.sort_unstable();
        Ok(Damage { files: all.len(), bytes: all.iter().map(|(_, bytes, _)| bytes).sum(), blobs, results })
    }

    /// The files at `place` that are not what `contents` says; what is the stored file itself was read with the store.
    pub fn verify_place(&self, place: &Place, contents: &Contents, damage: &Damage) -> Vec<(String, Fault)> {
        let folder = place.folder();
        let faults = (0..contents.len()).into_par_iter().filter_map(|at| {
            let file = contents.file(at);
            let path = folder.join(file.path);
            let fault = match Signature::of(&path) {
                None => Fault::Missing,
                Some(looks) if self.blobs.signature(file.digest).is_some_and(|blob| blob.same_file(&looks)) => {
                    damage.blobs.binary_search_by(|blob| blob.as_str().cmp(file.digest)).ok().map(|_| Fault::Altered)?
                }
                Some(_) if files::digest(&path).is_ok_and(|digest| digest == file.digest) => return None,
                Some(_) => Fault::Altered,
            };
            Some((file.path.to_owned(), fault))
        });
        faults.collect()
    }

    /// Takes damaged blobs away, puts those back whose file at a place is whole, and forgets results that lie nowhere
    /// and are not whole any more. What lies somewhere is made again by the next run.
    pub fn mend(&self, damage: &Damage, places: &[(Place, &Contents)]) -> Result<()> {
        for digest in &damage.blobs {
            self.blobs.remove(digest)?;
        }
        let laid: HashSet<String> = self.all_laid()?.into_iter().map(|(_, laid)| laid.key).collect();
        for (place, contents) in places {
            for file in contents.iter().filter(|file| !self.blobs.has(file.digest, file.bytes)) {
                let path = place.folder().join(file.path);
                if files::digest(&path).is_ok_and(|digest| digest == file.digest) {
                    self.blobs.put(&files::read(&path)?)?;
                }
            }
        }
        for (record, _) in damage.results.iter().filter(|(record, _)| !laid.contains(&record.key)) {
            self.remove_record(&record.key)?;
        }
        Ok(())
    }

    /// Re-reads a little of the store, each time from where the last time ended; takes damaged blobs away, so that
    /// the run that follows makes them again. Gives their digests.
    pub fn scrub(&self) -> Result<Vec<String>> {
        let cursor = self.root.join("scrub");
        let last = fs::read_to_string(&cursor).unwrap_or_default();
        let shelves = self.blobs.shelves()?;
        let start = shelves.iter().position(|shelf| last.as_str() < shelf.as_str() || last.starts_with(shelf.as_str()));
        let start = start.unwrap_or(0);
        let (mut bytes, mut read, mut damaged, mut end) = (0, 0, Vec::new(), String::new());
        'shelves: for shelf in &shelves[start..] {
            for digest in self.blobs.on_shelf(shelf)?.into_iter().filter(|digest| *digest > last) {
                if bytes >= SCRUBBED_BYTES || read >= SCRUBBED_FILES {
                    break 'shelves;
                }
                bytes += self.blobs.signature(&digest).map_or(0, |looks| looks.bytes);
                read += 1;
                if !self.blobs.check(&digest)? {
                    self.blobs.remove(&digest)?;
                    damaged.push(digest.clone());
                }
                end = digest;
            }
        }
        // From the beginning again once the end is reached; what is lost in a crash is only the place to go on from.
        if end != last {
            files::write(&cursor, end.as_bytes())?;
        }
        Ok(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_comes_round_to_everything() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let store = Store::new(folder.path().to_owned());
        let digests = (0..200).map(|i: u32| store.blobs.put(&vec![1; i as usize * 100])).collect::<Result<Vec<_>>>()?;
        let spoilt = &digests[150];
        fs::remove_file(store.blobs.path(spoilt))?;
        fs::write(store.blobs.path(spoilt), "spoilt")?;
        let rounds = std::iter::repeat_with(|| store.scrub()).take(20).collect::<Result<Vec<_>>>()?;
        assert!(rounds.concat().iter().eq([spoilt]));
        assert!(!store.blobs.path(spoilt).exists());
        Ok(())
    }

    #[test]
    fn damage_is_named_and_mended_from_a_whole_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let store = Store::new(folder.path().join("artifacts/.cache"));
        let work = tempfile::tempdir()?;
        fs::write(work.path().join("a.txt"), "a")?;
        let document = super::super::KeyDocument {
            stage: "s".into(),
            version: 1,
            seed: 0,
            parameters: serde_json::json!({}),
            reads: Default::default(),
        };
        let record = store.commit(document, work.path(), Vec::new(), Vec::new())?;
        let contents = store.contents(&record.digest).unwrap();
        let place = Place { instance: "s", project: folder.path(), out: std::path::Path::new("artifacts/s") };
        store.lay(&place, &record, true)?;
        let blob = store.blobs.path(contents.file(0).digest);
        fs::remove_file(&blob)?;
        fs::write(&blob, "b")?;
        let damage = store.verify(|_| ())?;
        assert_eq!(damage.blobs, [contents.file(0).digest]);
        assert_eq!(damage.results[0].1, [("a.txt".to_owned(), Fault::Altered)]);
        assert_eq!(store.verify_place(&place, &contents, &damage), []);
        store.mend(&damage, &[(place, &*contents)])?;
        let after = store.verify(|_| ())?;
        assert!(after.blobs.is_empty() && after.results.is_empty() && blob.exists());
        Ok(())
    }
}
