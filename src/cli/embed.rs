//! `similiai embed`

use std::path::PathBuf;

use anyhow::Result;

use super::asking::{Trained, judge};
use super::{Session, Variation};
use crate::embeddings::Writer;
use crate::failure::Failure;
use crate::files;

/// Rows written at a time.
const ROWS: usize = 256;

#[derive(clap::Args)]
#[command(after_help = "\
The file has the columns of the pipeline's own embeddings. Where pictures lie in folders below the one that is named, the
folder's name is their class. Paths are as they were named. Pictures that cannot be read are left out and named, and the exit status is 4.

Examples:
  similiai embed ~/Pictures -o mine.parquet
  similiai query photo.jpg --gallery mine.parquet")]
pub struct Arguments {
    /// Folders, with all pictures below them, and single pictures: PNG, JPEG or WebP
    #[arg(required = true, value_name = "FOLDER|IMAGE")]
    sources: Vec<PathBuf>,
    /// The Parquet file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// By the network that made the embeddings of this instance (needed where there are several)
    #[arg(long, value_name = "INSTANCE")]
    of: Option<String>,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project(&Variation::default())?;
    let trained = Trained::load(&project, arguments.of.as_deref())?;
    let mut collection = trained.collect(session, &project, &arguments.sources)?;
    if collection.embeddings.is_empty() {
        judge(&collection.bad)?;
        return Err(Failure::Usage("there is no picture in what is named: PNG, JPEG or WebP".to_owned()).into());
    }
    let rows = collection.rows();
    let dimension = collection.embeddings.dimension;
    let facts = std::mem::take(&mut collection.embeddings.facts);
    files::replace(&arguments.output, |path| {
        let mut writer = Writer::create(path, dimension, facts)?;
        for (rows, values) in rows.chunks(ROWS).zip(collection.embeddings.values.chunks(ROWS * dimension)) {
            writer.write(rows, values.to_vec())?;
        }
        writer.finish()
    })?;
    session.screen.print(&format!("{} pictures in {}", rows.len(), arguments.output.display()));
    judge(&collection.bad)
}
