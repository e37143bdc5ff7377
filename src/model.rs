//! The networks, and a trained one saved together with its configuration.

mod networks;

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use dfdx::nn::{LoadFromSafetensors, SaveToSafetensors};
use image::RgbImage;
use rayon::prelude::*;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

pub use networks::{DIMENSION, Network, Original, Residual, parameter_count};

use crate::nn::{Buffer, FeatureMap};
use crate::{damaged, files};

const METADATA_KEY: &str = "similiai";
/// Images embedded at a time: bounds the memory of feature maps.
const BATCH: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkName {
    /// The original project's.
    Original,
    /// The default: small, residual, pre-activation.
    Residual,
}

/// All that is needed to embed an image as in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    pub network: NetworkName,
    pub dimension: usize,
    pub preprocessing: Preprocessing,
}

/// From an RGB image to the network's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Side of the square input, in pixels; larger images are averaged down.
    pub side: usize,
    /// A value v of 0 to 1 enters as (v − mean) / deviation.
    pub mean: f32,
    pub deviation: f32,
}

impl NetworkName {
    pub fn configuration(self) -> Configuration {
        let (side, mean, deviation) = match self {
            Self::Original => (64, 0.0, 1.0),
            Self::Residual => (32, 0.5, 0.25),
        };
        Configuration { network: self, dimension: DIMENSION, preprocessing: Preprocessing { side, mean, deviation } }
    }
}

impl Preprocessing {
    /// A square image whose side is a multiple of the input's, as [`Preprocessing::apply`] wants it.
    pub fn fit(&self, image: RgbImage) -> RgbImage {
        let (side, (width, height)) = (self.side as u32, image.dimensions());
        if width == height && width % side == 0 {
            return image;
        }
        image::imageops::resize(&image, side, side, image::imageops::FilterType::Triangle)
    }

    /// Blocks of pixels averaged to (side, side, 3) values.
    pub fn apply(&self, image: &RgbImage, to: &mut [f32]) {
        let block = image.width() as usize / self.side;
        let line = image.width() as usize * 3;
        let scale = 1.0 / (255.0 * (block * block) as f32);
        let mut sums = vec![0u32; self.side * 3];
        for (rows, to) in image.as_raw().chunks_exact(block * line).zip(to.chunks_exact_mut(self.side * 3)) {
            sums.fill(0);
            for row in rows.chunks_exact(line) {
                for (sums, pixels) in sums.chunks_exact_mut(3).zip(row.chunks_exact(block * 3)) {
                    for pixel in pixels.chunks_exact(3) {
                        sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += u32::from(*value));
                    }
                }
            }
            let value = |sum: &u32| (*sum as f32 * scale - self.mean) / self.deviation;
            to.iter_mut().zip(&sums).for_each(|(to, sum)| *to = value(sum));
        }
    }

    /// (images, side, side, 3), each image filled in by `each`.
    pub fn batch(&self, images: usize, each: impl Fn(usize, &mut [f32]) + Sync) -> FeatureMap {
        let image = self.side * self.side * 3;
        let mut values = Buffer::stale(images * image);
        values.par_chunks_mut(image).enumerate().for_each(|(place, to)| each(place, to));
        FeatureMap::new((images, self.side, self.side, 3), values)
    }

    /// Embeds images that [fit](Self::fit) by batches: (images, [`DIMENSION`]).
    pub fn embed<N: Network>(&self, network: &N, images: &[RgbImage]) -> Vec<f32> {
        let embed = |images: &[RgbImage]| {
            network.infer(self.batch(images.len(), |place, to| self.apply(&images[place], to)).into())
        };
        images.chunks(BATCH).flat_map(embed).collect()
    }
}

enum Weights {
    Original(Box<Original>),
    Residual(Box<Residual>),
}

/// A trained network.
pub struct Model {
    pub configuration: Configuration,
    /// BLAKE3 of the file it came from.
    pub digest: String,
    weights: Weights,
}

impl Model {
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = files::read(path)?;
        let (_, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| damaged!("{} is no model: {error}", path.display()))?;
        let text = metadata.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let text = text.ok_or_else(|| damaged!("{} does not say which network it holds", path.display()))?;
        let configuration: Configuration = serde_json::from_str(text)
            .map_err(|error| damaged!("{}: its configuration is damaged: {error}", path.display()))?;
        if configuration != configuration.network.configuration() {
            return Err(damaged!("{}: its configuration is not one that its network has", path.display()));
        }
        let weights = match configuration.network {
            NetworkName::Original => Weights::Original(Box::new(load_weights(path)?)),
            NetworkName::Residual => Weights::Residual(Box::new(load_weights(path)?)),
        };
        Ok(Self { configuration, digest: blake3::hash(&bytes).to_hex().to_string(), weights })
    }

    /// (images, dimension); fails on an embedding that is not finite.
    pub fn embed(&self, images: Vec<RgbImage>) -> Result<Vec<f32>> {
        let preprocessing = &self.configuration.preprocessing;
        let images: Vec<RgbImage> = images.into_par_iter().map(|image| preprocessing.fit(image)).collect();
        let embeddings = match &self.weights {
            Weights::Original(network) => preprocessing.embed(network.as_ref(), &images),
            Weights::Residual(network) => preprocessing.embed(network.as_ref(), &images),
        };
        if embeddings.iter().any(|value| !value.is_finite()) {
            return Err(damaged!("the model gives values that are not finite: its weights are damaged"));
        }
        Ok(embeddings)
    }
}

fn load_weights<N: Network>(path: &Path) -> Result<N> {
    let mut network = N::with_seed(0)?;
    let loaded = network.load_safetensors(path);
    loaded.map_err(|error| damaged!("{} does not fit its network: {error:?}", path.display()))?;
    Ok(network)
}

/// Writes `model.safetensors`: dfdx writes the tensors, the configuration joins them as metadata.
pub fn save<N: Network>(network: &N, configuration: &Configuration, path: &Path) -> Result<()> {
    let bare = path.with_extension("tensors");
    network.save_safetensors(&bare).with_context(|| format!("cannot write {}", bare.display()))?;
    let bytes = files::read(&bare)?;
    let tensors = SafeTensors::deserialize(&bytes).context("dfdx wrote tensors that cannot be read")?;
    let entry = (METADATA_KEY.to_owned(), serde_json::to_string(configuration)?);
    let metadata = Some(HashMap::from([entry]));
    let bytes = safetensors::serialize(tensors.tensors(), &metadata).map_err(|error| anyhow!("{error}"))?;
    files::write(path, &bytes)?;
    std::fs::remove_file(&bare).with_context(|| format!("cannot remove {}", bare.display()))
}
