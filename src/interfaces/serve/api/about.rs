//! What the server shows, its map and report, and how it is.

use std::convert::Infallible;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use super::gallery::Picture;
use crate::interfaces::serve::etag::unless_known;
use crate::interfaces::serve::limits::{MOST_LISTED, MOST_NEIGHBOURS};
use crate::interfaces::serve::map::Point;
use crate::interfaces::serve::problem::Problem;
use crate::interfaces::serve::snapshot::Report;
use crate::interfaces::serve::state;
use crate::report::charts::{ClassMark, SHAPES, hex};

/// For the report, which holds its own scripts and styles: they run, but as of no origin, and reach nothing.
const REPORT_POLICY: &str = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Serialize, ToSchema)]
pub struct About {
    /// Of this program
    version: &'static str,
    /// In the gallery
    pictures: usize,
    classes: Vec<String>,
    splits: Vec<String>,
    /// To try it with: one picture of each class
    samples: Vec<Picture>,
    /// Whether there is a map
    map: bool,
    /// Whether there is a report at /report
    report: bool,
    most: Most,
    /// Of an embedding
    dimension: usize,
    /// BLAKE3 of the network's file
    model: String,
    /// BLAKE3 of the file of embeddings; ids are of this gallery
    gallery: String,
}

/// What is not exceeded
#[derive(Serialize, ToSchema)]
struct Most {
    /// Of an upload
    bytes: usize,
    /// Of a picture
    pixels: u64,
    /// Neighbours in an answer
    k: usize,
    /// Pictures on a page of the gallery
    listed: usize,
}

/// What there is to search
#[utoipa::path(get, path = "/api/about", responses(
    (status = 200, body = About),
    (status = 503, description = "Nothing to show yet"),
))]
pub async fn about(State(state): State<state::State>) -> Result<Json<About>, Problem> {
    let snapshot = state.snapshot()?;
    let samples = snapshot.samples().into_iter().map(|id| Picture::of(&snapshot, id)).collect::<Result<_, _>>()?;
    Ok(Json(About {
        version: env!("CARGO_PKG_VERSION"),
        pictures: snapshot.searcher.embeddings.len(),
        classes: snapshot.classes.clone(),
        splits: snapshot.splits().into_iter().map(str::to_owned).collect(),
        samples,
        map: snapshot.map.is_some(),
        report: snapshot.report.is_some(),
        most: Most { bytes: state.limits.bytes, pixels: state.limits.pixels, k: MOST_NEIGHBOURS, listed: MOST_LISTED },
        dimension: snapshot.searcher.embeddings.dimension,
        model: snapshot.model.digest.clone(),
        gallery: snapshot.digest.clone(),
    }))
}

/// Test pictures in two dimensions, near ones near each other
#[derive(Serialize, ToSchema)]
pub struct MapDocument {
    /// How it was made
    method: String,
    classes: Vec<ClassDocument>,
    points: Vec<PointDocument>,
    gallery: String,
}

/// How a class is drawn
#[derive(Serialize, ToSchema)]
struct ClassDocument {
    label_name: String,
    /// An SVG path around the origin
    shape: &'static str,
    #[schema(pattern = "^#[0-9A-F]{6}$")]
    color: String,
    filled: bool,
}

#[derive(Serialize, ToSchema)]
struct PointDocument {
    #[serde(flatten)]
    point: Point,
    /// A place in the list of classes
    class: usize,
}

/// The map of the report
#[utoipa::path(get, path = "/api/map", responses(
    (status = 200, body = MapDocument),
    (status = 404, description = "There is no report yet"),
    (status = 503, description = "Nothing to show yet"),
))]
pub async fn map(State(state): State<state::State>) -> Result<Json<MapDocument>, Problem> {
    let snapshot = state.snapshot()?;
    let map = snapshot.map.as_ref().ok_or_else(no_report)?;
    let class = |(place, name): (usize, &String)| {
        let ClassMark { shape, color, filled } = ClassMark::of(place);
        ClassDocument { label_name: name.clone(), shape: SHAPES[shape], color: hex(color), filled }
    };
    let names = &snapshot.searcher.embeddings.label_names;
    let point = |(id, place): (&usize, &crate::interfaces::serve::map::Place)| {
        let class = snapshot.classes.iter().position(|class| *class == names[*id])?;
        Some(PointDocument { point: Point { id: *id, place: *place }, class })
    };
    Ok(Json(MapDocument {
        method: map.method.clone(),
        classes: snapshot.classes.iter().enumerate().map(class).collect(),
        points: map.points.iter().filter_map(point).collect(),
        gallery: snapshot.digest.clone(),
    }))
}

fn no_report() -> Problem {
    Problem::missing("there is no report of this gallery yet; run `similiai run all`")
}

/// The report's page, in pieces: a client that takes nothing holds no more than one of them.
pub async fn report(State(state): State<state::State>, headers: HeaderMap) -> Result<Response, Problem> {
    const PIECE: usize = 32 << 10;
    let snapshot = state.snapshot()?;
    let Report { page, tag } = snapshot.report.as_ref().ok_or_else(no_report)?;
    let mut response = unless_known(&headers, tag, "text/html; charset=utf-8", || {
        let (page, length) = (page.clone(), page.len());
        let piece = move |at: usize| Ok::<_, Infallible>(page.slice(at..length.min(at + PIECE)));
        let pieces = Body::from_stream(stream::iter((0..length).step_by(PIECE)).map(piece));
        ([(header::CONTENT_LENGTH, length)], pieces)
    });
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(REPORT_POLICY));
    Ok(response)
}

#[derive(Serialize, ToSchema)]
pub struct Health {
    status: &'static str,
}

/// Whether there is something to show
#[utoipa::path(get, path = "/healthz", responses(
    (status = 200, body = Health),
    (status = 503, description = "Nothing to show yet"),
))]
pub async fn health(State(state): State<state::State>) -> Result<Json<Health>, Problem> {
    // Whoever has no token learns no more than that; `/api/about` tells the others why.
    let not_ready = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "there is nothing to show yet");
    state.snapshot().map(|_| Json(Health { status: "ok" })).map_err(not_ready)
}

/// Counts and times for Prometheus
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn metrics(State(state): State<state::State>) -> Result<impl IntoResponse, Problem> {
    let text = state.telemetry.text().map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
