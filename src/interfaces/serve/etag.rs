//! Entity tags: a browser that already has a body does not get it again.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Returns the tag of a body, which depends only on its content.
pub fn tag(bytes: &[u8]) -> String {
    format!("\"{}\"", &blake3::hash(bytes).to_hex()[..32])
}

/// Returns whether the browser already has the body with this tag.
pub fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|known| known.to_str().ok());
    known.flat_map(tags).any(|known| known == "*" || known == tag)
}

/// Splits a list of tags and removes the marks of weak tags, which do not matter here (RFC 9110, section 13.1.2).
fn tags(list: &str) -> Vec<&str> {
    let (mut rest, mut tags) = (list.trim(), Vec::new());
    while !rest.is_empty() {
        let tag = rest.strip_prefix("W/").unwrap_or(rest);
        // A tag is in quotes and may have commas.
        let end = match tag.strip_prefix('"').and_then(|quoted| quoted.find('"')) {
            Some(end) => end + 2,
            None => tag.find(',').unwrap_or(tag.len()),
        };
        tags.push(tag[..end].trim());
        rest = tag[end..].trim_start().trim_start_matches(',').trim_start();
    }
    tags
}

/// Returns the body, or status 304 if the browser already has it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_known_in_lists_and_however_strong() {
        let is_known_by = |known: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
            is_known(&headers, "\"a,b\"")
        };
        for known in ["\"a,b\"", "W/\"a,b\"", "\"x\", \"a,b\"", "\"x\",W/\"a,b\" , \"y\"", "*"] {
            assert!(is_known_by(known), "{known}");
        }
        for known in ["", "\"x\"", "a,b", "\"a\",\"b\"", "\"a,b", ",", "W/"] {
            assert!(!is_known_by(known), "{known}");
        }
    }
}
