//! Tests of runs, with small stages made for these tests.

mod model;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::base::progress::Screen;
use crate::engine::manifest::Variation;
use crate::engine::stage::{Context, Inputs, Kind, Stage, kind};

/// Reads the file `items` and maps its lines. With `restless`, its input seems to change all the time.
#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(default, deny_unknown_fields)]
struct Shout {
    restless: bool,
    size: u32,
}

impl Stage for Shout {
    const NAME: &'static str = "shout";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "writes each line in capitals";

    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
        static LOOKS: AtomicU32 = AtomicU32::new(0);
        let look = if self.restless { LOOKS.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let items = inputs.file_digest(&inputs.project.join("items"))?;
        Ok([("look".to_owned(), look.to_string()), ("items".to_owned(), items)].into())
    }

    fn run(&self, context: &Context) -> Result<()> {
        let text = fs::read_to_string(context.inputs.project.join("items"))?;
        let lines: Vec<&str> = text.lines().collect();
        let digest = |line: &&str| blake3::hash(line.as_bytes());
        let made = context.map(("lines", 2), &"capitals", &lines, digest, |lines| {
            Ok(lines.iter().map(|line| line.to_uppercase().repeat(5000).into_bytes()).collect())
        })?;
        lines.iter().zip(&made).try_for_each(|(line, made)| context.add_item(format!("{line}.txt"), made))
    }
}

/// Changes a file of its input while it runs, as a user might.
#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(default, deny_unknown_fields)]
struct Careless {}

impl Stage for Careless {
    const NAME: &'static str = "careless";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "changes what it reads";
    const NEEDS: &'static [&'static str] = &["shout"];

    fn run(&self, context: &Context) -> Result<()> {
        let path = context.input("shout")?.join("a.txt");
        fs::remove_file(&path)?;
        Ok(fs::write(path, "changed")?)
    }
}

/// Gives another result each time.
#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(default, deny_unknown_fields)]
struct Moody {}

impl Stage for Moody {
    const NAME: &'static str = "moody";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "counts its runs";

    fn run(&self, context: &Context) -> Result<()> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let text = format!("the same\nrun {}\n", RUNS.fetch_add(1, Ordering::Relaxed));
        context.outputs.write("count.txt", text.as_bytes())
    }
}

static KINDS: [Kind; 3] = [kind::<Shout>(), kind::<Careless>(), kind::<Moody>()];

fn project(folder: &Path, stages: &str) -> Result<Project> {
    let path = folder.join("pipeline.yaml");
    fs::write(&path, format!("version: 1\nstages:\n{stages}"))?;
    Project::new(Manifest::load(&path, &KINDS, &Variation::default())?, &[])
}

fn run(project: &Project, options: Options) -> Result<Vec<Report>> {
    let selection = Selection { targets: vec!["all".into()], ..Selection::default() };
    project.run(&Options { selection, ..options }, &Screen::new(true), &|_| {})
}

#[test]
fn a_result_whose_inputs_changed_meanwhile_is_not_kept() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("items"), "a\nb\n")?;
    let restless = "  one: {uses: shout, restless: true}\n";
    let careless = "  one: {uses: shout}\n  two: {uses: careless, needs: [one]}\n";
    for stages in [restless, careless] {
        let project = project(folder.path(), stages)?;
        let reports = run(&project, Options::default())?;
        let last = reports.last().context("a report")?;
        assert_eq!(last.state, Ran::Failed);
        assert!(last.error.as_deref().is_some_and(|error| error.contains("changed while it ran")), "{:?}", last.error);
        let kept = project.store.results()?;
        assert!(kept.iter().all(|stored| stored.document.stage == "shout" && stages == careless));
    }
    Ok(())
}

#[test]
fn only_changed_items_are_made_again_and_the_result_is_that_of_a_clean_build() -> Result<()> {
    let (folder, clean) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let shout = "  one: {uses: shout}\n";
    let items = |folder: &Path, text: &str| fs::write(folder.join("items"), text);
    items(folder.path(), "a\nb\nc\nd\n")?;
    let first = &run(&project(folder.path(), shout)?, Options::default())?[0];
    assert_eq!(first.items.map(|items| (items.made, items.all)), Some((4, 4)));
    items(folder.path(), "a\nB2\nc\nd\n")?;
    let second = &run(&project(folder.path(), shout)?, Options::default())?[0];
    assert_eq!(second.items.map(|items| (items.made, items.all)), Some((1, 4)));
    items(clean.path(), "a\nB2\nc\nd\n")?;
    let whole = &run(&project(clean.path(), shout)?, Options::default())?[0];
    assert_eq!(second.digest, whole.digest);
    let names = |folder: &Path| crate::base::files::list(&folder.join("artifacts/one"));
    assert_eq!(names(folder.path())?, names(clean.path())?);
    // Written in place, so that a hard-linked blob is damaged too. An item with a damaged blob must be made again.
    let checked_out = folder.path().join("artifacts/one/a.txt");
    fs::set_permissions(&checked_out, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    fs::write(&checked_out, "b".repeat(5000))?;
    items(folder.path(), "a\nB2\nc\ne\n")?;
    items(clean.path(), "a\nB2\nc\ne\n")?;
    let third = &run(&project(folder.path(), shout)?, Options::default())?[0];
    let whole = &run(&project(clean.path(), shout)?, Options::default())?[0];
    assert!(third.items.is_some_and(|items| items.made == 2) && third.digest == whole.digest);
    assert_eq!(fs::read(&checked_out)?, "A".repeat(5000).as_bytes());
    let options = Options { force: true, ..Options::default() };
    let forced = &run(&project(folder.path(), shout)?, options)?[0];
    assert_eq!(forced.items.map(|items| items.made), Some(4));
    Ok(())
}

#[test]
fn no_parameter_is_left_out_for_its_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("items"), "a\n")?;
    run(&project(folder.path(), "  one: {uses: shout, size: 1}\n")?, Options::default())?;
    let report = &run(&project(folder.path(), "  one: {uses: shout, size: 2}\n")?, Options::default())?[0];
    assert_eq!((report.state, Reason::all(&report.reasons).as_str()), (Ran::Ran, "parameter size: 1 → 2"));
    Ok(())
}

#[test]
fn a_renamed_instance_finds_its_result() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("items"), "a\n")?;
    run(&project(folder.path(), "  one: {uses: shout}\n")?, Options::default())?;
    let report = &run(&project(folder.path(), "  other: {uses: shout}\n")?, Options::default())?[0];
    assert_eq!(report.state, Ran::Cached);
    assert!(folder.path().join("artifacts/other/a.txt").exists());
    Ok(())
}

#[test]
fn a_second_run_that_differs_is_not_reproducible() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let project = project(folder.path(), "  one: {uses: moody}\n")?;
    let report = &run(&project, Options { check_determinism: true, ..Options::default() })?[0];
    let told = "a second run differs: count.txt: line 2: `run 1` where `run 0` is expected";
    assert_eq!(report.error.as_deref(), Some(told));
    assert!(matches!(report.failure, Some(crate::base::error::Failure::NotReproducible(_))));
    let reruns =
        project.rerun(&project.manifest.instances.ids().collect::<Vec<_>>(), None, &Screen::new(true), &|_| {})?;
    assert!(reruns[0].difference.as_deref().is_some_and(|how| how.starts_with("count.txt: line 2")));
    Ok(())
}
