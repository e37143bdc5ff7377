//! One instance of a run: take what the cache has for it, or make it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};

use super::Project;
use super::run::{Options, Ran, Report};
use super::select::Part;
use crate::cache::{Finished, KeyDocument, Lookup, Record};
use crate::failure::Failure;
use crate::files;
use crate::progress::Screen;
use crate::stage::{Context, Inputs};

pub(super) struct Job<'a> {
    pub project: &'a Project,
    /// The instance's place in the manifest.
    pub place: usize,
    pub part: Part,
    /// The results there are so far, by place.
    pub known: Vec<Option<Record>>,
    pub options: &'a Options,
    pub screen: &'a Screen,
}

pub(super) type Outcome = (Report, Option<Record>);

impl Job<'_> {
    pub fn execute(&self) -> Outcome {
        let start = Instant::now();
        let mut report = Report::new(&self.project.manifest.instances[self.place].name, Ran::Cached);
        let result = catch_unwind(AssertUnwindSafe(|| self.take_or_make(&mut report)));
        let result = result.unwrap_or_else(|_| Err(anyhow!("it panicked; this is a bug")));
        report.seconds = start.elapsed().as_secs_f64();
        let record = result.unwrap_or_else(|error| {
            report.state = Ran::Failed;
            report.damaged = matches!(error.downcast_ref(), Some(Failure::Damaged(_)));
            report.error = Some(format!("{error:#}"));
            None
        });
        report.digest = record.as_ref().map(|record| record.digest.clone());
        (report, record)
    }

    /// `None` in a dry run, where the result would have to be made.
    fn take_or_make(&self, report: &mut Report) -> Result<Option<Record>> {
        let Self { project, place, part, known, options, .. } = self;
        let instance = &project.manifest.instances[*place];
        let unmade = instance.needs.iter().filter(|need| known[**need].is_none());
        let name = |need: &usize| project.manifest.instances[*need].name.as_str();
        let unmade: Vec<String> = unmade.map(|need| format!("{} is made again", name(need))).collect();
        if options.dry_run && !unmade.is_empty() {
            (report.state, report.reasons) = (Ran::Pending, unmade);
            return Ok(None);
        }
        let inputs = project.inputs(*place, known)?;
        let document = project.document(*place, &inputs)?;
        let key = document.key()?;
        report.key = Some(key.clone());
        report.reasons = project.changes(*place, &document)?;
        match project.store.look_up(&key)? {
            Lookup::Hit(record) if !(options.force && part.named && part.may_run) => {
                if !options.dry_run {
                    let fixed = project.store.lay(&instance.name, &record, &project.manifest.project, &instance.out)?;
                    report.reasons.extend(fixed.told("missing or changed, and laid again"));
                }
                // A first run that finds a result has nothing to explain.
                report.reasons.retain(|reason| reason != "first run");
                return Ok(Some(record));
            }
            Lookup::Hit(_) => report.reasons = vec!["forced".to_owned()],
            Lookup::Broken(why) => report.reasons.push(format!("stored output {why}")),
            Lookup::Miss => {}
        }
        if !part.may_run {
            let why = report.reasons.join("; ");
            let name = &instance.name;
            return Err(anyhow!("`{name}` has no result that is up to date ({why}); run it, or leave out --from"));
        }
        if options.dry_run {
            report.state = Ran::Pending;
            return Ok(None);
        }
        report.state = Ran::Ran;
        self.make(inputs, document, report).map(Some)
    }

    fn make(&self, inputs: Inputs, document: KeyDocument, report: &mut Report) -> Result<Record> {
        let Project { manifest, store } = self.project;
        let instance = &manifest.instances[self.place];
        let start = Instant::now();
        let slot = store.slot()?;
        let scratch = store.scratch(&instance.name);
        if self.options.force && self.part.named {
            files::remove_folder(&scratch)?;
        }
        let progress = self.screen.progress(&instance.name);
        let context = Context::new(inputs, document.clone(), (slot.folder(), scratch), progress);
        instance.stage.run(&context)?;
        if self.project.document(self.place, &context.inputs)? != document {
            bail!("what it reads changed while it ran, so its result is not kept; run it again");
        }
        let record = slot.commit(store, document)?;
        store.lay(&instance.name, &record, &manifest.project, &instance.out)?;
        let seconds = start.elapsed().as_secs_f64();
        let images = context.images();
        report.images_per_second = (images > 0).then(|| (images as f64 / seconds * 10.0).round() / 10.0);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
        store.note_finished(&Finished {
            instance: instance.name.clone(),
            key: record.key.clone(),
            seconds,
            at,
            images_per_second: report.images_per_second,
        })?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::manifest::Manifest;
    use crate::pipeline::Selection;
    use crate::stage::{Kind, Stage, kind};

    /// What it reads is different at every look.
    #[derive(Default, Serialize, Deserialize)]
    struct Restless {}

    impl Stage for Restless {
        const NAME: &'static str = "restless";
        const VERSION: u32 = 1;
        const ABOUT: &'static str = "reads what changes";

        fn reads(&self, _: &Inputs) -> Result<BTreeMap<String, String>> {
            static LOOKS: AtomicU32 = AtomicU32::new(0);
            Ok([("look".to_owned(), LOOKS.fetch_add(1, Ordering::Relaxed).to_string())].into())
        }

        fn run(&self, _: &Context) -> Result<()> {
            Ok(())
        }
    }

    static KINDS: [Kind; 1] = [kind::<Restless>()];

    #[test]
    fn a_result_whose_inputs_changed_meanwhile_is_not_kept() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("pipeline.yaml");
        std::fs::write(&path, "version: 1\nstages: {one: {uses: restless}}\n")?;
        let project = Project::new(Manifest::load(&path, &KINDS, None, &[])?);
        let selection = Selection { targets: vec!["all".into()], ..Selection::default() };
        let reports = project.run(&Options { selection, ..Options::default() }, &Screen::new(true), &|_| {})?;
        assert_eq!(reports[0].state, Ran::Failed);
        assert!(reports[0].error.as_deref().is_some_and(|error| error.contains("changed while it ran")));
        assert!(!folder.path().join("artifacts/.cache/store").exists());
        Ok(())
    }
}
