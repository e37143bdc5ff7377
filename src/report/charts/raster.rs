//! Turns SVG into PNG with a font that is part of the program, so that no system font is needed.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result};
use image::RgbImage;
use image::imageops::{FilterType, overlay};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::learning::images::{encode_png, resize};

/// Pixels of the PNG for each pixel of the SVG, in each direction.
const SCALE: u32 = 2;

/// A square picture that is put on top of a chart.
pub struct Placed<'a> {
    pub image: &'a RgbImage,
    pub corner: (i32, i32),
    pub side: u32,
}

/// A PNG on white, with twice the width and height of the SVG, and with `facts` in its text chunks.
pub fn png(svg: &str, pictures: &[Placed], facts: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
        let family = fonts.faces().next().and_then(|face| face.families.first()).map(|family| family.0.clone());
        fonts.set_sans_serif_family(family.unwrap_or_default());
        Arc::new(fonts)
    });
    let options = Options { fontdb: FONTS.clone(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).context("a chart is not valid SVG")?;
    let size = tree.size().to_int_size().scale_by(SCALE as f32).context("a chart has no size")?;
    let mut pixels = Pixmap::new(size.width(), size.height()).context("a chart has no size")?;
    pixels.fill(Color::WHITE);
    resvg::render(&tree, Transform::from_scale(SCALE as f32, SCALE as f32), &mut pixels.as_mut());
    let mut canvas = RgbImage::new(size.width(), size.height());
    // The ground is opaque, so every pixel is opaque.
    canvas.pixels_mut().zip(pixels.pixels()).for_each(|(to, from)| to.0 = [from.red(), from.green(), from.blue()]);
    for Placed { image, corner: (x, y), side } in pictures {
        let image = resize((*image).clone(), side * SCALE, FilterType::CatmullRom);
        overlay(&mut canvas, &image, i64::from(*x) * i64::from(SCALE), i64::from(*y) * i64::from(SCALE));
    }
    encode_png(&canvas, facts)
}
