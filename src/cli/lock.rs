//! `similiai lock`

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{Session, Variation};
use crate::failure::Failure;
use crate::lock::{FILE, Lock};
use crate::pipeline::State;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    variation: Variation,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project(&arguments.variation)?;
    let mut digests = BTreeMap::new();
    for assessment in project.assess()? {
        let key = assessment.key.filter(|_| assessment.state == State::Fresh).ok_or_else(|| {
            Failure::Usage(format!("`{}` is not fresh; run everything first: similiai run all", assessment.name))
        })?;
        let record = project.store.record(&key)?.context("the result is gone")?;
        digests.insert(assessment.name, record.digest);
    }
    let folder = &project.manifest.project;
    let mut lock = Lock::read(folder)?.unwrap_or_default();
    let count = digests.len();
    lock.set(project.manifest.profile.as_deref(), digests);
    lock.write(folder)?;
    session.screen.print(&format!("{FILE}: {count} digests"));
    Ok(())
}
