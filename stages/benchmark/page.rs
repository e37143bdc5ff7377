//! `index.html`: one file that needs nothing else.

use maud::{Markup, html};
use similiai::embeddings::{COLUMNS, FILE};
use similiai::metrics::METRICS;
use similiai::page;
use similiai::search::Parameters;

use super::Findings;
use super::approximate::{Curve, K};
use super::protocols::{Example, Protocol};

const STYLE: &str = "
:root { --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --right: #00734f; --wrong: #b34700; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; } .soft { color: var(--soft); }
.headline { font-size: 3rem; font-weight: 650; line-height: 1.1; margin: 1rem 0 0; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
img.wide { max-width: 100%; height: auto; }
.row { display: flex; gap: .75rem; flex-wrap: wrap; padding: .6rem 0; border-bottom: 1px solid var(--line); }
figure { margin: 0; width: 6.5rem; font-size: .85rem; } figure img { width: 100%; box-sizing: border-box; border: 4px solid var(--line); border-radius: 6px; }
figure.right img { border: 4px solid var(--right); } figure.wrong img { border: 4px dashed var(--wrong); }
figure.right b { color: var(--right); } figure.wrong b { color: var(--wrong); }
code { overflow-wrap: anywhere; }
";

pub fn render(findings: &Findings, (training, calibration): (&[u8], &[u8]), seed: u64) -> String {
    let first = &findings.protocols[0];
    let body = html! {
        h1 { "SimiliAI report" }
        p.soft { (findings.embeddings.len()) " images, embedded in " (findings.embeddings.dimension) " dimensions, seed " (seed) }
        p.headline { (format!("{:.3}", first.scores[0].value)) }
        p { "mean " b { (METRICS[0].name) } ", " (first.name) ": " (METRICS[0].definition) ". Chance is " (format!("{:.3}", first.scores[0].chance)) "." }
        h2 { "Retrieval" }
        @for protocol in &findings.protocols { (table(protocol)) }
        h2 { "Training" }
        (picture(training, "Loss and held-out precision by epoch", "wide"))
        h2 { "What a distance means" }
        p.soft {
            "Fitted to held-out training pictures: the chance that a neighbour at some distance is of the query's "
            "class. Here it is held against the test pictures' five nearest neighbours: "
            @for (place, protocol) in findings.protocols.iter().enumerate() {
                @if place > 0 { ", " }
                (protocol.name) " off by " b { (format!("{:.3}", protocol.reliability.expected_error)) } " on average"
            }
            " (expected calibration error, ten groups). A dot's size is its share of the neighbours."
        }
        (picture(calibration, "Chance foretold against share that was right", "wide"))
        @if let Some(curve) = &findings.curve { (approximate(curve)) }
        h2 { "Neighbours" }
        p.soft {
            "Queries drawn at random from the test images, and their nearest training images. "
            "✓ and a solid frame: the query's class. ✗ and a dashed frame: another class. Below each its distance "
            "and the chance, by its distance, that it is of the query's class."
        }
        @for example in &findings.examples { (row(findings, example)) }
        (card(findings))
        p.soft { "Intervals are 95 % percentile bootstrap intervals over queries. The same seed and inputs give the same bytes of this page." }
    };
    page::whole("SimiliAI report", STYLE, body)
}

fn table(protocol: &Protocol) -> Markup {
    html! {
        h3 { (protocol.name) }
        p.soft { (protocol.queries) " queries in a gallery of " (protocol.gallery) ": " (protocol.question) "." }
        table {
            thead { tr { th { "metric" } th { "value" } th { "95 % interval" } th { "chance" } th { "what it is" } } }
            tbody {
                @for (metric, score) in METRICS.iter().zip(&protocol.scores) {
                    tr {
                        td { b { (metric.name) } }
                        td.number { b { (format!("{:.3}", score.value)) } }
                        td.number { (format!("{:.3} – {:.3}", score.low, score.high)) }
                        td.number { (format!("{:.3}", score.chance)) }
                        td.soft { (metric.definition) }
                    }
                }
            }
        }
    }
}

fn approximate(curve: &Curve) -> Markup {
    let Parameters { m, ef_construction, .. } = curve.parameters;
    html! {
        h2 { "Approximate search" }
        p.soft {
            "The index (HNSW, M " (m) ", ef_construction " (ef_construction) ") against exact search: " (curve.queries)
            " queries among all " (curve.gallery) " pictures. Exact search measures " (curve.gallery) " distances for each."
        }
        table {
            thead { tr { th { "ef" } th { "recall@" (K) } th { "distances measured for a query" } } }
            tbody {
                @for point in &curve.points {
                    tr {
                        td.number { (point.ef) }
                        td.number { b { (format!("{:.4}", point.recall)) } }
                        td.number { (format!("{:.0}", point.distances)) }
                    }
                }
            }
        }
    }
}

/// What the Parquet file holds and where it comes from.
fn card(findings: &Findings) -> Markup {
    let Findings { embeddings, digest, .. } = findings;
    html! {
        h2 { "Data card" }
        p { "The embeddings are " code { (FILE) } ": " (embeddings.len()) " rows, sorted by " code { "id" } ", for any Parquet reader." }
        table {
            thead { tr { th { "column" } th { "type" } th { "what it is" } } }
            tbody {
                @for (name, kind, what) in COLUMNS {
                    tr { td { code { (name) } } td { (kind) } td { (what) } }
                }
            }
        }
        p.soft { "Its footer says how the rows were made:" }
        table {
            tr { th { "file (BLAKE3)" } td { code { (digest) } } }
            @for (name, value) in &embeddings.facts {
                tr { th { (name.strip_prefix("similiai.").unwrap_or(name)) } td { code { (value) } } }
            }
        }
    }
}

fn row(findings: &Findings, example: &Example) -> Markup {
    let names = &findings.embeddings.label_names;
    let image = |id: usize| picture(&findings.pictures[&id], &findings.embeddings.paths[id], "");
    html! {
        div.row {
            figure { (image(example.query)) figcaption { b { (names[example.query]) } br; "query" } }
            @for neighbour in &example.neighbours {
                @let right = names[neighbour.id] == names[example.query];
                figure class=(if right { "right" } else { "wrong" }) {
                    (image(neighbour.id))
                    figcaption { b { (if right { "✓ " } else { "✗ " }) (names[neighbour.id]) } br; (format!("{:.3} · {:.0} %", neighbour.distance, 100.0 * findings.calibration.learned.chance(neighbour.distance))) }
                }
            }
        }
    }
}

fn picture(png: &[u8], alt: &str, class: &str) -> Markup {
    html! { img class=[(!class.is_empty()).then_some(class)] alt=(alt) src=(page::source(png)); }
}
