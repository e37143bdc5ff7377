//! Removes old results to make room, the least recently used first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use walkdir::WalkDir;

use super::{NAMESPACES, PEOPLE, Store, StoredResult};
use crate::base::files;

/// A use is noted at most this often, because each note is a write.
const NOTED_EVERY: Duration = Duration::from_secs(60);
/// How long checkpoints of an unfinished run are kept.
const UNFINISHED: Duration = Duration::from_secs(14 * 24 * 3600);

/// What [`Store::collect`] keeps.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Total size of stored files. `None` removes everything that is not kept for another reason.
    pub bytes: Option<u64>,
    /// Number of last used results to keep of each stage.
    pub keep_last: usize,
    /// Everything that was used or written within this time is kept.
    pub grace: Duration,
}

/// What [`Store::collect`] removed, or would remove in a dry run.
#[derive(Debug, Default)]
pub struct Collected {
    pub results: Vec<StoredResult>,
    pub blobs: usize,
    pub bytes: u64,
    /// Bytes of stored files that were kept.
    pub kept: u64,
}

impl Store {
    /// Notes that the result for `key` was used now.
    pub fn note_use(&self, key: &str) {
        let path = self.result_path(key);
        if age(&path).is_some_and(|age| age > NOTED_EVERY) {
            let noted =
                fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            // If this fails, `gc` may only remove results in another order.
            drop(noted);
        }
    }

    /// Removes what exceeds the budget, but never a result that is checked out. The caller holds the project's lock.
    pub fn collect(&self, budget: &Budget, dry_run: bool) -> Result<Collected> {
        let checked_out: HashSet<String> =
            self.all_checked_out()?.into_iter().map(|(_, checked_out)| checked_out.key).collect();
        let (may_go, mut stay) = self.by_last_use(budget, &checked_out)?;
        let mut uses = Uses::default();
        for stored in may_go.iter().chain(&stay) {
            uses.add(self.blobs_of(stored));
        }
        let stored: Vec<(String, u64, bool)> =
            self.blobs.all()?.into_iter().map(|digest| self.aged(digest, budget)).collect();
        let unused = |uses: &Uses| -> Vec<&(String, u64, bool)> {
            stored.iter().filter(|(digest, _, old)| *old && !uses.0.contains_key(digest)).collect()
        };
        let bytes = |blobs: &[&(String, u64, bool)]| blobs.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        let all: u64 = stored.iter().map(|(_, bytes, _)| bytes).sum();
        let mut collected = Collected::default();
        let mut total = all - bytes(&unused(&uses));
        for stored in may_go {
            if budget.bytes.is_some_and(|bytes| total <= bytes) {
                stay.push(stored);
                continue;
            }
            total = total.saturating_sub(uses.remove(self.blobs_of(&stored)));
            collected.results.push(stored);
        }
        let blobs = unused(&uses);
        (collected.blobs, collected.bytes, collected.kept) = (blobs.len(), bytes(&blobs), all - bytes(&blobs));
        if !dry_run {
            collected.results.iter().try_for_each(|stored| self.remove_result(&stored.key))?;
            blobs.iter().try_for_each(|(digest, ..)| self.blobs.remove(digest))?;
        }
        let tables: HashSet<&str> = stay.iter().flat_map(|stored| &stored.items).map(String::as_str).collect();
        collected.bytes += self.remove_old("items", budget.grace, dry_run, |name| tables.contains(name))?;
        // In each namespace, keep the newest table of items: it belongs to the newest network.
        for namespace in NAMESPACES {
            let items = format!("{namespace}/items");
            let newest = self.newest(&items)?;
            collected.bytes +=
                self.remove_old(&items, budget.grace, dry_run, |name| Some(name) == newest.as_deref())?;
        }
        collected.bytes += self.remove_scratch(&checked_out, budget.grace, dry_run)?;
        // Earlier versions of the program used these paths.
        collected.bytes += self.remove_old("store", Duration::ZERO, dry_run, |_| false)?;
        for old in [self.root.join("seen.json"), self.namespace(PEOPLE).join("seen.json")] {
            if old.exists() {
                collected.bytes += remove(&old, dry_run)?;
            }
        }
        Ok(collected)
    }

    /// The results that may be removed, least recently used first, and those that must stay.
    fn by_last_use(
        &self,
        budget: &Budget,
        checked_out: &HashSet<String>,
    ) -> Result<(Vec<StoredResult>, Vec<StoredResult>)> {
        let unused = |stored: StoredResult| (age(&self.result_path(&stored.key)).unwrap_or_default(), stored);
        let mut results: Vec<(Duration, StoredResult)> = self.results()?.into_iter().map(unused).collect();
        results.sort_by(|(one, a), (two, b)| one.cmp(two).then_with(|| a.key.cmp(&b.key)));
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let (mut may_go, mut stay) = (Vec::new(), Vec::new());
        for (unused, stored) in results {
            let count = seen.entry(stored.document.stage.clone()).or_default();
            *count += 1;
            let goes = *count > budget.keep_last && unused > budget.grace && !checked_out.contains(&stored.key);
            if goes { may_go.push(stored) } else { stay.push(stored) }
        }
        may_go.reverse();
        Ok((may_go, stay))
    }

    /// A blob with its length, and whether it is older than the grace time.
    fn aged(&self, digest: String, budget: &Budget) -> (String, u64, bool) {
        let path = self.blobs.path(&digest);
        let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        (digest, bytes, age(&path).is_some_and(|age| age > budget.grace))
    }

