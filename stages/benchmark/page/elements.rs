//! What the sections of the page are put together from.

use maud::{Markup, PreEscaped, html};
use similiai::retrieval::metrics::METRICS;

use crate::stages::benchmark::charts::Chart;

/// A chart as an image that says what it shows.
pub fn figure(figure: &Chart, caption: Markup) -> Markup {
    let alt = html! { svg role="img" aria-label=(figure.alt) {} }.into_string();
    let start = alt.trim_end_matches("></svg>");
    let svg = figure.svg.replacen("<svg", start, 1);
    html! { figure { (PreEscaped(svg)) @if !caption.0.is_empty() { figcaption { (caption) } } } }
}

/// A table that scrolls by itself where the window is narrow, by keyboard too.
pub fn scrolling(name: &str, table: Markup) -> Markup {
    html! { div.scroll role="region" tabindex="0" aria-label=(name) { table { (table) } } }
}

/// The same for text that is shown as it is.
pub fn preformatted(name: &str, text: &str) -> Markup {
    html! { pre role="region" tabindex="0" aria-label=(name) { (text.trim_end()) } }
}

/// The name of a metric, which says what it is when pointed at or tapped.
pub fn term(place: usize) -> Markup {
    let metric = &METRICS[place];
    html! { button.term type="button" popovertarget=(format!("definition-{place}")) title=(metric.definition) { (metric.name) } }
}

/// What the terms refer to.
pub fn definitions() -> Markup {
    html! {
        @for (place, metric) in METRICS.iter().enumerate() {
            div id=(format!("definition-{place}")) popover { b { (metric.name) } ": " (metric.definition) "." }
        }
    }
}

pub fn interval(low: f64, high: f64) -> String {
    format!("{low:.3} – {high:.3}")
}
