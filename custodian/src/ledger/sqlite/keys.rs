//! Changes of wrapping keys.

use custodian_proto::{key::KeyId, limits::MAX_TEXT_LEN, refusal::Refusal};
use jiff::Timestamp;
use rusqlite::params;

use super::{
    changes::Made,
    rows::{self, micros},
    writer::{Batch, Stop},
};
use crate::{
    authority::{KeyLife, KeyPurpose, KeyState, KeyStep, WrappingKey, WrongStep},
    ledger::{Changed, entry},
};

impl From<WrongStep> for Stop {
    fn from(wrong: WrongStep) -> Self {
        Self::refused(Refusal::StateConflict, wrong.to_string())
    }
}

pub(super) fn add(batch: &Batch<'_>, key: &WrappingKey) -> Made {
    let newest = "keys WHERE label = ? ORDER BY version DESC LIMIT 1";
    let newest = rows::one(batch.tx, (rows::KEY, newest), [&key.label], rows::key)?;
    let next = newest.as_ref().map_or(1, |newest| newest.version.saturating_add(1));
    if key.version != next {
        let detail = format!("the next version of {} is {next}", key.label);
        return Err(Stop::refused(Refusal::AlreadyExists, detail));
    }
    if let Some(newest) = &newest
        && newest.purpose != key.purpose
        && (newest.wrapping().is_none() || key.wrapping().is_none())
    {
        let detail = format!("{} is made for {}, and so are its versions", key.label, newest.purpose.name());
        return Err(Stop::refused(Refusal::AlreadyExists, detail));
    }
    if key.purpose.has_openpgp_certificate() {
        check_second(batch, key)?;
    }
    batch.add(
        "INSERT INTO keys (id, label, version, state, wrap_from, wrap_until, unwrap_until, modulus_bits, wrapping,
                           certificate, created, updated, reason)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '') ON CONFLICT DO NOTHING",
        params![
            key.id.as_bytes(),
            key.label,
            key.version,
            key.life.set().name(),
            micros(key.life.wraps().from()),
            micros(key.life.wraps().until()),
            key.life.unwraps_until().map(micros),
            key.modulus_bits,
            key.purpose.name(),
            key.certificate,
            micros(key.created),
            micros(key.updated),
        ],
    )?;
    if let Some(before) = newest
        && before.life.state(batch.now) == KeyState::Active
    {
        let life = before.life.step(KeyStep::Deactivate, batch.now)?;
        set_life(batch, before.id, life, &format!("replaced by version {}", key.version))?;
    }
    changed(batch, key.id)
}

/// OpenPGP certificates have one primary key, the device CA's, and are told from each other by the second in
/// which they were made.
fn check_second(batch: &Batch<'_>, key: &WrappingKey) -> Result<(), Stop> {
    let [unwrap, sign] = KeyPurpose::WITH_OPENPGP_CERTIFICATE;
    let taken: bool = batch
        .tx
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM keys WHERE wrapping IN (?, ?) AND created / 1000000 = ? / 1000000)",
        )?
        .query_row(params![unwrap.name(), sign.name(), micros(key.created)], |row| row.get(0))?;
    if taken {
        let detail =
            "another key with an OpenPGP certificate was made in this very second: try again".to_owned();
        return Err(Stop::refused(Refusal::StateConflict, detail));
    }
    Ok(())
}

pub(super) fn step(batch: &Batch<'_>, id: KeyId, step: KeyStep, reason: &str) -> Made {
    let key = read(batch, id)?;
    let life = key.life.step(step, batch.now)?;
    if life == key.life {
        return Ok(Changed::Key(key));
    }
    set_life(batch, id, life, reason)?;
    changed(batch, id)
}

pub(super) fn limit(batch: &Batch<'_>, id: KeyId, unwraps_until: Option<Timestamp>, reason: &str) -> Made {
    let key = read(batch, id)?;
    if key.wrapping().is_none() {
        return Err(Stop::refused(Refusal::WrongKeyUse, "it unwraps nothing"));
    }
    let life = key.life.limit(unwraps_until)?;
    set_life(batch, id, life, reason)?;
    changed(batch, id)
}

fn set_life(batch: &Batch<'_>, id: KeyId, life: KeyLife, reason: &str) -> Result<(), Stop> {
    let set = "UPDATE keys SET state = ?2, unwrap_until = ?3, updated = ?4, reason = ?5 WHERE id = ?1";
    let until = life.unwraps_until().map(micros);
    let reason = entry::clean(reason, MAX_TEXT_LEN);
    batch.update(set, params![id.as_bytes(), life.set().name(), until, micros(batch.now), reason])
}

fn changed(batch: &Batch<'_>, id: KeyId) -> Made {
    read(batch, id).map(Changed::Key)
}

fn read(batch: &Batch<'_>, id: KeyId) -> Result<WrappingKey, Stop> {
    let found = rows::one(batch.tx, (rows::KEY, "keys WHERE id = ?"), [id.as_bytes()], rows::key)?;
    found.ok_or_else(|| Refusal::NotFound.into())
}