    fn blobs_of(&self, stored: &StoredResult) -> Vec<(String, u64)> {
        let Some(contents) = self.contents(&stored.digest) else { return Vec::new() };
        let list = (stored.digest.clone(), contents.text().len() as u64);
        let mut blobs: Vec<(String, u64)> =
            contents.iter().map(|file| (file.digest.to_owned(), file.bytes)).chain([list]).collect();
        blobs.sort_unstable();
        blobs.dedup();
        blobs
    }

    fn remove_old(&self, folder: &str, grace: Duration, dry_run: bool, stays: impl Fn(&str) -> bool) -> Result<u64> {
        let folder = self.root.join(folder);
        let mut bytes = 0;
        for name in files::names(&folder)?.into_iter().filter(|name| !stays(name)) {
            let path = folder.join(&name);
            if age(&path).is_some_and(|age| age > grace) {
                bytes += remove(&path, dry_run)?;
            }
        }
        Ok(bytes)
    }

    /// The name of the newest file in a folder.
    fn newest(&self, folder: &str) -> Result<Option<String>> {
        let folder = self.root.join(folder);
        Ok(files::names(&folder)?.into_iter().min_by_key(|name| age(&folder.join(name))))
    }

    /// Removes old checkpoints. Those of results that are checked out stay. Those of unfinished runs are kept longer.
    fn remove_scratch(&self, checked_out: &HashSet<String>, grace: Duration, dry_run: bool) -> Result<u64> {
        let root = self.root.join("scratch");
        let mut bytes = 0;
        for instance in files::names(&root)? {
            for key in files::names(&root.join(&instance))?.into_iter().filter(|key| !checked_out.contains(key)) {
                let finished = self.result(&key)?.is_some();
                let path = root.join(&instance).join(&key);
                let limit = if finished { grace } else { grace.max(UNFINISHED) };
                if age(&path).is_some_and(|age| age > limit) {
                    bytes += remove(&path, dry_run)?;
                }
            }
        }
        Ok(bytes)
    }
}

/// How many results use a blob, with its length.
#[derive(Default)]
struct Uses(HashMap<String, (usize, u64)>);

impl Uses {
    fn add(&mut self, blobs: Vec<(String, u64)>) {
        for (digest, bytes) in blobs {
            self.0.entry(digest).or_insert((0, bytes)).0 += 1;
        }
    }

    /// Returns how many bytes are no longer used.
    fn remove(&mut self, blobs: Vec<(String, u64)>) -> u64 {
        let mut freed = 0;
        for (digest, _) in blobs {
            if let Some((count, bytes)) = self.0.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    freed += *bytes;
                    self.0.remove(&digest);
                }
            }
        }
        freed
    }
}

/// Time since `path` was last written.
fn age(path: &Path) -> Option<Duration> {
    SystemTime::now().duration_since(fs::metadata(path).ok()?.modified().ok()?).ok()
}

/// Removes a file or folder, except in a dry run. Returns its size in bytes.
fn remove(path: &Path, dry_run: bool) -> Result<u64> {
    let entries = WalkDir::new(path).into_iter().filter_map(|entry| entry.ok()?.metadata().ok());
    let bytes = entries.filter(fs::Metadata::is_file).map(|metadata| metadata.len()).sum();
    if !dry_run {
        let removed = if files::is_folder(path) { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::{KeyDocument, OutputDir};
    use super::*;

    /// A result with one file of its own, and one that all results share.
    fn result(store: &Store, number: u64) -> StoredResult {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("own"), vec![number as u8; 1000]).unwrap();
        fs::write(folder.path().join("shared"), vec![255; 1000]).unwrap();
        let reads = Default::default();
        let document =
            KeyDocument { stage: "s".into(), version: 1, seed: Some(number), parameters: serde_json::json!({}), reads };
        let written = super::super::store::tests::written(folder.path());
        store.commit(document, (folder.path(), &written), Vec::new(), Vec::new()).unwrap()
    }

    #[test]
    fn the_longest_unused_go_first_and_what_lies_stays() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let store = Store::new(folder.path().join("artifacts/.cache"));
        let results: Vec<StoredResult> = (0..5).map(|number| result(&store, number)).collect();
        let dir = OutputDir { instance: "s", project: folder.path(), out: Path::new("artifacts/s") };
        store.check_out(&dir, &results[0], true)?;
        let hours = |count: u64| SystemTime::now() - Duration::from_secs(count * 3600);
        let entries = files::names(&store.results_dir())?.into_iter().map(|name| store.results_dir().join(name));
        let all = entries.chain(store.blobs.all()?.into_iter().map(|digest| store.blobs.path(&digest)));
        for path in all {
            let number = results.iter().position(|stored| path.ends_with(format!("{}.json", stored.key)));
            fs::File::open(&path)?.set_modified(hours(10 - number.unwrap_or(0) as u64))?;
        }
        let budget = Budget { bytes: None, keep_last: 1, grace: Duration::from_secs(3600 * 13 / 2) };
        let would = store.collect(&budget, true)?;
        assert_eq!(would.results, [results[1].clone(), results[2].clone(), results[3].clone()]);
        assert_eq!(store.results()?.len(), 5);

        let small = Budget { bytes: Some(5700), ..budget.clone() };
        let done = store.collect(&small, false)?;
        assert_eq!(done.results, [results[1].clone()], "one is enough");
        assert!(done.bytes > 1000 && done.bytes < 2000, "{}", done.bytes);

        store.collect(&budget, false)?;
        let left: Vec<u64> = store.results()?.iter().filter_map(|stored| stored.document.seed).collect();
        assert!(left.len() == 2 && left.contains(&0) && left.contains(&4), "{left:?}");
        assert!(store.verify(|_| ())?.results.is_empty());
        Ok(())
    }
}
