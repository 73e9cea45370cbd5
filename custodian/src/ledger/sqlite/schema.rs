//! The tables, and how a file comes to have them.

use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{
    OpenError, approvals, certificates, meanwhile::meanwhile, remembered::Remembered, span, tree, upgrade,
};

/// Marks a SQLite file as a custodian's ledger: "CSTD".
pub(super) const APPLICATION_ID: u32 = 0x4353_5444;

/// The version of the tables that this custodian works with: one more than there are [`STEPS`].
const VERSION: i64 = 1 + STEPS.len() as i64;

/// How often a long upgrade says that it goes on.
const TELL: Duration = Duration::from_secs(5);

/// From this version on, the log's last checkpoint is kept outside the database.
const REMEMBERED_SINCE: i64 = 5;

/// What turns the tables of version 1 into those of version 2, and so on. A change adds a step; none is ever changed.
const STEPS: [Step; 14] = [
    add_tree,
    add_drains,
    upgrade::key_lives,
    change_nothing,
    add_policies,
    upgrade::budgets,
    approvals::add_tables,
    add_given_passwords,
    add_factors,
    add_device_life,
    add_groups,
    add_ends,
    certificates::add_tables,
    add_lookups,
];

type Step = fn(&Transaction<'_>) -> Result<(), OpenError>;

/// Version 6: the versions of the policy. Version 0 of it comes with the program.
fn add_policies(tx: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(tx.execute_batch(
        "CREATE TABLE policies (
            version INTEGER PRIMARY KEY,
            text TEXT NOT NULL,
            applied_by TEXT,
            applied INTEGER NOT NULL,
            reason TEXT NOT NULL
        ) STRICT;",
    )?)
}

/// Version 7: passwords that somebody else set must be changed.
fn add_given_passwords(tx: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(tx.execute_batch("ALTER TABLE users ADD COLUMN must_change INTEGER NOT NULL DEFAULT 0")?)
}

/// Version 8: second factors, and when a session showed one.
fn add_factors(tx: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(tx.execute_batch(
        "ALTER TABLE users ADD COLUMN factor_required INTEGER NOT NULL DEFAULT 0;
         -- Sealed: nonce, ciphertext, tag. NULL: there is none.
         ALTER TABLE users ADD COLUMN factor_secret BLOB;
         ALTER TABLE users ADD COLUMN factor_pending BLOB;
         -- The step of the last code that was used.
         ALTER TABLE users ADD COLUMN factor_step INTEGER NOT NULL DEFAULT 0;
         -- Wrong codes since the last right one, and when the last of them came.
         ALTER TABLE users ADD COLUMN factor_wrong INTEGER NOT NULL DEFAULT 0;
         ALTER TABLE users ADD COLUMN factor_wrong_at INTEGER NOT NULL DEFAULT 0;
         ALTER TABLE sessions ADD COLUMN factor INTEGER;
         CREATE TABLE recovery_codes (
            user TEXT NOT NULL REFERENCES users (id),
            hash BLOB NOT NULL,
            PRIMARY KEY (user, hash)
         ) STRICT, WITHOUT ROWID;",
    )?)
}

/// Version 9: suspensions that end, and certificates that were replaced.
fn add_device_life(tx: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(tx.execute_batch(
        "-- Of a suspended device only. NULL: no end.
         ALTER TABLE devices ADD COLUMN suspended_until INTEGER;
         CREATE TABLE retired (
            certificate BLOB NOT NULL,
            expires INTEGER NOT NULL,
            since INTEGER NOT NULL
         ) STRICT;",
    )?)
}

/// Groups of users and devices, for policies: names with commas between them.
fn add_groups(tx: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(tx.execute_batch(
        "ALTER TABLE users ADD COLUMN groups TEXT NOT NULL DEFAULT '';
         ALTER TABLE devices ADD COLUMN groups TEXT NOT NULL DEFAULT '';",
    )?)
}

