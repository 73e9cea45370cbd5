//! Who issues timestamps.

use crate::error::Result;

/// A time-stamping authority.
pub trait Authority {
    /// Answers a `TimeStampReq` with a `TimeStampResp`, both in DER. Nothing of the answer is checked here.
    ///
    /// # Errors
    /// Whatever keeps it from answering.
    fn answer(&self, query: &[u8]) -> Result<Vec<u8>>;
}
