//! The page for people, built into the program.

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;

use super::etag::{tag, unless_known};
use super::state::State;
use crate::report::charts;

const HTML: &str = include_str!("page/index.html");
const SCRIPT: &str = include_str!("page/app.js");
const ELEMENTS: &str = include_str!("page/dom.js");
const MAP: &str = include_str!("page/map.js");
const STYLE: &str = include_str!("page/style.css");
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const ICON: &str = include_str!("page/icon.svg");

pub fn routes() -> Router<State> {
    let style = STYLE.replace("DARK_CHARTS", &charts::dark_style());
    let file = |kind: &'static str, text: String| {
        let tag = tag(text.as_bytes());
        get(move |headers: HeaderMap| async move { unless_known(&headers, &tag, kind, || text.clone()) })
    };
    Router::new()
        .route("/", file("text/html; charset=utf-8", HTML.to_owned()))
        .route("/app.js", file(JAVASCRIPT, SCRIPT.to_owned()))
        .route("/dom.js", file(JAVASCRIPT, ELEMENTS.to_owned()))
        .route("/map.js", file(JAVASCRIPT, MAP.to_owned()))
        .route("/style.css", file("text/css; charset=utf-8", style))
        .route("/icon.svg", file("image/svg+xml", ICON.to_owned()))
}
