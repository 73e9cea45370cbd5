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
