//! `similiai verify`

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::run_report::{self, judge};
use super::{ManifestOptions, Session, duration};
use crate::base::error::{Failure, first_of};
use crate::engine::cache::{CheckedOut, Checkout, Contents, Damage, FileIssue, OutputDir, Reason};
use crate::engine::lock::LockFile;
use crate::engine::manifest::InstanceId;
use crate::engine::pipeline::{Event, Options, Project, Selection};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  similiai verify                   read every stored file and every file that is checked out
  similiai verify --repair          then make again only what is damaged
  similiai verify --rerun           make every result again and compare
  similiai verify --rerun embed     the same for one instance")]
pub struct Arguments {
    #[command(flatten)]
    manifest: ManifestOptions,
    /// Make damaged results again
    #[arg(long, conflicts_with = "rerun")]
    repair: bool,
    /// Make the results of these instances (default: all) again in a temporary folder, and compare them
    #[arg(long, value_name = "INSTANCE", num_args = 0..)]
    rerun: Option<Vec<String>>,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Most files that a message names.
const SHOWN: usize = 5;

/// Damaged files of a result, and the instance that it belongs to.
struct Finding {
    instance: Option<String>,
    stage: String,
    stored: bool,
    files: Vec<(String, FileIssue)>,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project(&arguments.manifest.variation())?;
    match &arguments.rerun {
        Some(targets) => {
            let _lock = project.store.lock()?;
            rerun(session, &project, targets, arguments.json)
        }
        None if arguments.repair => {
            let _lock = project.store.lock()?;
            verify(session, &project, arguments)
        }
        None => {
            let _lock = project.store.share()?;
            verify(session, &project, arguments)
        }
    }
}

fn verify(session: &Session, project: &Project, arguments: &Arguments) -> Result<()> {
    let bar = session.screen.progress("verify").bytes("reading", 0);
    let mut damage = project.store.verify(|bytes| bar.inc(bytes))?;
    drop(bar);
    let findings = find(project, &mut damage)?;
    let loose = damage.blobs.len();
    if arguments.json {
        let rows = findings.iter().map(|finding| {
            let files = finding.files.iter().map(|(path, issue)| json!({"path": path, "fault": issue}));
            json!({"instance": finding.instance, "stage": finding.stage, "stored": finding.stored,
                   "files": files.collect::<Vec<_>>()})
        });
        let rows: Vec<_> = rows.collect();
        session.print_json(&json!({
            "files": damage.files, "bytes": damage.bytes, "damaged_files": damage.blobs, "damaged": rows,
            "damaged_cache_files": damage.own, "unreadable": damage.unreadable,
        }))?;
    } else {
        let size = indicatif::HumanBytes(damage.bytes);
        session.screen.print(&format!("{} stored files, {size}: {loose} damaged", damage.files));
        for path in &damage.own {
            session.screen.print(&format!("{} was changed after it was written", path.display()));
        }
        for finding in &findings {
            for kind in [FileIssue::Missing, FileIssue::Modified] {
                let files = finding.files.iter().filter(|(_, issue)| *issue == kind);
                let files: Vec<String> = files.map(|(path, _)| path.clone()).collect();
                if !files.is_empty() {
                    let reason =
                        if finding.stored { Reason::Stored(kind, files) } else { Reason::CheckedOut(kind, files) };
                    let whose = finding.instance.as_deref().unwrap_or("another result");
                    session.screen.print(&format!("{whose} ({}): {reason}", finding.stage));
                }
            }
        }
    }
    if findings.is_empty() && damage.is_none() {
        return readable(&damage);
    }
    if arguments.repair {
        return repair(session, project, &damage, &findings, arguments.json);
    }
    let message = "something is damaged; repair it with `similiai verify --repair`";
    Err(Failure::Damaged(message.to_owned()).into())
}

fn find(project: &Project, damage: &mut Damage) -> Result<Vec<Finding>> {
    let checked_out = project.store.all_checked_out()?;
    let mut findings = Vec::new();
    for (stored, files) in &damage.results {
        let instance =
            checked_out.iter().find(|(_, checked_out)| checked_out.key == stored.key).map(|(name, _)| name.clone());
        findings.push(Finding { instance, stage: stored.document.stage.clone(), stored: true, files: files.clone() });
    }
    for (name, checked_out, contents) in with_contents(project, &checked_out) {
        let files = project.store.verify_output_dir(&output_dir(project, name, checked_out), &contents, damage)?;
        if !files.is_empty() {
            let stage = project.store.result(&checked_out.key)?.map(|stored| stored.document.stage).unwrap_or_default();
            findings.push(Finding { instance: Some(name.to_owned()), stage, stored: false, files });
        }
    }
    Ok(findings)
}

fn output_dir<'a>(project: &'a Project, name: &'a str, checked_out: &'a CheckedOut) -> OutputDir<'a> {
    OutputDir { instance: name, project: &project.manifest.project, out: &checked_out.out }
}

