//! A cache in a bucket or a shared folder: results under `v1/ac/<key>`, contents under `v1/cas/<digest>`.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    ClientConfigKey, Error, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutPayload, RetryConfig,
    WriteMultipart,
};
use reqwest::Url;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::elsewhere::{Elsewhere, Mode};
use super::{Blobs, Contents, Record, Store};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::{files, interrupt};

/// Files on their way at a time.
const AT_ONCE: usize = 32;
/// What is larger goes in parts.
const WHOLE: u64 = 5 << 20;
/// Of the files on their way, what a larger one counts as: a slow line must get it through in time.
const LARGE: (u64, u32) = (256 << 10, 8);
/// Before a connection is given up: until it is there, without a byte, and in all.
const CLIENT: [(ClientConfigKey, &str); 3] =
    [(ClientConfigKey::ConnectTimeout, "5s"), (ClientConfigKey::ReadTimeout, "30s"), (ClientConfigKey::Timeout, "1h")];
/// Further tries, and no more after so long.
const RETRIES: usize = 3;
const RETRY: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Remote(Arc<Place>, Runtime);

#[derive(Debug)]
struct Place {
    /// As it may be shown: without anything secret.
    name: String,
    store: Box<dyn ObjectStore>,
    prefix: Key,
    writes: bool,
    /// Given up for this run, and given up for sending.
    lost: AtomicBool,
    closed: AtomicBool,
    /// What was there and was not what it should be: it is replaced where this machine may write.
    refused: Mutex<HashSet<String>>,
    /// Results that are being sent.
    sending: AtomicUsize,
    uploads: Semaphore,
}

/// Counts one less when it goes, however that happens.
struct Sending<'a>(&'a AtomicUsize);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a result cannot be had from there.
enum Miss {
    /// It is not there.
    Absent,
    /// It is there, but not as it should be.
    Refused(anyhow::Error),
    /// Nothing can be had from there now.
    Unreachable(Error),
}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        if matches!(error, Error::NotFound { .. }) { Self::Absent } else { Self::Unreachable(error) }
    }
}

impl Remote {
    /// `remote`: an address, or a folder, relative to `project`. Credentials come from the environment.
    ///
    /// `None` where this machine has not what it takes, which a warning says. Nothing is sent yet.
    ///
    /// # Errors
    /// If the address is none that is known.
    pub fn open(remote: &str, mode: Mode, project: &Path) -> Result<Option<Self>> {
        // There may be one already, as good as this.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("cannot start the remote cache")?;
        // Connections belong to the runtime.
        let inside = runtime.enter();
        let opened = if remote.contains("://") {
            let address = Url::parse(remote).map_err(|error| error.to_string());
            let known = address.and_then(|address| match ObjectStoreScheme::parse(&address) {
                Ok((scheme, prefix)) if is_known(&scheme) => Ok((address, scheme, prefix)),
                _ => Err("an address starts with s3, gs, az, abfs or file; a folder has none of them".to_owned()),
            });
            let usage = |why| Failure::Usage(format!("the remote cache {}: {why}", shown(remote)));
            let (address, scheme, prefix) = known.map_err(usage)?;
            open(&address, &scheme, mode)
                .map(|store| (store, if scheme == ObjectStoreScheme::Local { Key::default() } else { prefix }))
        } else {
            folder(&project.join(remote), mode).map(|store| (store, Key::default()))
        };
        drop(inside);
        let (store, prefix) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!("the remote cache {} is not used: {}", shown(remote), secretless(&format!("{error:#}")));
                return Ok(None);
            }
        };
        let place = Place {
            name: shown(remote),
            store,
            prefix,
            writes: mode == Mode::ReadWrite,
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            refused: Mutex::default(),
            sending: AtomicUsize::new(0),
            uploads: Semaphore::new(AT_ONCE),
        };
        Ok(Some(Self(Arc::new(place), runtime)))
    }
}

fn is_known(scheme: &ObjectStoreScheme) -> bool {
    use ObjectStoreScheme::{AmazonS3, GoogleCloudStorage, Local, MicrosoftAzure};
    matches!(scheme, Local | AmazonS3 | GoogleCloudStorage | MicrosoftAzure)
}

