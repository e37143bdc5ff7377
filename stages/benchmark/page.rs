//! Renders `index.html`, a report in one file that needs no other file.

mod elements;
mod failures;
mod provenance;

use anyhow::Result;
use maud::{Markup, PreEscaped, html};
use serde_json::{Value, json};
use similiai::report::html;
use similiai::retrieval::metrics::{METRICS, PRECISION_AT_5};
use similiai::retrieval::search::Parameters;

use super::approximate::{Curve, K};
use super::charts::{Charts, SPRITE_COLUMNS};
use super::findings::Findings;
use super::pictures::Pictures;
use super::protocols::{Protocol, UNSEEN};
use elements::{figure, interval, scrolling, term};

pub fn render(
    findings: &Findings,
    charts: &Charts,
    pictures: &Pictures,
    sheet: &[u8],
    results: &str,
) -> Result<String> {
    const SECTIONS: [(&str, &str); 6] = [
        ("good", "How good is it?"),
        ("fails", "Where does it fail?"),
        ("map", "The map"),
        ("training", "How did it learn?"),
        ("trust", "What does a distance mean?"),
        ("made", "How was it made?"),
    ];
    let title = "SimiliAI report";
    let embeddings = &findings.main.embeddings;
    let section = |place: usize, body: Markup| {
        let (id, name) = SECTIONS[place];
        html! { section aria-labelledby=(id) { h2 id=(id) { (name) } (body) } }
    };
    let body = html! {
        main {
            h1 { (title) }
            p.soft {
                (embeddings.len()) " pictures of " (findings.classes.len()) " classes, each a point in "
                (embeddings.dimension) " dimensions; seed " (findings.seed())
            }
            nav aria-label="Contents" { ul { @for (id, name) in SECTIONS { li { a href=(format!("#{id}")) { (name) } } } } }
            (section(0, html! { (headline(findings, charts)) (comparison(findings)) }))
            (section(1, failures::section(findings, charts, pictures)?))
            (section(2, map(findings, charts, sheet)))
            (section(3, provenance::training(findings, charts)))
            (section(4, distance(findings, charts)))
            (section(5, provenance::section(findings, charts)?))
            (elements::definitions())
            p.soft { "The same inputs, parameters and seed give the same bytes of this page. It also contains all its numbers as JSON: " code { "script#results" } "." }
        }
        script type="application/json" id="results" { (PreEscaped(embedded(results))) }
        script type="application/json" id="map-data" { (PreEscaped(embedded(&map_data(findings).to_string()))) }
        script type="module" { (PreEscaped(include_str!("page/map.js"))) }
    };
    let style = include_str!("page/style.css").replace("DARK_CHARTS", &similiai::report::charts::dark_style());
    Ok(html::page(title, &style, body))
}

/// Escapes JSON so that it contains no markup.
fn embedded(json: &str) -> String {
    json.replace('<', "\\u003c")
}

fn headline(findings: &Findings, charts: &Charts) -> Markup {
    html! {
        div.headlines {
            @for protocol in &findings.protocols {
                @let score = protocol.scores[PRECISION_AT_5];
                div {
                    p { b { (protocol.question.task) } " " span.soft { "(" (protocol.question.name) ")" } }
                    p.large.number { (format!("{:.3}", score.value)) }
                    p { (term(PRECISION_AT_5)) ", 95 % interval " span.number { (interval(score.low, score.high)) } }
                    p.soft { "Of the 5 nearest, " (format!("{:.1}", 5.0 * score.value)) " are of the query's class; random retrieval would give " (format!("{:.1}", 5.0 * score.chance)) "." }
                    p.soft { (protocol.queries.len()) " " (protocol.question.question) "." }
                }
            }
        }
        p {
            @for (place, baseline) in findings.baselines.iter().enumerate() {
                (if place == 0 { "Without learning, the same search reaches " } else { " and " })
                b.number { (format!("{:.3}", baseline.reached[0].precision.value)) } " with " (baseline.name)
            }
            @if let Some(first) = findings.baselines.first() {
                " (" (findings.protocols[0].question.name) ", " (first.reached[0].queries) " queries). "
            }
            "The baseline, reached by random retrieval, is " span.number { (format!("{:.3}", findings.protocols[0].scores[PRECISION_AT_5].chance)) } "."
            @if let Some(original) = findings.original() {
                " The original project reports " b.number { (format!("{original:.2}")) } " for the most similar metric, on 2,000 pictures of CIFAR-10, but with other test pictures."
            }
        }
        div.figures {
            (figure(&charts.headline, html! {
                "Filled bars: among training pictures. Outlined bars: among unseen pictures. Short horizontal line: 95 % interval. "
                @for baseline in &findings.baselines { b { (baseline.name) } ": " (baseline.definition) " (" (baseline.reached[0].queries) " queries). " }
            }))
            (figure(&charts.scores, html! { "All metrics. Tap a name in the tables to see its definition." }))
        }
        @for (place, protocol) in findings.protocols.iter().enumerate() { (table(findings, place, protocol)) }
    }
}

