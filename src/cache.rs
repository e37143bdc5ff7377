//! The cache: a result is stored under the key of everything that can change it.

mod key;
mod laid;
mod store;

pub use key::KeyDocument;
pub use laid::{Laid, Unsound};
pub use store::{Finished, Lookup, Output, Record, Slot, Store};
