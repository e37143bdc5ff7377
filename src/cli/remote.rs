//! Which remote cache a run uses.

use std::sync::Arc;

use anyhow::Result;
use clap::ValueEnum;

use crate::cache::{Elsewhere, Mode, Remote, Settings};
use crate::failure::Failure;
use crate::manifest::Manifest;

#[derive(clap::Args)]
pub struct RemoteCache {
    /// Share results with other machines by this bucket or folder (default: as the manifest's `cache` says)
    #[arg(long, value_name = "ADDRESS|FOLDER", env = "SIMILIAI_REMOTE_CACHE")]
    remote_cache: Option<String>,
    /// Leave it alone, take results from it, or send it what is made here too
    #[arg(long, value_name = "MODE", env = "SIMILIAI_REMOTE_CACHE_MODE")]
    remote_cache_mode: Option<How>,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    Off,
    Ro,
    Rw,
}

impl RemoteCache {
    /// What the command line says goes before what the manifest says.
    pub fn open(&self, manifest: &Manifest) -> Result<Option<Arc<dyn Elsewhere>>> {
        let named = self.remote_cache.as_ref().filter(|remote| !remote.is_empty());
        let named = named.map(|remote| Settings { remote: remote.clone(), mode: Mode::default() });
        let mode = self.remote_cache_mode.map(|how| match how {
            How::Off => Mode::Off,
            How::Ro => Mode::ReadOnly,
            How::Rw => Mode::ReadWrite,
        });
        let Some(Settings { remote, mode: default }) = named.or_else(|| manifest.cache.clone()) else {
            return match mode {
                None | Some(Mode::Off) => Ok(None),
                Some(_) => Err(Failure::Usage(
                    "--remote-cache-mode needs --remote-cache, or `cache` in the manifest".to_owned(),
                )
                .into()),
            };
        };
        match mode.unwrap_or(default) {
            Mode::Off => Ok(None),
            mode => Ok(Some(Arc::new(Remote::open(&remote, mode, &manifest.project)?))),
        }
    }
}
