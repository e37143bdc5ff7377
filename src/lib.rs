//! SimiliAI learns from scratch to find visually similar images, and can prove how it got there.
//!
//! The library holds the engine and all that two stages share; it names no stage. The stages belong to the binary
//! (`stages/`), which joins them to [`cli::main`].
//!
//! | module | what it is |
//! | --- | --- |
//! | [`cli`] | the command line: one file a command |
//! | [`manifest`] | `pipeline.yaml`, checked whole, errors with line and caret |
//! | [`stage`] | the contract of a stage: `Stage`, `Context` |
//! | [`pipeline`] | order, ask the cache, run; what is stale and why |
//! | [`cache`] | key → stored result → laid files; what changed, what is damaged, what may go |
//! | [`lock`] | `pipeline.lock`: what results depend on, and the digests they must have |
//! | [`difference`] | where two results that should be equal differ |
//! | [`interrupt`] | SIGINT and SIGTERM end work between two items |
//! | [`fault`] | the points at which a test kills the process |
//! | [`failure`] | failures with an exit status of their own |
//! | [`progress`] | bars on a terminal, plain lines elsewhere |
//! | [`worker`] | work on files from anybody, in processes that can be ended |
//! | [`text`] | foreign text, safe to show |
//! | [`files`] | whole files or none, digests, errors with the path |
//! | [`images`] | CIFAR's archives, people's pictures, and how both are prepared |
//! | [`listing`] | the CSV lists of images and of the split |
//! | [`nn`] | differentiable ops on dfdx tensors and their kernels |
//! | [`model`] | the networks; saved together with their configuration |
//! | [`embeddings`] | the Parquet file: schema, writing, reading |
//! | [`search`] | nearest neighbours: exact, and by an approximate index |
//! | [`calibration`] | what a distance means: the chance that a neighbour is of the query's class |
//! | [`database`] | vectors in PostgreSQL: published, and searched there |
//! | [`finder`] | a gallery that is asked, and its answers |
//! | [`collection`] | people's own pictures: found, embedded, remembered |
//! | [`stream`] | Arrow in, Arrow out: pictures of a data engine embedded batch for batch |
//! | [`metrics`] | retrieval metrics with definition, chance level and interval; how two runs differ |
//! | [`serve`] | a server: its page, its API, and what keeps both safe |
//! | [`page`] | HTML in one file |
//! | [`charts`] | charts as SVG for pages, and as PNG with a font that comes along |

pub mod cache;
pub mod calibration;
pub mod charts;
pub mod cli;
pub mod collection;
#[cfg(feature = "cloud")]
pub mod database;
pub mod difference;
pub mod embeddings;
pub mod failure;
pub mod fault;
pub mod files;
pub mod finder;
pub mod images;
pub mod interrupt;
pub mod listing;
pub mod lock;
pub mod manifest;
pub mod metrics;
pub mod model;
pub mod nn;
pub mod page;
pub mod pipeline;
pub mod progress;
pub mod search;
#[cfg(feature = "serve")]
pub mod serve;
pub mod stage;
#[cfg(feature = "cloud")]
pub mod stream;
pub mod text;
pub mod worker;
