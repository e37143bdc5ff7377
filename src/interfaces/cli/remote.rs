//! Which remote cache a run uses.

use std::sync::Arc;

use anyhow::Result;
use clap::ValueEnum;

use crate::engine::cache::{Mode, Remote, RemoteCache, Settings};
use crate::engine::manifest::Manifest;

#[derive(clap::Args)]
pub struct RemoteArguments {
    /// Share results with other machines by this bucket or folder (default: as the manifest's `cache` says)
    #[arg(long, value_name = "ADDRESS|FOLDER", env = "SIMILIAI_REMOTE_CACHE", hide_env_values = true)]
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
    /// As an empty variable of the environment says.
    #[value(name = "", hide = true)]
    Unsaid,
}

impl RemoteArguments {
    /// What the command line says goes before what the manifest says.
    pub fn open(&self, manifest: &Manifest) -> Result<Option<Arc<dyn RemoteCache>>> {
        let named = self.remote_cache.as_ref().filter(|remote| !remote.is_empty());
        let named = named.map(|remote| Settings { remote: remote.clone(), mode: Mode::default() });
        let mode = match self.remote_cache_mode {
            None | Some(How::Unsaid) => None,
            Some(How::Off) => Some(Mode::Off),
            Some(How::Ro) => Some(Mode::ReadOnly),
            Some(How::Rw) => Some(Mode::ReadWrite),
        };
        let Some(Settings { remote, mode: default }) = named.or_else(|| manifest.cache.clone()) else {
            if mode.is_some_and(|mode| mode != Mode::Off) {
                tracing::warn!("no remote cache is named: --remote-cache, or `cache` in the manifest, does that");
            }
            return Ok(None);
        };
        match mode.unwrap_or(default) {
            Mode::Off => Ok(None),
            mode => Ok(Remote::open(&remote, mode, &manifest.project)?.map(|remote| Arc::new(remote) as _)),
        }
    }
}
