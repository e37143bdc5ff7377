//! Errors of the API: a type for programs (RFC 9457) and a text for people.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::limits::RETRY_AFTER;
use crate::learning::images::Unreadable;

pub const CONTENT_TYPE: &str = "application/problem+json";

#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
}

/// The body of every error
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Document<'a> {
    /// Kind of the problem, such as `urn:similiai:no-picture`
    r#type: String,
    /// The status in words
    title: &'a str,
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, and how to correct it
    detail: &'a str,
}

impl Problem {
    pub fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into() }
    }

    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", detail)
    }

    pub fn missing(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "missing", detail)
    }

    /// The server has too much to do now.
    pub fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
    }

    /// An error of the server. Only the log has the details.
    pub fn internal(error: &anyhow::Error) -> Self {
        tracing::error!("{error:#}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error; the server's log has the details")
    }
}

impl From<Unreadable> for Problem {
    fn from(why: Unreadable) -> Self {
        if let Unreadable::NoDecoder(why) = &why {
            return Self::internal(&anyhow::anyhow!("{why}"));
        }
        let (status, kind) = match why {
            Unreadable::NoPicture(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "no-picture"),
            Unreadable::TooManyPixels(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too-many-pixels"),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, "broken-picture"),
        };
        Self::new(status, kind, why.to_string())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, kind, detail } = self;
        let title = status.canonical_reason().unwrap_or("Error");
        let document =
            Document { r#type: format!("urn:similiai:{kind}"), title, status: status.as_u16(), detail: &detail };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER.into());
        }
        response
    }
}
