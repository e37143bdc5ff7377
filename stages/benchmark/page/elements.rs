//! Elements that the sections of the page use.

use maud::{Markup, PreEscaped, html};
use similiai::retrieval::metrics::METRICS;

use crate::stages::benchmark::charts::Chart;

/// A chart as an image with a text alternative.
pub fn figure(figure: &Chart, caption: Markup) -> Markup {
    let alt = html! { svg role="img" aria-label=(figure.alt) {} }.into_string();
    let start = alt.trim_end_matches("></svg>");
    let svg = figure.svg.replacen("<svg", start, 1);
    html! { figure { (PreEscaped(svg)) @if !caption.0.is_empty() { figcaption { (caption) } } } }
}

/// A table that scrolls on its own in a narrow window, also with the keyboard.
pub fn scrolling(name: &str, table: Markup) -> Markup {
    html! { div.scroll role="region" tabindex="0" aria-label=(name) { table { (table) } } }
}

/// Preformatted text that scrolls in the same way.
pub fn preformatted(name: &str, text: &str) -> Markup {
    html! { pre role="region" tabindex="0" aria-label=(name) { (text.trim_end()) } }
}

/// The name of a metric. Its definition is shown when it is pointed at or tapped.
pub fn term(place: usize) -> Markup {
    let metric = &METRICS[place];
    html! { button.term type="button" popovertarget=(format!("definition-{place}")) title=(metric.definition) { (metric.name) } }
}

/// The definitions that [`term`] shows.
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
