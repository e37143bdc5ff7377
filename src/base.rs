//! What everything else stands on: files, signals, progress, errors.

pub mod failure;
pub mod fault;
pub mod files;
pub mod interrupt;
pub mod progress;
pub mod text;
pub mod worker;
