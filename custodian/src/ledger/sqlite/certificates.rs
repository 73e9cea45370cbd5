//! Who users are, and their certificates, in the tables.

use custodian_proto::{key::KeyId, limits::MAX_TEXT_LEN, refusal::Refusal};
use jiff::Timestamp;
use rusqlite::{Connection, Row, Transaction, params};

use super::{
    OpenError,
    changes::Made,
    rows::{self, micros, named, parsed, time, time_or_none, unreadable},
    writer::{Batch, Stop},
};
use crate::{
    authority::{
        CertificateUse, DeviceState, Person, PersonCertificate, Revoked, RevokedCertificate, Serial,
        SpkiHash, UserId, Why,
    },
    ledger::{CertificateQuery, Changed, entry},
};

pub(super) fn add_tables(tx: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(tx.execute_batch(
        "CREATE TABLE identities (
            user TEXT PRIMARY KEY REFERENCES users (id),
            email TEXT NOT NULL UNIQUE COLLATE NOCASE,
            level TEXT NOT NULL,
            evidence TEXT NOT NULL,
            since INTEGER NOT NULL
         ) STRICT, WITHOUT ROWID;
         CREATE TABLE certificates (
            -- The number of the record that says that it was issued.
            id INTEGER PRIMARY KEY,
            serial BLOB NOT NULL UNIQUE,
            user TEXT NOT NULL REFERENCES users (id),
            use TEXT NOT NULL,
            email TEXT NOT NULL COLLATE NOCASE,
            level TEXT NOT NULL,
            key BLOB NOT NULL,
            certificate BLOB NOT NULL,
            issued INTEGER NOT NULL,
            expires INTEGER NOT NULL,
            revoked INTEGER,
            why TEXT,
            reason TEXT NOT NULL
         ) STRICT;
         CREATE INDEX certificates_user ON certificates (user);
         CREATE INDEX certificates_email ON certificates (email);
         CREATE INDEX certificates_key ON certificates (key);
         CREATE INDEX certificates_revoked ON certificates (expires) WHERE revoked IS NOT NULL;",
    )?)
}

const PERSON: &str = "user, email, level, evidence, since";

/// The columns of [`certificate`], in its order.
const CERTIFICATE: &str =
    "serial, user, use, email, level, key, certificate, issued, expires, revoked, why, reason, id";

/// Who a user is.
pub(super) fn person(connection: &Connection, user: &UserId) -> rusqlite::Result<Option<Person>> {
    rows::one(connection, (PERSON, "identities WHERE user = ?"), [user.as_str()], |row| {
        Ok(Person {
            user: parsed(row, 0)?,
            email: parsed(row, 1)?,
            level: parsed(row, 2)?,
            evidence: row.get(3)?,
            since: time(row, 4)?,
        })
    })
}

/// One certificate.
pub(super) fn read(connection: &Connection, serial: Serial) -> rusqlite::Result<Option<PersonCertificate>> {
    rows::one(connection, (CERTIFICATE, "certificates WHERE serial = ?"), [serial.0], certificate)
}

/// Those that the query asks for, newest first.
pub(super) fn many(
    connection: &Connection,
    query: &CertificateQuery,
) -> rusqlite::Result<Vec<(u64, PersonCertificate)>> {
    let (email, now) = match &query.current {
        Some((email, now)) => (Some(email.as_str()), Some(micros(*now))),
        None => (None, None),
    };
    // Only what is asked for stands there: so that it is found by its index.
    let mut from = "certificates WHERE id < ?1".to_owned();
    if query.user.is_some() {
        from.push_str(" AND user = ?2");
    }
    if query.usage.is_some() {
        from.push_str(" AND use = ?3");
    }
    if query.current.is_some() {
        from.push_str(
            " AND email = ?4 AND revoked IS NULL AND expires > ?5 AND EXISTS (
                  SELECT 1 FROM users WHERE users.id = certificates.user
                                        AND (NOT users.disabled OR users.disabled_until <= ?5))",
        );
    }
    from.push_str(" ORDER BY id DESC LIMIT ?6");
    let before = query.before.map_or(i64::MAX, |id| i64::try_from(id).unwrap_or(i64::MAX));
    let (user, usage) = (query.user.as_ref().map(UserId::as_str), query.usage.map(CertificateUse::name));
    let params = params![before, user, usage, email, now, query.limit];
    rows::many(connection, (CERTIFICATE, &from), params, |row| {
        Ok((row.get::<_, i64>(12)?.unsigned_abs(), certificate(row)?))
    })
}

/// Records who a user is, and ends the certificates that are not true any more.
pub(super) fn set_person(batch: &Batch<'_>, new: &Person) -> Made {
    let user = new.user.as_str();
    if !exists(batch, "users WHERE id = ?", params![user])? {
        return Err(Refusal::NotFound.into());
    }
    if exists(batch, "identities WHERE email = ? AND user <> ?", params![new.email.as_str(), user])? {
        return Err(Stop::refused(Refusal::AlreadyExists, "another user has this e-mail address"));
    }
    let evidence = entry::clean(&new.evidence, MAX_TEXT_LEN);
    let level = new.level.to_string();
    batch.execute(
        "INSERT INTO identities (user, email, level, evidence, since) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (user) DO UPDATE SET email = excluded.email, level = excluded.level,
                                          evidence = excluded.evidence, since = excluded.since",
        params![user, new.email.as_str(), level, evidence, micros(batch.now)],
    )?;
    // V1 to V4 are in the order of their names.
    batch.execute(
        "UPDATE certificates SET revoked = ?2, why = ?3, reason = ?4
         WHERE user = ?1 AND revoked IS NULL AND expires > ?2 AND (email <> ?5 OR level > ?6)",
        params![
            user,
            micros(batch.now),
            Why::NotTrueAnyMore.name(),
            "who the user is was recorded anew",
            new.email.as_str(),
            level,
        ],
    )?;
    let recorded = person(batch.tx, &new.user)?.ok_or(Refusal::NotFound)?;
    Ok(Changed::Person(recorded))
}

