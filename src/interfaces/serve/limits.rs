//! Limits for one request and for all requests together.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Limits {
    /// Most bytes of an upload.
    pub bytes: usize,
    /// Most pixels of a picture.
    pub pixels: u64,
}

/// Most uploads of the largest size in memory at the same time. More smaller ones fit.
pub const UPLOADS: usize = 3;
/// Most searches that wait or run. One more gets status 503.
pub const QUEUE: usize = 128;
/// Most neighbours in one answer.
pub const MOST_NEIGHBOURS: usize = 100;
/// Most pictures on one page of the gallery.
pub const MOST_LISTED: usize = 200;
/// Longest time for an upload.
pub const UPLOAD: Duration = Duration::from_secs(20);
/// Longest time between two pieces of an upload.
pub const SILENCE: Duration = Duration::from_secs(5);
/// Longest time to decode a picture, and to wait until decoding begins.
pub const DECODING: Duration = Duration::from_secs(10);
/// Seconds until a client should try again, if the server has too much to do.
pub const RETRY_AFTER: u32 = 1;
