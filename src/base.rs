//! The lowest layer: files, signals, progress, errors.

pub mod error;
pub mod failpoint;
pub mod files;
pub mod progress;
pub mod seed;
pub mod signal;
pub mod simd;
pub mod text;
pub mod tls;
pub mod worker;
