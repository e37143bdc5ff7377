//! The cache: a result is stored under the key of everything that can change it.
//!
//! | file | what it is |
//! | --- | --- |
//! | `key`, `reason` | the document that a key is the hash of; how two of them differ, in words |
//! | `store`, `blobs`, `contents` | a result for each key; the list of its files; each content once, under its digest |
//! | `output_dir`, `checkout`, `checked_out` | where files are put; putting them there; which result is there now |
//! | `inspection`, `folders`, `kept_aside` | whether the files are unmodified; what happens to those of other people |
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

/// Folders for items that are made outside the pipeline: each has its own items and its own digests of files.
pub const NAMESPACES: [&str; 1] = [PEOPLE];
/// For items that people bring.
pub const PEOPLE: &str = "people";
