//! Stages as parameters, inputs and outputs: keys, results, locks.

pub mod cache;
pub mod diff;
pub mod lock;
pub mod manifest;
pub mod pipeline;
pub mod stage;