/// Adds a certificate that is true, of a key with one purpose.
pub(super) fn add(batch: &Batch<'_>, issued: &PersonCertificate, spki: SpkiHash) -> Made {
    let conflict = |why: &str| Err(Stop::refused(Refusal::StateConflict, why));
    let person = person(batch.tx, &issued.user)?.ok_or(Refusal::IdentityUnknown)?;
    if (&person.email, person.level) != (&issued.email, issued.level) {
        return conflict("who the user is was recorded anew meanwhile: ask again");
    }
    let (user, usage, key) = (issued.user.as_str(), issued.usage.name(), issued.key.as_bytes());
    if exists(batch, "certificates WHERE key = ? AND (user <> ? OR use <> ?)", params![key, user, usage])? {
        return conflict("this key is another user's, or is for something else");
    }
    if exists(batch, "keys WHERE id = ?", params![key])?
        || exists(batch, "devices WHERE spki = ?", params![spki.0])?
    {
        return conflict("this key is a wrapping key, or a device's");
    }
    batch.add(
        "INSERT INTO certificates (id, serial, user, use, email, level, key, certificate, issued, expires, reason)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '') ON CONFLICT DO NOTHING",
        params![
            batch.sequence.cast_signed(),
            issued.serial.0,
            user,
            usage,
            issued.email.as_str(),
            issued.level.to_string(),
            key,
            issued.certificate,
            micros(batch.now),
            micros(issued.expires),
        ],
    )?;
    changed(batch, issued.serial)
}

/// Ends a certificate.
pub(super) fn revoke(batch: &Batch<'_>, serial: Serial, why: Why, reason: &str) -> Made {
    let found = read(batch.tx, serial)?.ok_or(Refusal::NotFound)?;
    if found.revoked.is_some() {
        return Ok(Changed::Certificate(Box::new(found)));
    }
    let set = "UPDATE certificates SET revoked = ?2, why = ?3, reason = ?4 WHERE serial = ?1";
    let reason = entry::clean(reason, MAX_TEXT_LEN);
    batch.update(set, params![serial.0, micros(batch.now), why.name(), reason])?;
    changed(batch, serial)
}

/// What is revoked and not over, at this time.
pub(super) fn revoked(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<RevokedCertificate>> {
    let from = "certificates WHERE revoked IS NOT NULL AND expires > ? ORDER BY revoked, id";
    let found = rows::many(connection, (CERTIFICATE, from), [micros(now)], certificate)?;
    let revoked = found.into_iter().filter_map(|one| {
        let Revoked { since, why, .. } = one.revoked?;
        Some(RevokedCertificate { certificate: one.certificate, since, why })
    });
    Ok(revoked.collect())
}

/// The certificates of devices that are to be taken no more, and not over, at this time.
pub(super) fn revoked_devices(
    connection: &Connection,
    now: Timestamp,
) -> rusqlite::Result<Vec<RevokedCertificate>> {
    // What is suspended until a time is not, from then on.
    let mut revoked = connection.prepare_cached(
        "SELECT certificate, updated AS since, state FROM devices
         WHERE state IN (?2, ?3) AND expires > ?1 AND (state = ?2 OR coalesce(suspended_until > ?1, TRUE))
         UNION ALL SELECT certificate, since, '' FROM retired WHERE expires > ?1 ORDER BY since, certificate",
    )?;
    let stopped = [DeviceState::Revoked, DeviceState::Suspended].map(DeviceState::name);
    let revoked = revoked.query_map(params![micros(now), stopped[0], stopped[1]], |row| {
        let why = match DeviceState::from_name(row.get_ref(2)?.as_str()?) {
            Some(DeviceState::Revoked) => Why::Revoked,
            Some(_) => Why::Suspended,
            None => Why::Replaced,
        };
        Ok(RevokedCertificate { certificate: row.get(0)?, since: time(row, 1)?, why })
    })?;
    revoked.collect()
}

fn changed(batch: &Batch<'_>, serial: Serial) -> Made {
    let found = read(batch.tx, serial)?.ok_or(Refusal::NotFound)?;
    Ok(Changed::Certificate(Box::new(found)))
}

fn exists(batch: &Batch<'_>, from: &str, params: impl rusqlite::Params) -> rusqlite::Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {from})");
    batch.tx.prepare_cached(&sql)?.query_row(params, |row| row.get(0))
}

fn certificate(row: &Row<'_>) -> rusqlite::Result<PersonCertificate> {
    let key: [u8; KeyId::LEN] = row.get(5)?;
    let revoked = match time_or_none(row, 9)? {
        Some(since) => Some(Revoked { since, why: named(row, 10, Why::from_name)?, reason: row.get(11)? }),
        None => None,
    };
    Ok(PersonCertificate {
        serial: Serial(row.get(0)?),
        user: parsed(row, 1)?,
        usage: named(row, 2, CertificateUse::from_name)?,
        email: parsed(row, 3)?,
        level: parsed(row, 4)?,
        key: KeyId::from_bytes(&key).ok_or_else(|| unreadable(5, "no key id"))?,
        certificate: row.get(6)?,
        issued: time(row, 7)?,
        expires: time(row, 8)?,
        revoked,
    })
}
