//! Whole behaviour through the command line, on tiny projects made in a temporary folder.

#![allow(clippy::unwrap_used)]

mod archives;
mod cache;
mod download;
mod fixture;
mod pipeline;
mod training;
