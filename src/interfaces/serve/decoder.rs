//! Decodes uploads and prepares them for the network, on threads that do not serve requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use image::RgbImage;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::limits::DECODING;
use super::problem::Problem;
use super::snapshot::Snapshot;
use super::uploads::Upload;
use crate::learning::images::{Decoded, Unreadable, Wanted, decode_large, decode_small};

/// The name of an upload in messages.
const NAME: &str = "the upload";

pub struct Decoder {
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

impl Decoder {
    pub fn new(most_pixels: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Self { most_pixels, small: Arc::new(Semaphore::new(cores)), large: Arc::new(Semaphore::new(1)) }
    }

    /// # Errors
    /// If the upload is not a picture, is broken or too large, or takes too long to decode.
    pub async fn prepare(&self, upload: Upload, snapshot: Arc<Snapshot>) -> Result<Prepared, Problem> {
        let (upload, most_pixels) = (Arc::new(upload), self.most_pixels);
        let preparation = Some(snapshot.model.configuration.preparation.clone());
        let wanted = Arc::new(Wanted { preparation, ..Wanted::default() });
        let (bytes, of) = (upload.clone(), wanted.clone());
        let small = self.step(&self.small, move || {
            let start = Instant::now();
            match decode_small(&bytes.bytes, NAME, &of, most_pixels) {
                Err(Unreadable::Large) => Ok(None),
                decoded => Prepared::of(decoded?, start.elapsed()).map(Some),
            }
        });
        if let Some(prepared) = small.await? {
            return Ok(prepared);
        }
        let large = move || {
            let start = Instant::now();
            Prepared::of(decode_large(&upload.bytes, NAME, &wanted, most_pixels)?, start.elapsed())
        };
        self.step(&self.large, large).await
    }

    async fn step<T: Send + 'static>(
        &self,
        lane: &Arc<Semaphore>,
        step: impl FnOnce() -> Result<T, Unreadable> + Send + 'static,
    ) -> Result<T, Problem> {
        let busy = || Problem::busy("too many pictures wait to be decoded; try again in a moment");
        let turn = timeout(DECODING, lane.clone().acquire_owned()).await.map_err(|_| busy())?.map_err(|_| busy())?;
        let work = tokio::task::spawn_blocking(move || {
            // A decoder that takes too long keeps its turn until its process is killed.
            let _turn = turn;
            step()
        });
        match timeout(DECODING, work).await {
            Ok(Ok(done)) => Ok(done?),
            // A panic comes from a picture that the decoder should have refused.
            Ok(Err(_)) => Err(Unreadable::Broken(format!("{NAME} is a damaged picture")).into()),
            Err(_) => {
                let why = format!("{NAME} takes more than {} s to decode", DECODING.as_secs());
                Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too-slow", why))
            }
        }
    }
}

impl Prepared {
    fn of(Decoded { width, height, prepared, .. }: Decoded, took: Duration) -> Result<Self, Unreadable> {
        let image = prepared.ok_or_else(|| Unreadable::NoDecoder("it was not prepared".to_owned()))?;
        Ok(Self { image, width, height, took })
    }
}
