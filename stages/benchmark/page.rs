//! `index.html`: one file that needs nothing else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use similiai::metrics::METRICS;

use super::Findings;
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

pub fn render(findings: &Findings, curves: &[u8], seed: u64) -> String {
    let facts = &findings.embeddings.facts;
    let fact = |name: &str| facts.get(name).map(String::as_str).unwrap_or_default();
    let first = &findings.protocols[0];
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "SimiliAI report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "SimiliAI report" }
                p.soft { (findings.embeddings.len()) " images, embedded in " (findings.embeddings.dimension) " dimensions, seed " (seed) }
                p.headline { (format!("{:.3}", first.scores[0].value)) }
                p { "mean " b { (METRICS[0].name) } ", " (first.name) ": " (METRICS[0].definition) ". Chance is " (format!("{:.3}", first.scores[0].chance)) "." }
                h2 { "Retrieval" }
                @for protocol in &findings.protocols { (table(protocol)) }
                h2 { "Training" }
                (picture(curves, "Loss and held-out precision by epoch", "wide"))
                h2 { "Neighbours" }
                p.soft {
                    "Queries drawn at random from the test images, and their nearest training images. "
                    "✓ and a solid frame: the query's class. ✗ and a dashed frame: another class. Below each its distance."
                }
                @for example in &findings.examples { (row(findings, example)) }
                h2 { "Provenance" }
                table {
                    tr { th { "model (BLAKE3)" } td { code { (fact("similiai.model")) } } }
                    tr { th { "preprocessing" } td { code { (fact("similiai.preprocessing")) } } }
                    tr { th { "distance" } td { (fact("similiai.metric")) } }
                }
                p.soft { "Intervals are 95 % percentile bootstrap intervals over queries. The same seed and inputs give the same bytes of this page." }
            }
        }
    };
    page.into_string()
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
                    figcaption { b { (if right { "✓ " } else { "✗ " }) (names[neighbour.id]) } br; (format!("{:.3}", neighbour.distance)) }
                }
            }
        }
    }
}

fn picture(png: &[u8], alt: &str, class: &str) -> Markup {
    html! { img class=[(!class.is_empty()).then_some(class)] alt=(alt) src=(format!("data:image/png;base64,{}", STANDARD.encode(png))); }
}
