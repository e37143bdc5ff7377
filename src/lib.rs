//! SimiliAI trains a network from scratch to find visually similar images, and every result can be reproduced.
//!
//! The stages belong to the binary (`stages/`), which passes them to [`interfaces::cli::main`]. The library holds the
//! code that several stages share. It names no stage.
//!
//! A module uses modules of its own layer and of the layers below, never of a layer above. Tests in `layers` check it.
//!
//! | layer | module | what it is |
//! | --- | --- | --- |
//! | [`interfaces`] | [`interfaces::cli`] | the command line: a file for each command |
//! | | [`interfaces::serve`] | the server: its page, its API, and what protects both |
//! | [`report`] | [`report::charts`] | charts as SVG for pages, and as PNG with a font that comes with the program |
//! | | [`report::html`] | pages in one file |
//! | | [`report::results`] | `results.json` |
//! | | [`report::training_log`] | the log of a training, and its curves |
//! | [`retrieval`] | [`retrieval::embeddings`] | the Parquet file: schema, writing, reading |
//! | | [`retrieval::search`] | nearest neighbours: exact, and by a graph |
//! | | [`retrieval::searcher`] | searches a gallery |
//! | | [`retrieval::collection`] | the user's own pictures: finds, embeds and remembers them |
//! | | [`retrieval::copies`] | pictures that are copies of each other |
//! | | [`retrieval::metrics`] | metrics of retrieval, with definition, baseline and interval; how two runs differ |
//! | | [`retrieval::database`] | vectors in PostgreSQL |
//! | | [`retrieval::arrow_filter`] | embeds the pictures of an Arrow stream batch by batch, for data engines |
//! | | [`retrieval::artifacts`], [`retrieval::differences`] | the kinds of results; how two files differ |
//! | [`learning`] | [`learning::images`] | CIFAR's archives, the user's own pictures, and how both are prepared |
//! | | [`learning::dataset`] | the CSV lists of images and of the split |
//! | | [`learning::nn`] | differentiable ops on dfdx tensors, and their kernels |
//! | | [`learning::model`] | the networks, saved with their configuration |
//! | | [`learning::calibration`] | from a distance to a match probability |
//! | [`engine`] | [`engine::manifest`] | `pipeline.yaml`: read and checked, errors with line and caret |
//! | | [`engine::stage`] | the contract of a stage: `Stage`, `Context` |
//! | | [`engine::pipeline`] | what runs, in which order, and why |
//! | | [`engine::cache`] | a result for each key; checking it out; finding damage; removing old results |
//! | | [`engine::lock`] | `pipeline.lock` |
//! | | [`engine::diff`] | where two results differ |
//! | [`base`] | [`base::error`], [`base::files`], [`base::text`] | errors, atomic writes, text that is safe to show |
//! | | [`base::signal`], [`base::failpoint`], [`base::worker`] | SIGINT and SIGTERM; points at which tests kill the process; processes with limits |
//! | | [`base::progress`], [`base::seed`], [`base::simd`], [`base::tls`] | progress bars, random streams, vector units, TLS |

pub mod base;
pub mod engine;
pub mod interfaces;
#[cfg(test)]
mod layers;
pub mod learning;
pub mod report;
pub mod retrieval;
