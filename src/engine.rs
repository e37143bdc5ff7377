//! Runs stages and stores their results: manifest, keys, cache, lock file.

pub mod cache;
pub mod diff;
pub mod lock;
pub mod manifest;
pub mod pipeline;
pub mod stage;
