//! Images: CIFAR's binary archives, pictures of people in their files, and how both are prepared for a network.

mod archive;
mod picture;
mod preparation;

use std::path::{Path, PathBuf};

pub use archive::{LAYOUTS, Layout, Record};
pub use picture::{
    MOST_BYTES, Undecoded, Unreadable, decode, encode_png, is_picture, read_from, read_picture, read_png,
};
pub use preparation::{Filter, Preparation, Sharpen};

/// `class/00042.png`, the name by which an image is known from its preparation on.
pub fn image_path(class: &str, place: usize) -> PathBuf {
    Path::new(class).join(format!("{place:05}.png"))
}
