//! Picture files: PNG, JPEG and WebP files of users, and the PNG files written here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

use super::containers::{known_as, normal_png, normal_webp};
use super::jpeg;
use super::preparation::Ground;
use super::unreadable::Unreadable;
use crate::base::files;
use crate::base::signal;
use crate::damaged;

/// Extensions of picture files.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "jpe", "jfif", "webp"];
/// Largest picture file that is read, in bytes.
pub const MOST_BYTES: u64 = 256 << 20;
/// Bytes that are read first. If they do not begin a picture, the rest of the file is not read.
const HEAD: u64 = 4 << 10;
/// A picture that claims to have more pixels is not decoded.
pub const MOST_PIXELS: u64 = 120_000_000;
/// Bytes that a pixel may take in a picture with the largest number of pixels.
const MOST_A_PIXEL: u64 = 4;
/// Memory for data that is not pixels, in bytes. A compressed profile or text may be much larger than its file.
const BESIDE: u64 = 16 << 20;

/// Whether the path has the extension of a picture file.
pub fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// Reads the bytes of a picture file.
pub fn read_picture(path: &Path) -> Result<Vec<u8>> {
    let name = path.display().to_string();
    let read = || read_at_most(File::open(path).with_context(|| format!("cannot read {name}"))?, &name);
    // Opening a pipe waits until another process opens it for writing.
    if path.is_file() { read() } else { signal::while_waiting(read) }
}

/// Like [`read_picture`], for a source called `name` that may wait for its bytes.
pub fn read_from(source: impl Read, name: &str) -> Result<Vec<u8>> {
    signal::while_waiting(|| read_at_most(source, name))
}

fn read_at_most(mut source: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut read = |most: u64| {
        let read = source.by_ref().take(most).read_to_end(&mut bytes);
        read.with_context(|| format!("cannot read {name}"))?;
        anyhow::Ok(is_begun(&bytes))
    };
    if read(HEAD)? {
        read(MOST_BYTES + 1 - HEAD)?;
    }
    if bytes.len() as u64 > MOST_BYTES {
        return Err(damaged!("{name} has more than {} MiB, the limit for a picture", MOST_BYTES >> 20));
    }
    Ok(bytes)
}

/// Whether the bytes begin a PNG, JPEG or WebP.
fn is_begun(bytes: &[u8]) -> bool {
    matches!(image::guess_format(bytes), Ok(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP))
}

/// Decodes a picture as it should be seen: rotated by its EXIF orientation, and with 8 bits a channel. Transparent
/// parts are put on a ground. Grey becomes equal red, green and blue.
///
/// It decodes in this process, so it is only for pictures made by this program.
///
/// # Errors
/// If `bytes` are not a PNG, JPEG or WebP, are damaged or truncated, or claim to have too many pixels. The message
/// contains `name`.
pub fn decode(bytes: &[u8], name: &str) -> Result<RgbImage> {
    let decoded = without_panic(name, || Undecoded::open(bytes, name, MOST_PIXELS)?.decode(Ground::default()));
    decoded.map_err(|why| damaged!("{why}"))
}

/// Runs `work`, and turns a panic into an error. A decoder panics on input that it should have refused.
pub fn without_panic<T>(name: &str, work: impl FnOnce() -> Result<T, Unreadable>) -> Result<T, Unreadable> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Unreadable::Broken(format!("{name} is a damaged picture: its decoder failed"))))
}

/// A picture of which only the header was read.
pub struct Undecoded<'a> {
    /// Width × height.
    pub pixels: u64,
    name: &'a str,
    decoder: Box<dyn ImageDecoder + 'a>,
}

impl<'a> Undecoded<'a> {
    /// Reads the header. Refuses a picture with more than `most` pixels.
    pub fn open(bytes: &'a [u8], name: &'a str, most: u64) -> Result<Self, Unreadable> {
        let bytes = normal(bytes, name)?;
        let mut reader = ImageReader::new(Cursor::new(bytes));
        reader = reader.with_guessed_format().map_err(|error| Unreadable::Broken(format!("{name}: {error}")))?;
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(BESIDE);
        reader.limits(limits);
        let decoder = reader.into_decoder().map_err(|error| broken(error, name))?;
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels > most {
            let most = most as f64 / 1e6;
            let why = format!("{name} has {width} × {height} pixels, more than the limit of {most} million");
            return Err(Unreadable::TooManyPixels(why));
        }
        // Pixels with 16 bits a channel take more memory, so there may be fewer of them.
        if decoder.total_bytes() > most.saturating_mul(MOST_A_PIXEL) {
            let (bits, most) = (decoder.color_type().bits_per_pixel(), most as f64 * MOST_A_PIXEL as f64 / 1e6);
            let why = format!("{name} has {width} × {height} pixels of {bits} bits, more than the limit of {most} MB");
            return Err(Unreadable::TooManyPixels(why));
        }
        if pixels == 0 {
            return Err(Unreadable::Broken(format!("{name} has no pixels")));
        }
        Ok(Self { pixels, name, decoder: Box::new(decoder) })
    }

