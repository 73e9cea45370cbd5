//! The log as a Merkle tree.

use custodian_proto::{
    limits::MAX_PAGE_LEN,
    refusal::Refusal,
    tlog::{Receipt, Tile},
    v1::{self, log_service_client::LogServiceClient},
};

use super::{Remote, session::Signed, status::Failure};
use crate::error::{Error, Kind, Result};

impl Remote {
    /// The newest signed checkpoint.
    ///
    /// # Errors
    /// Those of any call.
    pub fn checkpoint(&self) -> Result<String> {
        let what = "cannot read the log's checkpoint";
        let request = v1::GetCheckpointRequest {};
        let answer = self.call(what, async |service| client(service).get_checkpoint(request).await)?;
        Ok(answer.note)
    }

    /// The bytes of a tile's first hashes. `None` if there are not so many.
    ///
    /// # Errors
    /// Those of any call.
    pub fn tile(&self, tile: Tile, width: usize) -> Result<Option<Vec<u8>>> {
        let width = u32::try_from(width).unwrap_or(u32::MAX);
        let request = v1::GetTileRequest { level: tile.level.into(), index: tile.index, width };
        let what = "cannot read the log's tree";
        let answer = self.call(what, async |service| client(service).get_tile(request).await);
        Ok(if_found(answer)?.map(|answer| answer.hashes))
    }

    /// A bundle of entries. `None` if there are not so many.
    ///
    /// # Errors
    /// Those of any call.
    pub fn entries(&self, index: u64, width: usize) -> Result<Option<Vec<u8>>> {
        let width = u32::try_from(width).unwrap_or(u32::MAX);
        let request = v1::GetEntriesRequest { index, width };
        let what = "cannot read the log's entries";
        let answer = self.call(what, async |service| client(service).get_entries(request).await);
        Ok(if_found(answer)?.map(|answer| answer.bundle))
    }

    /// The receipt of a record.
    ///
    /// # Errors
    /// Those of any call; [`Kind::Integrity`] if the answer is no receipt of that record.
    pub fn receipt(&self, sequence: u64) -> Result<Receipt> {
        let what = format!("cannot get the receipt of record {sequence}");
        let request = v1::GetReceiptRequest { sequence };
        let answer = self.call(&what, async |service| client(service).get_receipt(request).await)?;
        read_receipt(&what, &answer.receipt, sequence)
    }
}

/// A receipt of this record, as the custodian answers it.
pub(super) fn read_receipt(what: &str, text: &str, sequence: u64) -> Result<Receipt> {
    let receipt = text.parse::<Receipt>().map_err(|flaw| Error::new(Kind::Integrity, what, flaw))?;
    if receipt.index.checked_add(1) != Some(sequence) {
        let why = "the custodian answered with the receipt of another record";
        return Err(Error::new(Kind::Integrity, what, why));
    }
    Ok(receipt)
}

fn if_found<T>(answer: std::result::Result<T, Failure>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) if failure.refusal == Some(Refusal::NotFound) => Ok(None),
        Err(failure) => Err(failure.error),
    }
}

fn client(service: Signed) -> LogServiceClient<Signed> {
    LogServiceClient::new(service).max_decoding_message_size(MAX_PAGE_LEN)
}
