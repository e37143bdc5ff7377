//! Charts of the failures of a protocol: by number of neighbours, by class, by hub, and by distance.

use anyhow::Result;
use plotters::element::{PathElement, Rectangle};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, RGBColor};
use similiai::report::charts::{self, Axes, BLUE, Band, FAINT, GREEN, GREY, INK, Line, Look, MARGIN, ORANGE, Series};
use similiai::retrieval::metrics::PRECISION_AT_5;

use super::{Chart, Failures, LOOKS, SIZE};
use crate::stages::benchmark::Findings;
use crate::stages::benchmark::distances::Distances;
use crate::stages::benchmark::protocols::Protocol;

pub fn draw(findings: &Findings) -> Result<Vec<Failures>> {
    let one = |(place, protocol): (usize, &Protocol)| {
        Ok(Failures {
            at_k: at_k(findings, place, protocol)?,
            confusion: confusion(protocol)?,
            hubness: hubness(place, protocol)?,
            distances: distances(protocol)?,
        })
    };
    findings.protocols.iter().enumerate().map(one).collect()
}

fn figure(what: &str, protocol: &Protocol, alt: String, svg: String) -> Chart {
    Chart { name: format!("benchmark_{what}_{}", protocol.question.name), alt, svg }
}

fn at_k(findings: &Findings, place: usize, protocol: &Protocol) -> Result<Chart> {
    let points = &protocol.at_k;
    let band = points.iter().map(|point| (point.k as f64, (point.low, point.high))).collect();
    let line = |name, color: RGBColor, look, points: Vec<(f64, f64)>| Series::Line(Line { name, color, look, points });
    let mut series = vec![
        Series::Band(Band { color: BLUE, points: band }),
        line("this network", BLUE, Look::Solid, points.iter().map(|point| (point.k as f64, point.value)).collect()),
    ];
    for (baseline, (color, look)) in findings.baselines.iter().zip([(ORANGE, Look::Dashed), (GREEN, Look::Dotted)]) {
        let reached = baseline.reached[place].at_k.iter().map(|point| (point.k as f64, point.value)).collect();
        series.push(line(baseline.name, color, look, reached));
    }
    let (chance, last) = (protocol.scores[PRECISION_AT_5].chance, points.last().map_or(1.0, |point| point.k as f64));
    series.push(line("baseline", GREY, Look::Solid, vec![(1.0, chance), (last, chance)]));
    let axes = Axes { names: ("k", "precision@k"), x: Some(1.0..last.max(2.0)), y: Some(0.0..1.0) };
    let title = format!("Precision@k, {}", protocol.question.name);
    let told = points.iter().filter(|point| [1, 5, 10, 50].contains(&point.k));
    let told: Vec<String> = told.map(|point| format!("{:.3} at k = {}", point.value, point.k)).collect();
    let alt = format!("Precision by number of neighbours, {}: {}.", protocol.question.name, told.join(", "));
    let svg = charts::svg(SIZE, |area| charts::lines(area, &title, &axes, &series))?;
    Ok(figure("precision_at_k", protocol, alt, svg))
}

