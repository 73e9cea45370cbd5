//! Who is in a ledger, and opening it.
//!
//! One device, user, session and key are made by the ledger itself; the others are copies of their rows, put beside them
//! before it is opened. So each size can be looked at by itself: making a device takes three records.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use custodian::{
    authority::{Authority, Caller, SessionId, SpkiHash},
    ledger::{Clock, Ledger as _, LedgerOptions, Missing, SqliteLedger},
};
use custodian_proto::key::KeyId;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, params};
use sha2::{Digest as _, Sha256};

use crate::common::{First, authority, caller, set_up};

/// How many of each.
#[derive(Clone, Copy)]
pub(crate) struct People {
    pub(crate) devices: u32,
    pub(crate) users: u32,
    pub(crate) keys: u32,
}

impl People {
    pub(crate) const FEW: Self = Self { devices: 10, users: 10, keys: 1 };
    pub(crate) const MANY: Self = Self { devices: 100_000, users: 10_000, keys: 1_000 };

    /// Of ten devices one is revoked: the last ones.
    pub(crate) fn revoked(self) -> u32 {
        self.devices / 10
    }
}

/// Of many people, one who calls.
pub(crate) const ONE_CALLER: People = People { users: 1, ..People::MANY };

/// Most users who are signed in and unwrap.
const CALLERS: u32 = 2_000;

pub(crate) fn device(number: u32) -> String {
    format!("laptop-{number}")
}

pub(crate) fn user(number: u32) -> String {
    format!("user-{number}")
}

pub(crate) fn key(number: u32) -> KeyId {
    KeyId::of_public_key(format!("key-{number}").as_bytes())
}

fn spki(number: u32) -> SpkiHash {
    SpkiHash(Sha256::digest(device(number)).into())
}

fn session(number: u32) -> SessionId {
    SessionId(Sha256::digest(user(number)).into())
}

/// Microseconds that a look takes the clock further at most: those of a million records. With longer ones sessions would end.
const MOST_STEP: i64 = 10_512_000;

/// The clock of all ledgers here: each look at it takes it further, from a year ago on.
#[derive(Clone)]
pub(crate) struct SlowYear {
    /// Microseconds since 1970.
    begun: i64,
    now: Arc<AtomicI64>,
    step: i64,
}

impl SlowYear {
    /// A year for so many records, if they are a million or more: a ledger looks three times at most for each.
    pub(crate) fn of(records: u64) -> Self {
        let year = SignedDuration::from_hours(24 * 365).as_micros() as i64;
        let begun = Timestamp::now().as_microsecond() - year;
        let step = (year / (3 * records as i64)).clamp(1, MOST_STEP);
        Self { begun, now: Arc::new(AtomicI64::new(begun)), step }
    }

    /// The time at this share of what has passed.
    pub(crate) fn at(&self, share: f64) -> Timestamp {
        let passed = self.now.load(Ordering::Relaxed) - self.begun;
        Timestamp::from_microsecond(self.begun + (passed as f64 * share) as i64).unwrap()
    }

    fn options(&self, missing: Missing) -> LedgerOptions {
        let Self { now, step, .. } = self.clone();
        let look = move || Timestamp::from_microsecond(now.fetch_add(step, Ordering::Relaxed)).unwrap();
        // A disk that stands still for a moment is measured, and does not end what takes a quarter of an hour.
        let deadline = Duration::from_secs(60);
        LedgerOptions { missing, deadline, clock: Clock::new(look), ..LedgerOptions::default() }
    }
}

/// An open ledger, who judges by it, and some callers.
pub(crate) struct Scene {
    pub(crate) ledger: Arc<SqliteLedger>,
    pub(crate) authority: Authority,
    pub(crate) callers: Vec<Caller>,
    pub(crate) people: People,
}

impl Scene {
    /// Opens the ledger at `path`.
    pub(crate) async fn open(path: &Path, people: People, clock: &SlowYear) -> Self {
        let ledger = Arc::new(SqliteLedger::open(path, clock.options(Missing::Refuse)).unwrap());
        let authority = authority(&ledger);
        let mut callers = Vec::new();
        // Not the revoked devices.
        for number in 0..people.users.min(CALLERS).min(people.devices - people.revoked()) {
            callers.push(caller(&ledger, spki(number), session(number)).await);
        }
        Self { ledger, authority, callers, people }
    }
}

/// Makes a ledger with these in it, whose devices all have this certificate, and a hundred records.
pub(crate) async fn make(path: &Path, people: People, clock: &SlowYear, certificate: &[u8]) {
    let ledger = SqliteLedger::open(path, clock.options(Missing::Create)).unwrap();
    let first = First {
        device: device(0),
        spki: spki(0),
        user: user(0),
        session: session(0),
        key: key(0),
        certificate: certificate.to_vec(),
    };
    for change in first.changes() {
        set_up(&ledger, Some(change)).await;
    }
    while *ledger.last_sequence().borrow() < 100 {
        set_up(&ledger, None).await;
    }
    drop(ledger);
    multiply(path, people);
}

/// Copies the rows of the first ones.
fn multiply(path: &Path, people: People) {
    let mut connection = Connection::open(path).unwrap();
    let tx = connection.transaction().unwrap();
    for table in ["devices", "users", "sessions", "keys"] {
        tx.execute_batch(&format!("CREATE TEMP TABLE one_of_{table} AS SELECT * FROM {table} LIMIT 1"))
            .unwrap();
    }
    let copy = |table: &str, set: &str, params: &[&dyn rusqlite::ToSql]| {
        tx.prepare_cached(&format!("UPDATE one_of_{table} SET {set}")).unwrap().execute(params).unwrap();
        let insert = format!("INSERT INTO {table} SELECT * FROM one_of_{table}");
        tx.prepare_cached(&insert).unwrap().execute([]).unwrap();
    };
    for number in 1..people.devices {
        let state = if number < people.devices - people.revoked() { "active" } else { "revoked" };
        copy("devices", "id = ?, spki = ?, state = ?", params![device(number), spki(number).0, state]);
    }
    for number in 1..people.users {
        copy("users", "id = ?", params![user(number)]);
        let parts = params![session(number).0, user(number), spki(number).0];
        copy("sessions", "id = ?, user = ?, device = ?", parts);
    }
    for number in 1..people.keys {
        copy("keys", "id = ?, label = ?", params![key(number).as_bytes(), format!("key-{number}")]);
    }
    tx.commit().unwrap();
}