/// Checked-out results whose list of files is still stored. Instances of other manifests are included.
fn with_contents<'a>(
    project: &Project,
    checked_out: &'a [(String, CheckedOut)],
) -> Vec<(&'a str, &'a CheckedOut, Arc<Contents>)> {
    let known = checked_out
        .iter()
        .filter_map(|(name, checked_out)| Some((&**name, checked_out, project.store.contents(&checked_out.digest)?)));
    known.collect()
}

fn repair(session: &Session, project: &Project, damage: &Damage, findings: &[Finding], json: bool) -> Result<()> {
    let checked_out = project.store.all_checked_out()?;
    let known = with_contents(project, &checked_out);
    let dirs: Vec<_> = known
        .iter()
        .map(|(name, checked_out, contents)| (output_dir(project, name, checked_out), &**contents))
        .collect();
    // Repair only makes results that are checked out now, not others that the manifest describes today.
    let instances = &project.manifest.instances;
    let mut current = instances.filled(false);
    for (id, assessment) in project.assess()?.enumerate() {
        let instance = &instances[id];
        let lies = checked_out.iter().find(|(name, _)| *name == instance.name).map(|(_, checked_out)| &checked_out.key);
        // An instance has no key if one of its inputs is damaged.
        let fits = assessment.key.as_ref().is_none_or(|key| Some(key) == lies);
        current[id] = lies.is_some() && fits && instance.needs.iter().all(|need| current[*need]);
    }
    let is_current = |name: &String| instances.iter().zip(&current).any(|(one, current)| one.name == *name && *current);
    project.store.repair(damage, &dirs)?;
    let (targets, others): (Vec<String>, Vec<String>) =
        findings.iter().filter_map(|finding| finding.instance.clone()).partition(is_current);
    for name in &others {
        put_back(session, project, name)?;
    }
    let options = Options { selection: Selection { targets, ..Selection::default() }, jobs: 1, ..Options::default() };
    let width = instances.iter().map(|instance| instance.name.len()).max().unwrap_or(0);
    let screen = if json { session.screen.for_machines() } else { session.screen.clone() };
    let reports = project.run(&options, &screen, &|event| {
        if let (Event::Ended(report), false) = (event, json) {
            session.screen.print(&run_report::line(report, width));
        }
    })?;
    judge(&reports)?;
    let mut left = project.store.verify(|_| ())?;
    if find(project, &mut left)?.is_empty() && left.is_none() {
        return readable(&left);
    }
    Err(Failure::Damaged("new damage appeared during the repair; run the same command again".to_owned()).into())
}

/// Puts back a result that was made with other parameters. Forgets it if the store has lost its files.
fn put_back(session: &Session, project: &Project, name: &str) -> Result<()> {
    let Some(checked_out) = project.store.checked_out(name)? else { return Ok(()) };
    let dir = output_dir(project, name, &checked_out);
    let stored = project.store.result(&checked_out.key)?;
    let back = stored.as_ref().map(|stored| project.store.check_out(&dir, stored, false)).transpose()?;
    if !matches!(back, Some(Checkout::Done(_))) {
        project.store.forget_checked_out(name)?;
        if stored.is_some() {
            project.store.remove_result(&checked_out.key)?;
        }
        let told = "its result was made with other parameters and is lost; run it again with those parameters";
        session.screen.print(&format!("{name}: {told}"));
    }
    Ok(())
}

/// Fails if files could not be read. That is not damage, because their content may be intact.
fn readable(damage: &Damage) -> Result<()> {
    match damage.unreadable.len() {
        0 => Ok(()),
        count => bail!("{count} files cannot be read:{}", first_of(SHOWN, &damage.unreadable)),
    }
}

fn rerun(session: &Session, project: &Project, targets: &[String], json: bool) -> Result<()> {
    let manifest = &project.manifest;
    let targets: Vec<InstanceId> = match targets {
        [] => manifest.instances.ids().collect(),
        names => names.iter().map(|name| manifest.find(name)).collect::<Result<_>>()?,
    };
    let file = LockFile::read(&manifest.project)?;
    let lock = file.as_ref().and_then(|file| file.profile(&manifest.variation.name()).ok());
    let against = if lock.is_some() { "as locked" } else { "as stored" };
    let width = manifest.instances.iter().map(|instance| instance.name.len()).max().context("there is no stage")?;
    let heartbeat = session.screen.heartbeat();
    heartbeat.started("verify --rerun");
    let reruns = project.rerun(&targets, lock, &session.screen, &|rerun| {
        if !json {
            let verdict = if rerun.difference.is_none() { "same" } else { "different" };
            let time = duration(rerun.seconds);
            session.screen.print(&format!("{:width$}  ran {time:6}  {verdict} {against}", rerun.name));
        }
    })?;
    if json {
        let rows = reruns
            .iter()
            .map(|rerun| json!({"name": rerun.name, "seconds": rerun.seconds, "difference": rerun.difference}));
        session.print_json(&json!({"against": against, "stages": rows.collect::<Vec<_>>()}))?;
    }
    let told = reruns.iter().filter_map(|rerun| Some(format!("{}: {}", rerun.name, rerun.difference.as_ref()?)));
    let told: Vec<String> = told.collect();
    if told.is_empty() { Ok(()) } else { Err(Failure::NotReproducible(told.join("\n")).into()) }
}
