//! Completes the description of the API with what all operations have in common.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder, Server};

use super::guard::OPEN;
use super::problem;

/// Answers that any operation may give, besides those that its handler lists.
const BESIDE: [(&str, &str); 4] = [
    ("401", "The token is missing or wrong"),
    ("403", "The request comes from another web page"),
    ("421", "The server does not have this host name"),
    ("500", "Internal error"),
];

/// Adds the common parts to all operations of `document`. `token` says whether the server needs a token.
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
