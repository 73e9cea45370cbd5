//! A token taken out of service for maintenance.

use jiff::Timestamp;

use super::TokenName;

/// A token that is given no operations until it is resumed. Kept in the ledger: a restart changes nothing about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drain {
    /// Which token.
    pub token: TokenName,
    /// Why, as the administrator said.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}
