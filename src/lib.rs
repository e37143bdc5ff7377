//! SimiliAI learns from scratch to find visually similar images, and can prove how it got there.
//!
//! The library holds the engine and all that two stages share; it names no stage. The stages belong to the binary
//! (`stages/`), which joins them to [`interfaces::cli::main`].
//!
//! | module | what it is |
//! | --- | --- |
//! | [`interfaces::cli`] | the command line: one file a command |
//! | [`engine::manifest`] | `pipeline.yaml`, checked whole, errors with line and caret |
//! | [`engine::stage`] | the contract of a stage: `Stage`, `Context` |
//! | [`engine::pipeline`] | order, ask the cache, run; what is stale and why |
//! | [`engine::cache`] | key → stored result → checked out files; what changed, what is damaged, what may go |
//! | [`engine::lock`] | `pipeline.lock`: what results depend on, and the digests they must have |
//! | [`engine::difference`] | where two results that should be equal differ |
//! | [`base::signal`] | SIGINT and SIGTERM end work between two items |
//! | [`base::failpoint`] | the points at which a test kills the process |
//! | [`base::error`] | failures with an exit status of their own |
//! | [`base::progress`] | bars on a terminal, plain lines elsewhere |
//! | [`base::worker`] | work on files from anybody, in processes that can be ended |
//! | [`base::text`] | foreign text, safe to show |
//! | [`base::files`] | whole files or none, digests, errors with the path |
//! | [`learning::images`] | CIFAR's archives, people's pictures, and how both are prepared |
//! | [`learning::dataset`] | the CSV lists of images and of the split |
//! | [`learning::nn`] | differentiable ops on dfdx tensors and their kernels |
//! | [`learning::model`] | the networks; saved together with their configuration |
//! | [`retrieval::embeddings`] | the Parquet file: schema, writing, reading |
//! | [`retrieval::search`] | nearest neighbours: exact, and by an approximate index |
//! | [`learning::calibration`] | what a distance means: the chance that a neighbour is of the query's class |
//! | [`retrieval::database`] | vectors in PostgreSQL: published, and searched there |
//! | [`retrieval::searcher`] | a gallery that is asked, and its answers |
//! | [`retrieval::collection`] | people's own pictures: found, embedded, remembered |
//! | [`retrieval::arrow_filter`] | Arrow in, Arrow out: pictures of a data engine embedded batch for batch |
//! | [`retrieval::metrics`] | retrieval metrics with definition, chance level and interval; how two runs differ |
//! | [`interfaces::serve`] | a server: its page, its API, and what keeps both safe |
//! | [`report::html`] | HTML in one file |
//! | [`report::charts`] | charts as SVG for pages, and as PNG with a font that comes along |

pub mod base;
pub mod engine;
pub mod interfaces;
#[cfg(test)]
mod layers;
pub mod learning;
pub mod report;
pub mod retrieval;
