//! Receives pictures, with limits on size, on time, and on the memory of all uploads together.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::limits::{Limits, SILENCE, UPLOAD, UPLOADS};
use super::problem::Problem;

/// The field of a form that holds the picture.
const FIELD: &str = "image";
/// Bytes that a form may have in addition to its picture.
const FORM: usize = 16 << 10;

pub struct Uploads {
    most: usize,
    /// One permit for each byte.
    room: Arc<Semaphore>,
}

/// The received bytes, and the permits for them.
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
        // A client that asks before sending (`Expect: 100-continue`) gets the answer before sending.
        if body.size_hint().lower() > most as u64 {
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
        let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
        while let Some(piece) = next(&mut body, end).await? {
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

/// The next piece of a body; `None` at its end.
async fn next(body: &mut Body, end: Instant) -> Result<Option<Bytes>, Problem> {
    let slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "the upload came too slowly; try again");
    let frame = timeout(SILENCE, timeout_at(end, body.frame())).await.map_err(slow)?.map_err(slow)?;
    let broken = |error: axum::Error| Problem::invalid(format!("the upload stopped too early: {error}"));
    // Trailers have no data.
    Ok(frame.transpose().map_err(broken)?.map(|frame| frame.into_data().unwrap_or_default()))
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("multipart/form-data"))
}

/// The picture in a form that came as `body` with this content type.
pub fn picture_of_form(kind: &str, body: Vec<u8>) -> Result<Vec<u8>, Problem> {
    let request = Request::builder().header(header::CONTENT_TYPE, kind).body(Body::from(body));
    let request = request.map_err(|error| Problem::invalid(error.to_string()))?;
    // The complete body is in memory, so this never waits.
    let bytes = field(request).now_or_never().ok_or_else(|| Problem::invalid("the form does not end"))??;
    Ok(bytes.to_vec())
}

/// Returns the content of the form's field [`FIELD`]. Other fields are ignored.
async fn field(request: Request) -> Result<Bytes, Problem> {
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| Problem::invalid(error.body_text()))?;
    let mut picture = None;
    while let Some(field) = form.next_field().await.map_err(|error| Problem::invalid(error.body_text()))? {
        if field.name() != Some(FIELD) {
            continue;
        }
        if picture.is_some() {
            return Err(Problem::invalid(format!("the form has two fields called `{FIELD}`")));
        }
        picture = Some(field.bytes().await.map_err(|error| Problem::invalid(error.body_text()))?);
    }
    picture.ok_or_else(|| Problem::invalid(format!("the form has no field called `{FIELD}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(fields: &[(&str, &str)]) -> Result<String, String> {
        let part = |(name, value): &(&str, &str)| {
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n{value}\r\n")
        };
        let body: String = fields.iter().map(part).collect::<String>() + "--b--\r\n";
        let bytes = picture_of_form("multipart/form-data; boundary=b", body.into());
        bytes.map(|bytes| String::from_utf8(bytes).unwrap()).map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn other_fields_of_a_form_are_let_go_by() {
        assert_eq!(sent(&[("csrf", "x"), ("image", "picture"), ("k", "5")]), Ok("picture".to_owned()));
        assert!(sent(&[("image", "a"), ("image", "b")]).unwrap_err().contains("two fields"));
        assert!(sent(&[("picture", "a")]).unwrap_err().contains("no field called `image`"));
    }
}
