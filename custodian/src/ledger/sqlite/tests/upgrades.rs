//! Ledgers of earlier versions open, and keep what they hold.

use custodian_proto::refusal::Refusal;
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rusqlite::params;

use super::*;
use crate::{
    authority::{Budgets, KeyState, Span},
    ledger::sqlite::{schema, upgrade},
};

/// A ledger of version 1 with one key of each state it knew.
fn version_1(path: &Path, certificate: &[u8]) {
    let connection = other_program(path);
    connection.execute_batch(schema::TABLES).unwrap();
    connection.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    for (label, state) in [("main", "active"), ("other", "suspended")] {
        let key = world::key(label);
        connection
            .execute(
                "INSERT INTO keys VALUES (?, ?, ?, 3072, 'RSA-OAEP-SHA256', ?, 1700000000000000)",
                params![key.id.as_bytes(), label, state, certificate],
            )
            .unwrap();
    }
}

/// What version 6 had of budgets.
pub(super) fn without_budgets(connection: &Connection) {
    let old = "DROP TABLE votes;
               DROP TABLE approvals;
               DROP INDEX records_break_glass;
               ALTER TABLE records DROP COLUMN break_glass;
               DROP TABLE guesses;
               DROP TABLE budgets;
               CREATE TABLE budgets (
                   user TEXT PRIMARY KEY REFERENCES users (id),
                   hour INTEGER NOT NULL,
                   spent INTEGER NOT NULL
               ) STRICT, WITHOUT ROWID;";
    connection.execute_batch(old).unwrap();
}

#[tokio::test]
async fn what_was_spent_before_version_7_counts_on() {
    let place = Place::new();
    let clock = TestClock::stopped();
    let open = || Arc::new(SqliteLedger::open(&place.path(), clock.options()).unwrap());
    let world = World::peopled(open()).await;
    world.unwraps(world.charged(1, world::hourly(1))).await.unwrap();
    drop(world);
    let old = other_program(&place.path());
    old.execute_batch(BACK_TO_8).unwrap();
    without_budgets(&old);
    let spent = "INSERT INTO budgets VALUES ('anna', ?, 3)";
    old.execute(spent, [Span::Hour.number(clock.now())]).unwrap();
    old.pragma_update(None, "user_version", 6).unwrap();
    drop(old);
    let world = World::empty(open());
    let unwraps = async |budgets| {
        let unwrapped = world.unwraps(world.charged(1, budgets)).await;
        unwrapped.map(drop).map_err(|denial| denial.code())
    };
    let exhausted = Err(Refusal::BudgetExhausted.code());
    assert_eq!(unwraps(world::hourly(3)).await, exhausted);
    let mut daily = Budgets::UNLIMITED;
    daily.user.day.files = 3;
    assert_eq!(unwraps(daily).await, exhausted);
    daily.user.day.files = 4;
    assert_eq!(unwraps(daily).await, Ok(()));
}

/// What is logged, line by line.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_upgrade_says_first_how_many_records_it_reads() {
    let place = Place::new();
    let records = World::peopled(Arc::new(place.open())).await.all_records().await.len();
    let old = other_program(&place.path());
    old.execute_batch(BACK_TO_8).unwrap();
    old.pragma_update(None, "user_version", 8).unwrap();
    drop(old);
    let open = || {
        let lines = Lines::default();
        let written = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone()).finish();
        tracing::subscriber::with_default(log, || drop(place.open()));
        let lines = lines.0.lock().unwrap();
        String::from_utf8(lines.clone()).unwrap()
    };
    let told = open();
    assert!(told.contains("from version 8 to ") && told.contains(&format!("records={records}")), "{told}");
    assert_eq!(open(), "", "there is nothing to do any more");
}

#[tokio::test]
async fn keys_of_version_1_get_the_period_of_their_certificate() {
    let place = Place::new();
    let mut certificate = CertificateParams::default();
    certificate.not_before = date_time_ymd(2024, 1, 1);
    certificate.not_after = date_time_ymd(2034, 1, 1);
    let certificate = certificate.self_signed(&KeyPair::generate().unwrap()).unwrap();
    version_1(&place.path(), certificate.der());
    let created = Timestamp::from_second(1_700_000_000).unwrap();
    // Once, and then again as it is now.
    for _ in 0..2 {
        let ledger = place.open();
        for (label, state) in [("main", KeyState::Active), ("other", KeyState::Suspended)] {
            let key = ledger.key(world::key(label).id).await.unwrap().unwrap();
            assert_eq!((key.label.as_str(), key.version), (label, 1));
            assert_eq!((key.life.set(), key.life.unwraps_until()), (state, None));
            let wraps = key.life.wraps();
            assert_eq!(wraps.from().to_string(), "2024-01-01T00:00:00Z");
            assert_eq!(wraps.until().to_string(), "2034-01-01T00:00:00Z");
            assert_eq!((key.created, key.updated), (created, created));
            assert_eq!(key.certificate, certificate.der().to_vec());
        }
    }
    // And goes on: the next version finds its place.
    let world = World::empty(Arc::new(place.open()));
    world.done(crate::ledger::Change::AddKey(world::key_version("main", 2))).await;
}

#[test]
fn a_key_that_cannot_be_read_is_named_and_nothing_is_changed() {
    let place = Place::new();
    version_1(&place.path(), b"no certificate");
    let error = SqliteLedger::open(&place.path(), world::options()).err().unwrap().to_string();
    assert!(error.contains("the certificate of the key main"), "{error}");
    let mut connection = other_program(&place.path());
    assert_eq!(connection.query_row("SELECT count(*) FROM keys", [], |row| row.get(0)), Ok(2));
    let tx = connection.transaction().unwrap();
    assert!(upgrade::key_lives(&tx).is_err());
}
