//! What the SQLite ledger promises beyond the contract.

mod crash;
mod opening;
mod remembered;
mod tree;
mod trouble;
mod upgrades;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;
use tempfile::TempDir;

use super::{LedgerOptions, SqliteLedger};
use crate::{
    authority::Standing,
    custody::Denial,
    ledger::{
        Grant, Ledger, OK, Outcome,
        contract::{
            ledger_keeps_budgets, ledger_keeps_its_contract,
            refusals::futures,
            world,
            world::{TestClock, World},
        },
    },
};

mod contract {
    use super::*;

    ledger_keeps_its_contract!(SqliteLedger::for_test(world::options()));
    ledger_keeps_budgets!(|clock: &TestClock| SqliteLedger::for_test(clock.options()));
}

/// Takes the tables of today back to those of version 8. A new step of the schema adds its undoing.
const BACK_TO_8: &str = "
    ALTER TABLE users DROP COLUMN must_change;
    DROP TABLE recovery_codes;
    ALTER TABLE sessions DROP COLUMN factor;
    ALTER TABLE users DROP COLUMN factor_required;
    ALTER TABLE users DROP COLUMN factor_secret;
    ALTER TABLE users DROP COLUMN factor_pending;
    ALTER TABLE users DROP COLUMN factor_step;
    ALTER TABLE users DROP COLUMN factor_wrong;
    ALTER TABLE users DROP COLUMN factor_wrong_at;
    ALTER TABLE devices DROP COLUMN suspended_until;
    DROP TABLE retired;
    ALTER TABLE users DROP COLUMN groups;
    ALTER TABLE devices DROP COLUMN groups;
    ALTER TABLE users DROP COLUMN disabled_until;
    ALTER TABLE approvals DROP COLUMN withdrawn;
    DROP TABLE certificates;
    DROP TABLE identities";

/// A directory with a ledger in it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("ledger.db")
    }

    fn checkpoint(&self) -> PathBuf {
        self.directory.path().join("ledger.db.checkpoint")
    }

    fn open(&self) -> SqliteLedger {
        SqliteLedger::open(&self.path(), world::options()).unwrap()
    }
}

/// What another program on this machine would open it with.
fn other_program(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

/// Settles one attempt that nothing but the ledger itself can stop.
async fn settle(ledger: &SqliteLedger) -> Result<u64, Denial> {
    let grant = Grant { standing: Standing::default(), change: None };
    let attempt = ledger.begin(world::intent("Unwrap"));
    Ok(ledger.settle(attempt, Outcome::Granted(grant)).await?.0.sequence())
}

/// Counts the commits in a write-ahead log: the frames that end one
/// (<https://www.sqlite.org/fileformat2.html#the_write_ahead_log>).
fn commits(path: &Path) -> usize {
    let wal = std::fs::read(path.with_extension("db-wal")).unwrap();
    let (header, frames) = wal.split_at(32);
    let salt = &header[16..24];
    let frames = frames.chunks_exact(24 + 4_096);
    frames.filter(|frame| frame[8..16] == *salt && frame[4..8] != [0; 4]).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_commit_serves_all_that_wait() {
    let place = Place::new();
    let ledger = Arc::new(place.open());
    let before = commits(&place.path());
    let tasks = (0..64).map(|_| {
        let ledger = Arc::clone(&ledger);
        tokio::spawn(async move {
            for _ in 0..10 {
                settle(&ledger).await.unwrap();
            }
        })
    });
    futures(tasks.collect()).await;
    let commits = commits(&place.path()) - before;
    assert!(commits > 0 && commits < 640 / 4, "{commits} commits for 640 attempts");
}

#[tokio::test]
async fn records_are_never_changed_deleted_or_left_out() {
    let place = Place::new();
    let ledger = place.open();
    for _ in 0..3 {
        settle(&ledger).await.unwrap();
    }
    let other = other_program(&place.path());
    let insert = |seq: i64| {
        format!(
            "INSERT OR REPLACE INTO records (seq, time, operation, outcome, entry) VALUES ({seq}, 0, '', '', x'')"
        )
    };
    for sql in [
        "UPDATE records SET outcome = 'OK' WHERE seq = 2",
        "UPDATE records SET seq = 9 WHERE seq = 3",
        "DELETE FROM records WHERE seq = 3",
        "DELETE FROM records",
        &insert(2),
        &insert(5),
        &insert(0),
    ] {
        let error = other.execute(sql, []).unwrap_err().to_string();
        assert!(error.starts_with("records are "), "{sql}: {error}");
    }
    let records = World::empty(Arc::new(ledger)).all_records().await;
    assert!(
        records
            .iter()
            .map(|record| (record.sequence, record.outcome.as_str()))
            .eq([1, 2, 3].map(|n| (n, OK)))
    );
}

#[tokio::test]
async fn filters_use_their_indexes() {
    let place = Place::new();
    let ledger = place.open();
    let searches = [
        ("user = 'users/anna'", "records_user"),
        ("device = 'devices/laptop-7'", "records_device"),
        ("key = 'keys/00'", "records_key"),
        ("wrapped_sha256 = x'00'", "records_wrapped"),
        ("operation = 'Login' AND operation <> 'Unwrap'", "records_operation"),
        ("outcome = 'X' AND outcome <> 'OK'", "records_outcome"),
        ("outcome <> 'OK'", "records_denied"),
    ];
    let other = other_program(&place.path());
    for (condition, index) in searches {
        let sql = format!(
            "EXPLAIN QUERY PLAN SELECT entry FROM records WHERE {condition} ORDER BY seq DESC LIMIT 9"
        );
        let mut plan = other.prepare(&sql).unwrap();
        let plan = plan.query_map([], |row| row.get::<_, String>(3)).unwrap();
        let plan: Vec<String> = plan.map(Result::unwrap).collect();
        assert!(plan.iter().any(|step| step.contains(index)), "{condition}: {plan:?}");
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{condition}: {plan:?}");
    }
    drop(ledger);
}
