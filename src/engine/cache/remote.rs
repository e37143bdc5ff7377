//! A cache in a bucket or a shared folder: results under `v1/ac/<key>`, contents under `v1/cas/<digest>`.

mod address;
mod redaction;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, WriteMultipart};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use self::redaction::{brief, redacted, shown};
use super::remote_cache::{Mode, RemoteCache};
use super::{Blobs, Contents, Store, StoredResult};
use crate::base::files;
use crate::base::progress::Progress;
use crate::base::signal;
use crate::base::tls;

/// Number of files sent or received at the same time.
const AT_ONCE: usize = 32;
/// Larger files are sent in parts. In bytes.
const WHOLE: u64 = 5 << 20;
/// A file of more than this many bytes counts as this many of [`AT_ONCE`], so that it is sent in time on a slow line.
const LARGE: (u64, u32) = (256 << 10, 8);

#[derive(Debug)]
pub struct Remote(Arc<Bucket>, Runtime);

#[derive(Debug)]
struct Bucket {
    /// The address without secrets, for messages.
    name: String,
    store: Box<dyn ObjectStore>,
    prefix: Key,
    writes: bool,
    /// The cache is not used for the rest of this run.
    lost: AtomicBool,
    /// Nothing is sent for the rest of this run.
    closed: AtomicBool,
    /// Damaged or forged objects. They are replaced if this machine may write.
    refused: Mutex<HashSet<String>>,
    /// Results that are being sent.
    sending: AtomicUsize,
    uploads: Semaphore,
}

/// Counts down when it is dropped, also after a panic.
struct Sending<'a>(&'a AtomicUsize);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why the remote cache gives no result.
enum Miss {
    /// It does not have the result.
    Absent,
    /// The result is damaged or forged, or could not be stored here.
    Refused(anyhow::Error),
    /// The remote cache does not answer.
    Unreachable(Error),
}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        if matches!(error, Error::NotFound { .. }) { Self::Absent } else { Self::Unreachable(error) }
    }
}

impl Remote {
    /// Opens the remote cache. `remote` is an address, or a folder relative to `project`. Credentials come from the
    /// environment.
    ///
    /// `None`, with a warning, if this machine cannot use it, for example because the folder does not exist. Nothing is
    /// sent yet.
    ///
    /// # Errors
    /// If the address is not of a known kind.
    pub fn open(remote: &str, mode: Mode, project: &Path) -> Result<Option<Self>> {
        tls::set_up();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("cannot start the remote cache")?;
        // Clients must be made inside of the runtime that runs their connections.
        let inside = runtime.enter();
        let opened = address::open(remote, mode, project)?;
        drop(inside);
        let (store, prefix) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!("the remote cache {} is not used: {}", shown(remote), redacted(&format!("{error:#}")));
                return Ok(None);
            }
        };
        Ok(Some(Self::with(&shown(remote), (store, prefix), mode, runtime)))
    }

    fn with(name: &str, (store, prefix): (Box<dyn ObjectStore>, Key), mode: Mode, runtime: Runtime) -> Self {
        let bucket = Bucket {
            name: name.to_owned(),
            store,
            prefix,
            writes: mode == Mode::ReadWrite,
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            refused: Mutex::default(),
            sending: AtomicUsize::new(0),
            uploads: Semaphore::new(AT_ONCE),
        };
        Self(Arc::new(bucket), runtime)
    }
}

impl RemoteCache for Remote {
    fn fetch(&self, store: &Store, key: &str, digest: Option<&str>, progress: &Progress) -> Option<StoredResult> {
        let Self(bucket, runtime) = self;
        if bucket.lost.load(Ordering::Relaxed) {
            return None;
        }
        match runtime.block_on(bucket.fetch(store, key, digest, progress)) {
            Ok(stored) => Some(stored),
            Err(Miss::Absent) => None,
            Err(Miss::Refused(why)) => {
                tracing::warn!("{why:#}; this machine makes the result");
                None
            }
            Err(Miss::Unreachable(error)) => {
                bucket.give_up(&error);
                None
            }
        }
    }

    fn send(&self, blobs: &Blobs, stored: &StoredResult, contents: Arc<Contents>) {
        let Self(bucket, runtime) = self;
        if !bucket.writes || bucket.lost.load(Ordering::Relaxed) || bucket.closed.load(Ordering::Relaxed) {
            return;
        }
        // The tables of single items are not sent, so other machines must not look for them.
        let stored = StoredResult { items: Vec::new(), ..stored.clone() };
        let (bucket, blobs) = (bucket.clone(), blobs.clone());
        bucket.sending.fetch_add(1, Ordering::Relaxed);
        runtime.spawn(async move {
            let _sending = Sending(&bucket.sending);
            if let Err(error) = bucket.send(&blobs, &stored, &contents).await {
                bucket.cannot_send(&error);
            }
        });
    }

