//! Whole behaviour through the command line, on tiny projects made in a temporary folder.

#![allow(clippy::unwrap_used)]

mod archives;
mod cache;
mod download;
mod fixture;
mod killed;
mod people;
mod pipeline;
mod reproducible;
mod store;
mod training;
