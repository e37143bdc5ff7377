//! From the bytes of an upload to the picture that the network is shown, away from the threads that serve.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use image::RgbImage;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::limits::{DECODING, LARGE};
use super::problem::Problem;
use super::shown::Shown;
use super::uploads::Upload;
use crate::images::{Undecoded, Unreadable};

/// How an upload is called in messages.
const NAME: &str = "the upload";

pub struct Decoding {
    most_pixels: u64,
    /// Small pictures do not wait behind large ones.
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// A picture ready for the network.
pub struct Prepared {
    pub image: RgbImage,
    pub width: u32,
    pub height: u32,
    pub took: Duration,
}

impl Decoding {
    pub fn new(most_pixels: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Self { most_pixels, small: Arc::new(Semaphore::new(cores)), large: Arc::new(Semaphore::new(1)) }
    }

    /// # Errors
    /// If the upload is no picture, or one that is broken or too large, or if it takes too long.
    pub async fn prepare(&self, upload: Upload, shown: Arc<Shown>) -> Result<Prepared, Problem> {
        let (upload, most_pixels) = (Arc::new(upload), self.most_pixels);
        let of = upload.clone();
        let is_large = move || Ok(Undecoded::open(&of.bytes, NAME, most_pixels)?.pixels > LARGE);
        let lane = if self.step(&self.small, is_large).await? { &self.large } else { &self.small };
        self.step(lane, move || prepare(&upload.bytes, &shown, most_pixels)).await
    }

    async fn step<T: Send + 'static>(
        &self,
        lane: &Arc<Semaphore>,
        step: impl FnOnce() -> Result<T, Unreadable> + Send + 'static,
    ) -> Result<T, Problem> {
        let busy = || Problem::busy("too many pictures wait to be decoded; try again in a moment");
        let turn = timeout(DECODING, lane.clone().acquire_owned()).await.map_err(|_| busy())?.map_err(|_| busy())?;
        let work = tokio::task::spawn_blocking(move || {
            // A decoder that takes too long keeps its turn: nobody can stop it.
            let _turn = turn;
            step()
        });
        match timeout(DECODING, work).await {
            Ok(Ok(done)) => Ok(done?),
            // A decoder that panics was given what it should have refused.
            Ok(Err(_)) => Err(Unreadable::Broken(format!("{NAME} is a damaged picture")).into()),
            Err(_) => {
                let why = format!("{NAME} takes more than {} s to decode", DECODING.as_secs());
                Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too-slow", why))
            }
        }
    }
}

fn prepare(bytes: &[u8], shown: &Shown, most_pixels: u64) -> Result<Prepared, Unreadable> {
    let start = Instant::now();
    let image = Undecoded::open(bytes, NAME, most_pixels)?.decode()?;
    let (width, height) = image.dimensions();
    let image = shown.model.prepare(&image);
    Ok(Prepared { image, width, height, took: start.elapsed() })
}