    fn settle(&self, progress: &Progress) {
        let left = || self.0.sending.load(Ordering::Relaxed);
        if left() == 0 {
            return;
        }
        let bar = progress.bar("results to the remote cache", left() as u64);
        let mut last = left();
        // An interrupted run may leave files there that belong to no result, because results are sent last. They do no
        // harm.
        while left() > 0 && signal::signal().is_none() {
            std::thread::sleep(Duration::from_millis(20));
            bar.inc(last.saturating_sub(left()) as u64);
            last = left();
        }
    }
}

impl Bucket {
    fn result(&self, key: &str) -> Key {
        self.prefix.clone().join("v1").join("ac").join(key)
    }

    fn content(&self, digest: &str) -> Key {
        self.prefix.clone().join("v1").join("cas").join(digest)
    }

    fn give_up(&self, error: &Error) {
        if !self.lost.swap(true, Ordering::Relaxed) {
            let why = redacted(&brief(error));
            tracing::warn!("the remote cache {} is not used for the rest of this run: {why}", self.name);
        }
    }

    fn cannot_send(&self, error: &anyhow::Error) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            let why = error.downcast_ref::<Error>().map_or_else(|| format!("{error:#}"), brief);
            let why = redacted(&why);
            tracing::warn!("no more results are sent to the remote cache {}: {why}", self.name);
        }
    }

    fn refuse(&self, what: &Key, why: &str) -> Miss {
        self.mark_refused(what);
        Miss::Refused(anyhow!("{what} in the remote cache {} is refused: {why}", self.name))
    }

    fn mark_refused(&self, what: &Key) {
        self.refused.lock().insert(what.to_string());
    }

    fn is_refused(&self, what: &Key) -> bool {
        self.refused.lock().contains(what.as_ref())
    }

    /// Like [`Self::fetch_whole`]. If the result is refused, it is marked, so that [`Self::send`] replaces it.
    async fn fetch(
        &self,
        store: &Store,
        key: &str,
        wanted: Option<&str>,
        progress: &Progress,
    ) -> Result<StoredResult, Miss> {
        let fetched = self.fetch_whole(store, key, wanted, progress).await;
        if matches!(fetched, Err(Miss::Refused(_))) {
            self.mark_refused(&self.result(key));
        }
        fetched
    }

    async fn fetch_whole(
        &self,
        store: &Store,
        key: &str,
        wanted: Option<&str>,
        progress: &Progress,
    ) -> Result<StoredResult, Miss> {
        let object = self.result(key);
        let bytes = self.store.get(&object).await?.bytes().await?;
        let stored = StoredResult::parse(key, &bytes);
        let stored =
            stored.ok_or_else(|| self.refuse(&object, "it is not a result for this key, or it was modified"))?;
        if wanted.is_some_and(|wanted| wanted != stored.digest) {
            return Err(Miss::Absent);
        }
        let list = self.content(&stored.digest);
        if store.contents(&stored.digest).is_none() {
            self.bring(store, &stored.digest, None).await?;
        }
        let contents = store.contents(&stored.digest).ok_or_else(|| self.refuse(&list, "it is not a list of files"))?;
        let files: BTreeMap<&str, u64> = contents.iter().map(|file| (file.digest, file.bytes)).collect();
        let missing: Vec<(&str, u64)> = files
            .iter()
            .map(|(digest, bytes)| (*digest, *bytes))
            .filter(|(digest, bytes)| !store.blobs.has(digest, *bytes))
            .collect();
        let bar = progress.bar("files from the remote cache", missing.len() as u64);
        futures_util::stream::iter(missing)
            .map(|(digest, bytes)| {
                let bar = &bar;
                async move {
                    self.bring(store, digest, Some(bytes)).await?;
                    bar.inc(1);
                    Ok::<(), Miss>(())
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let keep = || -> Result<()> {
            store.blobs.sync(files.keys().copied().chain([stored.digest.as_str()]))?;
            // Keep the local one: it also lists its tables of single items.
            if store.result(key)?.is_some() {
                return Ok(());
            }
            store.put_result(&stored)
        };
        keep().map_err(Miss::Refused)?;
        Ok(stored)
    }

    /// Copies one content into the store. It is written to a temporary file first, and checked against its digest.
    async fn bring(&self, store: &Store, digest: &str, bytes: Option<u64>) -> Result<(), Miss> {
        let object = self.content(digest);
        let here = |error: std::io::Error| Miss::Refused(anyhow!("cannot store a file from the remote cache: {error}"));
        let absent = |miss| match miss {
            Miss::Absent => Miss::Refused(anyhow!("{object} is missing in the remote cache {}", self.name)),
            miss => miss,
        };
        let found = self.store.get(&object).await.map_err(|error| absent(error.into()))?;
        let slot = store.slot().map_err(Miss::Refused)?;
        let path = slot.path().join("content");
        let mut file = std::fs::File::create(&path).map_err(here)?;
        let (mut hasher, mut stream) = (blake3::Hasher::new(), found.into_stream());
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            if signal::signal().is_some() {
                return Err(Miss::Absent);
            }
            hasher.update(&piece);
            file.write_all(&piece).map_err(here)?;
        }
        drop(file);
        let count = hasher.count();
        if bytes.is_some_and(|bytes| bytes != count) {
            return Err(self.refuse(&object, &format!("it has {count} bytes instead of {}", bytes.unwrap_or_default())));
        }
        if hasher.finalize().to_hex().as_str() != digest {
            return Err(self.refuse(&object, "its content does not match its digest"));
        }
        // Reading and syncing the file must not block the other connections.
        let blobs = store.blobs.clone();
        let taken = tokio::task::spawn_blocking(move || blobs.take(&path)).await;
        taken.map_err(anyhow::Error::from).and_then(|taken| taken).map_err(Miss::Refused)?;
        Ok(())
    }

    /// Sends a result: first its files, and last the result that names them.
    async fn send(&self, blobs: &Blobs, stored: &StoredResult, contents: &Contents) -> Result<()> {
        let object = self.result(&stored.key);
        let refused = self.is_refused(&object);
        if !refused && self.compare(&object, stored).await? {
            return Ok(());
        }
        let files: BTreeMap<&str, u64> = contents.iter().map(|file| (file.digest, file.bytes)).collect();
        let list = (stored.digest.as_str(), contents.text().len() as u64);
        futures_util::stream::iter(files.into_iter().chain([list]).map(Ok))
            .try_for_each_concurrent(AT_ONCE, |(digest, bytes)| self.send_content(blobs, digest, bytes))
            .await?;
        let mode = if refused { PutMode::Overwrite } else { PutMode::Create };
        let payload: PutPayload = stored.to_bytes()?.into();
        match self.store.put_opts(&object, payload, mode.into()).await {
            Ok(_) => Ok(()),
            // Another machine was faster.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.compare(&object, stored).await.map(drop)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is a result at `object`; warns if it is not the same as `stored`.
    async fn compare(&self, object: &Key, stored: &StoredResult) -> Result<bool> {
        let theirs = match self.store.get(object).await {
            Ok(theirs) => theirs.bytes().await?,
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let theirs = StoredResult::parse(&stored.key, &theirs);
        if theirs.is_none_or(|theirs| theirs.digest != stored.digest) {
            let (stage, name) = (&stored.document.stage, &self.name);
            tracing::warn!("{object} in the remote cache {name} is another result of {stage}, from another machine");
        }
        Ok(true)
    }

    async fn send_content(&self, blobs: &Blobs, digest: &str, bytes: u64) -> Result<()> {
        let _turn = self.uploads.acquire_many(if bytes > LARGE.0 { LARGE.1 } else { 1 }).await?;
        let (object, path) = (self.content(digest), blobs.path(digest));
        let refused = self.is_refused(&object);
        if !refused && self.store.head(&object).await.is_ok_and(|there| there.size == bytes) {
            return Ok(());
        }
        if bytes > WHOLE {
            let mut upload = WriteMultipart::new(self.store.put_multipart(&object).await?);
            if let Err(error) = in_parts(&path, &mut upload).await {
                // The parts of an unfinished upload would be stored, and cost money.
                let _ = upload.abort().await;
                return Err(error);
            }
            upload.finish().await?;
            return Ok(());
        }
        self.store.put(&object, files::read(&path)?.into()).await?;
        Ok(())
    }
}

async fn in_parts(path: &Path, upload: &mut WriteMultipart) -> Result<()> {
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut piece)? {
            0 => return Ok(()),
            count => upload.write(&piece[..count]),
        }
        upload.wait_for_capacity(2).await?;
    }
}
