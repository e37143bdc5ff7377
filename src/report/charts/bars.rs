//! Horizontal bars with intervals.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{Area, FAINT, INK, MARGIN, Mark, TEXT, fault, font, headed, short, shortened, write};

const BAR: i32 = 15;
const GAP: i32 = 9;
const AXIS: i32 = 26;

/// Bars that share one name.
pub struct Row<'a> {
    pub name: &'a str,
    pub bars: Vec<Bar>,
}

pub struct Bar {
    pub color: RGBColor,
    /// If false, the bar is framed, in a lighter shade.
    pub filled: bool,
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    /// The baseline, as a line across the bar.
    pub chance: Option<f64>,
}

fn height(rows: &[Row], legend: bool) -> u32 {
    let all: i32 = rows.iter().map(|row| GAP + BAR * row.bars.len() as i32).sum();
    (all + AXIS + MARGIN + super::TITLE + if legend { 26 } else { 8 }) as u32
}

/// Draws rows of bars from 0 to 1. The chart is as high as they need.
pub fn bars(width: u32, title: &str, legend: &[Mark], rows: &[Row]) -> Result<String> {
    super::svg((width, height(rows, !legend.is_empty())), |area| draw(area, title, legend, rows))
}

pub(super) fn bar(area: &Area, corners: [(i32, i32); 2], color: RGBColor, filled: bool) -> Result<()> {
    if filled {
        return area.draw(&Rectangle::new(corners, color.filled())).map_err(fault);
    }
    area.draw(&Rectangle::new(corners, color.mix(0.25).filled())).map_err(fault)?;
    area.draw(&Rectangle::new(corners, color.stroke_width(2))).map_err(fault)
}

fn draw(area: &Area, title: &str, legend: &[Mark], rows: &[Row]) -> Result<()> {
    let area = headed(area, title, legend)?;
    let (width, height) = area.dim_in_pixel();
    let shown = |row: &Row| shortened(row.name, 20);
    let name_width = |row: &Row| Ok(area.estimate_text_size(&shown(row), &font(TEXT, &INK)).map_err(fault)?.0);
    let names = rows.iter().map(name_width).collect::<Result<Vec<u32>>>()?.into_iter().max().unwrap_or(0);
    let left = (names as i32 + 2 * MARGIN).min(width as i32 / 2);
    let (right, bottom) = (width as i32 - 44, height as i32 - AXIS);
    let x = |value: f64| left + (value * f64::from(right - left)).round() as i32;
    for step in 0..=5 {
        let value = f64::from(step) / 5.0;
        area.draw(&PathElement::new([(x(value), 0), (x(value), bottom)], FAINT)).map_err(fault)?;
        write(&area, &short(value), (x(value), bottom + AXIS / 2), HPos::Center, TEXT, &INK)?;
    }
    let mut y = GAP / 2;
    for row in rows {
        let bars = &row.bars;
        let middle = y + BAR * bars.len() as i32 / 2;
        write(&area, &shown(row), (left - MARGIN, middle), HPos::Right, TEXT, &INK)?;
        for Bar { color, filled, value, interval, chance } in bars {
            bar(&area, [(left, y + 1), (x(*value), y + BAR - 1)], *color, *filled)?;
            let (middle, mut end) = (y + BAR / 2, x(*value));
            if let Some((low, high)) = interval {
                end = end.max(x(*high));
                let line = [(x(*low), middle), (x(*high), middle)];
                area.draw(&PathElement::new(line, INK.stroke_width(2))).map_err(fault)?;
            }
            if let Some(chance) = chance {
                let line = [(x(*chance), y - 1), (x(*chance), y + BAR + 1)];
                area.draw(&PathElement::new(line, INK.stroke_width(2))).map_err(fault)?;
            }
            write(&area, &format!("{value:.3}"), (end + 6, middle), HPos::Left, TEXT, &INK)?;
            y += BAR;
        }
        y += GAP;
    }
    Ok(())
}
