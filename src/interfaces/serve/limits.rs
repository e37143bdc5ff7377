//! How much one request, and all of them together, may take.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Limits {
    /// Of one upload.
    pub bytes: usize,
    /// Of one picture.
    pub pixels: u64,
}

/// Uploads of the largest size that are held at the same time; smaller ones, as many more.
pub const UPLOADS: usize = 3;
/// Searches that wait or run; one more is told to come again.
pub const QUEUE: usize = 128;
/// Neighbours in one answer.
pub const MOST_NEIGHBOURS: usize = 100;
/// Pictures on one page of the gallery.
pub const MOST_LISTED: usize = 200;
/// For an upload as a whole …
pub const UPLOAD: Duration = Duration::from_secs(20);
/// … and between two pieces of it.
pub const SILENCE: Duration = Duration::from_secs(5);
/// For decoding a picture, and for waiting until it can begin.
pub const DECODING: Duration = Duration::from_secs(10);
/// What those are told to wait who come while there is too much to do, in seconds.
pub const RETRY_AFTER: u32 = 1;
