//! How results are drawn and written for people.

pub mod charts;
pub mod page;
pub mod results;
pub mod training_log;
