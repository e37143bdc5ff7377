//! Drawing to PNG with a font that comes with the program, so that no system font is needed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Once;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

pub type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// Readable for people with any colour vision (Okabe and Ito 2008).
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
pub const ORANGE: RGBColor = RGBColor(213, 94, 0);
pub const GREEN: RGBColor = RGBColor(0, 158, 115);
pub const INK: RGBColor = RGBColor(40, 44, 52);
pub const FAINT: RGBColor = RGBColor(222, 226, 230);

/// Draws a picture of `size` pixels into `path`, with `facts` in its text chunks.
pub fn draw(
    path: &Path,
    facts: &BTreeMap<String, String>,
    size: (u32, u32),
    picture: impl FnOnce(&Area) -> Result<()>,
) -> Result<()> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // Fails only on bytes that are no font, and these are fixed.
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
    let mut pixels = vec![255u8; (size.0 * size.1 * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        area.fill(&WHITE).map_err(fault)?;
        picture(&area)?;
        area.present().map_err(fault)?;
    }
    let image = image::RgbImage::from_raw(size.0, size.1, pixels);
    let image = image.ok_or_else(|| anyhow!("a picture of {size:?} pixels"))?;
    crate::files::write(path, &crate::images::encode_png(&image, facts)?)
}

/// Drawing errors borrow the canvas; their text is enough.
pub fn fault<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

pub fn font(size: i32, color: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(color)
}

/// What is drawn over epochs.
pub enum Series<'a> {
    Line(Line<'a>),
    Band(Band),
}

pub struct Line<'a> {
    pub name: &'a str,
    pub color: RGBColor,
    /// (epoch, value)
    pub points: Vec<(f64, f64)>,
}

/// A range in a lighter shade.
pub struct Band {
    pub color: RGBColor,
    /// (epoch, (low, high))
    pub points: Vec<(f64, (f64, f64))>,
}

impl Series<'_> {
    /// All corners, (epoch, value): of a band first the upper edge, then the lower one backwards.
    fn outline(&self) -> Vec<(f64, f64)> {
        match self {
            Self::Line(line) => line.points.clone(),
            Self::Band(Band { points, .. }) => {
                let upper = points.iter().map(|(x, (_, high))| (*x, *high));
                upper.chain(points.iter().rev().map(|(x, (low, _))| (*x, *low))).collect()
            }
        }
    }
}

/// Lines and bands over epochs, with a legend, into a part of a picture.
pub fn lines(area: &Area, title: &str, series: &[Series]) -> Result<()> {
    let corners: Vec<(f64, f64)> = series.iter().flat_map(Series::outline).collect();
    let epochs = corners.iter().fold(2.0f64, |most, (x, _)| most.max(*x));
    // Room for the legend above the lines.
    let top = corners.iter().fold(1e-6f64, |top, (_, y)| top.max(*y)) * 1.25;
    let mut chart = ChartBuilder::on(area)
        .caption(title, font(22, &INK))
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(1.0..epochs, 0.0..top)
        .map_err(fault)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(font(15, &INK))
        .x_desc("epoch")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()
        .map_err(fault)?;
    for series in series {
        match series {
            Series::Line(Line { name, color, points }) => {
                let style = color.stroke_width(2);
                let drawn = chart.draw_series(LineSeries::new(points.iter().copied(), style)).map_err(fault)?;
                drawn.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            }
            Series::Band(band) => {
                let area = Polygon::new(series.outline(), band.color.mix(0.2).filled());
                chart.draw_series([area]).map_err(fault)?;
            }
        }
    }
    let legend = SeriesLabelPosition::UpperRight;
    let mut labels = chart.configure_series_labels();
    labels.position(legend).background_style(WHITE.mix(0.85)).border_style(FAINT).label_font(font(15, &INK));
    labels.draw().map_err(fault)
}
