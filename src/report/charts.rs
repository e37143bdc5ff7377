//! Charts: drawn once as SVG, which a page shows in its own colours and from which a PNG is made.

mod bars;
mod lines;
mod marks;
mod raster;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};
use std::sync::Once;

pub use bars::{Bar, Row, bars};
pub use lines::{Axes, Band, Dots, Line, Series, lines};
pub use marks::{ClassMark, SHAPES};
pub use raster::{Placed, png};

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Readable for people with any colour vision (Okabe and Ito 2008), and 3:1 against white (WCAG 2.2, 1.4.11).
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
pub const ORANGE: RGBColor = RGBColor(213, 94, 0);
pub const GREEN: RGBColor = RGBColor(0, 158, 115);
pub const PURPLE: RGBColor = RGBColor(170, 68, 153);
pub const GREY: RGBColor = RGBColor(89, 99, 110);
pub const INK: RGBColor = RGBColor(40, 44, 52);
pub const FAINT: RGBColor = RGBColor(222, 226, 230);

/// Each colour with what it is in the dark.
const PALETTE: [(RGBColor, RGBColor); 7] = [
    (BLUE, RGBColor(86, 180, 233)),
    (ORANGE, RGBColor(240, 145, 74)),
    (GREEN, RGBColor(60, 200, 160)),
    (PURPLE, RGBColor(221, 139, 206)),
    (GREY, RGBColor(160, 170, 180)),
    (INK, RGBColor(230, 232, 235)),
    (FAINT, RGBColor(58, 64, 72)),
];

pub const TITLE: i32 = 17;
pub const TEXT: i32 = 13;
/// Between a chart and its border, in pixels.
pub const MARGIN: i32 = 8;

/// What tells two series apart, beside their colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Solid,
    Dashed,
    Dotted,
}

/// What a legend shows beside a name.
#[derive(Debug, Clone, Copy)]
pub enum Swatch {
    Line(Look),
    /// Filled, or framed.
    Bar(bool),
    /// A disc, or a ring.
    Dot(bool),
}

/// An entry of a legend.
pub struct Mark<'a> {
    pub name: &'a str,
    pub color: RGBColor,
    pub swatch: Swatch,
}

/// The SVG of a picture of `size` pixels.
pub fn svg(size: (u32, u32), picture: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // Fails only on bytes that are no font, and these are fixed.
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        picture(&area)?;
        area.present().map_err(fault)?;
    }
    Ok(text)
}

/// `#0072B2`, as it stands in an SVG.
pub fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// CSS that gives charts their colours in the dark.
pub fn dark_style() -> String {
    let rule = |(light, dark): &(RGBColor, RGBColor)| {
        let (light, dark) = (hex(*light), hex(*dark));
        format!("svg [fill=\"{light}\"] {{ fill: {dark}; }} svg [stroke=\"{light}\"] {{ stroke: {dark}; }}\n")
    };
    PALETTE.iter().map(rule).collect()
}

/// Drawing errors borrow the canvas; their text is enough.
pub fn fault<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

pub fn font(size: i32, color: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(color)
}

/// `text` with the middle of its left, centre or right side `at` a place.
pub fn write(area: &Area, text: &str, at: (i32, i32), side: HPos, size: i32, color: &RGBColor) -> Result<()> {
    let style = font(size, color).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style)).map_err(fault)
}

/// `text` turned to run upwards, with its end below a place.
pub fn write_upright(area: &Area, text: &str, at: (i32, i32), size: i32) -> Result<()> {
    let font = ("sans-serif", size).into_font().transform(FontTransform::Rotate270);
    let style = TextStyle::from(font).color(&INK).pos(Pos::new(HPos::Right, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style)).map_err(fault)
}

/// A title and a legend; gives the area below them.
fn headed<'a>(area: &Area<'a>, title: &str, legend: &[Mark]) -> Result<Area<'a>> {
    const LINE: i32 = 20;
    write(area, title, (MARGIN, MARGIN + TITLE / 2), HPos::Left, TITLE, &INK)?;
    let (mut x, mut y) = (MARGIN, MARGIN + TITLE + 12);
    let most = area.dim_in_pixel().0 as i32 - MARGIN;
    for Mark { name, color, swatch } in legend {
        let width = 32 + area.estimate_text_size(name, &font(TEXT, &INK)).map_err(fault)?.0 as i32;
        if x > MARGIN && x + width > most {
            (x, y) = (MARGIN, y + LINE);
        }
        match swatch {
            Swatch::Line(look) => lines::stroke(area, &[(x, y), (x + 22, y)], *color, *look)?,
            Swatch::Bar(filled) => bars::bar(area, [(x + 6, y - 6), (x + 22, y + 6)], *color, *filled)?,
            Swatch::Dot(filled) => lines::dot(area, (x + 14, y), 6, *color, *filled)?,
        }
        write(area, name, (x + 28, y), HPos::Left, TEXT, &INK)?;
        x += width + 12;
    }
    let top = if legend.is_empty() { MARGIN + TITLE + 6 } else { y + 12 };
    Ok(area.split_vertically(top).1)
}

/// At most so many letters of a name.
pub fn shortened(name: &str, most: usize) -> String {
    if name.chars().count() <= most { name.to_owned() } else { name.chars().take(most - 1).chain(['…']).collect() }
}

/// A value in as few digits as tell neighbouring ticks apart.
fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() || text == "-" { "0".to_owned() } else { text.to_owned() }
}
