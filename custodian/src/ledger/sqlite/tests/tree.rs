//! The Merkle tree beside the records: always of all of them, whatever happens in between.

use custodian_proto::{
    refusal::fault::LEDGER_UNAVAILABLE,
    tlog::{Tile, tiles::WIDTH},
};

use super::*;
use crate::ledger::{OpenError, contract::log::tree_of_the_records};

/// Makes so many records, quickly.
async fn fill(ledger: &SqliteLedger, count: usize) {
    let attempts: Vec<_> = (0..count).map(|_| ledger.begin(world::intent("Unwrap"))).collect();
    let before = *ledger.last_sequence().borrow();
    drop(attempts);
    world::announced(ledger, before + count as u64).await;
}

#[tokio::test]
async fn the_tree_grows_over_many_tiles_and_restarts() {
    let place = Place::new();
    for (count, size) in [(1, 1), (254, 255), (1, 256), (1, 257), (600, 857)] {
        let ledger = place.open();
        fill(&ledger, count).await;
        assert_eq!(tree_of_the_records(&ledger).await.size, size);
        let tile = ledger.tile(Tile { level: 1, index: 0 }).await.unwrap();
        assert_eq!(tile.len(), size as usize / WIDTH);
    }
}

#[tokio::test]
async fn a_ledger_of_before_the_tree_gets_one() {
    let place = Place::new();
    let ledger = place.open();
    fill(&ledger, 300).await;
    let head = tree_of_the_records(&ledger).await;
    drop(ledger);
    let other = other_program(&place.path());
    other
        .execute_batch(&format!(
            "{BACK_TO_8}; DROP TABLE policies; DROP TABLE drains; DROP TABLE tiles; PRAGMA user_version = 1"
        ))
        .unwrap();
    super::upgrades::without_budgets(&other);
    drop(other);
    std::fs::remove_file(place.checkpoint()).unwrap();
    let ledger = place.open();
    assert_eq!(tree_of_the_records(&ledger).await, head);
    fill(&ledger, 10).await;
    tree_of_the_records(&ledger).await;
    let remembered = std::fs::read_to_string(place.checkpoint()).unwrap();
    assert_eq!(remembered, format!("unsigned\n300\n{}\n", head.root), "and is remembered from now on");
}

#[tokio::test]
async fn a_log_that_somebody_shortens_takes_no_more_records_and_is_not_opened_again() {
    let place = Place::new();
    let ledger = place.open();
    fill(&ledger, 5).await;
    let other = other_program(&place.path());
    other.execute_batch("DROP TRIGGER records_are_not_deleted; DELETE FROM records WHERE seq = 5").unwrap();
    let denial = settle(&ledger).await.err().unwrap();
    assert_eq!(denial.code(), LEDGER_UNAVAILABLE);
    assert!(denial.detail().contains("somebody changed the file"), "{}", denial.detail());
    drop(ledger);
    let error = SqliteLedger::open(&place.path(), world::options()).err().unwrap();
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    assert!(error.to_string().contains("the log has 4 records, but its tree has 5"), "{error}");
}
