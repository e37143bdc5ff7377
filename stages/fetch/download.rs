//! A download that resumes after a broken connection, read as one stream.

use std::error::Error;
use std::io::{self, Read};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{StatusCode, Url};
use similiai::base::signal;
use similiai::base::tls;

const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The download failed. The bytes received do not show whether the archive is valid.
#[derive(Debug, thiserror::Error)]
#[error("cannot download {address}: {reason}")]
pub struct Lost {
    address: Url,
    reason: String,
}

impl Lost {
    /// The failed download that caused `error`, if there is one.
    pub fn behind<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match (error.downcast_ref(), wrapped) {
            (Some(lost), _) => Some(lost),
            (None, Some(inner)) => Self::behind(inner),
            (None, None) => error.source().and_then(Self::behind),
        }
    }
}

/// Reason why a download does not continue.
enum Trouble {
    /// Another try may succeed.
    Passing(anyhow::Error),
    /// Another try would fail in the same way.
    Lasting(anyhow::Error),
}

impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Self {
        if worth_another_try(&error) { Self::Passing(error.into()) } else { Self::Lasting(error.into()) }
    }
}

pub struct Download {
    client: Client,
    address: Url,
    response: Response,
    /// Identifies the content, so that the download resumes with the same content.
    tag: Option<HeaderValue>,
    length: u64,
    received: u64,
    retries: u32,
    tries_left: u32,
}

impl Download {
    pub fn start(address: Url, timeout: u64, retries: u32) -> Result<Self> {
        tls::set_up();
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(timeout))
            // The limit is for each read, not for the whole download.
            .timeout(Duration::from_secs(timeout))
            .build()
            .context("cannot set up an HTTP client")?;
        let mut failed = 0;
        let response = loop {
            let response = signal::while_waiting(|| client.get(address.clone()).send());
            match response.and_then(Response::error_for_status) {
                Ok(response) => break response,
                Err(error) if failed < retries && worth_another_try(&error) => {
                    pause(failed, &address, &error);
                    failed += 1;
                }
                Err(error) => bail!("cannot download {address}: {}", reason(&error)),
            }
        };
        let tag = tag(response.headers()).cloned();
        let length = response.content_length().unwrap_or(0);
        Ok(Self { client, address, response, tag, length, received: 0, retries, tries_left: retries })
    }

    /// Length of the archive in bytes; 0 if the server does not say.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Requests the remaining bytes. If the server starts again from the beginning, skips the bytes received before.
    fn resume(&mut self) -> Result<(), Trouble> {
        let mut request = self.client.get(self.address.clone()).header(RANGE, format!("bytes={}-", self.received));
        if let Some(tag) = &self.tag {
            request = request.header(IF_RANGE, tag);
        }
        let response = signal::while_waiting(|| request.send())?.error_for_status()?;
        let continues = response.status() == StatusCode::PARTIAL_CONTENT;
        self.compare(&response, continues).map_err(Trouble::Lasting)?;
        self.response = response;
        if !continues {
            let skipped = io::copy(&mut self.response.by_ref().take(self.received), &mut io::sink());
            let skipped = skipped.map_err(|error| Trouble::Passing(error.into()))?;
            if skipped != self.received {
                return Err(Trouble::Passing(anyhow!("the server sent only {skipped} bytes")));
            }
        }
        Ok(())
    }

    /// Fails if `response` is of another archive, or does not start where it was requested to start.
    fn compare(&self, response: &Response, continues: bool) -> Result<()> {
        let length = if continues {
            let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
            let rest = range.strip_prefix(&format!("bytes {}-", self.received));
            let rest = rest.with_context(|| format!("the server sent the range {range:?}, not from {}", self.received));
            rest?.rsplit('/').next().and_then(|total| total.parse().ok())
        } else {
            response.content_length()
        };
        let same = self.length == 0 || length.is_none_or(|length| length == self.length);
        // A partial response has the same content, because of If-Range. The server need not repeat the tag.
        let same = same && (continues || self.tag.is_none() || tag(response.headers()) == self.tag.as_ref());
        ensure!(same, "the archive changed on the server during the download");
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let error = match signal::while_waiting(|| self.response.read(buffer)) {
                Ok(0) if self.length > self.received && !buffer.is_empty() => io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("ended after {} of {} bytes", self.received, self.length),
                ),
                Ok(count) => {
                    self.received += count as u64;
                    self.tries_left = if count > 0 { self.retries } else { self.tries_left };
                    return Ok(count);
                }
                Err(error) => error,
            };
            let mut last = Trouble::Passing(error.into());
            loop {
                match last {
                    Trouble::Passing(error) if self.tries_left > 0 => {
                        pause(self.retries - self.tries_left, &self.address, &error);
                    }
                    Trouble::Passing(error) | Trouble::Lasting(error) => {
                        let (address, reason) = (self.address.clone(), format!("{error:#}"));
                        return Err(io::Error::other(Lost { address, reason }));
                    }
                }
                self.tries_left -= 1;
                match self.resume() {
                    Ok(()) => break,
                    Err(trouble) => last = trouble,
                }
            }
        }
    }
}

/// Identifies the content: a strong entity tag, or else the time of the last change.
fn tag(headers: &HeaderMap) -> Option<&HeaderValue> {
    let strong = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    strong.or_else(|| headers.get(LAST_MODIFIED))
}

/// Waits before another try, each time twice as long.
fn pause(failed: u32, address: &Url, error: &dyn std::fmt::Display) {
    let pause = FIRST_PAUSE * 2u32.pow(failed.min(6));
    tracing::warn!("{address}: {error}; trying again in {:.1} s", pause.as_secs_f64());
    signal::while_waiting(|| std::thread::sleep(pause));
}

fn worth_another_try(error: &reqwest::Error) -> bool {
    error.status().is_none_or(|status| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS)
}

/// The error with all its causes: the first message alone is too general.
fn reason(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
