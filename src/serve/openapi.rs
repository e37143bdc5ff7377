//! The description of the API for programs, made of the handlers and types themselves.

use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::api;

/// What the router cannot know: it takes a file's name whole, and callers see an id and an ending.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "SimiliAI",
        description = "Finds the pictures of a gallery that look like one. Distances are Euclidean, between embeddings \
            of length 1 from a network that was trained for it."
    ),
    paths(api::gallery::picture)
)]
struct Whole;

pub fn document(token: bool) -> utoipa::openapi::OpenApi {
    let mut document = Whole::openapi();
    if token {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", scheme);
        document.security = Some(vec![utoipa::openapi::SecurityRequirement::new("token", Vec::<String>::new())]);
    }
    document
}
