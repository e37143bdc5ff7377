//! `similiai publish`

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::Session;
use super::trained::Trained;
use crate::base::files;
use crate::retrieval::database::{Address, Published, publish};
use crate::retrieval::embeddings::{self, Embeddings};

#[derive(clap::Args)]
#[command(after_help = "\
The table has the columns id, path, label, label_name, split and embedding, and an HNSW index for
Euclidean distances. All rows are written in one transaction: others see the old table until the
new one is complete. If the table already has these embeddings, nothing is written. A new table
has the grants of the schema's default privileges.

Examples:
  similiai publish postgres://me@db.example/pictures              password from PGPASSWORD
  similiai publish postgres://me@db.example/pictures --gallery mine.parquet --table mine
  similiai query photo.jpg --gallery postgres://me@db.example/pictures
  psql postgres://me@db.example/pictures -c 'SELECT b.path FROM images a, images b WHERE a.id = 7
    ORDER BY a.embedding <-> b.embedding LIMIT 6'")]
pub struct Arguments {
    /// Database to write to, as postgres://USER@HOST/DATABASE
    #[arg(value_name = "ADDRESS")]
    address: String,
    #[command(flatten)]
    table: TableName,
    /// Publish the embeddings in this file, made by `similiai embed` (default: the pipeline's)
    #[arg(long, value_name = "FILE", conflicts_with = "of")]
    gallery: Option<PathBuf>,
    /// Publish the embeddings that this instance made (needed if there are several)
    #[arg(long, value_name = "INSTANCE")]
    of: Option<String>,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct TableName {
    /// Table in the database; may begin with a schema, such as public.images
    #[arg(long, value_name = "NAME", default_value = "images")]
    table: String,
}

impl TableName {
    pub fn at(&self, address: &str) -> Result<Address> {
        Address::new(address, &self.table)
    }
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let address = arguments.table.at(&arguments.address)?;
    let (path, embeddings) = match &arguments.gallery {
        Some(path) => (path.clone(), Embeddings::read_foreign(path)?),
        None => {
            let project = session.last_project()?;
            let (_, given) = Trained::given(&project, arguments.of.as_deref())?;
            project.must_be_current(&given)?;
            project.must_be_unmodified(&given, embeddings::FILE)?;
            let path = given.folder.join(embeddings::FILE);
            let embeddings = Embeddings::read(&path)?;
            (path, embeddings)
        }
    };
    let digest = files::digest(&path)?;
    let rows = embeddings.len();
    let published = publish(address.clone(), &embeddings, &digest, &session.screen.progress("publish"))?;
    if arguments.json {
        return session.print_json(&json!({"state": published, "rows": rows, "gallery": digest}));
    }
    session.screen.print(&match published {
        Published::Written => format!("{rows} pictures in {address}"),
        Published::Current => format!("{address} already has these {rows} pictures"),
    });
    Ok(())
}
