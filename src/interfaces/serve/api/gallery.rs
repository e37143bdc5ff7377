//! The pictures of the gallery: their list, page by page, and their files.

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
    /// Id of the picture
    pub id: usize,
    /// Name of the picture; the server opens no file by this name
    pub path: String,
    /// Class of the picture; empty if it has none
    pub label_name: String,
    /// Subset of the picture: `train` (used for training) or `test`
    pub split: String,
    /// Path of the picture on this server
    pub image: String,
}

pub fn address(snapshot: &Snapshot, id: usize) -> String {
    format!("{}/api/images/{id}.png", snapshot.base)
}

pub fn gone(path: &str) -> Problem {
    let why = format!("{path} is no longer the picture that was embedded; run `similiai run all`");
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
    /// Number of pictures to skip
    #[param(value_type = Option<usize>, minimum = 0, maximum = 4294967295u32, default = 0)]
    offset: Option<u32>,
    /// Most pictures to list
    #[param(minimum = 1, maximum = 200, default = 60)]
    limit: Option<usize>,
    /// Only pictures of this class
    label_name: Option<String>,
    /// Only pictures of this subset: `train` (used for training) or `test`
    split: Option<String>,
}

/// A page of the gallery, in the order of ids
#[derive(Serialize, ToSchema)]
pub struct Listing {
    /// Number of pictures on all pages
    total: usize,
    /// Number of pictures before this page
    offset: usize,
    /// The pictures of this page
    pictures: Vec<Picture>,
    /// BLAKE3 digest of the file of embeddings; ids are valid only in this gallery
    gallery: String,
}

/// The pictures of the gallery, page by page
#[utoipa::path(get, path = "/api/gallery", params(Which), responses(
    (status = 200, body = Listing),
    (status = 400, description = "Wrong parameters"),
    (status = 404, description = "No such class or subset"),
    (status = 503, description = "Nothing to show yet"),
))]
pub async fn list(
    State(state): State<state::State>,
    Query(Which { offset, limit, label_name, split }): Query<Which>,
) -> Result<Json<Listing>, Problem> {
    let (offset, limit) = (offset.unwrap_or(0) as usize, limit.unwrap_or(DEFAULT_LISTED));
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(Problem::invalid(format!("limit is {limit}, but must be from 1 to {MOST_LISTED}")));
    }
    let snapshot = state.snapshot()?;
    let members = snapshot.members(label_name.as_deref(), split.as_deref())?;
    let page = members.iter().skip(offset).take(limit);
    let pictures = page.map(|id| Picture::of(&snapshot, *id)).collect::<Result<_, _>>()?;
    Ok(Json(Listing { total: members.len(), offset, pictures, gallery: snapshot.digest.clone() }))
}

/// A picture of the gallery, as it was prepared
#[utoipa::path(get, path = "/api/images/{id}.png", params(("id" = usize, Path, description = "Id of a picture")), responses(
    (status = 200, content_type = "image/png", body = inline(Vec<u8>)),
    (status = 304, description = "The client already has it"),
    (status = 404, description = "No such picture"),
    (status = 410, description = "No longer the picture that was embedded"),
    (status = 503, description = "Nothing to show yet"),
))]
pub async fn picture(
    State(state): State<state::State>,
    file: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let missing = || Problem::missing("the name of a picture is its id, such as 7.png");
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
