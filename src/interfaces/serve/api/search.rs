//! Searches for the neighbours of a picture of the gallery or of an upload.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Query;
use super::gallery::{Picture, address};
use crate::interfaces::serve::limits::MOST_NEIGHBOURS;
use crate::interfaces::serve::map::Place;
use crate::interfaces::serve::problem::Problem;
use crate::interfaces::serve::search_queue::{Found, Question, Wanted};
use crate::interfaces::serve::snapshot::Snapshot;
use crate::interfaces::serve::state;
use crate::learning::images::{self, decode_for, encode_png};
use crate::report::html::source;
use crate::retrieval::searcher::Hit;

const DEFAULT_K: usize = 5;

/// Options of a search.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wishes {
    /// Number of neighbours; fewer if there are not enough pictures
    #[param(minimum = 1, maximum = 100, default = 5)]
    k: Option<usize>,
    /// Only pictures of this class
    label_name: Option<String>,
    /// Only pictures of this subset: `train` (used for training) or `test`
    split: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ById {
    /// Id of the query, a picture of the gallery
    #[param(value_type = usize, minimum = 0, maximum = 4294967295u32)]
    id: u32,
    /// Number of neighbours; fewer if there are not enough pictures
    #[param(minimum = 1, maximum = 100, default = 5)]
    k: Option<usize>,
    /// Only pictures of this class
    label_name: Option<String>,
    /// Only pictures of this subset: `train` (used for training) or `test`
    split: Option<String>,
}

/// Nearest pictures, nearest first
#[derive(Serialize, ToSchema)]
pub struct Neighbours {
    query: Asked,
    /// Whether the match probability of the nearest picture is at least one half
    close: bool,
    /// The neighbours
    results: Vec<Neighbour>,
    milliseconds: Milliseconds,
    /// BLAKE3 digest of the network's file
    model: String,
    /// BLAKE3 digest of the file of embeddings; ids are valid only in this gallery
    gallery: String,
}

/// The query
#[derive(Serialize, ToSchema)]
struct Asked {
    /// The picture, if it is one of the gallery
    picture: Option<Picture>,
    /// Width in pixels, as uploaded, but turned upright
    width: u32,
    /// Height in pixels, as uploaded, but turned upright
    height: u32,
    /// The input of the network, as a `data:` address of a PNG
    seen: String,
    /// Place on the report's map, if there is one
    place: Option<Place>,
}

#[derive(Serialize, ToSchema)]
struct Neighbour {
    /// Rank, from 1
    rank: usize,
    #[serde(flatten)]
    picture: Picture,
    /// Euclidean distance from the query
    distance: f32,
    /// Match probability: how likely it is of the query's class, by its distance; fitted to held-out pictures
    #[schema(minimum = 0, maximum = 1)]
    chance: f64,
    /// Whether it is of the query's class; null if that is not known
    same_class: Option<bool>,
    /// Place on the report's map, if there is one
    place: Option<Place>,
}

/// Time for each part of the search, in milliseconds
#[derive(Serialize, ToSchema)]
struct Milliseconds {
    /// Decoding and preparing the picture
    decode: f64,
    /// Waiting until the network was free
    wait: f64,
    /// Embedding, together with queries that came at the same time
    embed: f64,
    /// Searching the gallery
    search: f64,
}

/// Neighbours of a picture of the gallery
#[utoipa::path(get, path = "/api/search", params(ById), responses(
    (status = 200, body = Neighbours),
    (status = 400, description = "Wrong parameters"),
    (status = 404, description = "No such picture, class or subset"),
    (status = 410, description = "No longer the picture that was embedded"),
    (status = 503, description = "Too much to do, or nothing to show yet"),
))]
pub async fn by_id(
    State(state): State<state::State>,
    Query(ById { id, k, label_name, split }): Query<ById>,
) -> Result<Json<Neighbours>, Problem> {
    let wanted = Wishes { k, label_name, split }.wanted()?;
    let snapshot = state.snapshot()?;
    let id = id as usize;
    let picture = Picture::of(&snapshot, id)?;
    let _turn = state.turn()?;
    let read = {
        let snapshot = snapshot.clone();
        tokio::task::spawn_blocking(move || seen(&snapshot, id))
    };
    let found = state.search_queue.ask(snapshot.clone(), Question::Id(id), wanted).await?;
    let (width, height, seen) = read.await.map_err(|error| Problem::internal(&error.into()))??;
    let asked = Asked { picture: Some(picture), width, height, seen, place: None };
    Ok(Json(Neighbours::new(&snapshot, asked, Duration::ZERO, found)))
}