    pub fn decode(mut self, ground: Ground) -> Result<RgbImage, Unreadable> {
        let orientation = self.decoder.orientation().map_err(|error| broken(error, self.name))?;
        let mut image = DynamicImage::from_decoder(self.decoder).map_err(|error| broken(error, self.name))?;
        image.apply_orientation(orientation);
        if !image.color().has_alpha() {
            return Ok(image.into_rgb8());
        }
        let image = image.into_rgba8();
        let behind = u32::from(ground.behind(&image));
        Ok(RgbImage::from_fn(image.width(), image.height(), |x, y| {
            let [red, green, blue, alpha] = image.get_pixel(x, y).0.map(u32::from);
            let over = |value: u32| ((value * alpha + behind * (255 - alpha) + 127) / 255) as u8;
            Rgb([over(red), over(green), over(blue)])
        }))
    }
}

/// Returns `bytes` in the form that the decoder of their format reads.
fn normal<'a>(bytes: &'a [u8], name: &str) -> Result<Cow<'a, [u8]>, Unreadable> {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => jpeg::normal(bytes, name),
        Ok(ImageFormat::Png) => normal_png(bytes, name),
        Ok(ImageFormat::WebP) => normal_webp(bytes, name),
        _ => Err(Unreadable::NoPicture(match (bytes, known_as(bytes), image::guess_format(bytes)) {
            ([], ..) => format!("{name} is no picture: the file is empty"),
            (_, Some(what), _) => format!("{name} is no picture that can be read here: it is {what}"),
            (_, None, Ok(format)) => {
                let kind = format.extensions_str().first().unwrap_or(&"another").to_uppercase();
                format!("{name} is a kind of picture that cannot be read here: {kind}")
            }
            _ => format!("{name} is no picture: it begins neither as PNG nor as JPEG or WebP"),
        })),
    }
}

fn broken(error: ImageError, name: &str) -> Unreadable {
    match error {
        ImageError::Unsupported(what) => {
            Unreadable::NoPicture(format!("{name} is a kind of picture that cannot be read here: {what}"))
        }
        ImageError::Limits(_) => {
            let most = BESIDE >> 20;
            Unreadable::Broken(format!("{name} needs more than {most} MiB for one row or for its metadata"))
        }
        error => {
            Unreadable::Broken(format!("{name} is a damaged or truncated picture: {}", error.to_string().trim_end()))
        }
    }
}

/// Reads a PNG file that this program wrote.
pub fn read_png(path: &Path) -> Result<RgbImage> {
    let bytes = files::read(path)?;
    let image = image::load_from_memory_with_format(&bytes, ImageFormat::Png);
    let image = image.map_err(|error| damaged!("{} is not a readable PNG: {error}", path.display()))?;
    Ok(image.into_rgb8())
}

