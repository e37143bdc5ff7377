//! `similiai gc`

use anyhow::Result;
use bytesize::ByteSize;
use serde_json::json;

use super::Session;
use crate::engine::cache::Budget;
use crate::engine::manifest::Variation;

#[derive(clap::Args)]
#[command(after_help = "\
Results that are checked out are never removed. Your own files in artifacts/.cache/altered are
never removed either.

Examples:
  similiai gc --dry-run                 show what would be removed
  similiai gc --max-size 2GB            remove results until the rest fits
  similiai gc --keep-last 3 --grace 7d  keep the last three of each stage and those used this week")]
pub struct Arguments {
    /// Stop as soon as the stored files fit into SIZE, such as 500MB or 2GiB
    #[arg(long, value_name = "SIZE")]
    max_size: Option<ByteSize>,
    /// Keep the N results of each stage that were used last
    #[arg(long, value_name = "N", default_value_t = 1)]
    keep_last: usize,
    /// Keep everything used or written within this time, such as 2h or 7d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    grace: humantime::Duration,
    /// Show what would be removed; remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project(&Variation::default())?;
    let _guard = project.store.lock()?;
    let budget = Budget {
        bytes: arguments.max_size.map(|size| size.as_u64()),
        keep_last: arguments.keep_last,
        grace: *arguments.grace,
    };
    let collected = project.store.collect(&budget, arguments.dry_run)?;
    if arguments.json {
        let results = collected.results.iter().map(|stored| json!({"stage": stored.document.stage, "key": stored.key}));
        return session.print_json(&json!({
            "results": results.collect::<Vec<_>>(), "files": collected.blobs, "bytes": collected.bytes,
            "kept_bytes": collected.kept, "dry_run": arguments.dry_run,
        }));
    }
    for stored in &collected.results {
        let size = indicatif::HumanBytes(stored.bytes);
        session.screen.print(&format!(
            "{} {}  {} files, {size}",
            stored.document.stage,
            &stored.key[..12],
            stored.files
        ));
    }
    let done = if arguments.dry_run { "would be removed" } else { "removed" };
    let (bytes, kept) = (indicatif::HumanBytes(collected.bytes), indicatif::HumanBytes(collected.kept));
    let count = collected.results.len();
    session.screen.print(&format!("{count} results, {} stored files, {bytes} {done}; {kept} stored", collected.blobs));
    Ok(())
}
