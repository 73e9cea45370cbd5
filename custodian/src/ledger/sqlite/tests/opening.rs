//! Opening: whose the file is, what it must be, and what is said if it is not.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
};

use super::*;
use crate::ledger::{LedgerOptions, OUTCOME_UNKNOWN, OpenError, RecordQuery};

fn refusal(path: &Path) -> OpenError {
    SqliteLedger::open(path, world::options()).err().unwrap()
}

#[tokio::test]
async fn only_its_own_account_can_read_the_ledger() {
    let place = Place::new();
    let modes = || {
        ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.lock"].map(|name| {
            let metadata = fs::metadata(place.directory.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        })
    };
    let ledger = place.open();
    settle(&ledger).await.unwrap();
    assert_eq!(modes(), [0o600; 4]);
    drop(ledger);
    fs::set_permissions(place.path(), Permissions::from_mode(0o644)).unwrap();
    let ledger = place.open();
    settle(&ledger).await.unwrap();
    assert_eq!(modes(), [0o600; 4]);
}

#[test]
fn one_custodian_has_the_ledger_for_itself() {
    let place = Place::new();
    let ledger = place.open();
    let error = refusal(&place.path());
    assert!(matches!(error, OpenError::InUse { .. }));
    let pid = format!("(pid {})", std::process::id());
    assert!(error.to_string().contains(&pid), "{error}");
    drop(ledger);
    place.open();
}

#[tokio::test]
async fn what_was_recorded_is_there_after_reopening() {
    let place = Place::new();
    let ledger = World::peopled(Arc::new(place.open())).await.ledger;
    let before = World::empty(Arc::clone(&ledger)).all_records().await;
    drop(ledger);
    let world = World::empty(Arc::new(place.open()));
    assert_eq!(*world.ledger.last_sequence().borrow(), before.len() as u64);
    assert_eq!(world.all_records().await, before);
    assert!(world.unwraps(world.standing()).await.is_ok());
    assert_eq!(world.last_record().await.sequence, before.len() as u64 + 1);
}

#[tokio::test]
async fn attempts_left_in_the_middle_are_recorded_first_at_the_next_start() {
    let place = Place::new();
    let ledger = place.open();
    let unsettled: Vec<_> = (0..5).map(|_| ledger.begin(world::intent("Unwrap"))).collect();
    settle(&ledger).await.unwrap();
    drop(ledger);
    let ledger = place.open();
    assert_eq!(*ledger.last_sequence().borrow(), 6);
    let records = ledger.records(RecordQuery { limit: 100, ..Default::default() }).await.unwrap();
    for (record, attempt) in records[1..].iter().zip(&unsettled) {
        assert_eq!(record.request_id, attempt.request_id().to_string());
        assert_eq!(record.outcome, OUTCOME_UNKNOWN);
    }
    drop((unsettled, ledger));
    // Once.
    assert_eq!(*place.open().last_sequence().borrow(), 6);
}

#[test]
fn a_file_that_is_no_ledger_is_refused_and_not_changed() {
    let place = Place::new();
    let text =
        b"dear diary, this is longer than the header of a database, which has a hundred bytes, is it not?!";
    fs::write(place.path(), text).unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o644)).unwrap();
    let error = refusal(&place.path());
    assert!(matches!(error, OpenError::NotALedger(_)), "{error}");
    assert_eq!(fs::read(place.path()).unwrap(), text);
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o644);

    fs::remove_file(place.path()).unwrap();
    let other = other_program(&place.path());
    other.execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    drop(other);
    let before = fs::read(place.path()).unwrap();
    let error = refusal(&place.path());
    assert!(matches!(error, OpenError::NotALedger(_)), "{error}");
    assert_eq!(fs::read(place.path()).unwrap(), before);
}

#[test]
fn a_lost_ledger_is_not_replaced_by_an_empty_one() {
    let place = Place::new();
    let refuses = || {
        let error = SqliteLedger::open(&place.path(), LedgerOptions::default()).err().unwrap();
        assert!(matches!(&error, OpenError::Missing(path) if *path == place.path()), "{error}");
    };
    refuses();
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 0, "nothing is left behind");
    fs::write(place.path(), "").unwrap();
    refuses();
    fs::remove_file(place.path()).unwrap();
    drop(place.open());
    SqliteLedger::open(&place.path(), LedgerOptions::default()).map(drop).unwrap();
}

#[tokio::test]
async fn a_ledger_of_an_older_version_opens_with_all_it_has() {
    let place = Place::new();
    let before = World::peopled(Arc::new(place.open())).await.all_records().await;
    let old = other_program(&place.path());
    // What version 5 did not have.
    old.execute_batch(&format!("{BACK_TO_8}; DROP TABLE policies; PRAGMA user_version = 5")).unwrap();
    super::upgrades::without_budgets(&old);
    drop(old);
    let world = World::empty(Arc::new(place.open()));
    assert_eq!(world.all_records().await, before);
    assert_eq!(world.ledger.policy().await.unwrap(), None);
    assert!(world.unwraps(world.standing()).await.is_ok());
    drop(world);
    place.open();
}

#[test]
fn a_ledger_of_a_newer_version_is_refused() {
    let place = Place::new();
    drop(place.open());
    other_program(&place.path()).pragma_update(None, "user_version", 99).unwrap();
    let error = refusal(&place.path());
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("newer"), "{error}");
}

#[tokio::test]
async fn a_damaged_ledger_is_refused() {
    let place = Place::new();
    drop(World::peopled(Arc::new(place.open())).await);
    other_program(&place.path()).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let whole = fs::read(place.path()).unwrap();

    let mut scribbled = whole.clone();
    scribbled[100..4_096].fill(0xA5);
    let truncated = whole[..whole.len() / 2].to_vec();
    for damaged in [scribbled, truncated] {
        fs::write(place.path(), damaged).unwrap();
        let error = refusal(&place.path());
        assert!(matches!(error, OpenError::Damaged(_)), "{error}");
        assert!(error.to_string().contains("restore the last backup"), "{error}");
    }
    fs::write(place.path(), whole).unwrap();
    place.open();
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let place = Place::new();
    fs::write(place.path(), "").unwrap();
    let nowhere = [
        place.directory.path().join("missing/ledger.db"),
        place.path().join("below-a-file.db"),
        "/proc/ledger.db".into(),
    ];
    for path in nowhere {
        let error = refusal(&path);
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    // A directory where the file should be.
    let error = refusal(place.directory.path());
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}