/// Users who are stopped until a time, and requests that were taken back.
fn add_ends(tx: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(tx.execute_batch(
        "-- Of a disabled user only. NULL: no end.
         ALTER TABLE users ADD COLUMN disabled_until INTEGER;
         -- The number of the record that says so.
         ALTER TABLE approvals ADD COLUMN withdrawn INTEGER;",
    )?)
}

/// Version 15: what keeps searches and the rarer changes from reading more rows the more there are.
fn add_lookups(tx: &Transaction<'_>) -> Result<(), OpenError> {
    span::add_setbacks(tx)?;
    Ok(tx.execute_batch(
        "-- What was refused to a busy user, on a busy device or of a busy key.
         CREATE INDEX records_user_denied ON records (user) WHERE outcome <> 'OK';
         CREATE INDEX records_device_denied ON records (device) WHERE outcome <> 'OK';
         CREATE INDEX records_key_denied ON records (key) WHERE outcome <> 'OK';
         -- Revocation lists, and whether a device is left after a revocation.
         CREATE INDEX devices_state ON devices (state, expires);
         CREATE INDEX retired_expires ON retired (expires);
         CREATE INDEX users_admins ON users (id) WHERE roles & 4 <> 0;
         -- Asked at every handshake.
         CREATE INDEX invitations_expires ON invitations (expires);
         CREATE INDEX guesses_locked ON guesses (locked_until) WHERE locked_until IS NOT NULL;",
    )?)
}

