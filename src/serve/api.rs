//! The API: one file for each kind of question.

pub mod about;
pub mod gallery;
pub mod search;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequestParts};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Router, middleware};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::guard::{Access, Guard, guard};
use super::problem::Problem;
use super::state::State;
use super::{openapi, page};

/// The parameters in an address; what is wrong with them is told as any other problem.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

pub fn router(state: State, access: Arc<Access>) -> serde_json::Result<Router> {
    let documented = OpenApiRouter::with_openapi(openapi::document())
        .routes(routes!(search::by_id, search::by_picture))
        .routes(routes!(gallery::list))
        .routes(routes!(about::about))
        .routes(routes!(about::map))
        .routes(routes!(about::health))
        .routes(routes!(about::metrics));
    let (router, mut document) = documented.split_for_parts();
    openapi::complete(&mut document, access.token.is_some());
    let document = Bytes::from(document.to_json()?);
    let tag = page::tag(&document);
    let description =
        async move |headers: HeaderMap| page::unless_known(&headers, &tag, "application/json", || document.clone());
    let guarded = Guard { access, telemetry: state.telemetry.clone() };
    let router = router
        .route("/api/images/{file}", get(gallery::picture))
        .route("/api/openapi.json", get(description))
        .route("/report", get(about::report))
        .merge(page::routes())
        .fallback(async || Problem::missing("there is nothing at this address; /api/openapi.json says what there is"))
        .method_not_allowed_fallback(async || {
            let why = "this address does not take this method; /api/openapi.json says which";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", why)
        })
        // The limits here are of our own: they know how much all uploads take together.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(guarded, guard))
        .with_state(state);
    Ok(router)
}
