//! Turns pictures into vectors.

pub mod calibration;
pub mod dataset;
pub mod images;
pub mod model;
pub mod nn;
