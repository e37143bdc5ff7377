//! Pictures on a terminal that can show them.

use std::io::IsTerminal;
use std::path::Path;

use image::{DynamicImage, RgbImage, imageops};
use viuer::KittySupport;

use super::super::asking::thumbnail;
use crate::finder::Hit;

const SIDE: u32 = 128;
const GAP: u32 = 8;
/// Lines of the terminal that a strip is high.
const LINES: u32 = 8;

/// What the names of terminals contain that answer when they are asked for their protocol; others might never answer.
const KNOWN: [&str; 12] = [
    "kitty", "ghostty", "iterm", "wezterm", "konsole", "foot", "mlterm", "contour", "mintty", "rio", "sixel", "rlogin",
];

fn can_show() -> bool {
    let names = ["TERM", "TERM_PROGRAM", "LC_TERMINAL"].map(|name| std::env::var(name).unwrap_or_default());
    let names = names.join(" ").to_lowercase();
    let known = KNOWN.iter().any(|name| names.contains(name)) || std::env::var_os("KONSOLE_VERSION").is_some();
    known
        && std::io::stdin().is_terminal()
        && std::io::stdout().is_terminal()
        && (viuer::get_kitty_support() != KittySupport::None
            || viuer::is_iterm_supported()
            || viuer::is_sixel_supported())
}

/// The query and its neighbours side by side; nothing where the terminal, or a picture, does not allow it.
pub fn strip(query: Option<&RgbImage>, hits: &[Hit], folder: &Path) {
    if !can_show() {
        return;
    }
    let neighbours = hits.iter().filter_map(|hit| thumbnail(&folder.join(&hit.path), SIDE).ok());
    let query = query.map(|query| DynamicImage::from(query.clone()).thumbnail(SIDE, SIDE).into_rgb8());
    let pictures: Vec<RgbImage> = query.into_iter().chain(neighbours).collect();
    let mut strip = RgbImage::from_pixel(pictures.len() as u32 * (SIDE + GAP), SIDE, image::Rgb([255; 3]));
    for (place, picture) in pictures.iter().enumerate() {
        let (left, top) = (place as u32 * (SIDE + GAP), (SIDE - picture.height()) / 2);
        imageops::replace(&mut strip, picture, left.into(), top.into());
    }
    let settings = viuer::Config { height: Some(LINES), absolute_offset: false, ..Default::default() };
    if let Err(error) = viuer::print(&strip.into(), &settings) {
        tracing::debug!("the pictures cannot be shown here: {error}");
    }
}
