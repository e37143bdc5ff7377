//! The charts of the report, as SVG for its page and for `benchmark_*.png`.

mod failures;
mod map;
mod pipeline;

use anyhow::Result;
use plotters::style::RGBColor;
use similiai::report::charts::{self, Axes, BLUE, Bar, Dots, GREY, Line, Look, Mark, ORANGE, Row, Series, Swatch};
use similiai::retrieval::metrics::{METRICS, Metric, PRECISION_AT_5, Score};

use super::Findings;
use super::baselines::Reached;
use super::protocols::{Class, Protocol, QUESTIONS};
use similiai::report::training_log::{Panel, panels};

pub use map::{COLUMNS as SPRITE_COLUMNS, TILE};

/// Size of a chart, in pixels: narrow enough for a phone.
const SIZE: (u32, u32) = (460, 330);

pub struct Chart {
    /// Name of its file, without the extension.
    pub name: String,
    /// Text alternative: what the chart shows.
    pub alt: String,
    pub svg: String,
}

/// All charts of the report.
pub struct Charts {
    pub headline: Chart,
    pub scores: Chart,
    pub classes: Chart,
    pub calibration: Chart,
    pub map: Chart,
    pub pipeline: Chart,
    /// One for each protocol, in the same order.
    pub failures: Vec<Failures>,
    /// One for each panel of the training curves. These charts have no files.
    pub training: Vec<Chart>,
}

/// Charts about the failures of one protocol.
pub struct Failures {
    pub at_k: Chart,
    pub confusion: Chart,
    pub hubness: Chart,
    pub distances: Chart,
}

impl Charts {
    pub fn draw(findings: &Findings) -> Result<Self> {
        Ok(Self {
            headline: headline(findings)?,
            scores: scores(findings)?,
            classes: classes(findings)?,
            calibration: calibration(findings)?,
            map: map::draw(findings),
            pipeline: pipeline::draw(findings)?,
            failures: failures::draw(findings)?,
            training: training(findings)?,
        })
    }

    /// The charts that have a file.
    pub fn files(&self) -> impl Iterator<Item = &Chart> {
        let Self { headline, scores, classes, calibration, map, pipeline, failures, .. } = self;
        let failures = failures.iter().flat_map(|it| [&it.at_k, &it.confusion, &it.hubness, &it.distances]);
        [headline, scores, classes, calibration, map, pipeline].into_iter().chain(failures)
    }
}

/// Looks of the protocols, the same in every chart: a colour, and filled or outlined bars.
pub const LOOKS: [(RGBColor, bool); 2] = [(BLUE, true), (ORANGE, false)];

fn marks() -> Vec<Mark<'static>> {
    let looks = QUESTIONS.iter().zip(LOOKS);
    looks.map(|(it, (color, filled))| Mark { name: it.name, color, swatch: Swatch::Bar(filled) }).collect()
}

fn bar(place: usize, score: &Score) -> Bar {
    let (color, filled) = LOOKS[place % 2];
    Bar { color, filled, value: score.value, interval: Some((score.low, score.high)), chance: Some(score.chance) }
}

/// Precision@5 of this network, without learning, and of the original project.
fn headline(findings: &Findings) -> Result<Chart> {
    let own =
        findings.protocols.iter().enumerate().map(|(place, protocol)| bar(place, &protocol.scores[PRECISION_AT_5]));
    let mut rows = vec![Row { name: "this network", bars: own.collect() }];
    for baseline in &findings.baselines {
        let reached = |(place, reached): (usize, &Reached)| bar(place, &reached.precision);
        rows.push(Row { name: baseline.name, bars: baseline.reached.iter().enumerate().map(reached).collect() });
    }
    if let Some(value) = findings.original() {
        let bar = Bar { color: GREY, filled: true, value, interval: None, chance: None };
        rows.push(Row { name: "the original", bars: vec![bar] });
    }
    let values = rows.iter().map(|row| {
        let values: Vec<String> = row.bars.iter().map(|bar| format!("{:.3}", bar.value)).collect();
        format!("{} {}", row.name, values.join(" and "))
    });
    let values = values.collect::<Vec<String>>().join(", ");
    Ok(Chart {
        name: "benchmark_headline".to_owned(),
        alt: format!("Bars of precision@5, test-vs-train and test-vs-test: {values}."),
        svg: charts::bars(SIZE.0, "Precision@5; vertical line: baseline", &marks(), &rows)?,
    })
}

