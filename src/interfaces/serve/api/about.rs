//! Information about the gallery, its map and report, and the state of the server.

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

/// Policy for the report. Its inline scripts and styles work, but it has no origin and cannot load anything.
const REPORT_POLICY: &str = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Serialize, ToSchema)]
pub struct About {
    /// Version of the program
    version: &'static str,
    /// Number of pictures in the gallery
    pictures: usize,
    /// Names of the classes
    classes: Vec<String>,
    /// Names of the subsets
    splits: Vec<String>,
    /// Pictures to try the search with, one of each class
    samples: Vec<Picture>,
    /// Whether there is a map
    map: bool,
    /// Whether there is a report at /report
    report: bool,
    most: Most,
    /// Number of values in an embedding
    dimension: usize,
    /// BLAKE3 digest of the network's file
    model: String,
    /// BLAKE3 digest of the file of embeddings; ids are valid only in this gallery
    gallery: String,
}

/// Limits
#[derive(Serialize, ToSchema)]
struct Most {
    /// Most bytes of an upload
    bytes: usize,
    /// Most pixels of a picture
    pixels: u64,
    /// Most neighbours in an answer
    k: usize,
    /// Most pictures on a page of the gallery
    listed: usize,
}

/// Information about the gallery and its limits
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

/// Map of the test pictures in two dimensions, with similar pictures close together
#[derive(Serialize, ToSchema)]
pub struct MapDocument {
    /// How the map was made
    method: String,
    /// The classes, and how they are drawn
    classes: Vec<ClassDocument>,
    /// The test pictures and their places
    points: Vec<PointDocument>,
    /// BLAKE3 digest of the file of embeddings
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
    /// Position in the list of classes, from 0
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

/// Sends the page of the report in pieces, so that a client that does not read it occupies only one piece.
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
    // This address needs no token, so it gives no reason. `/api/about` does.
    let not_ready = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "there is nothing to show yet");
    state.snapshot().map(|_| Json(Health { status: "ok" })).map_err(not_ready)
}

/// Counts and times for Prometheus
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn metrics(State(state): State<state::State>) -> Result<impl IntoResponse, Problem> {
    let text = state.telemetry.text().map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
