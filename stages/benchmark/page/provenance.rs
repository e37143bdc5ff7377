//! The sections about the training, and about how to make the results again.

use anyhow::Result;
use maud::{Markup, html};
use similiai::retrieval::embeddings::{COLUMNS, FILE};

use super::elements::{figure, preformatted, scrolling};
use crate::stages::benchmark::charts::Charts;
use crate::stages::benchmark::findings::Findings;

/// The book shows the same lines, and a test runs them.
const DUCKDB: &str = include_str!("duckdb.sql");
const POLARS: &str = include_str!("polars.py");

pub fn training(findings: &Findings, charts: &Charts) -> Markup {
    let (map, dimension) = (&findings.map, findings.main.embeddings.dimension);
    html! {
        @if let (Some(first), Some(last)) = (findings.epochs.first(), findings.epochs.last()) {
            p {
                b { "Collapse monitor. " }
                "A network has collapsed if all its embeddings are alike. In the last epoch, pictures of different classes are "
                b.number { (format!("{:.2}", last.negative_distance)) } " apart on average, and pictures of one class "
                b.number { (format!("{:.2}", last.positive_distance)) } " (in the first epoch "
                span.number { (format!("{:.2}", first.negative_distance)) } " and " span.number { (format!("{:.2}", first.positive_distance)) }
                "). The embeddings of the test pictures vary in " b.number { (format!("{:.1}", map.effective_dimensions)) } " of " (dimension)
                " dimensions (participation ratio). A training stops if all distances are alike and the loss is at the margin."
            }
        }
        div.figures { @for panel in &charts.training { (figure(panel, html! {})) } }
        details {
            summary { "The log as a table: " (findings.epochs.len()) " epochs" }
            (scrolling("Training log", html! {
                thead { tr { @for name in ["epoch", "learning rate", "loss", "triplet loss", "cross-entropy", "active triplets", "same class", "other class", "held-out precision@5"] { th scope="col" { (name) } } } }
                tbody {
                    @for epoch in &findings.epochs {
                        tr {
                            th scope="row" { (epoch.epoch) }
                            td.number { (format!("{:.6}", epoch.learning_rate)) }
                            @for value in [epoch.loss, epoch.triplet_loss, epoch.cross_entropy, epoch.active_triplets, epoch.positive_distance, epoch.negative_distance] {
                                td.number { (format!("{value:.4}")) }
                            }
                            td.number { @if let Some(precision) = epoch.validation_precision { (format!("{precision:.4}")) } }
                        }
                    }
                }
            }))
        }
    }
}

pub fn section(findings: &Findings, charts: &Charts) -> Result<Markup> {
    let (steps, instance) = (findings.steps(), &findings.instance);
    let program = findings.provenance.get("similiai.program").map(String::as_str).unwrap_or_default();
    let commands = format!(
        "similiai run {instance}             # makes what is missing\n\
         similiai explain {instance}         # shows the key, which must be {}…\n\
         similiai verify --rerun {instance}  # makes it again, and compares every byte\n\
         similiai status --times             # shows how long each step took",
        &findings.key[..12]
    );
    let parameters = steps.iter().map(|step| Ok(serde_yaml::to_string(&step.document.parameters)?));
    let parameters = parameters.collect::<Result<Vec<String>>>()?;
    Ok(html! {
        p {
            "Each step has a key: the hash of its version, its parameters, its seed and the content that it reads. "
            "The same keys have the same results. Made by " (program) ", with seed " (findings.seed()) "."
        }
        (figure(&charts.pipeline, html! { "A line leads from a step down to the steps that read its result. Right: the start of each key." }))
        @for (step, parameters) in steps.iter().zip(parameters) {
            details {
                summary { b { (step.instance) } @if !step.needs.is_empty() { span.soft { " reads " (step.needs.join(", ")) } } }
                (scrolling(&format!("Step {}", step.instance), html! {
                    tbody {
                        tr { th scope="row" { "stage" } td { (step.stage) ", version " (step.document.version) @if let Some(seed) = step.document.seed { ", seed " (seed) } } }
                        tr { th scope="row" { "key" } td { code { (step.key) } } }
                        tr { th scope="row" { "result" } td { @match step.digest { Some(digest) => code { (digest) }, None => "this report; a file cannot contain its own digest" } } }
                        @for (name, digest) in &step.document.reads { tr { th scope="row" { "read: " (name) } td { code { (digest) } } } }
                    }
                }))
                (preformatted(&format!("Parameters of {}", step.instance), &parameters))
            }
        }
        h3 { "Make it again" }
        p { "In the project's folder, with the profile and parameters of this run:" }
        (preformatted("Commands", &commands))
        details {
            summary { "The manifest that makes this page" }
            p.soft { "Save it as " code { "pipeline.yaml" } " in an empty folder. Steps that use " code { "fetch" } " also need their " code { "source" } ". It is not in the key, because the content can be anywhere." }
            (preformatted("Manifest", &findings.manifest()?))
        }
        (card(findings))
    })
}

/// What the Parquet file holds, where it comes from, and how to read it.
fn card(findings: &Findings) -> Markup {
    let run = &findings.main;
    let lines = |text: &str| text.replace("artifacts/embed/", &format!("artifacts/{}/", run.name));
    html! {
        h3 { "The data" }
        p { "The embeddings are " code { (FILE) } ": " (run.embeddings.len()) " rows, sorted by " code { "id" } ". Any Parquet reader can read them. The five nearest neighbours of picture 7, in DuckDB and in polars:" }
        (preformatted("DuckDB", &lines(DUCKDB)))
        (preformatted("polars", &lines(POLARS)))
        (scrolling("Columns", html! {
            thead { tr { th scope="col" { "column" } th scope="col" { "type" } th scope="col" { "what it is" } } }
            tbody { @for (name, kind, what) in COLUMNS { tr { th scope="row" { code { (name) } } td { (kind) } td { (what) } } } }
        }))
        p.soft { "Its footer says how the rows were made:" }
        (scrolling("Footer", html! {
            tbody {
                tr { th scope="row" { "file (BLAKE3)" } td { code { (run.digest) } } }
                @for (name, value) in &run.embeddings.facts {
                    tr { th scope="row" { (name.strip_prefix("similiai.").unwrap_or(name)) } td { code { (value) } } }
                }
            }
        }))
    }
}
