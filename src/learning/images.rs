//! Images: the binary archives of CIFAR, picture files of users, and how both are prepared for a network.

mod archive;
mod blur;
mod containers;
mod decoding;
mod jpeg;
mod picture;
mod preparation;
mod skipped_files;
mod unreadable;

use image::imageops::FilterType;
use image::{DynamicImage, RgbImage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use archive::{LAYOUTS, Layout, Record};
pub use containers::known_as;
pub use decoding::{Decoded, TASK as DECODING, Wanted, decode_for, decode_large, decode_small};
pub use picture::{MOST_BYTES, decode, encode_png, is_picture, read_from, read_picture, read_png};
pub use preparation::{Filter, Ground, Preparation, Sharpen};
pub use skipped_files::{SkipReason, SkippedCount, SkippedFiles};
pub use unreadable::{Unreadable, is_no_fault_of_it};

/// What to do with a picture that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadImage {
    #[default]
    Fail,
    /// Leave it out and list it.
    Skip,
}

/// Resizes an image to a square. The methods of [`DynamicImage`] are compiled in their crate, as fast code; the generic
/// functions would be compiled once more here.
pub fn resize(image: RgbImage, side: u32, filter: FilterType) -> RgbImage {
    DynamicImage::from(image).resize_exact(side, side, filter).into_rgb8()
}

/// The path of an image after its preparation, for example `class/00042.png`.
pub fn image_path(class: &str, place: usize) -> String {
    format!("{class}/{place:05}.png")
}
