//! Second factors in the tables: each code is good once, and wrong ones are counted.

use custodian_proto::refusal::Refusal;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    changes::Made,
    rows::{self, micros},
    writer::{Batch, Stop},
};
use crate::{
    authority::{
        FRESH_FACTOR, Factor, FactorProof, FactorRule, RecoveryHash, SealedSecret, Session, SessionId,
        UserId, WrongCodes,
    },
    custody::Denial,
    ledger::{Changed, Intent},
};

/// A user's second factor. `None`: there is no such user.
pub(super) fn factor(connection: &Connection, user: &UserId) -> rusqlite::Result<Option<Factor>> {
    let mut recovery = connection.prepare_cached("SELECT hash FROM recovery_codes WHERE user = ?")?;
    let recovery = recovery.query_map([user.as_str()], |row| row.get(0).map(RecoveryHash))?;
    let recovery = recovery.collect::<Result<_, _>>()?;
    let sql = "SELECT factor_secret, factor_pending, factor_wrong, factor_wrong_at FROM users WHERE id = ?";
    let mut factor = connection.prepare_cached(sql)?;
    factor
        .query_row([user.as_str()], |row| {
            Ok(Factor {
                secret: row.get::<_, Option<_>>(0)?.map(SealedSecret),
                pending: row.get::<_, Option<_>>(1)?.map(SealedSecret),
                recovery,
                wrong: WrongCodes { count: row.get(2)?, last: rows::time(row, 3)? },
            })
        })
        .optional()
}

/// Whether any user has a second factor.
pub(super) fn any(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM users WHERE factor_secret IS NOT NULL)";
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

/// Uses a code up: the session has the second factor from now on.
pub(super) fn prove(batch: &Batch<'_>, session: SessionId, proof: &FactorProof) -> Made {
    let user = session_of(batch, session)?.user;
    let factor = factor(batch.tx, &user)?.ok_or(Refusal::NotFound)?;
    // Of guesses that were begun together, those count that were wrong before.
    factor.wrong.allow(batch.now)?;
    match proof {
        FactorProof::Code { step, secret } => {
            if factor.secret.as_ref() != Some(secret) {
                return Err(used("the second factor is another one now"));
            }
            let set = "UPDATE users SET factor_step = ?2 WHERE id = ?1 AND factor_step < ?2";
            if batch.execute(set, params![user.as_str(), step.cast_signed()])? == 0 {
                return Err(used("the code, or a later one, was used already"));
            }
        }
        FactorProof::Recovery(hash) => {
            let use_up = "DELETE FROM recovery_codes WHERE user = ? AND hash = ?";
            if batch.execute(use_up, params![user.as_str(), hash.0])? == 0 {
                return Err(used("the recovery code was used already"));
            }
        }
    }
    batch.execute("UPDATE users SET factor_wrong = 0 WHERE id = ?", [user.as_str()])?;
    has_factor(batch, session)?;
    Ok(Changed::Done)
}

/// Remembers a second factor that is not confirmed yet.
pub(super) fn pend(batch: &Batch<'_>, session: SessionId, secret: &SealedSecret) -> Made {
    let session = may_replace(batch, session)?;
    let set = "UPDATE users SET factor_pending = ?2 WHERE id = ?1";
    batch.update(set, params![session.user.as_str(), secret.0])?;
    Ok(Changed::Done)
}

/// Puts the pending one in force, if it is still the one that the first code was compared with.
pub(super) fn confirm(
    batch: &Batch<'_>,
    session: SessionId,
    secret: &SealedSecret,
    step: u64,
    recovery: &[RecoveryHash],
) -> Made {
    let Session { id, user, .. } = may_replace(batch, session)?;
    let set = "UPDATE users SET factor_secret = factor_pending, factor_pending = NULL, factor_step = ?3, factor_wrong = 0
               WHERE id = ?1 AND factor_pending = ?2";
    if batch.execute(set, params![user.as_str(), secret.0, step.cast_signed()])? == 0 {
        return Err(Stop::refused(
            Refusal::StateConflict,
            "another enrolment began, or the factor was reset",
        ));
    }
    batch.execute("DELETE FROM recovery_codes WHERE user = ?", [user.as_str()])?;
    for hash in recovery {
        batch.add("INSERT INTO recovery_codes (user, hash) VALUES (?, ?)", params![user.as_str(), hash.0])?;
    }
    has_factor(batch, id)?;
    Ok(Changed::Done)
}

/// Takes a user's second factor away.
pub(super) fn reset(batch: &Batch<'_>, user: &UserId) -> Made {
    batch.update(
        "UPDATE users SET factor_secret = NULL, factor_pending = NULL, factor_wrong = 0, updated = ?2 WHERE id = ?1",
        params![user.as_str(), micros(batch.now)],
    )?;
    for table in ["recovery_codes", "sessions"] {
        batch.execute(&format!("DELETE FROM {table} WHERE user = ?"), [user.as_str()])?;
    }
    batch.changed_user(user)
}

/// Sets whether a user's sessions need it.
pub(super) fn require(batch: &Batch<'_>, user: &UserId, rule: FactorRule) -> Made {
    let set = "UPDATE users SET factor_required = ?2, updated = ?3 WHERE id = ?1";
    batch.update(set, params![user.as_str(), rule == FactorRule::Always, micros(batch.now)])?;
    batch.changed_user(user)
}

/// Counts a wrong code of the intent's user.
pub(super) fn charge(batch: &Batch<'_>, intent: &Intent, denial: &Denial) -> rusqlite::Result<Denial> {
    if let Some(user) = intent.user.strip_prefix("users/") {
        let sql = "UPDATE users SET factor_wrong = min(factor_wrong + 1, 1000000), factor_wrong_at = ? WHERE id = ?";
        batch.execute(sql, params![micros(batch.now), user])?;
    }
    Ok(denial.clone())
}

fn may_replace(batch: &Batch<'_>, session: SessionId) -> Result<Session, Stop> {
    is_fresh(batch, session, "to replace a second factor")
}

/// Who has a second factor must have shown it a moment ago.
pub(super) fn is_fresh(
    batch: &Batch<'_>,
    session: SessionId,
    what_for: &'static str,
) -> Result<Session, Stop> {
    let session = session_of(batch, session)?;
    let factor = factor(batch.tx, &session.user)?.ok_or(Refusal::NotFound)?;
    let is_fresh = |shown: Timestamp| batch.now.duration_since(shown) < FRESH_FACTOR;
    if factor.secret.is_none() || session.factor.is_some_and(is_fresh) {
        return Ok(session);
    }
    Err(Stop::refused(Refusal::StepUpRequired, what_for))
}

fn session_of(batch: &Batch<'_>, id: SessionId) -> Result<Session, Stop> {
    let session = rows::one(batch.tx, (rows::SESSION, "sessions WHERE id = ?"), [id.0], rows::session)?;
    session.ok_or_else(|| Refusal::NotLoggedIn.into())
}

fn has_factor(batch: &Batch<'_>, session: SessionId) -> Result<(), Stop> {
    batch.update("UPDATE sessions SET factor = ?2 WHERE id = ?1", params![session.0, micros(batch.now)])
}

fn used(why: &str) -> Stop {
    Stop::refused(Refusal::FactorRefused, why)
}
