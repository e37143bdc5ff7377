//! The cache: a result is stored under the key of everything that can change it.
//!
//! | file | what it is |
//! | --- | --- |
//! | `key`, `reason` | the key document; the reasons why something runs again |
//! | `store`, `blobs`, `contents` | a result for each key; the list of its files; each content once, under its digest |
//! | `output_dir`, `checkout`, `checked_out` | output directories; checking out; which result is checked out |
//! | `inspection`, `folders`, `kept_aside` | finding missing and modified files; moving files of the user away |
//! | `file_stamp`, `stamp_index`, `digest_cache` | which files need not be read again |
//! | `result_files` | the files of a result, in the output directory or in the store |
//! | `remote_cache`, `remote` | results that other machines share; in a bucket or a folder |
//! | `sealed`, `work` | the cache's own files, with a checksum; temporary folders |
//! | `items` | what a stage made of each single item |
//! | `history` | when each instance ran, and how fast |
//! | `verify`, `gc` | finding damage; removing old results |

mod blobs;
mod checked_out;
mod checkout;
mod contents;
mod digest_cache;
mod file_stamp;
mod folders;
mod gc;
mod history;
mod inspection;
mod items;
mod kept_aside;
mod key;
mod last_run;
mod output_dir;
mod reason;
#[cfg(feature = "cloud")]
mod remote;
mod remote_cache;
mod result_files;
mod sealed;
mod stamp_index;
mod store;
mod verify;
mod work;

pub use blobs::Blobs;
pub use checked_out::CheckedOut;
pub use checkout::Checkout;
pub use contents::{Changes, Contents, File, Written};
pub use digest_cache::DigestCache;
pub use gc::{Budget, Collected};
pub use history::Finished;
pub use inspection::Inspection;
pub use items::{ItemResult, ItemTable};
pub use key::KeyDocument;
pub use output_dir::OutputDir;
pub use reason::{FileIssue, Reason};
#[cfg(feature = "cloud")]
pub use remote::Remote;
pub use remote_cache::{Mode, RemoteCache, Settings};
pub use result_files::ResultFiles;
pub use sealed::{Found, is_below};
pub use store::{Store, StoredResult};
pub use verify::{Damage, read_kept, write_kept};

/// Folders for items that are made outside the pipeline. Each has its own items and its own digest cache.
pub const NAMESPACES: [&str; 1] = [PEOPLE];
/// The namespace for the user's own pictures.
pub const PEOPLE: &str = "people";
