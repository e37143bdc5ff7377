//! Why bytes are not read as a picture.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why bytes are not taken for a picture, in words that say which.
#[derive(Debug, Clone, PartialEq, Error, Serialize, Deserialize)]
pub enum Unreadable {
    /// Neither PNG nor JPEG nor WebP.
    #[error("{0}")]
    NoPicture(String),
    #[error("{0}")]
    TooManyPixels(String),
    #[error("{0}")]
    Broken(String),
    /// Its decoder crashed, or needed more memory or time than any picture should.
    #[error("{0}")]
    Demanding(String),
    /// The picture is large. It may be decoded only while no other large one is.
    #[error("it is large")]
    Large,
    /// No picture can be decoded at the moment.
    #[error("{0}")]
    NoDecoder(String),
}

/// Whether the error is not the picture's fault, so that no other picture can be read either.
pub fn is_no_fault_of_it(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Unreadable::NoDecoder(_)))
}
