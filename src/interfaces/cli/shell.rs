//! `similiai completions` and `similiai man`

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;

use super::{Cli, Session};
use crate::base::text::legible_path;

pub fn completions(session: &Session, shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "similiai", &mut script);
    session.screen.print_exactly(String::from_utf8(script).context("the script is not UTF-8")?.trim_end());
    Ok(())
}

pub fn manual(session: &Session, folder: &Path) -> Result<()> {
    let place = legible_path(folder);
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .with_context(|| format!("cannot write the manual pages to {place}"))?;
    session.screen.print(&format!("wrote the manual pages to {place}"));
    Ok(())
}
