//! The exit status of an error, which scripts rely on.

use crate::base::error::Failure;
use crate::engine::manifest::ManifestError;

/// Returns the exit status for `error`: 1 if it is neither a [`Failure`] nor a [`ManifestError`].
pub fn exit_status(error: &anyhow::Error) -> u8 {
    if error.is::<ManifestError>() {
        return 2;
    }
    match error.downcast_ref::<Failure>() {
        Some(Failure::Usage(_) | Failure::NotYet(_)) => 2,
        Some(Failure::Pending) => 3,
        Some(Failure::Damaged(_)) => 4,
        Some(Failure::Busy(_)) => 5,
        Some(Failure::NotReproducible(_)) => 6,
        Some(Failure::Interrupted(signal) | Failure::Ended(signal)) => 128 + *signal as u8,
        Some(Failure::StagesFailed(_)) | None => 1,
    }
}
