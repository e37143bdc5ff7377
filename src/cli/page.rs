//! Small pages with pictures: one file each that needs nothing else.

use std::io::Cursor;
use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, RgbImage};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::asking::thumbnail;

/// Of a picture on a page, in pixels.
pub const SIDE: u32 = 160;

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; } .soft { opacity: .7; }
.row { display: flex; gap: 1rem; flex-wrap: wrap; }
figure { margin: 0; width: 10rem; font-size: .85rem; } figcaption { overflow-wrap: anywhere; }
img { max-width: 100%; border-radius: 4px; }
";

pub fn whole(title: &str, about: &str, body: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { h1 { (title) } p.soft { (about) } (body) }
        }
    };
    page.into_string()
}

/// The picture at `path`, or that it cannot be shown.
pub fn figure(path: &Path, name: &str, caption: &[String]) -> Markup {
    match thumbnail(path, SIDE).and_then(|picture| shown(&picture, name, caption)) {
        Ok(figure) => figure,
        Err(_) => html! { figure { p { "(cannot be shown)" } (captions(name, caption)) } },
    }
}

pub fn shown(picture: &RgbImage, name: &str, caption: &[String]) -> Result<Markup> {
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png)?;
    let data = STANDARD.encode(png.into_inner());
    Ok(html! { figure { img alt=(name) src=(format!("data:image/png;base64,{data}")); (captions(name, caption)) } })
}

fn captions(name: &str, caption: &[String]) -> Markup {
    html! { figcaption { (name) @for line in caption { br; (line) } } }
}
