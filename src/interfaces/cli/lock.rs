//! `similiai lock`

use anyhow::{Context, Result};

use super::{ManifestOptions, Session};
use crate::base::error::Failure;
use crate::engine::lock::{FILE, Lock, LockFile, Locked};
use crate::engine::pipeline::State;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    manifest: ManifestOptions,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project(&arguments.manifest.variation())?;
    let mut lock = Lock::default();
    for assessment in project.assess()? {
        let key = assessment.key.filter(|_| assessment.state == State::Fresh).ok_or_else(|| {
            Failure::Usage(format!("`{}` is not fresh; run everything first: similiai run all", assessment.name))
        })?;
        let stored = project.store.result(&key)?.context("the result is gone")?;
        let contents = project.store.contents(&stored.digest).context("the list of its files is gone")?;
        lock.0.insert(assessment.name, Locked::new(&stored, &contents));
    }
    let (folder, count) = (&project.manifest.project, lock.0.len());
    LockFile::with(LockFile::read(folder)?, project.manifest.variation.name(), lock).write(folder)?;
    session.screen.print(&format!("{FILE}: {count} results"));
    Ok(())
}
