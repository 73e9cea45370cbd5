//! ZIP as far as MTD needs it: PKWARE's APPNOTE 6.3, one file, Zip64, no comments on entries.

mod directory;
mod entry;
mod layout;
mod time;
mod writer;

pub(super) use directory::Directory;
pub(super) use entry::{Compression, Data};
pub use entry::{Entry, EntryKind};
pub(super) use layout::starts_with_local;
pub(super) use writer::{Body, NewEntry, end_of_directory};
