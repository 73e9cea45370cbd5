//! Output that appears under its final name only when it is complete and authenticated (law 8).

mod failed;
mod path;
mod spool;
mod staging;
mod tree;

pub(crate) use failed::failed;
pub use path::{SafePath, Unsafe, check_link};
pub(crate) use spool::{copy_to_stdout, spool};
pub use staging::{IfMissing, Staging};
pub use tree::{Case, Collision, Kind, Tree};
