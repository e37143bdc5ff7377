//! prepare: records of the archive become upscaled, sharpened PNG files.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use image::RgbImage;
use image::imageops::{self, FilterType};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::images::{Record, cifar10_names, encode_png, image_path, select_cifar10};
use similiai::listing::{self, Listed, Side};
use similiai::stage::{Context, Inputs, Invalid, Stage, require};

/// The list of all images, beside their folders.
pub const LIST: &str = "images.csv";
/// Pictures made before what was made is noted.
const BATCH: usize = 512;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prepare {
    /// So many of each class in archive order …
    images_per_class: usize,
    /// … after the first so many.
    skip_per_class: usize,
    /// Side of the square PNG, in pixels.
    size: u32,
    filter: Filter,
    sharpen: Sharpen,
}

/// How images are made larger.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Filter {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

/// Unsharp mask: each value moves away from its blurred neighbourhood.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Sharpen {
    /// Standard deviation of the Gaussian blur, in pixels.
    radius: f64,
    /// Share of the difference that is added; 0 leaves the image as it is.
    amount: f64,
    /// Differences smaller than this, in steps of 1/255, stay.
    threshold: u8,
}

impl Default for Sharpen {
    fn default() -> Self {
        Self { radius: 1.0, amount: 0.5, threshold: 0 }
    }
}

impl Default for Prepare {
    fn default() -> Self {
        Self {
            images_per_class: 200,
            skip_per_class: 0,
            size: 64,
            filter: Filter::Lanczos,
            sharpen: Sharpen::default(),
        }
    }
}

impl Stage for Prepare {
    const NAME: &'static str = "prepare";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "upscales, sharpens and writes the images as PNG";
    const NEEDS: &'static [&'static str] = &["fetch"];

    fn check(&self) -> Result<(), Invalid> {
        require((1..=10_000).contains(&self.images_per_class), "images_per_class", "must be 1 to 10000")?;
        require(self.skip_per_class <= 10_000, "skip_per_class", "must be 0 to 10000")?;
        require((8..=1024).contains(&self.size), "size", "must be 8 to 1024 pixels")?;
        let Sharpen { radius, amount, .. } = self.sharpen;
        let sound = (0.1..=20.0).contains(&radius) && (0.0..=10.0).contains(&amount);
        require(sound, "sharpen", "needs a radius of 0.1 to 20 and an amount of 0 to 10")
    }

    /// Only the images selected: the full archive and a sample of it give the same key.
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
        let archive = inputs.result("fetch")?;
        let pictures = inputs.fact("pictures", &(archive.contents.digest(), self.selection()), || {
            let mut hasher = blake3::Hasher::new();
            let names = select_cifar10(&archive.folder, self.selection(), |record, _| {
                hasher.update(&[record.label, u8::from(record.official_test)]).update(&record.planes);
                Ok(())
            })?;
            hasher.update(names.join("\n").as_bytes());
            Ok(hasher.finalize().to_hex().to_string())
        })?;
        Ok([("pictures".to_owned(), pictures)].into())
    }

    fn run(&self, context: &Context) -> Result<()> {
        let folder = context.input("fetch")?;
        let names = cifar10_names(folder)?;
        let (mut records, mut listed) = (Vec::new(), Vec::new());
        select_cifar10(folder, self.selection(), |record, place| {
            let class = &names[usize::from(record.label)];
            let path = image_path(class, place).to_str().context("a path that is not Unicode")?.to_owned();
            listed.push(Listed {
                path,
                label: record.label.into(),
                label_name: class.clone(),
                part: if record.official_test { Side::Test } else { Side::Train },
            });
            records.push(record);
            Ok(())
        })?;
        let way = (self.size, self.filter, &self.sharpen);
        let digest = |record: &Record| blake3::hash(&record.planes);
        let pictures = context.map(("images", BATCH), &way, &records, digest, |records| {
            records.par_iter().map(|record| self.sharpened(record)).collect()
        })?;
        listed.iter().zip(&pictures).try_for_each(|(row, picture)| context.place(row.path.clone(), picture))?;
        listed.sort_by(|a, b| a.path.cmp(&b.path));
        listing::write(&context.output.join(LIST), &listed)
    }
}

impl Prepare {
    /// How many of each class are passed over, and how many are taken.
    fn selection(&self) -> (usize, usize) {
        (self.skip_per_class, self.images_per_class)
    }

    /// As PNG.
    fn sharpened(&self, record: &Record) -> Result<Vec<u8>> {
        let filter = match self.filter {
            Filter::Nearest => FilterType::Nearest,
            Filter::Bilinear => FilterType::Triangle,
            Filter::Bicubic => FilterType::CatmullRom,
            Filter::Lanczos => FilterType::Lanczos3,
        };
        let image = imageops::resize(&record.image(), self.size, self.size, filter);
        encode_png(&self.sharpen.apply(image), &BTreeMap::new())
    }
}

impl Sharpen {
    fn apply(&self, mut image: RgbImage) -> RgbImage {
        let blurred = imageops::blur(&image, self.radius as f32);
        for (value, blurred) in image.iter_mut().zip(blurred.iter()) {
            let difference = i16::from(*value) - i16::from(*blurred);
            if difference.unsigned_abs() >= u16::from(self.threshold) {
                *value = (f64::from(*value) + self.amount * f64::from(difference)).round().clamp(0.0, 255.0) as u8;
            }
        }
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharpening_steepens_an_edge_and_leaves_flat_parts() {
        let edge = RgbImage::from_fn(16, 4, |x, _| image::Rgb([if x < 8 { 100 } else { 150 }; 3]));
        let sharp = Sharpen { radius: 1.0, amount: 1.0, threshold: 0 }.apply(edge.clone());
        assert_eq!(sharp.get_pixel(0, 0), edge.get_pixel(0, 0));
        assert!(sharp.get_pixel(7, 0).0[0] < 100 && sharp.get_pixel(8, 0).0[0] > 150);
        let none = Sharpen { radius: 1.0, amount: 0.0, threshold: 0 }.apply(edge.clone());
        assert_eq!(none, edge);
        let high = Sharpen { radius: 1.0, amount: 1.0, threshold: 100 }.apply(edge.clone());
        assert_eq!(high, edge);
    }
}
