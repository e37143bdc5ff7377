//! From a vector to its neighbours, and to figures about them.

pub mod artifacts;
pub mod collection;
#[cfg(feature = "cloud")]
pub mod database;
pub mod differences;
pub mod embeddings;
pub mod finder;
pub mod metrics;
pub mod search;
#[cfg(feature = "cloud")]
pub mod stream;
