//! Turns any picture into the square, sharpened picture that the networks here are trained on.

use image::imageops::{self, FilterType};
use image::{RgbImage, RgbaImage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::blur::blur;
use super::resize;

/// How pictures are prepared. It is saved next to prepared pictures and in the metadata of each model, so that a query
/// picture is prepared like the pictures that the model learned from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preparation {
    /// Side of the square, in pixels.
    pub size: u32,
    pub filter: Filter,
    pub sharpen: Sharpen,
    /// What is put behind transparent parts. Preparations that were saved without this field used white.
    #[serde(default = "Ground::white")]
    pub ground: Ground,
}

/// What is put behind a transparent picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ground {
    White,
    /// The first of white, black and grey on which almost nothing of the drawing is lost.
    #[default]
    Contrast,
}

/// Grounds, in order of preference.
const GROUNDS: [u8; 3] = [255, 0, 128];
/// A tone is lost if it differs from its ground by at most this much.
const ALIKE: u64 = 48;
/// A tone is visible if it differs from its ground by at least this much. Between both limits, it is partly lost.
const UNLIKE: u64 = 96;
/// A ground may lose at most one part in this many of the drawing more than the best ground.
const HARDLY: u64 = 50;

impl Ground {
    fn white() -> Self {
        Self::White
    }

    /// The grey value behind `image`.
    pub fn behind(self, image: &RgbaImage) -> u8 {
        if self == Self::White {
            return 255;
        }
        let (mut all, mut lost) = (0, [0; GROUNDS.len()]);
        for [red, green, blue, alpha] in image.pixels().map(|pixel| pixel.0.map(u64::from)) {
            let tone = (red + green + blue) / 3;
            all += alpha * (UNLIKE - ALIKE);
            for (lost, ground) in lost.iter_mut().zip(GROUNDS) {
                *lost += alpha * (UNLIKE.saturating_sub(tone.abs_diff(ground.into()))).min(UNLIKE - ALIKE);
            }
        }
        let least = lost.iter().min().copied().unwrap_or_default();
        // So a copy that was resized or saved again mostly gets the same ground.
        let is_good = |lost: u64| (lost - least) * HARDLY <= all;
        let ground = GROUNDS.into_iter().zip(lost).find(|(_, lost)| is_good(*lost));
        ground.map_or(255, |(ground, _)| ground)
    }
}

/// The filter for resizing images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

/// Unsharp mask: each value moves away from its blurred neighbourhood.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sharpen {
    /// Standard deviation of the Gaussian blur, in pixels.
    pub radius: f64,
    /// Share of the difference that is added; 0 leaves the image as it is.
    pub amount: f64,
    /// Differences smaller than this are not changed, in steps of 1/255.
    pub threshold: u8,
}

impl Default for Sharpen {
    fn default() -> Self {
        Self { radius: 1.0, amount: 0.5, threshold: 0 }
    }
}

impl Preparation {
    /// Checks the ranges that every preparation must keep, whatever its source. `Err` names the field and says what is
    /// allowed.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let Sharpen { radius, amount, .. } = self.sharpen;
        if !(8..=1024).contains(&self.size) {
            return Err(("size", "must be 8 to 1024 pixels"));
        }
        if !((0.1..=20.0).contains(&radius) && (0.0..=10.0).contains(&amount)) {
            return Err(("sharpen", "needs a radius of 0.1 to 20 and an amount of 0 to 10"));
        }
        Ok(())
    }

    /// Crops the largest square in the middle, and then resizes and sharpens it.
    pub fn apply(&self, image: &RgbImage) -> RgbImage {
        let filter = match self.filter {
            Filter::Nearest => FilterType::Nearest,
            Filter::Bilinear => FilterType::Triangle,
            Filter::Bicubic => FilterType::CatmullRom,
            Filter::Lanczos => FilterType::Lanczos3,
        };
        let (width, height) = image.dimensions();
        let side = width.min(height);
        let square = imageops::crop_imm(image, (width - side) / 2, (height - side) / 2, side, side).to_image();
        self.sharpen.apply(resize(square, self.size, filter))
    }
}

impl Sharpen {
    fn apply(&self, mut image: RgbImage) -> RgbImage {
        let blurred = blur(&image, self.radius as f32);
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
    fn a_drawing_stands_apart_from_its_ground() {
        let behind = |tones: &[u8]| {
            let drawing = RgbaImage::from_fn(10, 10, |x, y| {
                let tone = tones[y as usize % tones.len()];
                image::Rgba([tone, tone, tone, if x < 5 { 255 } else { 0 }])
            });
            Ground::Contrast.behind(&drawing)
        };
        let of_one: Vec<u8> = (0..=255).map(|tone| behind(&[tone])).collect();
        for (tone, ground) in of_one.iter().enumerate() {
            assert!(tone.abs_diff(usize::from(*ground)) > 90, "{tone} on {ground}");
        }
        // The most common grey, and the tones that resizing makes of it.
        assert!(of_one[120..140].iter().all(|ground| *ground == 255));
        // Both black and white are visible, even if one of them is small.
        assert_eq!([behind(&[0, 255]), behind(&[0, 0, 0, 0, 255])], [128; 2]);
        assert_eq!(behind(&[250, 255]), 0);
    }

    #[test]
    fn the_square_is_from_the_middle() {
        let wide = RgbImage::from_fn(30, 10, |x, _| image::Rgb([if (10..20).contains(&x) { 200 } else { 0 }; 3]));
        let sharpen = Sharpen { amount: 0.0, ..Sharpen::default() };
        let seen = Preparation { size: 8, filter: Filter::Nearest, sharpen, ground: Ground::White }.apply(&wide);
        assert_eq!(seen, RgbImage::from_pixel(8, 8, image::Rgb([200; 3])));
    }

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
