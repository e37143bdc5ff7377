//! The page for people, built into the program.

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::state::State;
use crate::charts;

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

pub fn tag(bytes: &[u8]) -> String {
    format!("\"{}\"", &blake3::hash(bytes).to_hex()[..32])
}

/// Whether the browser has it already.
pub fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes())
}

/// The body, or that the browser has it already.
pub fn unless_known<B: IntoResponse>(
    headers: &HeaderMap,
    tag: &str,
    kind: &'static str,
    body: impl FnOnce() -> B,
) -> Response {
    let known = is_known(headers, tag);
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { body().into_response() };
    let headers = response.headers_mut();
    if !known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
