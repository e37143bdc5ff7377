//! The map of the test pictures, with a mark for each in the shape and colour of its class.

use maud::html;
use similiai::report::charts::{self, ClassMark, INK, SHAPES, hex};

use super::Chart;
use crate::stages::benchmark::Findings;
use similiai::report::results::Point;

const SIDE: f32 = 620.0;
const MARGIN: f32 = 22.0;
/// Number of classes in a row of the legend.
const IN_A_ROW: usize = 5;
/// Number of thumbnails in a row of the sheet.
pub const COLUMNS: usize = 32;
/// Side of a thumbnail, in pixels.
pub const TILE: u32 = 32;

pub fn draw(findings: &Findings) -> Chart {
    let (map, embeddings) = (&findings.map, &findings.main.embeddings);
    let labels: Vec<i32> = findings.classes.keys().copied().collect();
    let place_of = |label: i32| labels.iter().position(|other| *other == label).unwrap_or(0);
    let x = |point: &Point| MARGIN + point.x * (SIDE - 2.0 * MARGIN);
    // SVG counts from the top, and the map from the bottom.
    let y = |point: &Point| MARGIN + (1.0 - point.y) * (SIDE - 2.0 * MARGIN);
    // The name of a class is at the median of its pictures, in both directions.
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
        let ClassMark { shape, color, filled } = ClassMark::of(place);
        let (color, none) = (hex(color), "none".to_owned());
        (format!("#mark-{shape}"), if filled { (color, none) } else { (none, color) })
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
        "Map of {} test pictures by {}, a mark for each: pictures with similar embeddings are close together.",
        map.points.len(),
        map.method
    );
    Chart { name: "benchmark_map".to_owned(), alt, svg: svg.into_string() }
}
