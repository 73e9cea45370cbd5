//! Bringing the tables of earlier versions up to date, one version at a time.

use rusqlite::{Transaction, params};

use super::{OpenError, rows::micros};
use crate::pki::peer::CertificateFacts;

/// Version 3: wrapping keys have versions, periods and a life of six states (SP 800-57).
pub(super) fn key_lives(tx: &Transaction<'_>) -> Result<(), OpenError> {
    tx.execute_batch(
        "CREATE TABLE keys_new (
            id BLOB PRIMARY KEY,
            label TEXT NOT NULL,
            version INTEGER NOT NULL,
            state TEXT NOT NULL,
            wrap_from INTEGER NOT NULL,
            wrap_until INTEGER NOT NULL,
            -- NULL: no end.
            unwrap_until INTEGER,
            modulus_bits INTEGER NOT NULL,
            wrapping TEXT NOT NULL,
            certificate BLOB NOT NULL,
            created INTEGER NOT NULL,
            updated INTEGER NOT NULL,
            reason TEXT NOT NULL,
            UNIQUE (label, version)
        ) STRICT",
    )?;
    let certificates: Vec<(String, Vec<u8>)> = tx
        .prepare("SELECT label, certificate FROM keys")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (label, certificate) in certificates {
        let facts = CertificateFacts::read(&certificate)
            .map_err(|error| OpenError::Damaged(format!("the certificate of the key {label}: {error}")))?;
        tx.execute(
            "INSERT INTO keys_new SELECT id, label, 1, state, ?2, ?3, NULL, modulus_bits, wrapping, certificate, created,
                                       created, '' FROM keys WHERE label = ?1",
            params![label, micros(facts.not_before), micros(facts.not_after)],
        )?;
    }
    Ok(tx.execute_batch("DROP TABLE keys; ALTER TABLE keys_new RENAME TO keys")?)
}

/// Version 7: budgets of users, devices and keys, by the hour and by the day, with their lifts; and what did not unwrap.
///
/// What a user spent in its last hour counts on, for the hour and for the day: each unwrap as one of another file.
pub(super) fn budgets(tx: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(tx.execute_batch(
        "CREATE TABLE budgets_new (
            -- The resource name of a user, a device or a key.
            spender TEXT PRIMARY KEY,
            -- Which hour since 1970, and the number of the record it began with.
            hour INTEGER NOT NULL,
            hour_since INTEGER NOT NULL,
            hour_files INTEGER NOT NULL,
            hour_unwraps INTEGER NOT NULL,
            -- What the log says already that it was exceeded: flags.
            hour_told INTEGER NOT NULL,
            day INTEGER NOT NULL,
            day_since INTEGER NOT NULL,
            day_files INTEGER NOT NULL,
            day_unwraps INTEGER NOT NULL,
            day_told INTEGER NOT NULL,
            -- What an administrator gave beyond. NULL: nothing.
            lift_count INTEGER,
            lift_left INTEGER,
            lift_until INTEGER,
            lift_reason TEXT,
            lift_by TEXT
        ) STRICT, WITHOUT ROWID;
        INSERT INTO budgets_new
            SELECT 'users/' || user, hour, next, spent, spent, 0, hour / 24, next, spent, spent, 0,
                   NULL, NULL, NULL, NULL, NULL
            FROM budgets, (SELECT coalesce(max(seq), 0) + 1 AS next FROM records);
        DROP TABLE budgets;
        ALTER TABLE budgets_new RENAME TO budgets;

        -- Wrapped keys of a user on a device that did not unwrap.
        CREATE TABLE guesses (
            user TEXT NOT NULL,
            device TEXT NOT NULL,
            -- Which hour since 1970, and how many within it.
            hour INTEGER NOT NULL,
            rejected INTEGER NOT NULL,
            -- NULL: the pair was never locked.
            locked_until INTEGER,
            PRIMARY KEY (user, device)
        ) STRICT, WITHOUT ROWID;",
    )?)
}