/// All metrics of all protocols.
fn scores(findings: &Findings) -> Result<Chart> {
    let row = |(column, metric): (usize, &'static Metric)| {
        let bars = findings.protocols.iter().enumerate().map(|(place, it)| bar(place, &it.scores[column]));
        Row { name: metric.name, bars: bars.collect() }
    };
    let rows: Vec<Row> = METRICS.iter().enumerate().map(row).collect();
    Ok(Chart {
        name: "benchmark_scores".to_owned(),
        alt: "Bars of all metrics for both protocols, with intervals and baselines; the tables have the same values."
            .to_owned(),
        svg: charts::bars(SIZE.0, "All metrics; vertical line: baseline", &marks(), &rows)?,
    })
}

/// Precision@5 of each class's queries.
fn classes(findings: &Findings) -> Result<Chart> {
    let of = |protocol: &Protocol, place: usize, name: &str| {
        let class = protocol.classes.iter().find(|class| class.label_name == name)?;
        Some(bar(place, &class.score))
    };
    let row = |name: &'_ String| {
        let bars = findings.protocols.iter().enumerate().filter_map(|(place, it)| of(it, place, name));
        bars.collect::<Vec<Bar>>()
    };
    let rows = findings.classes.values().map(|name| Row { name, bars: row(name) });
    let rows: Vec<Row> = rows.filter(|row| !row.bars.is_empty()).collect();
    let first = &findings.protocols[0];
    let by_value = |a: &&Class, b: &&Class| a.score.value.total_cmp(&b.score.value);
    let told = |class: Option<&Class>| class.map(|it| format!("{} ({:.3})", it.label_name, it.score.value));
    Ok(Chart {
        name: "benchmark_classes".to_owned(),
        alt: format!(
            "Bars of precision@5 by class of the query, with intervals. {}, best: {}; worst: {}.",
            first.question.name,
            told(first.classes.iter().max_by(by_value)).unwrap_or_default(),
            told(first.classes.iter().min_by(by_value)).unwrap_or_default()
        ),
        svg: charts::bars(SIZE.0, "Precision@5 by class of the query", &marks(), &rows)?,
    })
}

/// Match probability against the share that was right, one dot for each group. On the diagonal, both are equal.
fn calibration(findings: &Findings) -> Result<Chart> {
    let diagonal = vec![(0.0, 0.0), (1.0, 1.0)];
    let mut series =
        vec![Series::Line(Line { name: "as predicted", color: GREY, look: Look::Dotted, points: diagonal })];
    for (protocol, (color, filled)) in findings.protocols.iter().zip(LOOKS) {
        let groups = &protocol.reliability.groups;
        let most = groups.iter().map(|group| group.neighbours).max().unwrap_or(1);
        // The size of a dot grows with its share of the neighbours.
        let radius = |neighbours: usize| (3.0 + 7.0 * (neighbours as f64 / most as f64).sqrt()).round() as i32;
        let points = groups.iter().map(|group| (group.foretold, group.right, radius(group.neighbours))).collect();
        series.push(Series::Dots(Dots { name: protocol.question.name, color, filled, points }));
    }
    let axes =
        Axes { names: ("match probability", "share of the query's class"), x: Some(0.0..1.0), y: Some(0.0..1.0) };
    let errors = findings.protocols.iter().map(|protocol| {
        format!("{} off by {:.3} on average", protocol.question.name, protocol.reliability.expected_error)
    });
    Ok(Chart {
        name: "benchmark_calibration".to_owned(),
        alt: format!(
            "Match probability against the share that was right, in ten groups: {}.",
            errors.collect::<Vec<String>>().join(", ")
        ),
        svg: charts::svg((SIZE.0, 400), |area| charts::lines(area, "Is the match probability right?", &axes, &series))?,
    })
}

fn training(findings: &Findings) -> Result<Vec<Chart>> {
    let panels = panels(&findings.epochs);
    let figure = |(place, panel): (usize, &Panel)| {
        let last = panel.series.iter().filter_map(|series| match series {
            Series::Line(line) => Some(format!("{} ends at {:.4}", line.name, line.points.last()?.1)),
            _ => None,
        });
        Ok(Chart {
            name: format!("training_{place}"),
            alt: format!("{} by epoch: {}.", panel.title, last.collect::<Vec<String>>().join(", ")),
            svg: charts::svg((SIZE.0, 280), |area| panel.draw(area))?,
        })
    };
    // A panel of a term that was not used would be empty.
    let shown = |panel: &&Panel| {
        panel.series.iter().any(|series| matches!(series, Series::Line(line) if line.points.iter().any(|p| p.1 != 0.0)))
    };
    panels.iter().filter(shown).enumerate().map(figure).collect()
}
