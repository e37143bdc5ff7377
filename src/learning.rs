//! From a picture to a vector.

pub mod calibration;
pub mod images;
pub mod listing;
pub mod model;
pub mod nn;
