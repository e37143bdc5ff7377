//! Pages that are one file and load nothing else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// File name of the page of a report.
pub const REPORT: &str = "index.html";

pub fn page(title: &str, style: &str, body: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(style)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// Returns a picture, `png` or `jpeg`, as a URL for the source of an image.
pub fn source(kind: &str, picture: &[u8]) -> String {
    format!("data:image/{kind};base64,{}", STANDARD.encode(picture))
}
