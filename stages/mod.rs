//! The stages of the pipeline, in the order in which data passes them.

mod benchmark;
mod compare;
mod embed;
pub mod fetch;
mod index;
mod prepare;
mod split;
pub mod train;

use similiai::engine::stage::{Kind, kind};

pub static KINDS: &[Kind] = &[
    kind::<fetch::Fetch>(),
    kind::<prepare::Prepare>(),
    kind::<split::Split>(),
    kind::<train::Train>(),
    kind::<embed::Embed>(),
    kind::<index::Index>(),
    kind::<benchmark::Benchmark>(),
    kind::<compare::Compare>(),
];
