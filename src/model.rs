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

use crate::nn::FeatureMap;
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
    /// (side, side, 3) values.
    pub fn apply(&self, image: &RgbImage) -> Vec<f32> {
        let side = self.side as u32;
        let (width, height) = image.dimensions();
        let resized;
        let image = if width == height && width % side == 0 {
            image
        } else {
            resized = image::imageops::resize(image, side, side, image::imageops::FilterType::Triangle);
            &resized
        };
        let block = (image.width() / side) as usize;
        let line = image.width() as usize * 3;
        let scale = 1.0 / (255.0 * (block * block) as f32);
        let mut values = Vec::with_capacity(self.side * self.side * 3);
        for y in 0..self.side {
            for x in 0..self.side {
                for channel in 0..3 {
                    let corner = y * block * line + x * block * 3 + channel;
                    let at =
                        |place: usize| u32::from(image.as_raw()[corner + place / block * line + place % block * 3]);
                    let sum: u32 = (0..block * block).map(at).sum();
                    values.push((sum as f32 * scale - self.mean) / self.deviation);
                }
            }
        }
        values
    }

    /// (images, side, side, 3)
    pub fn batch(&self, images: &[RgbImage]) -> FeatureMap {
        let values: Vec<Vec<f32>> = images.par_iter().map(|image| self.apply(image)).collect();
        FeatureMap::new((images.len(), self.side, self.side, 3), values.concat())
    }
}

/// Embeds preprocessed images by batches: (images, [`DIMENSION`]).
pub fn embed_values<N: Network>(network: &N, values: &[f32], side: usize) -> Vec<f32> {
    let image = side * side * 3;
    let batches = values.chunks(BATCH * image);
    let embed = |batch: &[f32]| network.infer(FeatureMap::new((batch.len() / image, side, side, 3), batch.to_vec()));
    batches.flat_map(embed).collect()
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

    /// (images, dimension)
    pub fn embed(&self, images: &[RgbImage]) -> Vec<f32> {
        let input = self.configuration.preprocessing.batch(images);
        match &self.weights {
            Weights::Original(network) => embed_values(network.as_ref(), &input.values, input.width),
            Weights::Residual(network) => embed_values(network.as_ref(), &input.values, input.width),
        }
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