fn table(findings: &Findings, place: usize, protocol: &Protocol) -> Markup {
    let name = protocol.question.name;
    html! {
        h3 { (name) }
        p.soft { (protocol.queries.len()) " " (protocol.question.question) ": a gallery of " (protocol.gallery) "." }
        (scrolling(&format!("Metrics, {name}"), html! {
            thead { tr { th scope="col" { "metric" } th scope="col" { "value" } th scope="col" { "95 % interval" } th scope="col" { "baseline" } th.what scope="col" { "definition" } } }
            tbody {
                @for (of, (metric, score)) in METRICS.iter().zip(&protocol.scores).enumerate() {
                    tr {
                        th scope="row" { (term(of)) }
                        td.number { b { (format!("{:.3}", score.value)) } }
                        td.number { (interval(score.low, score.high)) }
                        td.number { (format!("{:.3}", score.chance)) }
                        td.soft.what { (metric.definition) }
                    }
                }
                @for baseline in &findings.baselines {
                    @let score = baseline.reached[place].precision;
                    tr {
                        th scope="row" { (METRICS[PRECISION_AT_5].name) ", " (baseline.name) }
                        td.number { (format!("{:.3}", score.value)) }
                        td.number { (interval(score.low, score.high)) }
                        td.number { (format!("{:.3}", score.chance)) }
                        td.soft.what { (baseline.definition) }
                    }
                }
            }
        }))
    }
}

/// Comparison with other trainings.
fn comparison(findings: &Findings) -> Markup {
    let first = &findings.main;
    html! {
        @if !findings.comparisons.is_empty() {
            h3 { "Comparison of trainings" }
            p {
                "All other numbers on this page are of " b { (first.name) } " (trained by " (first.training) "). Every other training answers the same queries. The difference is computed "
                "query by query, with a paired bootstrap. If its 95 % interval contains 0, there is no significant difference. "
                "The interval does not include differences between seeds of the same training."
            }
            @for other in &findings.comparisons {
                (scrolling(&format!("{} compared with {}", other.run, first.name), html! {
                    caption { b { (other.run) } " (trained by " (other.training) ") compared with " (first.name) }
                    thead { tr { th scope="col" { "protocol" } th scope="col" { "metric" } th scope="col" { (first.name) } th scope="col" { (other.run) } th scope="col" { "difference" } th scope="col" { "95 % interval" } th scope="col" { "in words" } } }
                    tbody {
                        @for (protocol, differences) in &other.protocols {
                            @for (place, metric) in METRICS.iter().enumerate() {
                                @let it = &differences[metric.name];
                                tr {
                                    td { (protocol) } th scope="row" { (term(place)) }
                                    td.number { (format!("{:.3}", it.before)) } td.number { (format!("{:.3}", it.after)) }
                                    td.number { (format!("{:+.3}", it.difference)) } td.number { (format!("{:+.3} to {:+.3}", it.low, it.high)) }
                                    td { b { (it.verdict.in_words()) } }
                                }
                            }
                        }
                    }
                }))
            }
        }
    }
}

