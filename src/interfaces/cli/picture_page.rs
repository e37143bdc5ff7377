//! Small pages of pictures with captions.

use anyhow::{Context, Result};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use maud::{Markup, html};

use crate::report::html;

/// Longest side of a picture on a page, in pixels.
pub const SIDE: u32 = 160;
/// JPEG quality. A page holds many pictures, so they must be small.
const QUALITY: u8 = 85;

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; } .soft { opacity: .7; }
.row { display: flex; gap: 1rem; flex-wrap: wrap; }
figure { margin: 0; width: 10rem; font-size: .85rem; } figcaption { overflow-wrap: anywhere; }
img { max-width: 100%; border-radius: 4px; }
";

pub fn page(title: &str, about: &str, body: Markup) -> String {
    html::page(title, STYLE, html! { h1 { (title) } p.soft { (about) } (body) })
}

/// A picture with its caption, or a note that it cannot be shown.
pub fn figure(picture: Result<RgbImage>, name: &str, caption: &[String]) -> Markup {
    match picture.and_then(|picture| shown(&picture, name, caption)) {
        Ok(figure) => figure,
        Err(_) => html! { figure { p { "(cannot be shown)" } (captions(name, caption)) } },
    }
}

pub fn shown(picture: &RgbImage, name: &str, caption: &[String]) -> Result<Markup> {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(picture).context("cannot encode a picture")?;
    Ok(html! { figure { img alt=(name) src=(html::source("jpeg", &jpeg)); (captions(name, caption)) } })
}

fn captions(name: &str, caption: &[String]) -> Markup {
    html! { figcaption { (name) @for line in caption { br; (line) } } }
}
