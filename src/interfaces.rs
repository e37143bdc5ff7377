//! The command line and the server.

pub mod cli;
#[cfg(feature = "serve")]
pub mod serve;
