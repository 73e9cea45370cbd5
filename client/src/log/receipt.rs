//! Receipts: one record, proven offline.

use std::{fs, io::Write as _, path::Path};

use custodian_proto::{
    tlog::{Checkpoint, Receipt, VerifierKey, receipt::MAX_RECEIPT_LEN},
    v1,
};
use prost::Message as _;
use tempfile::NamedTempFile;

use super::broken;
use crate::error::{Error, Kind, Result};

/// A record that is in the log.
#[derive(Clone, PartialEq, Debug)]
pub struct Proven {
    /// The record.
    pub record: v1::Record,
    /// The checkpoint that vouches for it.
    pub checkpoint: Checkpoint,
}

/// Reads a receipt.
///
/// # Errors
/// [`Kind::Local`] if it cannot be read, [`Kind::Integrity`] if it is no receipt.
pub fn read_receipt(path: &Path) -> Result<Receipt> {
    let what = format!("cannot read the receipt {}", path.display());
    let local = |why: &dyn std::fmt::Display| Error::new(Kind::Local, &what, why);
    if fs::metadata(path).map_err(|why| local(&why))?.len() > MAX_RECEIPT_LEN as u64 {
        return Err(local(&"it is too long for a receipt"));
    }
    let bytes = fs::read(path).map_err(|why| local(&why))?;
    let text = String::from_utf8(bytes).map_err(|_| broken(&what, "it is no text"))?;
    text.parse().map_err(|flaw: custodian_proto::tlog::Flaw| broken(&what, flaw))
}

/// Checks a receipt with the log's public key alone.
///
/// # Errors
/// [`Kind::Integrity`] if the record is not in the log of that key.
pub fn prove_receipt(receipt: &Receipt, key: &VerifierKey) -> Result<Proven> {
    let what = "the receipt does not verify";
    let checkpoint = receipt.verify(key).map_err(|flaw| broken(what, flaw))?;
    Ok(Proven { record: record_of(receipt)?, checkpoint })
}

/// What a receipt says that the record is. Proves nothing.
///
/// # Errors
/// [`Kind::Integrity`] if there is no record in it.
pub fn record_of(receipt: &Receipt) -> Result<v1::Record> {
    let what = "the receipt makes no sense";
    let record = v1::Record::decode(receipt.entry.as_slice())
        .map_err(|error| broken(what, format!("its entry is no record: {error}")))?;
    if receipt.index.checked_add(1) != Some(record.sequence) {
        return Err(broken(what, "the number in its record is not its place in the log"));
    }
    Ok(record)
}

/// Writes a receipt into a new file.
///
/// # Errors
/// [`Kind::Local`] if there is such a file already, or it cannot be written.
pub fn write_receipt(path: &Path, receipt: &Receipt) -> Result<()> {
    let cannot = |why: &dyn std::fmt::Display| {
        Error::new(Kind::Local, format!("cannot write the receipt {}", path.display()), why)
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder).map_err(|why| cannot(&why))?;
    write!(file, "{receipt}").and_then(|()| file.as_file().sync_all()).map_err(|why| cannot(&why))?;
    file.persist_noclobber(path).map(drop).map_err(|why| cannot(&why.error))
}
