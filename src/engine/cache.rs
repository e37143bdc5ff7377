//! The cache: a result is stored under the key of everything that can change it.
//!
//! | file | what it is |
//! | --- | --- |
//! | `key`, `reason` | the document that a key is the digest of; what differs between two, and how that is worded |
//! | `store`, `blobs`, `contents` | a result for each key; its list of files; each content once, under its digest |
//! | `output_dir`, `place`, `folders` | laying files where people look; which folders on the way are none |
//! | `checked out`, `index`, `signature` | what lies where; how its files looked when they were known to be right |
//! | `result_files` | the files of a result as they were made, in their place or in the store |
//! | `elsewhere`, `remote` | results that other machines share; in a bucket or a folder |
//! | `sealed`, `work` | the cache's own files with their checksums; folders to work in |
//! | `items` | what a stage made of each single item |
//! | `history` | when and how fast instances ran |
//! | `seen` | files outside the store, and facts worked out once |
//! | `verify`, `gc` | finding damage; making room |

mod blobs;
mod checked_out;
mod contents;
mod digest_cache;
mod elsewhere;
mod file_stamp;
mod folders;
mod gc;
mod history;
mod items;
mod key;
mod output_dir;
mod place;
mod reason;
#[cfg(feature = "cloud")]
mod remote;
mod result_files;
mod sealed;
mod stamp_index;
mod store;
mod verify;
mod work;

pub use blobs::Blobs;
pub use checked_out::CheckedOut;
pub use contents::{Changes, Contents, File, Written};
pub use digest_cache::DigestCache;
pub use elsewhere::{Elsewhere, Mode, Settings};
pub use gc::{Budget, Collected};
pub use history::Finished;
pub use items::{Made, Table};
pub use key::KeyDocument;
pub use output_dir::OutputDir;
pub use place::{Checkout, Inspection};
pub use reason::{FileIssue, Reason};
#[cfg(feature = "cloud")]
pub use remote::Remote;
pub use result_files::ResultFiles;
pub use sealed::{Found, is_below};
pub use store::{Store, StoredResult};
pub use verify::{Damage, read_kept, write_kept};

/// Folders for items that are made outside the pipeline: each has its own items and its own digests of files.
pub const NAMESPACES: [&str; 1] = [PEOPLE];
/// For items that people bring.
pub const PEOPLE: &str = "people";
