//! `benchmark_*.png`: the neighbours and the scores of the page as pictures.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::element::BitMapElement;
use plotters::prelude::*;
use similiai::charts::{self, Area, BLUE, FAINT, GREEN, INK, ORANGE, fault, font};
use similiai::metrics::METRICS;

use super::Findings;
use super::protocols::NEIGHBOURS;

const PICTURE: i32 = 96;
const CELL: (i32, i32) = (116, 128);
const TOP: i32 = 48;

/// A row for each example: the query, then its neighbours, right and wrong told apart by mark and frame.
pub fn neighbours(findings: &Findings, path: &Path) -> Result<()> {
    let width = CELL.0 * (NEIGHBOURS as i32 + 1) + 30;
    let height = TOP + CELL.1 * findings.examples.len() as i32;
    charts::draw(path, &findings.provenance, (width as u32, height as u32), |area| {
        text(area, "query", (10, 14), 20, &INK)?;
        text(area, "nearest training images", (CELL.0 + 30, 14), 20, &INK)?;
        for (row, example) in findings.examples.iter().enumerate() {
            let class = &findings.embeddings.label_names[example.query];
            for (column, id) in example.ids().enumerate() {
                let left = 10 + column as i32 * CELL.0 + if column > 0 { 20 } else { 0 };
                let corner = (left, TOP + row as i32 * CELL.1);
                let name = &findings.embeddings.label_names[id];
                place(area, &findings.pictures[&id], corner)?;
                match column {
                    0 => text(area, name, (left, corner.1 + PICTURE + 8), 16, &INK)?,
                    _ => marked(area, name, name == class, corner)?,
                }
            }
        }
        Ok(())
    })
}

fn text(area: &Area, text: &str, at: (i32, i32), size: i32, color: &RGBColor) -> Result<()> {
    area.draw(&Text::new(text.to_owned(), at, font(size, color))).map_err(fault)
}

fn place(area: &Area, png: &[u8], corner: (i32, i32)) -> Result<()> {
    let image = image::load_from_memory(png).context("a picture of the report is damaged")?.into_rgb8();
    let side = PICTURE as u32;
    let image = image::imageops::resize(&image, side, side, image::imageops::FilterType::CatmullRom);
    let element = BitMapElement::with_owned_buffer(corner, (side, side), image.into_raw())
        .context("a picture of the wrong size")?;
    area.draw(&element).map_err(fault)
}

/// A frame and a tick where the class is right, corners and a cross where it is wrong.
fn marked(area: &Area, name: &str, right: bool, (left, top): (i32, i32)) -> Result<()> {
    let (color, far) = (if right { GREEN } else { ORANGE }, PICTURE + 1);
    let line = |points: &[(i32, i32)]| {
        let points: Vec<(i32, i32)> = points.iter().map(|(x, y)| (left + x, top + y)).collect();
        area.draw(&PathElement::new(points, color.stroke_width(3))).map_err(fault)
    };
    let base = PICTURE + 16;
    if right {
        line(&[(-2, -2), (far, -2), (far, far), (-2, far), (-2, -2)])?;
        line(&[(1, base), (5, base + 5), (13, base - 5)])?;
    } else {
        for (x, y, dx, dy) in [(-2, -2, 1, 1), (far, -2, -1, 1), (-2, far, 1, -1), (far, far, -1, -1)] {
            line(&[(x + 24 * dx, y), (x, y), (x, y + 24 * dy)])?;
        }
        line(&[(2, base - 5), (12, base + 5)])?;
        line(&[(12, base - 5), (2, base + 5)])?;
    }
    text(area, name, (left + 20, top + PICTURE + 8), 16, &color)
}