/// Encodes an image as PNG, with `texts` in text chunks.
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

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;
    use image::{ImageBuffer, ImageEncoder, Luma, Rgba};

    fn png(image: DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn jpeg(exif: Option<Vec<u8>>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new(&mut bytes);
        exif.into_iter().for_each(|exif| encoder.set_exif_metadata(exif).unwrap());
        let picture = RgbImage::from_fn(16, 8, |x, _| Rgb([if x < 8 { 0 } else { 255 }; 3]));
        encoder.encode_image(&picture).unwrap();
        bytes
    }

    fn message(bytes: &[u8]) -> String {
        decode(bytes, "it").unwrap_err().to_string()
    }

    #[test]
    fn depths_and_transparency_become_plain_colour() {
        let deep = ImageBuffer::from_pixel(2, 1, Luma([0x8040u16]));
        assert_eq!(decode(&png(deep.into()), "it").unwrap().get_pixel(0, 0).0, [128; 3]);
        let clear = ImageBuffer::from_fn(2, 1, |x, _| Rgba([200u8, 0, 0, [0, 128][x as usize]]));
        let seen = decode(&png(clear.into()), "it").unwrap();
        assert_eq!((seen.get_pixel(0, 0).0, seen.get_pixel(1, 0).0), ([255; 3], [227, 127, 127]));
        // A light drawing is put on black, unless the caller asks for white.
        let light = png(ImageBuffer::from_fn(2, 1, |x, _| Rgba([250u8, 240, 230, [0, 255][x as usize]])).into());
        assert_eq!(decode(&light, "it").unwrap().get_pixel(0, 0).0, [0; 3]);
        let on_white = Undecoded::open(&light, "it", 9).unwrap().decode(Ground::White).unwrap();
        assert_eq!(on_white.get_pixel(0, 0).0, [255; 3]);
    }

    #[test]
    fn a_png_without_its_end_is_read_and_one_with_a_cut_palette_is_not() {
        let whole = png(RgbImage::from_fn(9, 5, |x, y| Rgb([x as u8, y as u8, 7])).into());
        let end = whole.windows(4).position(|four| four == b"IEND").unwrap() - 4;
        for bytes in [&whole[..end], &whole[..end + 7], &[&whole[..], b"beside"].concat()] {
            assert_eq!(decode(bytes, "it").unwrap(), decode(&whole, "it").unwrap());
        }
        let mut palette = Vec::new();
        let mut encoder = ::png::Encoder::new(&mut palette, 2, 1);
        encoder.set_color(::png::ColorType::Indexed);
        encoder.set_palette(vec![1, 2, 3, 4, 5, 6]);
        encoder.write_header().unwrap().write_image_data(&[0, 1]).unwrap();
        assert_eq!(decode(&palette, "it").unwrap().get_pixel(1, 0).0, [4, 5, 6]);
        let at = palette.windows(4).position(|four| four == b"PLTE").unwrap();
        palette.drain(at + 8..at + 10);
        palette[at - 1] = 4;
        assert!(message(&palette).contains("palette is cut"), "{}", message(&palette));
    }

    #[test]
    fn a_picture_is_turned_as_its_camera_says() {
        // A TIFF header and one entry: orientation (0x0112), short, 1 value, 6 (rotate by 90° clockwise).
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
        let (plain, turned) = (decode(&jpeg(None), "it").unwrap(), decode(&jpeg(Some(exif)), "it").unwrap());
        assert_eq!((plain.dimensions(), turned.dimensions()), ((16, 8), (8, 16)));
        assert!(turned.get_pixel(4, 2).0[0] < 50 && turned.get_pixel(4, 13).0[0] > 200);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        assert!(message(b"hello, this is text").contains("no picture"));
        assert!(message(b"").contains("the file is empty"));
        assert!(message(b"GIF89a\x01\0\x01\0\0\0\0").contains("cannot be read here: GIF"));
        assert!(message(b"\0\0\0\x18ftypheic\0\0\0\0").contains("it is a HEIC picture"));
        assert!(message(b"version https://git-lfs.github.com/spec/v1").contains("git lfs pull"));
        let good = jpeg(None);
        for length in [good.len() - 2, good.len() / 2, 30] {
            assert!(message(&good[..length]).contains("truncated"), "{length}");
        }
        let good = png(RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8, y as u8, (x * y) as u8])).into());
        assert!(message(&good[..good.len() / 2]).contains("truncated"));
    }

    #[test]
    fn a_webp_whose_metadata_reach_past_its_end_is_refused() {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
        encoder.set_exif_metadata(vec![0; 8]).unwrap();
        encoder.encode(&[7; 12], 2, 2, image::ExtendedColorType::Rgb8).unwrap();
        assert_eq!(decode(&bytes, "it").unwrap().dimensions(), (2, 2));
        assert_eq!(decode(&[&bytes[..], b"beside"].concat(), "it").unwrap().dimensions(), (2, 2));
        let exif = bytes.windows(4).position(|four| four == b"EXIF").unwrap();
        bytes[exif + 4..exif + 8].copy_from_slice(&[0xFF; 4]);
        assert!(message(&bytes).contains("reaches past its end"), "{}", message(&bytes));
    }

    #[test]
    fn deep_pictures_may_have_fewer_pixels() {
        let deep = png(ImageBuffer::<Rgba<u16>, _>::new(10, 10).into());
        assert!(Undecoded::open(&deep, "it", 200).is_ok());
        assert!(matches!(Undecoded::open(&deep, "it", 199), Err(Unreadable::TooManyPixels(_))));
    }

    #[test]
    fn a_picture_that_claims_too_many_pixels_is_not_decoded() {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        encoder.write_image(&[0], 1, 1, image::ExtendedColorType::L8).unwrap();
        bytes[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(message(&bytes).contains("16384 × 16384 pixels, more than"), "{}", message(&bytes));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }
}
