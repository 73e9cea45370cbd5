//! Checking the log: that it is the one that was signed, that it only grew, and that one record is in it. All of it with
//! the log's public key alone, whether the log comes from a custodian or from a folder.

mod compare;
mod export;
mod memory;
mod receipt;
mod retention;
mod search;
mod source;
mod verify;
mod witnesses;

use std::{fs, path::Path};

use custodian_proto::tlog::{Flaw, VerifierKey};

use crate::error::{Error, Kind, Result};

pub use compare::{Compared, compare};
pub use export::{Exported, export};
pub use memory::Memory;
pub(crate) use memory::write_durably;
pub use receipt::{Proven, prove_receipt, read_receipt, record_of, write_receipt};
pub use retention::{Removal, Retention, forget};
pub use search::{matches, search};
pub use source::Source;
pub use verify::{Part, Verified, verify};
pub use witnesses::{read_witness_key, require_cosignatures};

/// The longest file with a log key, in bytes.
const MAX_KEY_LEN: u64 = 4_096;

/// Reads a log's public key: `keys/log.pub` of a custodian.
///
/// # Errors
/// [`Kind::Local`] if it cannot be read or is no log key.
pub fn read_log_key(path: &Path) -> Result<VerifierKey> {
    let cannot = |why: &dyn std::fmt::Display| {
        Error::new(Kind::Local, format!("cannot use the log key {}", path.display()), why)
    };
    let length = fs::metadata(path).map_err(|why| cannot(&why))?.len();
    if length > MAX_KEY_LEN {
        return Err(cannot(&"it is too long for a log key"));
    }
    let text = fs::read_to_string(path).map_err(|why| cannot(&why))?;
    text.parse().map_err(|flaw: Flaw| cannot(&flaw).hint("it is the file keys/log.pub of the custodian"))
}

/// The log, or a part of it, is not what it should be.
fn broken(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Integrity, what, why)
}