fn open(address: &Url, scheme: &ObjectStoreScheme, mode: Mode) -> Result<Box<dyn ObjectStore>> {
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY, ..RetryConfig::default() };
    Ok(match scheme {
        ObjectStoreScheme::Local => {
            let path = address.to_file_path().map_err(|()| anyhow!("this is no path of this machine"))?;
            folder(&path, mode)?
        }
        ObjectStoreScheme::AmazonS3 => {
            let mut builder = AmazonS3Builder::from_env().with_url(address.as_str()).with_retry(retry);
            // Who names such an endpoint means it.
            let endpoints = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
            let endpoint = endpoints.iter().find_map(|name| std::env::var(name).ok());
            if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
                builder = builder.with_allow_http(true);
            }
            let with =
                |builder: AmazonS3Builder, (key, value)| builder.with_config(AmazonS3ConfigKey::Client(key), value);
            Box::new(CLIENT.into_iter().fold(builder, with).build()?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(address.as_str()).with_retry(retry);
            let with = |builder: GoogleCloudStorageBuilder, (key, value)| {
                builder.with_config(GoogleConfigKey::Client(key), value)
            };
            Box::new(CLIENT.into_iter().fold(builder, with).build()?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(address.as_str()).with_retry(retry);
            let with =
                |builder: MicrosoftAzureBuilder, (key, value)| builder.with_config(AzureConfigKey::Client(key), value);
            Box::new(CLIENT.into_iter().fold(builder, with).build()?)
        }
        _ => return Err(anyhow!("there is no such kind of remote cache")),
    })
}

fn folder(path: &Path, mode: Mode) -> Result<Box<dyn ObjectStore>> {
    if mode == Mode::ReadWrite {
        files::create_folder(path)?;
    }
    Ok(Box::new(LocalFileSystem::new_with_prefix(path)?.with_fsync(true)))
}

/// An address without what may be secret in it.
fn shown(remote: &str) -> String {
    match Url::parse(remote) {
        Ok(mut address) if remote.contains("://") => {
            // Both fail only where there can be none.
            let _ = (address.set_username(""), address.set_password(None));
            address.set_query(None);
            address.to_string().trim_end_matches('/').to_owned()
        }
        // One that cannot be read may have its secrets anywhere.
        _ => remote.split_once("://").map_or_else(|| remote.to_owned(), |(scheme, _)| format!("{scheme}://…")),
    }
}

