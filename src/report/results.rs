//! `results.json`: the metrics of a run.

/// The name of the file.
pub const FILE: &str = "results.json";
