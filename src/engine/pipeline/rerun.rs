//! Makes a result again in a temporary folder, without the cache, and compares; only blobs may be added to the store.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::Project;
use crate::base::error::Failure;
use crate::base::files;
use crate::base::progress::Screen;
use crate::engine::cache::{Checkout, Contents, File, KeyDocument, Reason, Store, StoredResult};
use crate::engine::diff::{self, FileDiffs};
use crate::engine::lock::Lock;
use crate::engine::manifest::InstanceId;
use crate::engine::stage::{Context, Inputs};

/// A result in a temporary folder, outside of the store.
pub struct Rebuilt {
    pub contents: Contents,
    folder: TempDir,
    /// The files that are blobs: their paths in the result, and the paths of the blobs.
    placed: Vec<(String, PathBuf)>,
}

impl Rebuilt {
    fn path(&self, file: &File) -> PathBuf {
        match self.placed.iter().find(|(name, _)| name == file.path) {
            Some((_, blob)) => blob.clone(),
            None => self.folder.path().join("files").join(file.path),
        }
    }

    /// How it differs from a stored result. `None` if it does not. `None` if it does not. `None` if it does not.
    pub fn difference(&self, expected: &Contents, store: &Store, diffs: FileDiffs) -> Option<String> {
        let stored = |file: &File| store.blobs.path(file.digest);
        diff::first(diffs, (expected, &stored), (&self.contents, &|file| self.path(file)))
    }
}

/// The outcome of [`Project::rerun`] for one instance.
pub struct Rerun {
    pub name: String,
    pub seconds: f64,
    /// `None` if the result has the same bytes.
    pub difference: Option<String>,
}

impl Project {
    pub(super) fn rebuild(
        &self,
        id: InstanceId,
        inputs: &Inputs,
        document: &KeyDocument,
        screen: &Screen,
    ) -> Result<Rebuilt> {
        let instance = &self.manifest.instances[id];
        let folder = self.store.slot()?;
        let (output, scratch) = (folder.path().join("files"), folder.path().join("scratch"));
        files::create_folder(&output)?;
        let progress = screen.for_machines().progress(&instance.name);
        let context = Context::new(inputs.clone(), document.clone(), (output, scratch), progress, false);
        instance.stage.run(&context)?;
        let written = context.outputs.written().into_iter();
        let mut all: Vec<(String, u64, String)> = written.map(|(path, it)| (path, it.bytes, it.digest)).collect();
        let mapped = context.mapped().files;
        let placed = mapped.iter().map(|(path, _, digest)| (path.clone(), self.store.blobs.path(digest))).collect();
        all.extend(mapped);
        Ok(Rebuilt { contents: Contents::new(all)?, folder, placed })
    }

    /// Makes the results of `targets` again from the inputs that are checked out. Compares them with `lock`, or with
    /// the stored results if there is no `lock`. The caller holds the project's lock.
    pub fn rerun(
        &self,
        targets: &[InstanceId],
        lock: Option<&Lock>,
        screen: &Screen,
        observe: &dyn Fn(&Rerun),
    ) -> Result<Vec<Rerun>> {
        let mut results = self.manifest.instances.filled(None);
        let mut reruns = Vec::new();
        for (id, instance) in self.manifest.instances.enumerate() {
            if !targets.iter().any(|target| self.manifest.is_needed_by(id, *target)) {
                continue;
            }
            let inputs = self.inputs(id, &results)?;
            let document = self.document(id, &inputs)?;
            let stored = self.store.result(&document.key()?)?;
            let Some(stored) = stored else {
                bail!(Failure::Usage(format!("`{}` has no result that is up to date; run it first", instance.name)));
            };
            // A stage must read undamaged inputs, so check them out first.
            if let Checkout::Broken(why) = self.store.check_out(&self.manifest.output_dir(id), &stored, false)? {
                return Err(crate::damaged!(
                    "{}: {}; run `similiai verify --repair`",
                    instance.name,
                    Reason::all(&why)
                ));
            }
            if targets.contains(&id) {
                let start = std::time::Instant::now();
                let again = self.rebuild(id, &inputs, &document, screen)?;
                let rerun = Rerun {
                    name: instance.name.clone(),
                    difference: self.compare(id, &document, &stored, &again, lock)?,
                    seconds: start.elapsed().as_secs_f64(),
                };
                observe(&rerun);
                reruns.push(rerun);
            }
            results[id] = Some(stored);
        }
        Ok(reruns)
    }

    fn compare(
        &self,
        id: InstanceId,
        document: &KeyDocument,
        stored: &StoredResult,
        again: &Rebuilt,
        lock: Option<&Lock>,
    ) -> Result<Option<String>> {
        if let Some(lock) = lock {
            let locked = match lock.of(&self.manifest.instances[id].name) {
                Ok(locked) => locked,
                Err(why) => return Ok(Some(why)),
            };
            if let Err(why) = locked.must_fit(document) {
                return Ok(Some(why));
            }
            let same = locked.digest == again.contents.digest();
            return Ok((!same)
                .then(|| locked.difference((&self.store, self.diffs), &again.contents, &|file| again.path(file))));
        }
        let expected = self.store.contents(&stored.digest).context("its result is gone")?;
        Ok(again.difference(&expected, &self.store, self.diffs))
    }
}
