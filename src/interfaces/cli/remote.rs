//! The options that choose the remote cache of a run.

use std::sync::Arc;

use anyhow::Result;
use clap::ValueEnum;

use crate::engine::cache::{Mode, Remote, RemoteCache, Settings};
use crate::engine::manifest::Manifest;

#[derive(clap::Args)]
pub struct RemoteArguments {
    /// Share results with other machines in this bucket or folder (default: `cache` in the manifest)
    #[arg(long, value_name = "ADDRESS|FOLDER", env = "SIMILIAI_REMOTE_CACHE", hide_env_values = true)]
    remote_cache: Option<String>,
    /// How to use it: off, ro (only read results from it) or rw (also send new results to it)
    #[arg(long, value_name = "MODE", env = "SIMILIAI_REMOTE_CACHE_MODE")]
    remote_cache_mode: Option<How>,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    Off,
    Ro,
    Rw,
    /// The environment variable is empty, which counts as not set.
    #[value(name = "", hide = true)]
    Unsaid,
}

impl RemoteArguments {
    /// Opens the remote cache. The command line overrides the manifest.
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
                tracing::warn!("no remote cache is set; name one with --remote-cache, or with `cache` in the manifest");
            }
            return Ok(None);
        };
        match mode.unwrap_or(default) {
            Mode::Off => Ok(None),
            mode => Ok(Remote::open(&remote, mode, &manifest.project)?.map(|remote| Arc::new(remote) as _)),
        }
    }
}
