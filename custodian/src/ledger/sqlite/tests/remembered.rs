//! Old copies, rewritten ones, and a lost memory: noticed at the start, before anything is written.

use std::fs;

use custodian_proto::tlog::Checkpoint;

use super::*;
use crate::ledger::OpenError;

/// Makes records, and keeps the checkpoint that covers them.
async fn grow(ledger: &SqliteLedger, count: usize) {
    for _ in 0..count {
        settle(ledger).await.unwrap();
    }
    let head = ledger.tree_head(None).await.unwrap();
    let note = Checkpoint { origin: "custodian.example/log".to_owned(), size: head.size, root: head.root };
    ledger.keep_checkpoint(note.text()).await.unwrap();
}

/// The whole ledger, which nobody has open, in the bytes of its one file.
fn bytes(place: &Place) -> Vec<u8> {
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    other_program(&place.path()).query_row(checkpoint, [], |_| Ok(())).unwrap();
    fs::read(place.path()).unwrap()
}

/// Puts another ledger in its place, with nothing left of the one before.
fn put(place: &Place, ledger: &[u8]) {
    bytes(place);
    fs::write(place.path(), ledger).unwrap();
}

fn refusal(place: &Place) -> OpenError {
    let before = bytes(place);
    let error = SqliteLedger::open(&place.path(), world::options()).err().unwrap();
    assert_eq!(bytes(place), before, "what is refused is not changed");
    error
}

#[tokio::test]
async fn an_old_copy_of_the_ledger_is_refused_until_somebody_accepts_the_loss() {
    let place = Place::new();
    let ledger = place.open();
    grow(&ledger, 3).await;
    drop(ledger);
    let old = bytes(&place);
    let ledger = place.open();
    grow(&ledger, 4).await;
    drop(ledger);
    let new = bytes(&place);

    put(&place, &old);
    let error = refusal(&place);
    assert!(matches!(error, OpenError::RolledBack { remembered: 7, records: 3, .. }), "{error}");
    for told in ["old copy", "revoked", "accept-ledger", "ledger.db.checkpoint"] {
        assert!(error.to_string().contains(told), "{error}");
    }
    put(&place, &new);
    drop(place.open());

    put(&place, &old);
    let aside = SqliteLedger::accept_as_it_is(&place.path(), world::options()).unwrap().unwrap();
    assert!(fs::read_to_string(aside).unwrap().starts_with("custodian.example/log\n7\n"));
    grow(&place.open(), 1).await;
    assert_eq!(place.open().tree_head(None).await.unwrap().size, 4);
}

#[tokio::test]
async fn a_ledger_that_was_rewritten_is_refused() {
    let place = Place::new();
    let ledger = place.open();
    grow(&ledger, 5).await;
    drop(ledger);
    let mut changed = place.open().tile(custodian_proto::tlog::Tile { level: 0, index: 0 }).await.unwrap();
    changed.reverse();
    let changed = custodian_proto::tlog::tiles::bytes(&changed);
    other_program(&place.path()).execute("UPDATE tiles SET hashes = ?", [changed]).unwrap();
    let error = refusal(&place);
    assert!(matches!(error, OpenError::Rewritten { remembered: 5, .. }), "{error}");
}

#[tokio::test]
async fn without_its_memory_a_ledger_is_refused_until_somebody_accepts_that() {
    let place = Place::new();
    let ledger = place.open();
    grow(&ledger, 2).await;
    drop(ledger);
    let elsewhere = place.directory.path().join("elsewhere");
    fs::rename(place.checkpoint(), &elsewhere).unwrap();
    let error = refusal(&place);
    assert!(matches!(&error, OpenError::NotRemembered(path) if *path == place.checkpoint()), "{error}");
    fs::rename(&elsewhere, place.checkpoint()).unwrap();
    drop(place.open());

    fs::rename(place.checkpoint(), &elsewhere).unwrap();
    assert_eq!(SqliteLedger::accept_as_it_is(&place.path(), world::options()).unwrap(), None);
    grow(&place.open(), 1).await;

    fs::write(place.checkpoint(), "nonsense").unwrap();
    let error = refusal(&place);
    assert!(matches!(&error, OpenError::Io { path, .. } if *path == place.checkpoint()), "{error}");
}

#[tokio::test]
async fn the_memory_can_be_kept_in_another_place() {
    let place = Place::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let checkpoint = elsewhere.path().join("remembered");
    let options = LedgerOptions { checkpoint: Some(checkpoint.clone()), ..world::options() };
    let ledger = SqliteLedger::open(&place.path(), options.clone()).unwrap();
    grow(&ledger, 2).await;
    drop(ledger);
    assert!(checkpoint.exists() && !place.checkpoint().exists());
    let kept = SqliteLedger::open(&place.path(), options).unwrap().kept_checkpoint().unwrap();
    assert!(kept.starts_with("custodian.example/log\n2\n"), "{kept}");
}