/// Neighbours of a picture of your own
///
/// Send the picture in the field `image` of a form, or as the body. The server finds the format in its bytes.
#[utoipa::path(post, path = "/api/search", params(Wishes),
    request_body(description = "A PNG, JPEG or WebP", content(
        (Form = "multipart/form-data", encoding(("image" = (content_type = "image/png, image/jpeg, image/webp")))),
        (inline(Vec<u8>) = "image/png"), (inline(Vec<u8>) = "image/jpeg"), (inline(Vec<u8>) = "image/webp"),
    )),
    responses(
    (status = 200, body = Neighbours),
    (status = 400, description = "Wrong parameters, or a wrong form"),
    (status = 404, description = "No such class or subset"),
    (status = 408, description = "The upload came too slowly"),
    (status = 413, description = "Too many bytes or pixels"),
    (status = 415, description = "Not a PNG, JPEG or WebP"),
    (status = 422, description = "A broken picture, or one that needs too much memory or time"),
    (status = 503, description = "Too much to do, or nothing to show yet"),
))]
pub async fn by_picture(
    State(state): State<state::State>,
    Query(wishes): Query<Wishes>,
    request: Request,
) -> Result<Json<Neighbours>, Problem> {
    let wanted = wishes.wanted()?;
    let snapshot = state.snapshot()?;
    // A wrong class or split is reported before the picture is received.
    snapshot.members(wanted.label_name.as_deref(), wanted.split.as_deref())?;
    let upload = state.uploads.receive(request).await?;
    let _turn = state.turn()?;
    let prepared = state.decoder.prepare(upload, snapshot.clone()).await?;
    state.telemetry.decoded(prepared.took);
    let seen = png(&snapshot.model.seen(&prepared.image))?;
    let asked = Asked { picture: None, width: prepared.width, height: prepared.height, seen, place: None };
    let found = state.search_queue.ask(snapshot.clone(), Question::Picture(prepared.image), wanted).await?;
    Ok(Json(Neighbours::new(&snapshot, asked, prepared.took, found)))
}

/// A form with a picture
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Form {
    /// A PNG, JPEG or WebP
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    image: Vec<u8>,
}

impl Wishes {
    fn wanted(self) -> Result<Wanted, Problem> {
        let k = self.k.unwrap_or(DEFAULT_K);
        if !(1..=MOST_NEIGHBOURS).contains(&k) {
            return Err(Problem::invalid(format!("k is {k}, but must be from 1 to {MOST_NEIGHBOURS}")));
        }
        Ok(Wanted { k, label_name: self.label_name, split: self.split })
    }
}

impl Neighbours {
    fn new(snapshot: &Arc<Snapshot>, mut query: Asked, decoding: Duration, found: Found) -> Self {
        let mut places = found.places.into_iter();
        query.place = places.next().flatten();
        let class = query.picture.as_ref().map(|picture| picture.label_name.clone()).filter(|name| !name.is_empty());
        let neighbour = |(hit, place): (Hit, Option<Place>)| {
            let Hit { rank, id, path, label_name, split, distance, chance, .. } = hit;
            let same_class = class.as_ref().map(|class| *class == label_name);
            let picture = Picture { id, path, label_name, split, image: address(snapshot, id) };
            Neighbour { rank, picture, distance, chance, same_class, place }
        };
        let milliseconds = |time: Duration| (1e6 * time.as_secs_f64()).round() / 1e3;
        Self {
            query,
            close: found.answer.close,
            results: found.answer.results.into_iter().zip(places).map(neighbour).collect(),
            milliseconds: Milliseconds {
                decode: milliseconds(decoding),
                wait: milliseconds(found.waited),
                embed: milliseconds(found.embedding),
                search: milliseconds(found.searching),
            },
            model: snapshot.model.digest.clone(),
            gallery: snapshot.digest.clone(),
        }
    }
}

/// Returns the width, the height and the network's input (as a `data:` address) of a picture of the gallery.
fn seen(snapshot: &Snapshot, id: usize) -> Result<(u32, u32, String), Problem> {
    let path = &snapshot.searcher.embeddings.paths[id];
    let bytes = snapshot.pictures.read(path).ok_or_else(|| super::gallery::gone(path))?;
    let wanted = images::Wanted { whole: true, ..Default::default() };
    let image = decode_for(&bytes, path, &wanted)?.whole.ok_or_else(|| super::gallery::gone(path))?;
    Ok((image.width(), image.height(), png(&snapshot.model.seen(&image))?))
}

fn png(image: &RgbImage) -> Result<String, Problem> {
    let png = encode_png(image, &Default::default()).map_err(|error| Problem::internal(&error))?;
    Ok(source("png", &png))
}