/// A cell for each pair of classes. Its shade is the share of the row; it shows the count if there is room.
fn confusion(protocol: &Protocol) -> Result<Chart> {
    const NAMES: i32 = 84;
    const TOP: i32 = MARGIN + charts::TITLE + 12;
    /// A smaller cell, in pixels, has no room for a number.
    const ROOM: i32 = 18;
    let confusion = &protocol.confusion;
    let classes = confusion.classes.len() as i32;
    let cell = ((SIZE.0 as i32 - NAMES - 2 * MARGIN) / classes.max(1)).clamp(1, 48);
    let size = charts::TEXT.min(cell + 2);
    let height = TOP + cell * classes + NAMES;
    let title = format!("Classes of the 5 nearest, {}", protocol.question.name);
    let svg = charts::svg((SIZE.0, height as u32), |area| {
        charts::write(area, &title, (MARGIN, MARGIN + charts::TITLE / 2), HPos::Left, charts::TITLE, &INK)?;
        for (row, name) in confusion.classes.iter().enumerate() {
            let (y, name) = (TOP + row as i32 * cell, charts::shortened(name, 12));
            charts::write(area, &name, (NAMES - 4, y + cell / 2), HPos::Right, size, &INK)?;
            charts::write_upright(area, &name, (NAMES + row as i32 * cell + cell / 2, TOP + cell * classes + 6), size)?;
            let counts = confusion.shares(row).zip(&confusion.counts[row]).enumerate();
            for (column, (share, count)) in counts.filter(|(_, (_, count))| **count > 0) {
                let x = NAMES + column as i32 * cell;
                // The shade stays light enough for the number to be read.
                let shade = BLUE.mix(0.45 * share);
                area.draw(&Rectangle::new([(x, y), (x + cell, y + cell)], shade.filled())).map_err(charts::fault)?;
                if cell >= ROOM {
                    let middle = (x + cell / 2, y + cell / 2);
                    charts::write(area, &count.to_string(), middle, HPos::Center, size.min(12), &INK)?;
                }
            }
        }
        for line in (0..=classes).map(|line| line * cell) {
            let (end_x, end_y) = (NAMES + cell * classes, TOP + cell * classes);
            let lines = [[(NAMES, TOP + line), (end_x, TOP + line)], [(NAMES + line, TOP), (NAMES + line, end_y)]];
            lines.iter().try_for_each(|it| area.draw(&PathElement::new(it.to_vec(), FAINT)).map_err(charts::fault))?;
        }
        Ok(())
    })?;
    let worst = confusion.worst().map(|(row, column, share)| {
        let (row, column) = (&confusion.classes[row], &confusion.classes[column]);
        format!(" Most confused: {:.0} % of the neighbours of {row} are {column}.", 100.0 * share)
    });
    let alt = format!(
        "Matrix of the classes of queries (rows) and of their 5 nearest neighbours (columns), {}.{} The table has all counts.",
        protocol.question.name,
        worst.unwrap_or_default()
    );
    Ok(figure("confusion", protocol, alt, svg))
}

fn hubness(place: usize, protocol: &Protocol) -> Result<Chart> {
    let hubness = &protocol.hubness;
    let color = LOOKS[place % 2].0;
    // A step for each number of times.
    let steps = hubness.histogram.iter().enumerate().flat_map(|(times, pictures)| {
        let (x, y) = (times as f64, *pictures as f64);
        [(x - 0.5, y), (x + 0.5, y)]
    });
    let steps: Vec<(f64, f64)> = steps.collect();
    let band = steps.iter().map(|(x, y)| (*x, (0.0, *y))).collect();
    let series = [
        Series::Band(Band { color, points: band }),
        Series::Line(Line { name: "", color, look: Look::Solid, points: steps }),
    ];
    let axes = Axes { names: ("times among the 10 nearest of a query", "pictures"), x: None, y: None };
    let title = format!("Hubs, {}", protocol.question.name);
    let alt = format!(
        "Histogram of how often a picture is among the 10 nearest, {}: {:.1} times on average, at most {} times, {:.0} % never; skewness {:.2}.",
        protocol.question.name,
        hubness.mean,
        hubness.histogram.len().saturating_sub(1),
        100.0 * hubness.never,
        hubness.skewness
    );
    let svg = charts::svg(SIZE, |area| charts::lines(area, &title, &axes, &series))?;
    Ok(figure("hubness", protocol, alt, svg))
}

fn distances(protocol: &Protocol) -> Result<Chart> {
    let Distances { width, same, different, overlap, .. } = &protocol.distances;
    let steps = |counts: &[u64]| -> Vec<(f64, f64)> {
        let shares = Distances::shares(counts).enumerate();
        shares.flat_map(|(bin, share)| [(bin as f64 * width, share), ((bin + 1) as f64 * width, share)]).collect()
    };
    let mut series = Vec::new();
    for (name, counts, color, look) in
        [("same class", same, BLUE, Look::Solid), ("different classes", different, ORANGE, Look::Dashed)]
    {
        let points = steps(counts);
        series.push(Series::Band(Band { color, points: points.iter().map(|(x, y)| (*x, (0.0, *y))).collect() }));
        series.push(Series::Line(Line { name, color, look, points }));
    }
    let axes = Axes { names: ("distance", "share of pairs"), x: None, y: None };
    let overlap = overlap.map_or("unknown".to_owned(), |overlap| format!("{overlap:.2}"));
    let title = format!("Distances, {}: overlap {overlap}", protocol.question.name);
    let alt = format!(
        "Histograms of the distances of pairs of one class and of different classes, {}; their overlap is {overlap}.",
        protocol.question.name,
    );
    let svg = charts::svg(SIZE, |area| charts::lines(area, &title, &axes, &series))?;
    Ok(figure("distances", protocol, alt, svg))
}
