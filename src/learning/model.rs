//! The networks, and a trained network saved with its configuration.

mod learner;
mod networks;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use image::RgbImage;
use rayon::prelude::*;
use safetensors::SafeTensors;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use learner::{AnyNetwork, Judge, Learner};
pub use networks::{
    DIMENSION, Network, Original, Residual, Residual48, Residual64, ResidualDeep, load_parameters, parameters,
    set_parameters,
};
pub use views::View;

use crate::base::files;
use crate::damaged;
use crate::learning::calibration::Calibration;
use crate::learning::images::{Preparation, resize};
use crate::learning::nn::{AdamW, Buffer, FeatureMap, normalize};

/// File name of a trained network.
pub const FILE: &str = "model.safetensors";

const METADATA_KEY: &str = "similiai";
/// Largest number of pixels by which views of a picture may be moved.
pub const MOST_SHIFT: usize = 8;
/// Number of images embedded at a time. It bounds the memory of feature maps.
const BATCH: usize = 64;
/// Largest model file that is read, in bytes. The networks here have a few megabytes.
const MOST_BYTES: u64 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkName {
    /// The network of the original project.
    Original,
    /// The default: a small residual network with pre-activation, and 32, 64 and 128 channels.
    Residual,
    /// Like `residual`, but with 48, 96 and 192 channels.
    #[serde(rename = "residual-48")]
    Residual48,
    /// Like `residual`, but with 64, 128 and 256 channels.
    #[serde(rename = "residual-64")]
    Residual64,
    /// Like `residual-64`, with a fourth block of 256 channels.
    #[serde(rename = "residual-deep")]
    ResidualDeep,
}

/// Everything that is needed to embed an image as in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    pub network: NetworkName,
    pub dimension: usize,
    /// Whether embeddings are scaled to length 1.
    pub normalize: bool,
    /// Whether the views of a picture also include mirror images. An embedding is the mean over all views.
    pub mirrored: bool,
    /// Pixels by which views are moved to the four sides. If it is 0, there are no moved views.
    pub shift: usize,
    /// Turns any picture into one like the prepared pictures that the network learned from.
    pub preparation: Preparation,
    /// Turns a prepared picture into the network's input.
    pub preprocessing: Preprocessing,
}

/// JSON in the metadata of a model file.
#[derive(Serialize, Deserialize)]
struct About {
    #[serde(flatten)]
    configuration: Configuration,
    calibration: Calibration,
    provenance: BTreeMap<String, String>,
}

/// Turns an RGB image into the network's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Side of the square input, in pixels. Larger images are averaged to this size.
    pub side: usize,
    /// A value v from 0 to 1 becomes (v − mean) / deviation.
    pub mean: f32,
    pub deviation: f32,
}

impl NetworkName {
    /// Millions of multiplications for one image, of the convolutions. For estimates of time.
    pub fn cost(self) -> f64 {
        match self {
            Self::Original => 41.0,
            Self::Residual => 49.0,
            Self::Residual48 => 108.0,
            Self::Residual64 => 193.0,
            Self::ResidualDeep => 212.0,
        }
    }

    pub fn preprocessing(self) -> Preprocessing {
        let (side, mean, deviation) = match self {
            Self::Original => (64, 0.0, 1.0),
            _ => (32, 0.5, 0.25),
        };
        Preprocessing { side, mean, deviation }
    }
}

impl Configuration {
    /// Embeds images in batches. [`Preprocessing::fit`] must have returned the images. Returns (images, [`DIMENSION`]).
    pub fn embed(&self, network: &dyn AnyNetwork, images: &[RgbImage]) -> Vec<f32> {
        let views = View::all(self.shift, self.mirrored);
        let embed = |images: &[RgbImage]| {
            let batch = self.preprocessing.batch((images.len(), views.len()), |place, to| {
                let mut plain = vec![0.0; to.len() / views.len()];
                self.preprocessing.apply(&images[place], &mut plain);
                for (view, to) in views.iter().zip(to.chunks_exact_mut(plain.len())) {
                    view.show(&plain, to, self.preprocessing.side);
                }
            });
            let mut rows = network.infer(batch.into());
            if self.normalize {
                normalize(&mut rows, DIMENSION);
            }
            let mean = |views_of: &[f32]| -> Vec<f32> {
                let sum = |i: usize| views_of.iter().skip(i).step_by(DIMENSION).sum::<f32>();
                (0..DIMENSION).map(|i| sum(i) / views.len() as f32).collect()
            };
            let mut means: Vec<f32> = rows.chunks_exact(views.len() * DIMENSION).flat_map(mean).collect();
            if self.normalize {
                normalize(&mut means, DIMENSION);
            }
            means
        };
        images.chunks((BATCH / views.len()).max(1)).flat_map(embed).collect()
    }
}

