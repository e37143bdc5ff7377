//! Finds the neighbours of a vector, and computes metrics about them.

#[cfg(feature = "cloud")]
pub mod arrow_filter;
pub mod artifacts;
pub mod collection;
pub mod copies;
#[cfg(feature = "cloud")]
pub mod database;
pub mod differences;
pub mod embeddings;
pub mod metrics;
pub mod search;
pub mod searcher;
