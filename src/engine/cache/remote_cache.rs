//! The interface of a remote cache, with which several machines share results.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Blobs, Contents, Store, StoredResult};
use crate::base::progress::Progress;

/// A cache of results that several machines share. A run works without it: an error there is only a warning, and the
/// result counts as absent.
pub trait RemoteCache: Send + Sync + std::fmt::Debug {
    /// Copies the result for `key` with all its files into `store`, if the remote cache has it undamaged. With
    /// `digest`, only a result with that digest.
    fn fetch(&self, store: &Store, key: &str, digest: Option<&str>, progress: &Progress) -> Option<StoredResult>;

    /// Starts to send a result in the background, unless the remote cache has one for this key.
    fn send(&self, blobs: &Blobs, stored: &StoredResult, contents: Arc<Contents>);

    /// Waits until all results are sent.
    fn settle(&self, progress: &Progress);
}

/// How a run uses the remote cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Off,
    /// Take results from it.
    #[default]
    ReadOnly,
    /// Also send it the results that this machine makes.
    ReadWrite,
}

/// The key `cache` of the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// An address such as `s3://bucket/prefix`, or the path of a folder.
    pub remote: String,
    #[serde(default)]
    pub mode: Mode,
}
