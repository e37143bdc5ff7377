//! How results are drawn and written for people.

pub mod charts;
pub mod page;
pub mod results;
