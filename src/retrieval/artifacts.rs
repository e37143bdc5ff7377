//! The kinds of results that commands outside the pipeline look for.

use crate::engine::stage::ArtifactKind;

/// Prepared pictures, at the paths that embeddings name.
pub const PICTURES: ArtifactKind = ArtifactKind("prepared pictures");
/// [`crate::learning::model::FILE`]
pub const MODEL: ArtifactKind = ArtifactKind("trained networks");
/// [`crate::retrieval::embeddings::FILE`]
pub const EMBEDDINGS: ArtifactKind = ArtifactKind("embeddings");
/// [`crate::retrieval::search::INDEX`]
pub const INDEX: ArtifactKind = ArtifactKind("search indexes");
/// `results.json` and [`crate::retrieval::metrics::QUERIES`]
pub const METRICS: ArtifactKind = ArtifactKind("figures");
