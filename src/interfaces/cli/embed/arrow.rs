//! `similiai embed --arrow`

use anyhow::Result;

use crate::interfaces::cli::Session;
use crate::learning::model::Model;
use crate::retrieval::arrow_filter::{Options, filter};

#[derive(clap::Args)]
pub struct Filter {
    /// Read an Arrow IPC stream from standard input and write one to stdout
    #[arg(long, conflicts_with_all = ["shard", "join"])]
    arrow: bool,
    /// Write embeddings as lists of variable size, for readers such as Spark
    #[arg(long, requires = "arrow")]
    list: bool,
    /// Stop at a picture that cannot be decoded, instead of writing null and the reason in the column error
    #[arg(long, requires = "arrow")]
    strict: bool,
}

impl Filter {
    pub fn is_asked_for(&self) -> bool {
        self.arrow
    }

    pub fn run(&self, session: &Session, model: &Model) -> Result<()> {
        let options = Options { list: self.list, strict: self.strict };
        let bar = session.screen.progress("embed").bar("pictures", 0);
        let passed = filter(model, std::io::stdin(), std::io::stdout(), &options, |rows| bar.inc(rows as u64))?;
        tracing::info!("{} pictures, {} of them could not be decoded", passed.pictures, passed.bad);
        Ok(())
    }
}