fn map(findings: &Findings, charts: &Charts, sheet: &[u8]) -> Markup {
    let map = &findings.map;
    let some = if map.points.len() < map.of {
        format!(" ({} of {}, drawn at random)", map.points.len(), map.of)
    } else {
        String::new()
    };
    html! {
        p {
            "Every mark is a test picture" (some) ". The network did not learn from the test pictures. The map is made by " (map.method)
            " from the embeddings alone, without the classes. What is close on the map is mostly close in the " (findings.main.embeddings.dimension)
            " dimensions. Large distances on the map say little, and the axes have no meaning. Point at a mark, or use the arrow keys; Page Up and Page Down go through all of them in order."
        }
        div.map {
            (figure(&charts.map, html! {}))
            div id="pointed" { p.soft { "The selected picture and its nearest neighbours are shown here." } }
        }
        img id="sheet" hidden alt="" src=(html::source("jpeg", sheet));
    }
}

fn map_data(findings: &Findings) -> Value {
    let embeddings = &findings.main.embeddings;
    let protocol = findings.protocols.iter().find(|protocol| protocol.question.name == UNSEEN);
    let places: std::collections::BTreeMap<usize, usize> =
        findings.map.points.iter().enumerate().map(|(place, point)| (point.id, place)).collect();
    let labels: Vec<i32> = findings.classes.keys().copied().collect();
    let points = findings.map.points.iter().map(|point| {
        let asked = protocol.and_then(|it| Some(&it.nearest[it.queries.binary_search(&point.id).ok()?]));
        let near = asked.into_iter().flatten().filter_map(|it| Some((*places.get(&it.id)?, it.distance)));
        json!({
            "id": point.id, "path": embeddings.paths[point.id],
            "class": labels.binary_search(&embeddings.labels[point.id]).unwrap_or(0), "near": near.collect::<Vec<_>>(),
        })
    });
    let points: Vec<Value> = points.collect();
    let classes: Vec<&String> = findings.classes.values().collect();
    json!({"columns": SPRITE_COLUMNS, "classes": classes, "points": points})
}

fn distance(findings: &Findings, charts: &Charts) -> Markup {
    html! {
        div.figures {
            (figure(&charts.calibration, html! { "Filled dots: among training pictures. Outlined dots: among unseen pictures. A larger dot has more neighbours. On the dotted line, the match probability is right; below it, it is too high." }))
            p {
            "The match probability of a distance was fitted on held-out training pictures. "
            "Here it is compared with the test pictures, which were not used to fit it: "
            @for (place, protocol) in findings.protocols.iter().enumerate() {
                @if place > 0 { ", " }
                (protocol.question.name) " off by " b.number { (format!("{:.3}", protocol.reliability.expected_error)) } " on average"
            }
            " (expected calibration error, ten groups)."
            }
        }
        h3 { "Distances" }
        p { "Where both histograms overlap, distance alone cannot tell whether two pictures are of one class." }
        div.figures { @for failures in &charts.failures { (figure(&failures.distances, html! {})) } }
        @if let Some(curve) = &findings.curve { (approximate(curve)) }
    }
}

fn approximate(curve: &Curve) -> Markup {
    let Parameters { m, ef_construction, .. } = curve.parameters;
    html! {
        h3 { "Approximate search" }
        p.soft {
            "The index (HNSW, M " (m) ", ef_construction " (ef_construction) ") compared with exact search: " (curve.queries)
            " queries among all " (curve.gallery) " pictures. Exact search measures " (curve.gallery) " distances for each query."
        }
        (scrolling("Approximate search", html! {
            thead { tr { th scope="col" { "ef" } th scope="col" { "recall@" (K) } th scope="col" { "distances measured for a query" } } }
            tbody {
                @for point in &curve.points {
                    tr {
                        th scope="row" { (point.ef) }
                        td.number { b { (format!("{:.4}", point.recall)) } }
                        td.number { (format!("{:.0}", point.distances)) }
                    }
                }
            }
        }))
    }
}
