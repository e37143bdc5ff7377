//! Images: the records of CIFAR-10's binary format, and PNG files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::{ImageFormat, RgbImage};

use crate::{damaged, files};

/// CIFAR-10's binary version: a label byte, then 3,072 bytes of red, green and blue planes
/// (<https://www.cs.toronto.edu/~kriz/cifar.html>, "Binary version").
pub mod cifar10 {
    pub const CLASSES: usize = 10;
    pub const SIDE: u32 = 32;
    pub const PIXELS: usize = (SIDE * SIDE) as usize;
    pub const RECORD: usize = 1 + 3 * PIXELS;
    /// The official batches hold this many records; a smaller archive in the same layout may hold fewer.
    pub const MOST_RECORDS: usize = 10_000;
    pub const NAMES: &str = "batches.meta.txt";
    pub const TEST: &str = "test_batch.bin";
    /// In the order in which images are counted.
    pub const BATCHES: [&str; 6] =
        ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin", TEST];
}

/// One image of an archive.
pub struct Record {
    pub label: u8,
    /// Red, green and blue planes, each row by row.
    pub planes: Vec<u8>,
    /// From the archive's own test batch.
    pub official_test: bool,
}

impl Record {
    pub fn image(&self) -> RgbImage {
        let plane = |channel: usize| &self.planes[channel * cifar10::PIXELS..];
        RgbImage::from_fn(cifar10::SIDE, cifar10::SIDE, |x, y| {
            let place = (y * cifar10::SIDE + x) as usize;
            image::Rgb([plane(0)[place], plane(1)[place], plane(2)[place]])
        })
    }
}

/// The class names in label order; refuses what cannot be a folder's name.
pub fn class_names(text: &str, member: &str) -> Result<Vec<String>> {
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.len() != cifar10::CLASSES {
        return Err(damaged!("{member}: {} class names where the format has {}", names.len(), cifar10::CLASSES));
    }
    for (place, name) in names.iter().enumerate() {
        let plain = name.len() <= 100 && name.chars().all(|c| c.is_alphanumeric() || " _-".contains(c));
        if !plain {
            return Err(damaged!("{member}: the class name {name:?} is no plain file name"));
        }
        if names[..place].iter().any(|other| other.to_lowercase() == name.to_lowercase()) {
            return Err(damaged!("{member}: the class name {name:?} stands there twice"));
        }
    }
    Ok(names)
}

/// Reads the records in `folder` in archive order, until `visit` breaks off.
pub fn read_cifar10(folder: &Path, mut visit: impl FnMut(Record) -> Result<ControlFlow<()>>) -> Result<()> {
    for member in cifar10::BATCHES {
        let path = folder.join(member);
        if !path.exists() {
            continue;
        }
        let name = || path.display().to_string();
        let mut reader =
            BufReader::with_capacity(1 << 18, File::open(&path).with_context(|| format!("cannot read {}", name()))?);
        let mut bytes = vec![0; cifar10::RECORD];
        let length = reader.get_ref().metadata().with_context(|| format!("cannot read {}", name()))?.len();
        for _ in 0..length / cifar10::RECORD as u64 {
            reader.read_exact(&mut bytes).with_context(|| format!("cannot read {}", name()))?;
            let record =
                Record { label: bytes[0], planes: bytes[1..].to_vec(), official_test: member == cifar10::TEST };
            if visit(record)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The class names beside the batches in `folder`.
pub fn cifar10_names(folder: &Path) -> Result<Vec<String>> {
    class_names(&files::read_to_string(&folder.join(cifar10::NAMES))?, cifar10::NAMES)
}

/// `per_class` images of each class in archive order, after the first `skip`, each with its place within its class.
pub fn select_cifar10(
    folder: &Path,
    (skip, per_class): (usize, usize),
    mut visit: impl FnMut(Record, usize) -> Result<()>,
) -> Result<Vec<String>> {
    let names = cifar10_names(folder)?;
    let mut counts = vec![0; names.len()];
    read_cifar10(folder, |record| {
        let count = counts.get_mut(usize::from(record.label));
        let count = count.with_context(|| format!("label {} in {}", record.label, folder.display()))?;
        let place = *count;
        if place < skip + per_class {
            *count += 1;
            if place >= skip {
                visit(record, place)?;
            }
        }
        Ok(if counts.iter().all(|count| *count == skip + per_class) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    match counts.iter().position(|count| *count < skip + per_class) {
        None => Ok(names),
        Some(class) => Err(damaged!(
            "the archive has {} pictures of class `{}`, fewer than the {} asked for; lower images_per_class{}",
            counts[class],
            names[class],
            skip + per_class,
            if skip > 0 { " or skip_per_class" } else { "" }
        )),
    }
}

pub fn read_png(path: &Path) -> Result<RgbImage> {
    let bytes = files::read(path)?;
    let image = image::load_from_memory_with_format(&bytes, ImageFormat::Png);
    let image = image.map_err(|error| damaged!("{} is no readable PNG: {error}", path.display()))?;
    Ok(image.into_rgb8())
}

/// As PNG, with `texts` beside the pixels.
pub fn encode_png(image: &RgbImage, texts: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    texts.iter().try_for_each(|(name, text)| encoder.add_itxt_chunk(name.clone(), text.clone()))?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.as_raw())?;
    writer.finish()?;
    Ok(bytes)
}

/// `class/00042.png`, the name by which an image is known from `prepare` on.
pub fn image_path(class: &str, place: usize) -> PathBuf {
    Path::new(class).join(format!("{place:05}.png"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_pixels() {
        let mut planes = vec![0; 3 * cifar10::PIXELS];
        planes[1] = 10; // red of pixel (1, 0)
        planes[cifar10::PIXELS + 32] = 20; // green of pixel (0, 1)
        planes[3 * cifar10::PIXELS - 1] = 30; // blue of the last pixel
        let image = Record { label: 0, planes, official_test: false }.image();
        assert_eq!(image.get_pixel(1, 0).0, [10, 0, 0]);
        assert_eq!(image.get_pixel(0, 1).0, [0, 20, 0]);
        assert_eq!(image.get_pixel(31, 31).0, [0, 0, 30]);
    }

    #[test]
    fn class_names_are_ten_different_plain_ones() {
        let good = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n";
        assert_eq!(class_names(good, "m").unwrap().len(), 10);
        let message = |text: &str| class_names(text, "m").unwrap_err().to_string();
        assert!(message("a\nb\n").contains("2 class names"));
        assert!(message(&good.replace('j', "A")).contains("twice"));
        assert!(message(&good.replace('j', "../j")).contains("no plain file name"));
    }
}
