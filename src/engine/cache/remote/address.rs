//! Addresses of remote caches, and the clients that connect to them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ClientConfigKey, ObjectStore, ObjectStoreScheme, RetryConfig};
use reqwest::Url;

use super::redaction::shown;
use crate::base::error::Failure;
use crate::base::files;
use crate::engine::cache::Mode;

/// Limits of a request: time to connect, time without a byte, and total time.
const CLIENT: [(ClientConfigKey, &str); 3] =
    [(ClientConfigKey::ConnectTimeout, "5s"), (ClientConfigKey::ReadTimeout, "30s"), (ClientConfigKey::Timeout, "1h")];
/// How often a failed request is tried again, and the time after which it is not.
const RETRIES: usize = 3;
const RETRY: Duration = Duration::from_secs(20);

/// The store at an address, or in a folder relative to `project`, and the prefix of its objects. The inner error says
/// why this machine cannot use it.
///
/// # Errors
/// If the address is not of a known kind.
pub fn open(remote: &str, mode: Mode, project: &Path) -> Result<Result<(Box<dyn ObjectStore>, Key)>> {
    if !remote.contains("://") {
        return Ok(folder(&project.join(remote), mode).map(|store| (store, Key::default())));
    }
    let address = Url::parse(remote).map_err(|error| error.to_string());
    let known = address.and_then(|address| match ObjectStoreScheme::parse(&address) {
        Ok((scheme, prefix)) if is_known(&scheme) => Ok((address, scheme, prefix)),
        _ => Err("use s3://BUCKET/PREFIX (or gs, az, abfs, file), or the path of a folder".to_owned()),
    });
    let usage = |why| Failure::Usage(format!("the remote cache {}: {why}", shown(remote)));
    let (address, scheme, prefix) = known.map_err(usage)?;
    // With a folder, the store starts at that folder, so there is no prefix.
    let prefix = if scheme == ObjectStoreScheme::Local { Key::default() } else { prefix };
    Ok(connect(&address, &scheme, mode).map(|store| (store, prefix)))
}

fn is_known(scheme: &ObjectStoreScheme) -> bool {
    use ObjectStoreScheme::{AmazonS3, GoogleCloudStorage, Local, MicrosoftAzure};
    matches!(scheme, Local | AmazonS3 | GoogleCloudStorage | MicrosoftAzure)
}

fn connect(address: &Url, scheme: &ObjectStoreScheme, mode: Mode) -> Result<Box<dyn ObjectStore>> {
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY, ..RetryConfig::default() };
    Ok(match scheme {
        ObjectStoreScheme::Local => {
            let path = address.to_file_path().map_err(|()| anyhow!("this is not a path on this machine"))?;
            folder(&path, mode)?
        }
        ObjectStoreScheme::AmazonS3 => {
            let mut builder = AmazonS3Builder::from_env().with_url(address.as_str()).with_retry(retry);
            // The user chose this endpoint, so allow it without TLS.
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
        _ => return Err(anyhow!("this kind of remote cache is not supported")),
    })
}

fn folder(path: &Path, mode: Mode) -> Result<Box<dyn ObjectStore>> {
    if mode == Mode::ReadWrite {
        files::create_folder(path)?;
    }
    Ok(Box::new(LocalFileSystem::new_with_prefix(path)?.with_fsync(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_none_are_told() {
        for address in ["ftp://host/x", "https://example.com/cache", "nonsense://", "s3://my bucket/x", "memory:///"] {
            let error = open(address, Mode::ReadOnly, Path::new(".")).err().unwrap();
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))), "{address}: {error}");
        }
    }
}