/// The same of a message: signatures of Azure's and presigned addresses stand after a question mark.
fn secretless(message: &str) -> String {
    let word = |word: &str| match word.split_once('?') {
        Some((start, _)) if start.contains("://") => format!("{start}?…"),
        _ => word.to_owned(),
    };
    message.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

impl Elsewhere for Remote {
    fn fetch(&self, store: &Store, key: &str, digest: Option<&str>, progress: &Progress) -> Option<Record> {
        let Self(place, runtime) = self;
        if place.lost.load(Ordering::Relaxed) {
            return None;
        }
        match runtime.block_on(place.fetch(store, key, digest, progress)) {
            Ok(record) => Some(record),
            Err(Miss::Absent) => None,
            Err(Miss::Refused(why)) => {
                tracing::warn!("{why:#}; it is made here");
                None
            }
            Err(Miss::Unreachable(error)) => {
                place.give_up(&error);
                None
            }
        }
    }

    fn send(&self, blobs: &Blobs, record: &Record, contents: Arc<Contents>) {
        let Self(place, runtime) = self;
        if !place.writes || place.lost.load(Ordering::Relaxed) || place.closed.load(Ordering::Relaxed) {
            return;
        }
        // Which tables of single items there are is known only here.
        let record = Record { items: Vec::new(), ..record.clone() };
        let (place, blobs) = (place.clone(), blobs.clone());
        place.sending.fetch_add(1, Ordering::Relaxed);
        runtime.spawn(async move {
            let _sending = Sending(&place.sending);
            if let Err(error) = place.send(&blobs, &record, &contents).await {
                place.cannot_send(&error);
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
        // An interrupted run leaves files there that nobody is led to, as results come last.
        while left() > 0 && interrupt::signal().is_none() {
            std::thread::sleep(Duration::from_millis(20));
            bar.inc(last.saturating_sub(left()) as u64);
            last = left();
        }
    }
}

impl Place {
    fn result(&self, key: &str) -> Key {
        self.prefix.clone().join("v1").join("ac").join(key)
    }

    fn content(&self, digest: &str) -> Key {
        self.prefix.clone().join("v1").join("cas").join(digest)
    }

    fn give_up(&self, error: &Error) {
        if !self.lost.swap(true, Ordering::Relaxed) {
            let why = secretless(&in_short(error));
            tracing::warn!("the remote cache {} is not used any more in this run: {why}", self.name);
        }
    }

    fn cannot_send(&self, error: &anyhow::Error) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            let why = error.downcast_ref::<Error>().map_or_else(|| format!("{error:#}"), in_short);
            let why = secretless(&why);
            tracing::warn!("results are not sent to the remote cache {} any more: {why}", self.name);
        }
    }

    fn refuse(&self, what: &Key, why: &str) -> Miss {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_string());
        Miss::Refused(anyhow!("{what} in the remote cache {} is refused: {why}", self.name))
    }

    fn is_refused(&self, what: &Key) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(what.as_ref())
    }

    async fn fetch(&self, store: &Store, key: &str, wanted: Option<&str>, progress: &Progress) -> Result<Record, Miss> {
        let place = self.result(key);
        let bytes = self.store.get(&place).await?.bytes().await?;
        let record: Record = serde_json::from_slice(&bytes)
            .map_err(|error| self.refuse(&place, &format!("it is no result ({error})")))?;
        if record.key != key || record.document.key().ok().as_deref() != Some(key) {
            return Err(self.refuse(&place, "it is the result of something else"));
        }
        if wanted.is_some_and(|wanted| wanted != record.digest) {
            return Err(Miss::Absent);
        }
        if !is_digest(&record.digest) {
            return Err(self.refuse(&place, "what it names is no digest"));
        }
        let list = self.content(&record.digest);
        if store.contents(&record.digest).is_none() {
            self.bring(store, &record.digest, None).await?;
        }
        let contents = store.contents(&record.digest).ok_or_else(|| self.refuse(&list, "it is no list of files"))?;
        // The list has the digest that its name says, but who wrote it may be anybody.
        if let Some(file) = contents.iter().find(|file| !is_digest(file.digest) || !is_below(file.path)) {
            return Err(self.refuse(&list, &format!("it has a file {:?} that no stage makes", file.path)));
        }
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
        let stored = || -> Result<()> {
            store.blobs.sync(files.keys().copied().chain([record.digest.as_str()]))?;
            // The one that is here knows more: of what it was made item by item.
            if store.record(key)?.is_some() {
                return Ok(());
            }
            files::write_atomically(&store.record_path(key), &serde_json::to_vec_pretty(&record)?)
        };
        stored().map_err(Miss::Refused)?;
        Ok(record)
    }

    /// One content, by way of a file that only takes its place in the store if it is what its name says.
    async fn bring(&self, store: &Store, digest: &str, bytes: Option<u64>) -> Result<(), Miss> {
        let place = self.content(digest);
        let here =
            |error: std::io::Error| Miss::Refused(anyhow!("what the remote cache gives cannot be kept: {error}"));
        let absent = |miss| match miss {
            Miss::Absent => Miss::Refused(anyhow!("{place} is missing in the remote cache {}", self.name)),
            miss => miss,
        };
        let found = self.store.get(&place).await.map_err(|error| absent(error.into()))?;
        let slot = store.slot().map_err(Miss::Refused)?;
        let path = slot.path().join("content");
        let mut file = std::fs::File::create(&path).map_err(here)?;
        let (mut hasher, mut stream) = (blake3::Hasher::new(), found.into_stream());
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            if interrupt::signal().is_some() {
                return Err(Miss::Absent);
            }
            hasher.update(&piece);
            file.write_all(&piece).map_err(here)?;
        }
        drop(file);
        let count = hasher.count();
        if bytes.is_some_and(|bytes| bytes != count) {
            return Err(self.refuse(&place, &format!("it has {count} bytes instead of {}", bytes.unwrap_or_default())));
        }
        if hasher.finalize().to_hex().as_str() != digest {
            return Err(self.refuse(&place, "its content is not the one that its name says"));
        }
        // Reading and syncing it must not hold up the others' connections.
        let blobs = store.blobs.clone();
        let taken = tokio::task::spawn_blocking(move || blobs.take(&path)).await;
        taken.map_err(anyhow::Error::from).and_then(|taken| taken).map_err(Miss::Refused)?;
        Ok(())
    }

    /// Files first, and last the result that leads to them.
    async fn send(&self, blobs: &Blobs, record: &Record, contents: &Contents) -> Result<()> {
        let place = self.result(&record.key);
        let refused = self.is_refused(&place);
        if !refused && self.compare(&place, record).await? {
            return Ok(());
        }
        let files: BTreeMap<&str, u64> = contents.iter().map(|file| (file.digest, file.bytes)).collect();
        let list = (record.digest.as_str(), contents.text().len() as u64);
        futures_util::stream::iter(files.into_iter().chain([list]).map(Ok))
            .try_for_each_concurrent(AT_ONCE, |(digest, bytes)| self.send_content(blobs, digest, bytes))
            .await?;
        let mode = if refused { PutMode::Overwrite } else { PutMode::Create };
        let payload: PutPayload = serde_json::to_vec_pretty(record)?.into();
        match self.store.put_opts(&place, payload, mode.into()).await {
            Ok(_) => Ok(()),
            // Another machine was faster.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.compare(&place, record).await.map(drop)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is a result at `place`; says so if it is another one than `record`.
    async fn compare(&self, place: &Key, record: &Record) -> Result<bool> {
        let theirs = match self.store.get(place).await {
            Ok(theirs) => theirs.bytes().await?,
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let theirs: Option<Record> = serde_json::from_slice(&theirs).ok();
        if theirs.is_none_or(|theirs| theirs.digest != record.digest) {
            let (stage, name) = (&record.document.stage, &self.name);
            tracing::warn!("{place} in the remote cache {name}: another machine has another result of {stage} there");
        }
        Ok(true)
    }

    async fn send_content(&self, blobs: &Blobs, digest: &str, bytes: u64) -> Result<()> {
        let _turn = self.uploads.acquire_many(if bytes > LARGE.0 { LARGE.1 } else { 1 }).await?;
        let (place, path) = (self.content(digest), blobs.path(digest));
        let refused = self.is_refused(&place);
        if !refused && self.store.head(&place).await.is_ok_and(|there| there.size == bytes) {
            return Ok(());
        }
        if bytes > WHOLE {
            let mut upload = WriteMultipart::new(self.store.put_multipart(&place).await?);
            if let Err(error) = in_parts(&path, &mut upload).await {
                // Parts that nobody joins would be paid for.
                let _ = upload.abort().await;
                return Err(error);
            }
            upload.finish().await?;
            return Ok(());
        }
        self.store.put(&place, files::read(&path)?.into()).await?;
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

/// As only BLAKE3's digests are: nothing that could lead elsewhere.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_below(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Without the many layers of a client's errors, each of which repeats the next one.
fn in_short(error: &Error) -> String {
    match error {
        Error::Unauthenticated { .. } => "the credentials are not accepted (401)".to_owned(),
        Error::PermissionDenied { source, .. } => {
            format!("the credentials do not allow it (403): {}", first_line(&source.to_string()))
        }
        error => {
            let mut said = Vec::new();
            let mut cause: Option<&dyn std::error::Error> = Some(error);
            while let Some(error) = cause {
                said.push(error.to_string());
                cause = error.source();
            }
            // The innermost says why, the outermost what was tried.
            let (first, last) = (said.first().cloned().unwrap_or_default(), said.last().cloned().unwrap_or_default());
            if first.contains(&last) {
                first_line(&first)
            } else {
                format!("{}: {}", first_line(&first), first_line(&last))
            }
        }
    }
}

fn first_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        assert_eq!(shown("s3://bucket/prefix/"), "s3://bucket/prefix");
        assert_eq!(shown("s3://me:secret@bucket/a?sig=secret"), "s3://bucket/a");
        assert_eq!(shown("../shared"), "../shared");
        let said = secretless("GET https://x.blob.core.windows.net/c/b?sv=1&sig=secret failed: really?");
        assert_eq!(said, "GET https://x.blob.core.windows.net/c/b?… failed: really?");
    }

    #[test]
    fn what_would_lie_elsewhere_is_refused() {
        assert!(
            is_digest(blake3::hash(b"").to_hex().as_str()) && !is_digest("/etc/passwd") && !is_digest(&"A".repeat(64))
        );
        assert!(is_below("cat/00001.png") && is_below("a b"));
        for path in ["", "/etc/x", "../x", "a/../../x", "./x"] {
            assert!(!is_below(path), "{path}");
        }
    }

    #[test]
    fn addresses_that_are_none_are_told() {
        assert_eq!(shown("s3://me:secret@bucket:port/x"), "s3://…");
        for address in ["ftp://host/x", "https://example.com/cache", "nonsense://", "s3://my bucket/x", "memory:///"] {
            let error = Remote::open(address, Mode::ReadOnly, Path::new(".")).unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))), "{address}: {error}");
        }
    }
}