/// Chance foretold against share that was right, a dot a group; on the diagonal where they are the same.
pub fn calibration(findings: &Findings, path: &Path) -> Result<()> {
    const SIDE: i32 = 320;
    let (left, top) = (70, 50);
    let at = |x: f64, y: f64| {
        let pixels = |value: f64| (value * f64::from(SIDE)).round() as i32;
        (left + pixels(x), top + SIDE - pixels(y))
    };
    charts::draw(path, &findings.provenance, ((left + SIDE + 30) as u32, (top + SIDE + 60) as u32), |area| {
        for tenth in (0..=10).step_by(2) {
            let value = f64::from(tenth) / 10.0;
            area.draw(&PathElement::new([at(0.0, value), at(1.0, value)], FAINT)).map_err(fault)?;
            let (x, y) = at(0.0, value);
            text(area, &format!("{value:.1}"), (x - 36, y - 8), 15, &INK)?;
            let (x, y) = at(value, 0.0);
            text(area, &format!("{value:.1}"), (x - 8, y + 8), 15, &INK)?;
        }
        area.draw(&PathElement::new([at(0.0, 0.0), at(1.0, 1.0)], INK)).map_err(fault)?;
        for (place, protocol) in findings.protocols.iter().enumerate() {
            let color = [BLUE, ORANGE][place % 2];
            let start = left + place as i32 * 170;
            area.draw(&Rectangle::new([(start, 16), (start + 16, 32)], color.filled())).map_err(fault)?;
            text(area, protocol.name, (start + 22, 16), 17, &INK)?;
            let most = protocol.reliability.groups.iter().map(|group| group.neighbours).max().unwrap_or(1);
            for group in &protocol.reliability.groups {
                // As large as its share of the neighbours.
                let radius = 3.0 + 7.0 * (group.neighbours as f64 / most as f64).sqrt();
                let dot = Circle::new(at(group.foretold, group.right), radius.round() as i32, color.mix(0.8).filled());
                area.draw(&dot).map_err(fault)?;
            }
        }
        text(area, "across: chance foretold · up: share of the query's class", (left - 40, top + SIDE + 32), 15, &INK)
    })
}

/// Bars with their intervals, and the chance level as a line across.
pub fn scores(findings: &Findings, path: &Path) -> Result<()> {
    let (left, bar, gap) = (70, 30, 34);
    let group = findings.protocols.len() as i32 * bar + gap;
    let (width, bottom, top) = (left + group * METRICS.len() as i32 + 10, 340, 60);
    let y = |value: f64| bottom - (value * f64::from(bottom - top)).round() as i32;
    charts::draw(path, &findings.provenance, (width as u32, 400), |area| {
        for tenth in (0..=10).step_by(2) {
            let value = f64::from(tenth) / 10.0;
            area.draw(&PathElement::new([(left - 8, y(value)), (width - 10, y(value))], FAINT)).map_err(fault)?;
            text(area, &format!("{value:.1}"), (left - 40, y(value) - 8), 15, &INK)?;
        }
        for (place, protocol) in findings.protocols.iter().enumerate() {
            let color = [BLUE, ORANGE][place % 2];
            let start = left + place as i32 * 200;
            area.draw(&Rectangle::new([(start, 18), (start + 16, 34)], color.filled())).map_err(fault)?;
            text(area, protocol.name, (start + 22, 18), 17, &INK)?;
            for (column, score) in protocol.scores.iter().enumerate() {
                let x = left + column as i32 * group + place as i32 * bar;
                area.draw(&Rectangle::new([(x, y(score.value)), (x + bar - 4, bottom)], color.filled()))
                    .map_err(fault)?;
                let middle = x + bar / 2 - 2;
                area.draw(&PathElement::new([(middle, y(score.low)), (middle, y(score.high))], INK.stroke_width(2)))
                    .map_err(fault)?;
                area.draw(&PathElement::new(
                    [(x - 2, y(score.chance)), (x + bar - 2, y(score.chance))],
                    INK.stroke_width(2),
                ))
                .map_err(fault)?;
            }
        }
        text(area, "line across: chance · upright line: 95 % interval", (left, bottom + 34), 15, &INK)?;
        METRICS.iter().enumerate().try_for_each(|(column, metric)| {
            text(area, metric.name, (left + column as i32 * group, bottom + 12), 15, &INK)
        })
    })
}
