//! The nearest pictures of one: of the gallery, or uploaded.

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

/// How many, and among which.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wishes {
    /// How many neighbours; fewer come where there are not so many
    #[param(minimum = 1, maximum = 100, default = 5)]
    k: Option<usize>,
    /// Only pictures of this class
    label_name: Option<String>,
    /// Only pictures of this split: `train`, which were learned from, or `test`
    split: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ById {
    /// Of a picture of the gallery
    #[param(value_type = usize, minimum = 0, maximum = 4294967295u32)]
    id: u32,
    /// How many neighbours; fewer come where there are not so many
    #[param(minimum = 1, maximum = 100, default = 5)]
    k: Option<usize>,
    /// Only pictures of this class
    label_name: Option<String>,
    /// Only pictures of this split: `train`, which were learned from, or `test`
    split: Option<String>,
}

/// Nearest pictures, nearest first
#[derive(Serialize, ToSchema)]
pub struct Neighbours {
    query: Asked,
    /// Whether the nearest is rather of the query's class than not
    close: bool,
    results: Vec<Neighbour>,
    milliseconds: Milliseconds,
    /// BLAKE3 of the network's file
    model: String,
    /// BLAKE3 of the file of embeddings; ids are of this gallery
    gallery: String,
}

/// What was asked about
#[derive(Serialize, ToSchema)]
struct Asked {
    /// Where it is of the gallery
    picture: Option<Picture>,
    /// In pixels, as uploaded and turned upright
    width: u32,
    height: u32,
    /// What enters the network, as a `data:` address of a PNG
    seen: String,
    /// On the report's map, where there is one
    place: Option<Place>,
}

#[derive(Serialize, ToSchema)]
struct Neighbour {
    /// From 1
    rank: usize,
    #[serde(flatten)]
    picture: Picture,
    /// Euclidean
    distance: f32,
    /// That it is of the query's class, by its distance, fitted to pictures held out of the training
    #[schema(minimum = 0, maximum = 1)]
    chance: f64,
    /// Whether it is of the query's class, where that is known
    same_class: Option<bool>,
    /// On the report's map, where there is one
    place: Option<Place>,
}

/// Where the time went
#[derive(Serialize, ToSchema)]
struct Milliseconds {
    /// Reading the picture, and making it as those that the network learned from
    decode: f64,
    /// Until the network was free
    wait: f64,
    /// Together with others that came at the same time
    embed: f64,
    search: f64,
}

/// Neighbours of a picture of the gallery
#[utoipa::path(get, path = "/api/search", params(ById), responses(
    (status = 200, body = Neighbours),
    (status = 400, description = "Parameters that cannot be understood"),
    (status = 404, description = "No such picture, class or split"),
    (status = 410, description = "Not any more the picture that the gallery was made of"),
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
/// The picture is the field `image` of a form, or the body itself; its bytes say what it is.
#[utoipa::path(post, path = "/api/search", params(Wishes),
    request_body(description = "A PNG, JPEG or WebP", content(
        (Form = "multipart/form-data", encoding(("image" = (content_type = "image/png, image/jpeg, image/webp")))),
        (inline(Vec<u8>) = "image/png"), (inline(Vec<u8>) = "image/jpeg"), (inline(Vec<u8>) = "image/webp"),
    )),
    responses(
    (status = 200, body = Neighbours),
    (status = 400, description = "Parameters or a form that cannot be understood"),
    (status = 404, description = "No such class or split"),
    (status = 408, description = "The upload came too slowly"),
    (status = 413, description = "Too many bytes or pixels"),
    (status = 415, description = "No picture that is read here"),
    (status = 422, description = "A broken picture, or one that takes too long to decode"),
    (status = 503, description = "Too much to do, or nothing to show yet"),
))]
pub async fn by_picture(
    State(state): State<state::State>,
    Query(wishes): Query<Wishes>,
    request: Request,
) -> Result<Json<Neighbours>, Problem> {
    let wanted = wishes.wanted()?;
    let snapshot = state.snapshot()?;
    // What cannot be answered is said before the picture is sent.
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
            return Err(Problem::invalid(format!("k is {k}, and must be from 1 to {MOST_NEIGHBOURS}")));
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

/// Size, and what enters the network, of a picture of the gallery.
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
