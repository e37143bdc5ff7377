//! How results are drawn and written for people.

pub mod charts;
pub mod html;
pub mod results;
pub mod training_log;
