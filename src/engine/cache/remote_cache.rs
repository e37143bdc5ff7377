//! Results that other machines share: what a cache beside the local one must do.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Blobs, Contents, Store, StoredResult};
use crate::base::progress::Progress;

/// Where results lie that other machines made. It is never needed: whatever fails there is a miss and a warning.
pub trait RemoteCache: Send + Sync + std::fmt::Debug {
    /// Brings the result for `key` with all its files into `store`, if it is there and whole; where `digest` is given,
    /// only that very result.
    fn fetch(&self, store: &Store, key: &str, digest: Option<&str>, progress: &Progress) -> Option<StoredResult>;

    /// Sends a result there, if none is there yet, while other work goes on.
    fn send(&self, blobs: &Blobs, stored: &StoredResult, contents: Arc<Contents>);

    /// Waits for what is being sent.
    fn settle(&self, progress: &Progress);
}

/// What of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Off,
    /// Results are taken from there.
    #[default]
    ReadOnly,
    /// And those made here are sent there.
    ReadWrite,
}

/// As the manifest says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// An address such as s3://bucket/prefix, or a folder.
    pub remote: String,
    #[serde(default)]
    pub mode: Mode,
}