impl Preprocessing {
    /// Returns a square image whose side is a multiple of the input's side, as [`Preprocessing::apply`] needs it.
    pub fn fit(&self, image: RgbImage) -> RgbImage {
        let (side, (width, height)) = (self.side as u32, image.dimensions());
        if width == height && width % side == 0 {
            return image;
        }
        resize(image, side, image::imageops::FilterType::Triangle)
    }

    /// Averages blocks of pixels and writes (side, side, 3) values to `to`.
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

    /// Returns (images · views, side, side, 3). `each` fills in all views of one image.
    pub fn batch(&self, (images, views): (usize, usize), each: impl Fn(usize, &mut [f32]) + Sync) -> FeatureMap {
        let image = views * self.side * self.side * 3;
        let mut values = Buffer::stale(images * image);
        values.par_chunks_mut(image).enumerate().for_each(|(place, to)| each(place, to));
        FeatureMap::new((images * views, self.side, self.side, 3), values)
    }
}

/// A trained network.
pub struct Model {
    pub configuration: Configuration,
    /// The match probabilities of distances.
    pub calibration: Calibration,
    /// BLAKE3 digest of the model file. Empty for an untrained network.
    pub digest: String,
    /// Name of the model in messages.
    name: String,
    network: Box<dyn AnyNetwork>,
}

impl Model {
    /// Loads the network from the file at `path`.
    ///
    /// # Errors
    /// If training here could not have made the file. The file is not trusted.
    pub fn load(path: &Path) -> Result<Self> {
        if path.is_file() && files::length(path)? > MOST_BYTES {
            return Err(damaged!("{} is not a model: it has more than {} MiB", path.display(), MOST_BYTES >> 20));
        }
        Self::parse(&files::read(path)?, path)
    }

    /// Like [`Model::load`], but fails if the BLAKE3 digest of the file is not `digest`.
    pub fn load_as(path: &Path, digest: &str) -> Result<Self> {
        let model = Self::load(path)?;
        if model.digest == digest { Ok(model) } else { Err(damaged!("{} changed while it was read", path.display())) }
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|error| damaged!("{} is not a model: {error}", path.display()))?;
        let text = metadata.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let text = text.ok_or_else(|| damaged!("{} does not say which network it holds", path.display()))?;
        let About { configuration, calibration, .. } = serde_json::from_str(text)
            .map_err(|error| damaged!("{}: its configuration is damaged: {error}", path.display()))?;
        let wrong = |what: &str| damaged!("{}: training cannot have made its configuration: {what}", path.display());
        if let Err((field, message)) = configuration.preparation.check() {
            return Err(wrong(&format!("preparation.{field} {message}")));
        }
        if configuration.shift > MOST_SHIFT {
            return Err(wrong(&format!("shift must be 0 to {MOST_SHIFT}")));
        }
        if !calibration.is_sound() {
            return Err(wrong("the match probability in its calibration must fall, and be between 0 and 1"));
        }
        let known = (DIMENSION, configuration.network.preprocessing());
        if (configuration.dimension, configuration.preprocessing.clone()) != known {
            return Err(damaged!("{}: its configuration does not fit its network", path.display()));
        }
        let network = configuration.network.with_seed(0, Some((bytes, path)))?;
        let (digest, name) = (blake3::hash(bytes).to_hex().to_string(), path.display().to_string());
        Ok(Self { configuration, calibration, digest, name, network })
    }

    /// The same network before any training, with weights drawn from `seed`. It embeds only the picture itself, without
    /// other views.
    pub fn untrained(&self, seed: u64) -> Result<Self> {
        let configuration = Configuration { mirrored: false, shift: 0, ..self.configuration.clone() };
        let network = configuration.network.with_seed(seed, None)?;
        let (calibration, digest, name) = (self.calibration.clone(), String::new(), "the untrained network".to_owned());
        Ok(Self { configuration, calibration, digest, name, network })
    }

    /// Prepares any picture like the pictures that the model learned from.
    pub fn prepare(&self, image: &RgbImage) -> RgbImage {
        self.configuration.preparation.apply(image)
    }

    /// Shows as a picture what the network sees of a prepared picture.
    pub fn seen(&self, prepared: &RgbImage) -> RgbImage {
        let preprocessing = &self.configuration.preprocessing;
        let side = preprocessing.side as u32;
        let mut values = vec![0.0; (side * side * 3) as usize];
        preprocessing.apply(&preprocessing.fit(prepared.clone()), &mut values);
        let byte = |value: &f32| (255.0 * (value * preprocessing.deviation + preprocessing.mean)).round() as u8;
        RgbImage::from_fn(side, side, |x, y| {
            let at = ((y * side + x) * 3) as usize;
            image::Rgb([byte(&values[at]), byte(&values[at + 1]), byte(&values[at + 2])])
        })
    }

    /// Returns embeddings (images, dimension). Fails if a value of an embedding is not finite.
    pub fn embed(&self, images: Vec<RgbImage>) -> Result<Vec<f32>> {
        let fit = |image| self.configuration.preprocessing.fit(image);
        let images: Vec<RgbImage> = images.into_par_iter().map(fit).collect();
        let embeddings = self.configuration.embed(&*self.network, &images);
        if embeddings.iter().any(|value| !value.is_finite()) {
            return Err(damaged!("{} gives values that are not finite: its weights are damaged", self.name));
        }
        Ok(embeddings)
    }
}

