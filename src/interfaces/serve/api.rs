//! The API: one file for each kind of request.

pub mod about;
pub mod gallery;
pub mod search;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Router, middleware};
use tower::ServiceExt;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::guard::{Access, Guard, guard};
use super::problem::Problem;
use super::state::State;
use super::{etag, openapi, page};

/// The description of the API, generated from the handlers and types. The operation for pictures is listed here and
/// not in the router: the router has one parameter for the complete file name, but clients see an id and an extension.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "SimiliAI",
        description = "Finds pictures of a gallery that look like a given one. Distances are Euclidean, between \
            embeddings of length 1. The embeddings come from a network that was trained for this."
    ),
    paths(gallery::picture),
    components(schemas(super::problem::Document))
)]
struct Whole;

/// The query parameters of a request. Errors in them are reported as a [`Problem`].
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

pub fn router(state: State, access: Arc<Access>) -> serde_json::Result<Router> {
    let documented = OpenApiRouter::with_openapi(Whole::openapi())
        .routes(routes!(search::by_id, search::by_picture))
        .routes(routes!(gallery::list))
        .routes(routes!(about::about))
        .routes(routes!(about::map))
        .routes(routes!(about::health))
        .routes(routes!(about::metrics));
    let (router, mut document) = documented.split_for_parts();
    let (base, prefix) = (access.base.clone(), access.base.clone());
    openapi::complete(&mut document, access.token.is_some(), &base);
    let document = Bytes::from(document.to_json()?);
    let tag = etag::tag(&document);
    let description =
        async move |headers: HeaderMap| etag::unless_known(&headers, &tag, "application/json", || document.clone());
    let guarded = Guard { access, telemetry: state.telemetry.clone() };
    let router = router
        .route("/api/images/{file}", get(gallery::picture))
        .route("/api/openapi.json", get(description))
        .route("/report", get(about::report))
        .merge(page::routes())
        .fallback(move |uri: Uri| async move { nothing_at(&uri, &prefix) })
        .method_not_allowed_fallback(async || {
            let why = "this address does not support this method; see /api/openapi.json";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", why)
        })
        // Uploads have their own limits, which count the memory of all uploads together.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(guarded, guard))
        .with_state(state);
    if base.is_empty() {
        return Ok(router);
    }
    // This works for proxies that remove the prefix and for proxies that keep it.
    Ok(Router::new().fallback(move |request: Request| below(router.clone(), request, base.clone())))
}

/// Removes the base path from the address. Its host name stays, because the guard checks it.
async fn below(router: Router, mut request: Request, base: String) -> Response {
    let mut parts = request.uri().clone().into_parts();
    let whole = parts.path_and_query.as_ref().map_or("/", PathAndQuery::as_str);
    if let Some(rest) =
        whole.strip_prefix(&base).filter(|rest| rest.starts_with('/')).and_then(|rest| rest.parse().ok())
    {
        parts.path_and_query = Some(rest);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    router.oneshot(request).await.into_response()
}

fn nothing_at(uri: &Uri, base: &str) -> Response {
    if !base.is_empty() && uri.path() == base {
        // Relative addresses on the page need the slash at the end.
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        return Redirect::to(&format!("{base}/{query}")).into_response();
    }
    Problem::missing("there is nothing at this address; see /api/openapi.json").into_response()
}
