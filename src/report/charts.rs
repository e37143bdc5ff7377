//! Charts, which are drawn once as SVG: a page shows the SVG in its own colours, and a PNG is made from it.

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

/// Colours that people with any colour vision can tell apart (Okabe and Ito 2008), with a contrast of 3:1 against white
/// (WCAG 2.2, 1.4.11).
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
pub const ORANGE: RGBColor = RGBColor(213, 94, 0);
pub const GREEN: RGBColor = RGBColor(0, 158, 115);
pub const PURPLE: RGBColor = RGBColor(170, 68, 153);
pub const GREY: RGBColor = RGBColor(89, 99, 110);
pub const INK: RGBColor = RGBColor(40, 44, 52);
pub const FAINT: RGBColor = RGBColor(222, 226, 230);

/// Each colour, and its colour in dark mode.
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
/// Distance between a chart and its border, in pixels.
pub const MARGIN: i32 = 8;

/// How series differ, in addition to their colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Solid,
    Dashed,
    Dotted,
}

/// The symbol before a name in a legend.
#[derive(Debug, Clone, Copy)]
pub enum Swatch {
    Line(Look),
    /// Filled if true, otherwise framed.
    Bar(bool),
    /// A disc if true, otherwise a ring.
    Dot(bool),
}

/// An entry of a legend.
pub struct Mark<'a> {
    pub name: &'a str,
    pub color: RGBColor,
    pub swatch: Swatch,
}

/// Draws a picture of `size` pixels as SVG.
pub fn svg(size: (u32, u32), picture: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // This fails only on bytes that are not a font. These bytes are fixed.
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

/// A colour as in an SVG, for example `#0072B2`.
pub fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// CSS that gives charts their colours in dark mode.
pub fn dark_style() -> String {
    let rule = |(light, dark): &(RGBColor, RGBColor)| {
        let (light, dark) = (hex(*light), hex(*dark));
        format!("svg [fill=\"{light}\"] {{ fill: {dark}; }} svg [stroke=\"{light}\"] {{ stroke: {dark}; }}\n")
    };
    PALETTE.iter().map(rule).collect()
}

/// Turns a drawing error into its text, because the error borrows the canvas.
pub fn fault<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

pub fn font(size: i32, color: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(color)
}

/// Writes `text`. `at` is the middle of its left side, its centre, or the middle of its right side.
pub fn write(area: &Area, text: &str, at: (i32, i32), side: HPos, size: i32, color: &RGBColor) -> Result<()> {
    let style = font(size, color).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style)).map_err(fault)
}

/// Writes `text` upwards. `at` is the position of its end.
pub fn write_upright(area: &Area, text: &str, at: (i32, i32), size: i32) -> Result<()> {
    let font = ("sans-serif", size).into_font().transform(FontTransform::Rotate270);
    let style = TextStyle::from(font).color(&INK).pos(Pos::new(HPos::Right, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style)).map_err(fault)
}

/// Draws a title and a legend. Returns the area below them.
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

/// Shortens a name to at most `most` letters.
pub fn shortened(name: &str, most: usize) -> String {
    if name.chars().count() <= most { name.to_owned() } else { name.chars().take(most - 1).chain(['…']).collect() }
}

/// Writes a value with up to four decimals, without zeros at the end.
fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() || text == "-" { "0".to_owned() } else { text.to_owned() }
}