impl NetworkName {
    /// Builds the network, with weights from the bytes of a file or drawn from `seed`.
    fn with_seed(self, seed: u64, weights: Option<(&[u8], &Path)>) -> Result<Box<dyn AnyNetwork>> {
        fn build<N: Network + 'static>(seed: u64, weights: Option<(&[u8], &Path)>) -> Result<Box<dyn AnyNetwork>> {
            let mut network = N::with_seed(seed)?;
            if let Some((bytes, path)) = weights {
                let loaded = load_parameters(&mut network, bytes);
                loaded.map_err(|why| damaged!("{} does not fit its network: {why}", path.display()))?;
            }
            Ok(Box::new(network))
        }
        match self {
            Self::Original => build::<Original>(seed, weights),
            Self::Residual => build::<Residual>(seed, weights),
            Self::Residual48 => build::<Residual48>(seed, weights),
            Self::Residual64 => build::<Residual64>(seed, weights),
            Self::ResidualDeep => build::<ResidualDeep>(seed, weights),
        }
    }

    /// Begins to train the network, with weights drawn from `seed`.
    pub fn learner(self, seed: u64, optimizer: AdamW) -> Result<Box<dyn Learner>> {
        match self {
            Self::Original => learner::learner::<Original>(seed, optimizer),
            Self::Residual => learner::learner::<Residual>(seed, optimizer),
            Self::Residual48 => learner::learner::<Residual48>(seed, optimizer),
            Self::Residual64 => learner::learner::<Residual64>(seed, optimizer),
            Self::ResidualDeep => learner::learner::<ResidualDeep>(seed, optimizer),
        }
    }
}

/// The bytes of `model.safetensors`: the tensors as dfdx writes them, and everything else as metadata.
pub fn to_bytes(
    network: &dyn AnyNetwork,
    configuration: &Configuration,
    calibration: Calibration,
    provenance: BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let bare = folder.path().join(FILE);
    network.save(&bare)?;
    let bytes = files::read(&bare)?;
    let tensors = SafeTensors::deserialize(&bytes).context("dfdx wrote tensors that cannot be read")?;
    // Only one entry, because several entries would have no fixed order.
    let about = About { configuration: configuration.clone(), calibration, provenance };
    let entry = (METADATA_KEY.to_owned(), serde_json::to_value(&about)?.to_string());
    let metadata = Some(HashMap::from([entry]));
    safetensors::serialize(tensors.tensors(), &metadata).map_err(|error| anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::images::{Filter, Ground, Sharpen};

    #[test]
    fn embeddings_have_length_one_and_mirror_images_the_same() {
        let network = Residual::with_seed(1).unwrap();
        let image = RgbImage::from_fn(32, 32, |x, y| image::Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8]));
        let images = [image.clone(), image::imageops::flip_horizontal(&image)];
        let embed = |mirrored, images: &[RgbImage]| {
            let name = NetworkName::Residual;
            let preprocessing = name.preprocessing();
            let shift = if mirrored { 2 } else { 0 };
            let (sharpen, ground) = (Sharpen::default(), Ground::default());
            let preparation = Preparation { size: 64, filter: Filter::Lanczos, sharpen, ground };
            let (network_name, dimension, normalize) = (name, DIMENSION, true);
            let configuration = Configuration {
                network: network_name,
                dimension,
                normalize,
                mirrored,
                shift,
                preparation,
                preprocessing,
            };
            configuration.embed(&network, images)
        };
        let (plain, mirrored) = (embed(false, &images), embed(true, &images));
        let (one, two) = mirrored.split_at(DIMENSION);
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart(one, two) < 1e-6 && apart(&plain[..DIMENSION], &plain[DIMENSION..]) > 1e-3);
        for rows in [&plain, &mirrored] {
            let length: f32 = rows[..DIMENSION].iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5, "{length}");
        }
        assert_eq!(embed(true, &images[1..]), two, "an embedding does not depend on the batch");
    }
}
