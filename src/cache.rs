//! The cache: a result is stored under the key of everything that can change it.

mod blobs;
mod contents;
mod gc;
mod index;
mod items;
mod key;
mod place;
mod reason;
mod seen;
mod signature;
mod store;
mod verify;

pub use blobs::Blobs;
pub use contents::{Changes, Contents, File};
pub use gc::{Budget, Collected};
pub use items::{Made, Table};
pub use key::KeyDocument;
pub use place::{Laid, Laying, Look, Place};
pub use reason::{Fault, Reason};
pub use seen::Seen;
pub use store::{Finished, Record, Store};
pub use verify::Damage;
