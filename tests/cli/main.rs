//! Tests of the complete program through its command line, on tiny projects in temporary folders.

#![allow(clippy::unwrap_used)]

mod archives;
mod bomb;
mod book;
mod cache;
mod download;
mod fixture;
mod forged;
mod impossible;
mod init;
mod killed;
mod outside;
mod own;
mod people;
mod pictures;
mod pipeline;
mod query;
mod report;
mod reproducible;
#[cfg(feature = "serve")]
mod serve;
mod snapshots;
mod store;
mod training;
