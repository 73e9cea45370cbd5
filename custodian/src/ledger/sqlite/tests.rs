//! What the SQLite ledger promises beyond the contract.

use super::SqliteLedger;
use crate::ledger::contract::{ledger_keeps_its_contract, world};

mod contract {
    use super::*;

    ledger_keeps_its_contract!(SqliteLedger::for_test(world::options()));
}
