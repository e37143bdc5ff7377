//! The section about failures: by class, by number of neighbours, at hubs, and for single pictures.

use anyhow::Result;
use maud::{Markup, html};
use similiai::report::html;

use super::elements::{figure, scrolling};
use crate::stages::benchmark::charts::Charts;
use crate::stages::benchmark::findings::Findings;
use crate::stages::benchmark::pictures::Pictures;
use crate::stages::benchmark::protocols::Protocol;
use crate::stages::benchmark::queries::Example;

pub fn section(findings: &Findings, charts: &Charts, pictures: &Pictures) -> Result<Markup> {
    let protocols = || findings.protocols.iter().zip(&charts.failures);
    Ok(html! {
        h3 { "Classes" }
        div.figures {
            (figure(&charts.classes, html! { "Horizontal line: 95 % interval. Vertical line: baseline." }))
            ul {
                @for protocol in &findings.protocols {
                    @if let Some((row, column, share)) = protocol.confusion.worst() {
                        @let names = &protocol.confusion.classes;
                        li { (protocol.question.name) ": most confused: " (format!("{:.0} %", 100.0 * share)) " of the neighbours of " b { (names[row]) } " are " b { (names[column]) } "." }
                    }
                }
            }
        }
        p { "Rows: classes of the queries. Columns: classes of their 5 nearest. Shade: share of the row. Number: count." }
        div.figures { @for (_, failures) in protocols() { (figure(&failures.confusion, html! {})) } }
        @for (protocol, _) in protocols() { (confusion(protocol)) }
        h3 { "Precision by number of neighbours" }
        p { "The share of the k nearest that are of the query's class, for every k. Band: 95 % interval of the mean." }
        div.figures { @for (_, failures) in protocols() { (figure(&failures.at_k, html! {})) } }
        h3 { "Hubs" }
        p {
            "A hub is a picture that is near many others. If it is of another class, many answers are wrong. "
            "Without hubs, all pictures would be near others equally often, and the skewness would be near 0."
        }
        div.figures {
            @for (protocol, failures) in protocols() {
                @let hubness = &protocol.hubness;
                div {
                    (figure(&failures.hubness, html! {
                        (protocol.question.name) ": skewness " b.number { (format!("{:.2}", hubness.skewness)) } "; "
                        (format!("{:.0} %", 100.0 * hubness.never)) " of the gallery are never among the 10 nearest of a query."
                    }))
                    (hubs(findings, protocol, pictures)?)
                }
            }
        }
        h3 { "Pictures" }
        p.soft {
            "Queries with their nearest training pictures. ✓ and a solid frame: the query's class. ✗ and a dashed frame: another class. "
            "Below each picture: its distance and its match probability."
        }
        @for (name, about, examples, open) in [
            ("The worst", "Lowest average precision (map@r); among equals, those with the nearest neighbour.", &findings.shown.worst, true),
            ("The best", "Highest average precision.", &findings.shown.best, false),
            ("Drawn at random", "The classes take turns.", &findings.shown.random, true),
        ] {
            details open[open] {
                summary { b { (name) } " " span.soft { (about) } }
                @for example in examples { (row(findings, example, pictures)?) }
            }
        }
    })
}

fn confusion(protocol: &Protocol) -> Markup {
    let confusion = &protocol.confusion;
    let name = format!("Counts, {}", protocol.question.name);
    html! {
        details {
            summary { (name) ", as a table" }
            (scrolling(&name, html! {
                thead { tr { th scope="col" { "query" } @for class in &confusion.classes { th scope="col" { (class) } } } }
                tbody {
                    @for (class, counts) in confusion.classes.iter().zip(&confusion.counts) {
                        tr { th scope="row" { (class) } @for count in counts { td.number { (count) } } }
                    }
                }
            }))
        }
    }
}

fn hubs(findings: &Findings, protocol: &Protocol, pictures: &Pictures) -> Result<Markup> {
    let names = &findings.main.embeddings.label_names;
    let hubs = protocol.hubness.hubs.iter().map(|hub| -> Result<Markup> {
        Ok(html! {
            figure {
                (picture(findings, hub.id, pictures)?)
                figcaption { b { (names[hub.id]) } br; (hub.times) " times, " (hub.wrong) " wrong" }
            }
        })
    });
    let hubs = hubs.collect::<Result<Vec<Markup>>>()?;
    Ok(html! { @if !hubs.is_empty() { p.soft { "Most often wrong:" } div.row { @for hub in hubs { (hub) } } } })
}

fn row(findings: &Findings, example: &Example, pictures: &Pictures) -> Result<Markup> {
    let names = &findings.main.embeddings.label_names;
    let chance = |distance: f32| 100.0 * findings.main.model.calibration.learned.chance(distance);
    let neighbours = example.neighbours.iter().map(|neighbour| -> Result<Markup> {
        let right = names[neighbour.id] == names[example.query];
        Ok(html! {
            figure class=(if right { "right" } else { "wrong" }) {
                (picture(findings, neighbour.id, pictures)?)
                figcaption {
                    b { (if right { "✓ " } else { "✗ " }) (names[neighbour.id]) } br;
                    span.number { (format!("{:.3} · {:.0} %", neighbour.distance, chance(neighbour.distance))) }
                }
            }
        })
    });
    let neighbours = neighbours.collect::<Result<Vec<Markup>>>()?;
    Ok(html! {
        div.row {
            figure {
                (picture(findings, example.query, pictures)?)
                figcaption { b { (names[example.query]) } br; "query, map@r " span.number { (format!("{:.3}", example.score)) } }
            }
            @for neighbour in neighbours { (neighbour) }
        }
    })
}

fn picture(findings: &Findings, id: usize, pictures: &Pictures) -> Result<Markup> {
    Ok(html! { img alt=(findings.main.embeddings.paths[id]) src=(html::source("jpeg", &pictures.jpeg(id)?)); })
}
