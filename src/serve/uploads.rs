//! Receiving a picture: bounded in size, in time, and in what all uploads hold together.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::limits::{Limits, SILENCE, UPLOAD, UPLOADS};
use super::problem::Problem;

/// The field of a form that holds the picture.
const FIELD: &str = "image";
/// What the whole body of a form may have beside its picture.
const FORM: usize = 16 << 10;

pub struct Uploads {
    most: usize,
    /// One permit a byte.
    room: Arc<Semaphore>,
}

/// What was received, and the room that it takes.
pub struct Upload {
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Uploads {
    pub fn new(limits: &Limits) -> Self {
        Self { most: limits.bytes, room: Arc::new(Semaphore::new(UPLOADS * (limits.bytes + FORM))) }
    }

    /// The picture in a request: the field `image` of a form, or the body itself.
    pub async fn receive(&self, request: Request) -> Result<Upload, Problem> {
        let (parts, body) = request.into_parts();
        let form = is_form(&parts.headers);
        let most = self.most + if form { FORM } else { 0 };
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if declared.is_some_and(|length: usize| length > most) {
            return Err(self.too_large());
        }
        let upload = self.body(body, most).await?;
        if !form {
            return Ok(upload);
        }
        let request = Request::from_parts(parts, Body::from(upload.bytes));
        let bytes = field(request).await?;
        if bytes.len() > self.most {
            return Err(self.too_large());
        }
        Ok(Upload { bytes, ..upload })
    }

    async fn body(&self, mut body: Body, most: usize) -> Result<Upload, Problem> {
        let end = Instant::now() + UPLOAD;
        let slow = || Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "the upload came too slowly; try again");
        let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
        loop {
            let next = timeout(SILENCE, timeout_at(end, body.frame())).await;
            let Some(frame) = next.map_err(|_| slow())?.map_err(|_| slow())? else { break };
            let broken = |error: axum::Error| Problem::invalid(format!("the upload broke off: {error}"));
            let Ok(piece) = frame.map_err(broken)?.into_data() else { continue };
            if bytes.len() + piece.len() > most {
                return Err(self.too_large());
            }
            let full = |_| Problem::busy("too many uploads at once; try again in a moment");
            let more = self.room.clone().try_acquire_many_owned(piece.len() as u32).map_err(full)?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Upload { bytes: bytes.into(), _room: room })
    }

    fn too_large(&self) -> Problem {
        let most = bytesize::ByteSize::b(self.most as u64).display().si();
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-many-bytes", format!("the upload has more than {most}"))
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("multipart/form-data"))
}

async fn field(request: Request) -> Result<Bytes, Problem> {
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| Problem::invalid(error.body_text()))?;
    loop {
        let field = form.next_field().await.map_err(|error| Problem::invalid(error.body_text()))?;
        let Some(field) = field else {
            return Err(Problem::invalid(format!("the form has no field called `{FIELD}`")));
        };
        if field.name() == Some(FIELD) {
            return field.bytes().await.map_err(|error| Problem::invalid(error.body_text()));
        }
    }
}
