//! The pictures of the gallery: their list, page by page, and they themselves.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Query;
use crate::interfaces::serve::etag::{is_known, unless_known};
use crate::interfaces::serve::limits::MOST_LISTED;
use crate::interfaces::serve::problem::Problem;
use crate::interfaces::serve::snapshot::Snapshot;
use crate::interfaces::serve::state;

const DEFAULT_LISTED: usize = 60;

#[derive(Clone, Serialize, ToSchema)]
pub struct Picture {
    pub id: usize,
    /// Its name; no file is ever read by it
    pub path: String,
    /// Its class; empty where there is none
    pub label_name: String,
    /// `train`, which was learned from, or `test`
    pub split: String,
    /// Where the picture is on this server
    pub image: String,
}

pub fn address(snapshot: &Snapshot, id: usize) -> String {
    format!("{}/api/images/{id}.png", snapshot.base)
}

pub fn gone(path: &str) -> Problem {
    let why = format!("{path} is not any more the picture that the gallery was made of; run `similiai run all`");
    Problem::new(StatusCode::GONE, "gone", why)
}

impl Picture {
    pub fn of(snapshot: &Snapshot, id: usize) -> Result<Self, Problem> {
        let embeddings = &snapshot.searcher.embeddings;
        if id >= embeddings.len() {
            let last = embeddings.len() - 1;
            return Err(Problem::missing(format!("there is no picture {id}: ids go from 0 to {last}")));
        }
        Ok(Self {
            id,
            path: embeddings.paths[id].clone(),
            label_name: embeddings.label_names[id].clone(),
            split: embeddings.splits[id].clone(),
            image: address(snapshot, id),
        })
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// So many are passed over
    #[param(value_type = Option<usize>, minimum = 0, maximum = 4294967295u32, default = 0)]
    offset: Option<u32>,
    /// At most so many are listed
    #[param(minimum = 1, maximum = 200, default = 60)]
    limit: Option<usize>,
    /// Only pictures of this class
    label_name: Option<String>,
    /// Only pictures of this split: `train`, which were learned from, or `test`
    split: Option<String>,
}

/// A page of the gallery, by id
#[derive(Serialize, ToSchema)]
pub struct Listing {
    /// On all pages together
    total: usize,
    offset: usize,
    pictures: Vec<Picture>,
    /// BLAKE3 of the file of embeddings; ids are of this gallery
    gallery: String,
}

/// The pictures of the gallery, page by page
#[utoipa::path(get, path = "/api/gallery", params(Which), responses(
    (status = 200, body = Listing),
    (status = 400, description = "Parameters that cannot be understood"),
    (status = 404, description = "No such class or split"),
    (status = 503, description = "Nothing to show yet"),
))]
pub async fn list(
    State(state): State<state::State>,
    Query(Which { offset, limit, label_name, split }): Query<Which>,
) -> Result<Json<Listing>, Problem> {
    let (offset, limit) = (offset.unwrap_or(0) as usize, limit.unwrap_or(DEFAULT_LISTED));
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(Problem::invalid(format!("limit is {limit}, and must be from 1 to {MOST_LISTED}")));
    }
    let snapshot = state.snapshot()?;
    let members = snapshot.members(label_name.as_deref(), split.as_deref())?;
    let page = members.iter().skip(offset).take(limit);
    let pictures = page.map(|id| Picture::of(&snapshot, *id)).collect::<Result<_, _>>()?;
    Ok(Json(Listing { total: members.len(), offset, pictures, gallery: snapshot.digest.clone() }))
}

/// A picture of the gallery, as it was prepared
#[utoipa::path(get, path = "/api/images/{id}.png", params(("id" = usize, Path, description = "Of a picture of the gallery")), responses(
    (status = 200, content_type = "image/png", body = inline(Vec<u8>)),
    (status = 304, description = "The browser has it already"),
    (status = 404, description = "No such picture"),
    (status = 410, description = "Not any more the picture that the gallery was made of"),
    (status = 503, description = "Nothing to show yet"),
))]
pub async fn picture(
    State(state): State<state::State>,
    file: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let missing = || Problem::missing("pictures are called by their ids, such as 7.png");
    let id = file.ok().and_then(|file| file.strip_suffix(".png")?.parse().ok()).ok_or_else(missing)?;
    let snapshot = state.snapshot()?;
    let Picture { path, .. } = Picture::of(&snapshot, id)?;
    let tag =
        snapshot.pictures.digest(&path).map(|digest| format!("\"{}\"", &digest[..32])).ok_or_else(|| gone(&path))?;
    let bytes = if is_known(&headers, &tag) {
        Vec::new()
    } else {
        let read = tokio::task::spawn_blocking(move || snapshot.pictures.read(&path).ok_or_else(|| gone(&path)));
        read.await.map_err(|error| Problem::internal(&error.into()))??
    };
    Ok(unless_known(&headers, &tag, "image/png", || bytes))
}
