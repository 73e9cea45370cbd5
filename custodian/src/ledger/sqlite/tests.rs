//! What the SQLite ledger promises beyond the contract.

mod crash;
mod growth;
mod opening;
mod remembered;
mod tree;
mod trouble;
mod upgrades;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::Connection;
use tempfile::TempDir;

use super::{LedgerOptions, SqliteLedger, log::Search, open};
use crate::{
    authority::Standing,
    custody::Denial,
    ledger::{
        Grant, Ledger, OK, Outcome, RecordQuery,
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

#[tokio::test]
async fn whether_a_vote_counts_goes_by_the_ledgers_clock() {
    let clock = TestClock::stopped();
    let ledger = Arc::new(SqliteLedger::for_test(clock.options()));
    crate::ledger::contract::approvals::whether_a_vote_counts_goes_by_the_ledgers_clock(ledger, &clock).await;
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
    DROP TABLE identities;
    DROP TRIGGER records_tell_setbacks;
    DROP TABLE setbacks;
    CREATE INDEX records_time ON records (time);
    DROP INDEX records_user_denied;
    DROP INDEX records_device_denied;
    DROP INDEX records_key_denied;
    DROP INDEX devices_state;
    DROP INDEX users_admins;
    DROP INDEX invitations_expires;
    DROP INDEX guesses_locked";

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

/// How SQLite would go about it, on a connection such as the custodian's own: what it may know of values changes the plan.
fn plan(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> Vec<String> {
    let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let plan = plan.query_map(params, |row| row.get::<_, String>(3)).unwrap();
    plan.map(Result::unwrap).collect()
}

#[tokio::test]
async fn filters_use_their_indexes() {
    let place = Place::new();
    let ledger = place.open();
    let text = |text: &str| Some(text.to_owned());
    let any = RecordQuery { limit: 9, ..RecordQuery::default() };
    let user = RecordQuery { user: text("users/anna"), ..any.clone() };
    let device = RecordQuery { device: text("devices/laptop-7"), ..any.clone() };
    let key = RecordQuery { key: text("keys/00"), ..any.clone() };
    let hour = RecordQuery { start: Some(Timestamp::MIN), end: Some(Timestamp::MAX), ..any.clone() };
    let denied = |query: &RecordQuery| RecordQuery { outcome: text("!OK"), ..query.clone() };
    let opened = |query: &RecordQuery| RecordQuery {
        outcome: text("OK"),
        operation: text("Unwrap"),
        start: hour.start,
        ..query.clone()
    };
    let login = |query: &RecordQuery| RecordQuery { operation: text("Login"), ..query.clone() };
    let searches = [
        (any.clone(), "SCAN records"),
        (RecordQuery { beyond: Some(7), ..any.clone() }, "USING INTEGER PRIMARY KEY"),
        (hour.clone(), "USING INTEGER PRIMARY KEY"),
        (opened(&user), "records_user (user=? AND rowid>?)"),
        (opened(&device), "records_device (device=? AND rowid>?)"),
        (RecordQuery { end: hour.end, ..key.clone() }, "records_key (key=? AND rowid<?)"),
        (denied(&user), "records_user_denied"),
        (denied(&device), "records_device_denied"),
        (denied(&key), "records_key_denied"),
        (RecordQuery { start: hour.start, ..denied(&user) }, "records_user_denied (user=? AND rowid>?)"),
        (RecordQuery { outcome: text("USER_DISABLED"), ..user.clone() }, "records_user_denied"),
        (RecordQuery { wrapped_key_sha256: text("00"), ..any.clone() }, "records_wrapped"),
        (login(&any), "records_operation"),
        (login(&user), "records_user"),
        (login(&device), "records_device"),
        (RecordQuery { outcome: text("USER_DISABLED"), ..any.clone() }, "records_outcome"),
        (denied(&any), "records_denied"),
        (RecordQuery { break_glass: true, ..any.clone() }, "records_break_glass"),
        (user, "records_user"),
        (device, "records_device"),
        (key, "records_key"),
    ];
    let reader = open::reading(&place.path(), Duration::from_secs(1)).unwrap();
    for (query, index) in searches {
        for newest_first in [true, false] {
            let query = RecordQuery { newest_first, ..query.clone() };
            let Search { sql, values } = Search::of(&reader, &query).unwrap().unwrap();
            let plan = plan(&reader, &sql, rusqlite::params_from_iter(values));
            assert!(plan.iter().any(|step| step.contains(index)), "{query:?}: {plan:?}");
            assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{query:?}: {plan:?}");
        }
    }
    drop(ledger);
}
