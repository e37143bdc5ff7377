//! The pipeline as an arc diagram, with each step below the results that it reads.

use anyhow::Result;
use plotters::element::{Circle, PathElement};
use plotters::style::Color;
use plotters::style::text_anchor::HPos;
use similiai::report::charts::{self, BLUE, GREY, INK, MARGIN};

use super::{Chart, SIZE};
use crate::stages::benchmark::Findings;

pub fn draw(findings: &Findings) -> Result<Chart> {
    const LINE: i32 = 30;
    let steps = findings.steps();
    let place_of = |name: &str| steps.iter().position(|step| step.instance == name);
    let edges: Vec<(usize, usize)> = steps
        .iter()
        .enumerate()
        .flat_map(|(to, step)| step.needs.iter().filter_map(move |need| Some((place_of(need)?, to))))
        .collect();
    let farthest = edges.iter().map(|(from, to)| to - from).max().unwrap_or(1) as i32;
    let reach = |span: usize| if span == 1 { 0 } else { 8 + 120 * span as i32 / farthest.max(1) };
    let (left, top) = (MARGIN + 132, MARGIN + charts::TITLE + 24);
    let y = |place: usize| top + LINE * place as i32;
    let height = y(steps.len().saturating_sub(1)) + LINE;
    let svg = charts::svg((SIZE.0, height as u32), |area| {
        charts::write(
            area,
            "Which step reads which result",
            (MARGIN, MARGIN + charts::TITLE / 2),
            HPos::Left,
            charts::TITLE,
            &INK,
        )?;
        for (from, to) in &edges {
            let (above, below, bulge) = (y(*from), y(*to) - 7, f64::from(reach(to - from)));
            // Half an ellipse, upright.
            let point = |step: i32| {
                let share = f64::from(step) / 24.0;
                let across = bulge * (1.0 - (2.0 * share - 1.0).powi(2)).max(0.0).sqrt();
                (left - across.round() as i32, above + (f64::from(below - above) * share).round() as i32)
            };
            let line: Vec<(i32, i32)> = (0..=24).map(point).collect();
            area.draw(&PathElement::new(line, GREY.stroke_width(1))).map_err(charts::fault)?;
        }
        for (place, step) in steps.iter().enumerate() {
            let at = (left, y(place));
            area.draw(&Circle::new(at, 5, BLUE.filled())).map_err(charts::fault)?;
            let name = match step.instance == step.stage {
                true => step.instance.to_owned(),
                false => format!("{} ({})", step.instance, step.stage),
            };
            charts::write(area, &name, (left + 14, at.1), HPos::Left, 15, &INK)?;
            charts::write(area, &step.key[..12], (SIZE.0 as i32 - MARGIN, at.1), HPos::Right, charts::TEXT, &GREY)?;
        }
        Ok(())
    })?;
    let told = steps.iter().map(|step| match step.needs.is_empty() {
        true => step.instance.to_owned(),
        false => format!("{} reads {}", step.instance, step.needs.join(", ")),
    });
    Ok(Chart {
        name: "benchmark_pipeline".to_owned(),
        alt: format!("The pipeline: {}.", told.collect::<Vec<String>>().join("; ")),
        svg,
    })
}
