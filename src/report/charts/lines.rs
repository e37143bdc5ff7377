//! Lines, bands and dots over two axes.

use std::ops::Range;

use anyhow::Result;
use plotters::element::{DashedPathElement, PathElement};
use plotters::prelude::*;

use super::{Area, FAINT, INK, Look, MARGIN, Mark, Swatch, TEXT, fault, font, headed, short};

/// What is drawn, over one pair of axes.
pub enum Series<'a> {
    Line(Line<'a>),
    Band(Band),
    Dots(Dots<'a>),
}

pub struct Line<'a> {
    pub name: &'a str,
    pub color: RGBColor,
    pub look: Look,
    /// (x, y)
    pub points: Vec<(f64, f64)>,
}

/// A range in a lighter shade.
pub struct Band {
    pub color: RGBColor,
    /// (x, (low, high))
    pub points: Vec<(f64, (f64, f64))>,
}

pub struct Dots<'a> {
    pub name: &'a str,
    pub color: RGBColor,
    /// Discs if true, otherwise rings.
    pub filled: bool,
    /// (x, y, radius in pixels)
    pub points: Vec<(f64, f64, i32)>,
}

pub struct Axes<'a> {
    /// Names of the x axis and the y axis.
    pub names: (&'a str, &'a str),
    /// Ranges of the axes. If one is `None`, everything that is drawn fits into it.
    pub x: Option<Range<f64>>,
    pub y: Option<Range<f64>>,
}

impl Series<'_> {
    /// All corners, (x, y). For a band: first the upper edge, and then the lower edge backwards.
    fn outline(&self) -> Vec<(f64, f64)> {
        match self {
            Self::Line(line) => line.points.clone(),
            Self::Dots(dots) => dots.points.iter().map(|(x, y, _)| (*x, *y)).collect(),
            Self::Band(Band { points, .. }) => {
                let upper = points.iter().map(|(x, (_, high))| (*x, *high));
                upper.chain(points.iter().rev().map(|(x, (low, _))| (*x, *low))).collect()
            }
        }
    }

    fn mark(&self) -> Option<Mark<'_>> {
        match self {
            Self::Line(Line { name, color, look, .. }) => {
                Some(Mark { name, color: *color, swatch: Swatch::Line(*look) })
            }
            Self::Dots(Dots { name, color, filled, .. }) => {
                Some(Mark { name, color: *color, swatch: Swatch::Dot(*filled) })
            }
            Self::Band(_) => None,
        }
    }
}

pub fn lines(area: &Area, title: &str, axes: &Axes, series: &[Series]) -> Result<()> {
    let marks: Vec<Mark> = series.iter().filter_map(Series::mark).filter(|mark| !mark.name.is_empty()).collect();
    let area = headed(area, title, if series.len() > 1 { &marks } else { &[] })?;
    let corners: Vec<(f64, f64)> = series.iter().flat_map(Series::outline).collect();
    let ends = |pick: fn(&(f64, f64)) -> f64| {
        let (low, high) =
            corners.iter().map(pick).fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        if low < high { low..high } else { 0.0..1.0 }
    };
    let x = axes.x.clone().unwrap_or_else(|| ends(|corner| corner.0));
    let y = axes.y.clone().unwrap_or_else(|| 0.0..ends(|corner| corner.1).end.max(1e-6) * 1.05);
    let mut chart = ChartBuilder::on(&area)
        .margin(MARGIN)
        .margin_right(2 * MARGIN)
        .x_label_area_size(38)
        .y_label_area_size(58)
        .build_cartesian_2d(x, y)
        .map_err(fault)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(font(TEXT, &INK))
        .axis_desc_style(font(TEXT, &INK))
        .x_labels(6)
        .y_labels(6)
        .x_desc(axes.names.0)
        .y_desc(axes.names.1)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .draw()
        .map_err(fault)?;
    let plotting = chart.plotting_area().strip_coord_spec();
    let at = |point: &(f64, f64)| {
        let ((x, y), (left, top)) = (chart.backend_coord(point), plotting.get_pixel_range());
        (x - left.start, y - top.start)
    };
    for series in series {
        let places: Vec<(i32, i32)> = series.outline().iter().map(at).collect();
        match series {
            Series::Line(Line { color, look, .. }) => stroke(&plotting, &places, *color, *look)?,
            Series::Band(Band { color, .. }) => {
                plotting.draw(&Polygon::new(places, color.mix(0.2).filled())).map_err(fault)?;
            }
            Series::Dots(Dots { color, filled, points, .. }) => {
                let mut dots = places.into_iter().zip(points);
                dots.try_for_each(|(place, (.., radius))| dot(&plotting, place, *radius, *color, *filled))?;
            }
        }
    }
    Ok(())
}

pub(super) fn dot(area: &Area, at: (i32, i32), radius: i32, color: RGBColor, filled: bool) -> Result<()> {
    let style = if filled { color.filled() } else { color.stroke_width(2) };
    area.draw(&Circle::new(at, radius, style)).map_err(fault)
}

pub(super) fn stroke(area: &Area, places: &[(i32, i32)], color: RGBColor, look: Look) -> Result<()> {
    let (style, places) = (color.stroke_width(2), places.to_vec());
    let dashes = |size, spacing| DashedPathElement::new(places.clone(), size, spacing, style);
    match look {
        Look::Solid => area.draw(&PathElement::new(places, style)),
        Look::Dashed => area.draw(&dashes(7, 4)),
        Look::Dotted => area.draw(&dashes(2, 3)),
    }
    .map_err(fault)
}
