//! The map of the test pictures: a mark for each, by class in shape and colour, that a page can point at.

use maud::html;
use plotters::style::RGBColor;
use similiai::charts::{self, BLUE, GREEN, GREY, INK, ORANGE, PURPLE, hex};

use super::Figure;
use crate::stages::benchmark::Findings;
use crate::stages::benchmark::projection::Point;

const SIDE: f32 = 620.0;
const MARGIN: f32 = 22.0;
/// Classes in a row of the legend.
const IN_A_ROW: usize = 5;
/// Pictures in a row of the sheet of thumbnails, and the side of each in pixels.
pub const COLUMNS: usize = 32;
pub const TILE: u32 = 32;

const COLORS: [RGBColor; 5] = [BLUE, ORANGE, GREEN, PURPLE, GREY];
/// Around the origin; the last two are only outlines.
const SHAPES: [&str; 10] = [
    "M4.5 0A4.5 4.5 0 1 1 -4.5 0A4.5 4.5 0 1 1 4.5 0Z",
    "M-4 -4H4V4H-4Z",
    "M0 -5L5 4H-5Z",
    "M0 -5.5L5.5 0L0 5.5L-5.5 0Z",
    "M0 5L5 -4H-5Z",
    "M-1.6 -5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z",
    "M-4.6 -2.4L-2.4 -4.6L0 -2.2L2.4 -4.6L4.6 -2.4L2.2 0L4.6 2.4L2.4 4.6L0 2.2L-2.4 4.6L-4.6 2.4L-2.2 0Z",
    "M0 -6L1.6 -2L5.8 -1.8L2.5 .8L3.6 4.9L0 2.6L-3.6 4.9L-2.5 .8L-5.8 -1.8L-1.6 -2Z",
    "M4 0A4 4 0 1 1 -4 0A4 4 0 1 1 4 0Z",
    "M-3.6 -3.6H3.6V3.6H-3.6Z",
];

pub fn draw(findings: &Findings) -> Figure {
    let (map, embeddings) = (&findings.map, &findings.main.embeddings);
    let labels: Vec<i32> = findings.classes.keys().copied().collect();
    let place_of = |label: i32| labels.iter().position(|other| *other == label).unwrap_or(0);
    let x = |point: &Point| MARGIN + point.x * (SIDE - 2.0 * MARGIN);
    // Up is up.
    let y = |point: &Point| MARGIN + (1.0 - point.y) * (SIDE - 2.0 * MARGIN);
    // The place of each class's name: the middle one across, and the middle one upwards.
    let middle = |label: i32| {
        let own = || map.points.iter().filter(move |point| embeddings.labels[point.id] == label);
        let median = |mut values: Vec<f32>| {
            values.sort_by(f32::total_cmp);
            values.get(values.len() / 2).copied()
        };
        Some((median(own().map(x).collect())?, median(own().map(y).collect())?))
    };
    let rows = labels.len().div_ceil(IN_A_ROW);
    let height = SIDE + 24.0 * rows as f32 + 8.0;
    let mark = |place: usize| {
        let (shape, color) = (place % SHAPES.len(), hex(COLORS[(place + place / SHAPES.len()) % COLORS.len()]));
        (format!("#mark-{shape}"), if shape < 8 { (color, "none".to_owned()) } else { ("none".to_owned(), color) })
    };
    let svg = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(SIDE) height=(height) viewBox=(format!("0 0 {SIDE} {height}")) font-family="sans-serif" {
            defs { @for (place, shape) in SHAPES.iter().enumerate() { path id=(format!("mark-{place}")) d=(shape) stroke-width="1.8" {} } }
            g id="points" {
                @for (place, point) in map.points.iter().enumerate() {
                    @let (shape, (fill, stroke)) = mark(place_of(embeddings.labels[point.id]));
                    use id=(format!("point-{place}")) href=(shape) x=(format!("{:.1}", x(point))) y=(format!("{:.1}", y(point))) fill=(fill) stroke=(stroke) opacity="0.85" {}
                }
            }
            g text-anchor="middle" font-size="17" {
                @for (label, name) in &findings.classes {
                    @if let Some((x, y)) = middle(*label) {
                        text class="halo" x=(format!("{x:.1}")) y=(format!("{y:.1}")) fill=(hex(INK)) stroke="#FFFFFF" stroke-width="4" stroke-linejoin="round" style="paint-order:stroke" { (name) }
                    }
                }
            }
            g font-size="15.5" {
                @for (place, name) in findings.classes.values().enumerate() {
                    @let (shape, (fill, stroke)) = mark(place);
                    @let (x, y) = (MARGIN + (place % IN_A_ROW) as f32 * 118.0, SIDE + 14.0 + (place / IN_A_ROW) as f32 * 24.0);
                    use href=(shape) x=(x) y=(y) fill=(fill) stroke=(stroke) {}
                    text x=(x + 12.0) y=(y + 5.0) fill=(hex(INK)) { (charts::shortened(name, 13)) }
                }
            }
        }
    };
    let alt = format!(
        "Map of {} test pictures by {}, a mark for each: pictures with similar embeddings lie near each other.",
        map.points.len(),
        map.method
    );
    Figure { name: "benchmark_map".to_owned(), alt, svg: svg.into_string() }
}