/// The tables of version 1.
pub(super) const TABLES: &str = "
CREATE TABLE devices (
    id TEXT PRIMARY KEY,
    spki BLOB NOT NULL UNIQUE,
    state TEXT NOT NULL,
    certificate BLOB NOT NULL,
    expires INTEGER NOT NULL,
    enrolled INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;

CREATE TABLE invitations (
    code_hash BLOB PRIMARY KEY,
    device TEXT NOT NULL UNIQUE,
    invited_by TEXT,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    roles INTEGER NOT NULL,
    disabled INTEGER NOT NULL,
    password TEXT NOT NULL,
    -- The number of the record that set the password.
    password_since INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    id BLOB PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users (id),
    device BLOB NOT NULL REFERENCES devices (spki),
    created INTEGER NOT NULL,
    used INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_user ON sessions (user);
CREATE INDEX sessions_device ON sessions (device);
CREATE INDEX sessions_expires ON sessions (expires);

CREATE TABLE keys (
    id BLOB PRIMARY KEY,
    label TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    modulus_bits INTEGER NOT NULL,
    wrapping TEXT NOT NULL,
    certificate BLOB NOT NULL,
    created INTEGER NOT NULL
) STRICT;

-- What each user spent in the hour it last spent something.
CREATE TABLE budgets (
    user TEXT PRIMARY KEY REFERENCES users (id),
    hour INTEGER NOT NULL,
    spent INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Attempts that have begun and are not in the log yet. The entry is the beginning of their record.
CREATE TABLE pending (
    request_id BLOB PRIMARY KEY,
    entry BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The log. The entry is the record; the other columns repeat parts of it, to find it by. NULL: it has none.
CREATE TABLE records (
    seq INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    user TEXT,
    device TEXT,
    key TEXT,
    wrapped_sha256 BLOB,
    operation TEXT NOT NULL,
    outcome TEXT NOT NULL,
    entry BLOB NOT NULL
) STRICT;
CREATE INDEX records_time ON records (time);
CREATE INDEX records_user ON records (user) WHERE user IS NOT NULL;
CREATE INDEX records_device ON records (device) WHERE device IS NOT NULL;
CREATE INDEX records_key ON records (key) WHERE key IS NOT NULL;
CREATE INDEX records_wrapped ON records (wrapped_sha256) WHERE wrapped_sha256 IS NOT NULL;
-- Nearly all records are of an Unwrap, and OK: only the others are worth an index.
CREATE INDEX records_operation ON records (operation) WHERE operation <> 'Unwrap';
CREATE INDEX records_outcome ON records (outcome) WHERE outcome <> 'OK';
CREATE INDEX records_denied ON records (seq) WHERE outcome <> 'OK';

CREATE TRIGGER records_are_not_changed BEFORE UPDATE ON records BEGIN
    SELECT RAISE(ABORT, 'records are never changed');
END;
CREATE TRIGGER records_are_not_deleted BEFORE DELETE ON records BEGIN
    SELECT RAISE(ABORT, 'records are never deleted');
END;
CREATE TRIGGER records_have_no_gap BEFORE INSERT ON records
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM records) BEGIN
    SELECT RAISE(ABORT, 'records are numbered without a gap');
END;
";

/// Version 2: the Merkle tree of the log, as the tiles of C2SP tlog-tiles.
fn add_tree(tx: &Transaction<'_>) -> Result<(), OpenError> {
    tx.execute_batch(
        "CREATE TABLE tiles (
            level INTEGER NOT NULL,
            idx INTEGER NOT NULL,
            -- Up to 256 SHA-256 hashes beside each other.
            hashes BLOB NOT NULL,
            PRIMARY KEY (level, idx)
        ) STRICT, WITHOUT ROWID;",
    )?;
    Ok(tree::build(tx)?)
}

/// The tokens that an administrator took out of service.
fn add_drains(tx: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(tx.execute_batch(
        "CREATE TABLE drains (
            token TEXT PRIMARY KEY,
            reason TEXT NOT NULL,
            since INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;",
    )?)
}

/// Version 5: the same tables, and the log's last checkpoint beside them. See [`REMEMBERED_SINCE`].
fn change_nothing(_: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(())
}

/// Refuses a file whose header does not say that it is ours.
pub(super) fn check_header(header: &[u8]) -> Result<(), OpenError> {
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(OpenError::NotALedger("it is no SQLite database".to_owned()));
    }
    if header.get(68..72) != Some(&APPLICATION_ID.to_be_bytes()) {
        return Err(OpenError::NotALedger("it is a database of another program".to_owned()));
    }
    Ok(())
}

/// Makes the tables in a new file, and brings those of an earlier version up to date; refuses a file that is not ours or
/// newer than we are.
///
/// A ledger that was not remembered before is from now on.
pub(super) fn migrate(connection: &mut Connection, remembered: &Remembered) -> Result<(), OpenError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = match (number(&tx, "application_id")?, number(&tx, "user_version")?) {
        (id, VERSION) if id == i64::from(APPLICATION_ID) => return Ok(()),
        (id, version) if id == i64::from(APPLICATION_ID) && version > VERSION => {
            return Err(OpenError::Newer { found: version, known: VERSION });
        }
        (id, version) if id == i64::from(APPLICATION_ID) && version >= 1 => {
            let records = tree::records(&tx)?;
            tracing::info!(
                records,
                "bringing the ledger's tables from version {version} to {VERSION}: all of its records are read, about 3 s \
                 for each million and longer on a slow disk. If it is stopped meanwhile, nothing is changed"
            );
            version
        }
        (0, 0) if is_empty(&tx)? => {
            tx.execute_batch(TABLES)?;
            1
        }
        _ => return Err(OpenError::NotALedger("it is a database of another program".to_owned())),
    };
    let told_to = tracing::dispatcher::get_default(Clone::clone);
    let tell = |so_far: Duration| {
        let seconds = so_far.as_secs();
        tracing::dispatcher::with_default(&told_to, || {
            tracing::info!(seconds, "still bringing the ledger's tables to version {VERSION}");
        });
    };
    meanwhile(TELL, tell, || {
        for (_, step) in (1..).zip(STEPS).filter(|(from, _)| *from >= found) {
            step(&tx)?;
        }
        if found < REMEMBERED_SINCE {
            remembered.begin(&tx)?;
        }
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", VERSION)?;
        Ok(tx.commit()?)
    })
}

fn number(tx: &Transaction<'_>, pragma: &str) -> rusqlite::Result<i64> {
    tx.pragma_query_value(None, pragma, |row| row.get(0))
}

fn is_empty(tx: &Transaction<'_>) -> rusqlite::Result<bool> {
    tx.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}
