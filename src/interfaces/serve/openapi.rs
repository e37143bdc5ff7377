//! What every operation has in common in the description of the API.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder, Server};

use super::guard::OPEN;
use super::problem;

/// What an operation may answer beside what its handler says.
const BESIDE: [(&str, &str); 4] = [
    ("401", "The token is missing or wrong"),
    ("403", "A request of another page"),
    ("421", "A name that this server does not have"),
    ("500", "The fault is here"),
];

/// What is the same for all operations that `document` now has; `token` says whether one is wanted.
pub fn complete(document: &mut OpenApi, token: bool, base: &str) {
    if !base.is_empty() {
        document.servers = Some(vec![Server::new(base)]);
    }
    let problem = || {
        let schema = Ref::from_schema_name("Problem");
        ContentBuilder::new().schema(Some(schema)).build()
    };
    for (path, item) in &mut document.paths.paths {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            let is_open = path == OPEN;
            for (status, description) in BESIDE {
                if status != "401" || (token && !is_open) {
                    let response = ResponseBuilder::new().description(description).build();
                    operation.responses.responses.insert(status.to_owned(), response.into());
                }
            }
            for (status, response) in &mut operation.responses.responses {
                if let (RefOr::T(response), true) = (response, status.starts_with(['4', '5'])) {
                    response.content.insert(problem::CONTENT_TYPE.to_owned(), problem().into());
                }
            }
            if token && is_open {
                operation.security = Some(Vec::new());
            }
        }
    }
    if token {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
        document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}
