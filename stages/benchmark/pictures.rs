//! The pictures of the report: rows of neighbours as PNG files, and thumbnails for the page.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, overlay};
use image::{ExtendedColorType, RgbImage};
use plotters::element::PathElement;
use plotters::style::Color;
use plotters::style::text_anchor::HPos;
use rayon::prelude::*;
use similiai::learning::images::{read_png, resize};
use similiai::report::charts::{self, Area, GREEN, INK, MARGIN, ORANGE, Placed, TITLE};
use similiai::retrieval::embeddings::Embeddings;

use super::charts::{SPRITE_COLUMNS, TILE};
use super::protocols::NEIGHBOURS;
use super::queries::Example;

/// Side of a picture in the PNG files, in pixels.
const PICTURE: i32 = 76;
/// Largest side of a picture on the page, in pixels.
const MOST: u32 = 128;
const CELL: (i32, i32) = (90, 108);
const TOP: i32 = 2 * MARGIN + TITLE + 8;
/// Quality of JPEG, of 100. No loss is visible on the page.
const QUALITY: u8 = 90;

/// Pictures of the report, by id.
pub struct Pictures(BTreeMap<usize, RgbImage>);

impl Pictures {
    pub fn read(folder: &Path, embeddings: &Embeddings, ids: impl Iterator<Item = usize>) -> Result<Self> {
        let ids: BTreeSet<usize> = ids.collect();
        let read = |id: usize| Ok((id, small(read_png(&folder.join(&embeddings.paths[id]))?)));
        Ok(Self(ids.into_par_iter().map(read).collect::<Result<_>>()?))
    }

    fn get(&self, id: usize) -> Result<&RgbImage> {
        self.0.get(&id).with_context(|| format!("picture {id} was not read"))
    }

    /// The picture as JPEG, for the page.
    pub fn jpeg(&self, id: usize) -> Result<Vec<u8>> {
        jpeg(self.get(id)?)
    }
}

/// Scales down a picture that is larger than the page needs.
fn small(image: RgbImage) -> RgbImage {
    if image.width() <= MOST { image } else { resize(image, MOST, FilterType::Triangle) }
}

fn jpeg(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (width, height) = image.dimensions();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode(image, width, height, ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

/// One sheet with a small thumbnail of each picture, row by row, as JPEG.
pub fn sheet(folder: &Path, paths: &[&str]) -> Result<Vec<u8>> {
    let read = |path: &&str| {
        let image = read_png(&folder.join(path))?;
        Ok(resize(image, TILE, FilterType::Triangle))
    };
    let tiles = paths.par_iter().map(read).collect::<Result<Vec<RgbImage>>>()?;
    let rows = tiles.len().div_ceil(SPRITE_COLUMNS).max(1) as u32;
    let mut sheet = RgbImage::new(SPRITE_COLUMNS as u32 * TILE, rows * TILE);
    for (place, tile) in tiles.iter().enumerate() {
        let (column, row) = (place % SPRITE_COLUMNS, place / SPRITE_COLUMNS);
        overlay(&mut sheet, tile, i64::from(TILE) * column as i64, i64::from(TILE) * row as i64);
    }
    jpeg(&sheet)
}

/// A row for each example: the query, then its neighbours. Marks and frames show which of them are right.
pub fn rows(
    examples: &[Example],
    title: &str,
    pictures: &Pictures,
    names: &[String],
    facts: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let width = CELL.0 * (NEIGHBOURS as i32 + 1) + 2 * MARGIN + 20;
    let height = TOP + CELL.1 * examples.len() as i32;
    let mut placed = Vec::new();
    let svg = charts::svg((width as u32, height as u32), |area| {
        charts::write(area, title, (MARGIN, MARGIN + TITLE / 2), HPos::Left, TITLE, &INK)?;
        for (row, example) in examples.iter().enumerate() {
            let class = &names[example.query];
            for (column, id) in example.ids().enumerate() {
                let left = MARGIN + column as i32 * CELL.0 + if column > 0 { 20 } else { 0 };
                let corner = (left, TOP + row as i32 * CELL.1);
                placed.push(Placed { image: pictures.get(id)?, corner, side: PICTURE as u32 });
                match column {
                    0 => label(area, &names[id], corner, 0)?,
                    _ => marked(area, &names[id], names[id] == *class, corner)?,
                }
            }
        }
        Ok(())
    })?;
    charts::png(&svg, &placed, facts)
}

fn label(area: &Area, name: &str, (left, top): (i32, i32), indent: i32) -> Result<()> {
    let name = charts::shortened(name, 11);
    charts::write(area, &name, (left + indent, top + PICTURE + 13), HPos::Left, charts::TEXT, &INK)
}

/// Draws a frame and a tick if the class is right, corners and a cross if it is wrong.
fn marked(area: &Area, name: &str, right: bool, (left, top): (i32, i32)) -> Result<()> {
    let (color, far) = (if right { GREEN } else { ORANGE }, PICTURE + 1);
    let line = |points: &[(i32, i32)]| {
        let points: Vec<(i32, i32)> = points.iter().map(|(x, y)| (left + x, top + y)).collect();
        area.draw(&PathElement::new(points, color.stroke_width(3))).map_err(charts::fault)
    };
    let base = PICTURE + 13;
    if right {
        line(&[(-2, -2), (far, -2), (far, far), (-2, far), (-2, -2)])?;
        line(&[(1, base), (4, base + 4), (10, base - 4)])?;
    } else {
        for (x, y, dx, dy) in [(-2, -2, 1, 1), (far, -2, -1, 1), (-2, far, 1, -1), (far, far, -1, -1)] {
            line(&[(x + 20 * dx, y), (x, y), (x, y + 20 * dy)])?;
        }
        line(&[(2, base - 4), (10, base + 4)])?;
        line(&[(10, base - 4), (2, base + 4)])?;
    }
    label(area, name, (left, top), 15)
}
