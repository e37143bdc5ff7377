//! Runs one instance: takes its result from the cache, or makes it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};

use super::Project;
use super::report::{Items, Options, Ran, Report};
use super::selection::Part;
use crate::base::error::Failure;
use crate::base::progress::Screen;
use crate::base::signal;
use crate::base::text::legible;
use crate::engine::cache::{Checkout, FileIssue, Finished, KeyDocument, Reason, StoredResult};
use crate::engine::manifest::{InstanceId, PerInstance};
use crate::engine::stage::{Context, Inputs};

pub(super) struct Job<'a> {
    pub project: &'a Project,
    pub id: InstanceId,
    pub part: Part,
    /// The results that exist so far.
    pub known: PerInstance<Option<StoredResult>>,
    /// This instance, and the instances of this run that need it.
    pub later: Vec<InstanceId>,
    pub options: &'a Options,
    pub screen: &'a Screen,
    pub sender: mpsc::Sender<Message>,
}

/// What a job tells the run.
pub(super) enum Message {
    /// The instance has no result, and its stage is about to run.
    Making(InstanceId),
    Done(InstanceId, Box<Outcome>),
}

pub(super) type Outcome = (Report, Option<StoredResult>);

impl Job<'_> {
    pub fn execute(&self) -> Outcome {
        let start = Instant::now();
        let mut report = Report::new(&self.project.manifest.instances[self.id].name, Ran::Cached);
        let result = catch_unwind(AssertUnwindSafe(|| self.take_or_make(&mut report)));
        let result = result.unwrap_or_else(|_| Err(anyhow!("it panicked; this is a bug")));
        report.seconds = start.elapsed().as_secs_f64();
        let stored = result.unwrap_or_else(|error| {
            report.state = Ran::Failed;
            report.failure = error.downcast_ref().cloned();
            report.error = Some(legible(&format!("{error:#}")));
            None
        });
        report.digest = stored.as_ref().map(|stored| stored.digest.clone());
        (report, stored)
    }

    /// Returns the result. `None` in a dry run, if the result would have to be made.
    fn take_or_make(&self, report: &mut Report) -> Result<Option<StoredResult>> {
        let Self { project, id, part, known, options, .. } = self;
        signal::check()?;
        let instance = &project.manifest.instances[*id];
        let unmade = instance.needs.iter().filter(|need| known[**need].is_none());
        let unmade: Vec<Reason> =
            unmade.map(|need| Reason::MadeAgain(project.manifest.instances[*need].name.clone())).collect();
        if options.dry_run && !unmade.is_empty() {
            (report.state, report.reasons) = (Ran::Pending, unmade);
            return Ok(None);
        }
        let mut inputs = project.inputs(*id, known)?;
        if options.dry_run {
            inputs.not_checked_out = !self.needs_are_checked_out()?;
        }
        let document = match project.document(*id, &inputs) {
            Err(error) if inputs.not_checked_out => {
                (report.state, report.reasons) = (Ran::Pending, vec![Reason::Unreadable(format!("{error:#}"))]);
                return Ok(None);
            }
            document => document?,
        };
        let key = document.key()?;
        report.key = Some(key.clone());
        report.reasons = project.changes(*id, &document)?;
        let locked = options.lock.as_ref().map(|lock| lock.of(&instance.name));
        let locked = locked.transpose().map_err(Failure::NotReproducible)?;
        if let Some(locked) = locked {
            locked.must_fit(&document).map_err(Failure::NotReproducible)?;
        }
        let is_locked = |stored: &StoredResult| locked.is_none_or(|locked| locked.digest == stored.digest);
        let mut from_scratch = options.force && part.named && part.may_run;
        let found = match project.store.result(&key)? {
            None if !from_scratch => self.fetch(&key, None)?,
            found => found,
        };
        match found {
            Some(_) if from_scratch => report.reasons = vec![Reason::Forced],
            Some(stored) if !is_locked(&stored) => {
                // Its items and checkpoints cannot be trusted either.
                from_scratch = true;
                report.reasons = vec![Reason::NotLocked];
            }
            Some(stored) => match self.take_or_fetch(&stored)? {
                Checkout::Done(mended) => {
                    // If the cache has a result, "first run" is not a useful reason.
                    report.reasons.retain(|reason| *reason != Reason::FirstRun);
                    report.reasons.extend(mended);
                    if options.check_determinism {
                        self.make_twice(&inputs, &document, &stored)?;
                    }
                    self.send(&stored);
                    return Ok(Some(stored));
                }
                Checkout::Broken(why) => report.reasons.extend(why),
            },
            None => {}
        }
        if !part.may_run {
            let (name, why) = (&instance.name, Reason::all(&report.reasons));
            bail!("`{name}` has no result that is up to date ({why}); run it, or leave out --from");
        }
        if !inputs.not_checked_out {
            project.precheck(&self.later, known)?;
        }
        if options.dry_run {
            report.state = Ran::Pending;
            return Ok(None);
        }
        report.state = Ran::Ran;
        drop(self.sender.send(Message::Making(*id)));
        let stored = self.make(inputs.clone(), document.clone(), from_scratch, report)?;
        if let Some(locked) = locked
            && locked.digest != stored.digest
        {
            let found = project.store.contents(&stored.digest).context("its result is gone")?;
            let why = locked
                .difference((&project.store, project.diffs), &found, &|file| project.store.blobs.path(file.digest));
            bail!(Failure::NotReproducible(why));
        }
        if options.check_determinism {
            self.make_twice(&inputs, &document, &stored)?;
        }
        self.send(&stored);
        Ok(Some(stored))
    }

    /// Whether the results that it reads are checked out now.
    fn needs_are_checked_out(&self) -> Result<bool> {
        let instances = &self.project.manifest.instances;
        for need in &instances[self.id].needs {
            let checked_out =
                self.project.store.checked_out(&instances[*need].name)?.map(|checked_out| checked_out.key);
            if checked_out.as_ref() != self.known[*need].as_ref().map(|stored| &stored.key) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies a result from the remote cache into the store, if it is there.
    fn fetch(&self, key: &str, digest: Option<&str>) -> Result<Option<StoredResult>> {
        let Some(remote) = self.options.remote.as_ref().filter(|_| !self.options.dry_run) else {
            return Ok(None);
        };
        let instance = &self.project.manifest.instances[self.id].name;
        let found = remote.fetch(&self.project.store, key, digest, &self.screen.progress(instance));
        // After a signal, the result may exist and just not be copied. Stop here, and do not make it.
        signal::check()?;
        Ok(found)
    }

    /// Sends a result that has passed every check to the remote cache.
    fn send(&self, stored: &StoredResult) {
        let store = &self.project.store;
        let remote = self.options.remote.as_ref().filter(|_| !self.options.dry_run);
        if let (Some(remote), Some(contents)) = (remote, store.contents(&stored.digest)) {
            remote.send(&store.blobs, stored, contents);
        }
    }

    /// Checks out a stored result. Files that the store has lost are fetched from the remote cache.
    fn take_or_fetch(&self, stored: &StoredResult) -> Result<Checkout> {
        match self.take(stored)? {
            Checkout::Broken(why) => match self.fetch(&stored.key, Some(&stored.digest))? {
                Some(found) => self.take(&found),
                None => Ok(Checkout::Broken(why)),
            },
            done => Ok(done),
        }
    }

    /// Checks out a stored result. In a dry run, changes nothing, and says what would be wrong.
    fn take(&self, stored: &StoredResult) -> Result<Checkout> {
        let Project { manifest, store, .. } = self.project;
        let dir = manifest.output_dir(self.id);
        if !self.options.dry_run {
            store.must_be_held()?;
            store.note_use(&stored.key);
            return store.check_out(&dir, stored, false);
        }
        let Some(contents) = store.contents(&stored.digest) else {
            return Ok(Checkout::Broken(vec![Reason::lost_list()]));
        };
        if store.checked_out(dir.instance)?.is_some_and(|checked_out| checked_out.key == stored.key) {
            return Ok(Checkout::Done(store.inspect(&dir, &contents)?.reasons(&contents, Reason::CheckedOut)));
        }
        let gone = contents.iter().filter(|file| !store.blobs.has(file.digest, file.bytes));
        let gone: Vec<String> = gone.map(|file| file.path.to_owned()).collect();
        Ok(match gone.is_empty() {
            true => Checkout::Done(Vec::new()),
            false => Checkout::Broken(vec![Reason::Stored(FileIssue::Missing, gone)]),
        })
    }

    /// Runs the stage and stores its result. With `from_scratch`, nothing that earlier runs left is used.
    fn make(
        &self,
        inputs: Inputs,
        document: KeyDocument,
        from_scratch: bool,
        report: &mut Report,
    ) -> Result<StoredResult> {
        let Project { manifest, store, .. } = self.project;
        let instance = &manifest.instances[self.id];
        let start = Instant::now();
        let slot = store.slot()?;
        let scratch = store.scratch(&instance.name, &document.key()?);
        let progress = self.screen.progress(&instance.name);
        let context =
            Context::new(inputs, document.clone(), (slot.path().to_owned(), scratch), progress, !from_scratch);
        instance.stage.run(&context)?;
        signal::check()?;
        if !self.inputs_are_the_same(&context.inputs)? || self.project.document(self.id, &context.inputs)? != document {
            bail!("an input changed while it ran, so its result is not kept; run it again");
        }
        let mapped = context.mapped();
        report.notes = context.notes();
        report.items = (mapped.items > 0).then_some(Items { made: mapped.made, all: mapped.items });
        let written = context.outputs.written();
        let stored = store.commit(document, (slot.path(), &written), mapped.files, mapped.tables)?;
        match store.check_out(&manifest.output_dir(self.id), &stored, true)? {
            Checkout::Done(reasons) => {
                // Files that were put back are not worth a message after a new result.
                report.reasons.extend(reasons.into_iter().filter(|reason| matches!(reason, Reason::KeptAside(_))));
            }
            Checkout::Broken(why) => bail!("its result was lost while it was stored: {}", Reason::all(&why)),
        }
        let seconds = start.elapsed().as_secs_f64();
        let handled = context.items();
        report.items_per_second = (handled > 0).then(|| (handled as f64 / seconds * 10.0).round() / 10.0);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is set before 1970")?.as_secs();
        store.note_finished(&Finished {
            instance: instance.name.clone(),
            key: stored.key.clone(),
            seconds,
            at,
            items_per_second: report.items_per_second,
        })?;
        Ok(stored)
    }

    /// Whether the results that were read are still unmodified.
    fn inputs_are_the_same(&self, inputs: &Inputs) -> Result<bool> {
        let Project { manifest, store, .. } = self.project;
        for (need, input) in manifest.instances[self.id].needs.iter().zip(&inputs.results) {
            let found = store.inspect(&manifest.output_dir(*need), &input.contents)?;
            // Untracked files do not matter, because the stage did not read them.
            if !found.issues.is_empty() {
                let why = Reason::all(&found.reasons(&input.contents, Reason::CheckedOut));
                tracing::warn!("{}: {why}", input.instance);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the result a second time, and fails if it differs from the first.
    fn make_twice(&self, inputs: &Inputs, document: &KeyDocument, stored: &StoredResult) -> Result<()> {
        let expected = self.project.store.contents(&stored.digest).context("its result is gone")?;
        let again = self.project.rebuild(self.id, inputs, document, self.screen)?;
        match again.difference(&expected, &self.project.store, self.project.diffs) {
            None => Ok(()),
            Some(difference) => bail!(Failure::NotReproducible(format!("a second run differs: {difference}"))),
        }
    }
}
