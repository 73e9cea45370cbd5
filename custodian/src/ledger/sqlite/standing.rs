//! What must still be true when an attempt is recorded as allowed (law 2).

use custodian_proto::refusal::Refusal;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    approvals,
    rows::{self, micros},
    writer::{Batch, Stop},
};
use crate::authority::{
    Charge, DeviceState, FactorState, PasswordState, Roles, Session, SessionId, Spenders, SpkiHash, Standing,
};

/// Reads again what the standing rests on. If all of it holds, uses the approval up, marks the session as used, and tells
/// what to charge to whom.
pub(super) fn hold<'a>(
    batch: &Batch<'_>,
    standing: &'a Standing,
) -> Result<Option<(Spenders, &'a Charge)>, Stop> {
    let device = match standing.device {
        Some(spki) => Some(device_is_active(batch, spki, standing)?),
        None => None,
    };
    let session = match standing.session {
        Some(id) => Some(session_is_alive(batch, id, standing)?),
        None => None,
    };
    match &session {
        Some(session) => user_may(batch, session, standing)?,
        None if standing.role.is_some() || standing.charge.is_some() => {
            return Err(Stop::refused(Refusal::NotLoggedIn, "a role or a budget without a session"));
        }
        None => {}
    }
    if let Some(version) = standing.policy {
        let now = policy_version(batch.tx)?;
        if now != version {
            let detail = format!("decided by policy version {version}, but {now} is in force");
            return Err(Stop::refused(Refusal::PolicyChanged, detail));
        }
    }
    if let Some(cosigned) = &standing.cosigned
        && !cosigned.still_is(batch.now)
    {
        return Err(Stop::refused(Refusal::PolicyChanged, "fewer witnesses have cosigned the log lately"));
    }
    if let Some(id) = standing.key {
        let key = rows::one(batch.tx, (rows::KEY, "keys WHERE id = ?"), [id.as_bytes()], rows::key)?;
        key.ok_or(Refusal::KeyUnknown)?.may(standing.task, batch.now)?;
    }
    if let Some((id, updated)) = standing.unchanged {
        let key = rows::one(batch.tx, (rows::KEY, "keys WHERE id = ?"), [id.as_bytes()], rows::key)?;
        if key.ok_or(Refusal::KeyUnknown)?.updated != updated {
            return Err(Stop::refused(Refusal::StateConflict, "the key was changed meanwhile"));
        }
    }
    match (&session, standing.approval) {
        (Some(session), Some(used)) => approvals::use_up(batch, &session.user, used)?,
        (None, Some(_)) => return Err(Stop::refused(Refusal::NotLoggedIn, "an approval without a session")),
        (_, None) => {}
    }
    let Some(session) = session else { return Ok(None) };
    touch(batch.tx, session.id, batch.now)?;
    let Some(charge) = &standing.charge else { return Ok(None) };
    let (Some(device), Some(key)) = (device, standing.key) else {
        return Err(Stop::refused(Refusal::NotLoggedIn, "a charge without a device or a key"));
    };
    let spenders = Spenders {
        user: session.user.resource_name(),
        device: format!("devices/{device}"),
        key: key.resource_name(),
    };
    Ok(Some((spenders, charge)))
}

/// Marks a session as used at that time, if it is still there.
pub(super) fn touch(connection: &Connection, session: SessionId, time: Timestamp) -> rusqlite::Result<()> {
    let mut used = connection.prepare_cached("UPDATE sessions SET used = max(used, ?) WHERE id = ?")?;
    used.execute(params![micros(time), session.0]).map(drop)
}

/// The id of the device.
fn device_is_active(batch: &Batch<'_>, spki: SpkiHash, standing: &Standing) -> Result<String, Stop> {
    let mut device =
        batch.tx.prepare_cached("SELECT id, state, suspended_until, groups FROM devices WHERE spki = ?")?;
    let device: Option<(String, String, _, String)> = device
        .query_row([spki.0], |row| Ok((row.get(0)?, row.get(1)?, rows::time_or_none(row, 2)?, row.get(3)?)))
        .optional()?;
    let Some((id, state, until, groups)) = device else { return Err(Refusal::DeviceUnknown.into()) };
    match DeviceState::from_name(&state).map(|state| rows::state_at(state, until, batch.now)) {
        Some(DeviceState::Active) => match &standing.groups {
            Some((_, seen)) if seen.as_str() != groups => Err(regrouped("device")),
            _ => Ok(id),
        },
        Some(DeviceState::Enrolled) => Err(Refusal::DeviceNotActive.into()),
        Some(DeviceState::Suspended) => Err(Refusal::DeviceSuspended.into()),
        Some(DeviceState::Revoked) => Err(Refusal::DeviceRevoked.into()),
        None => Err(Stop::refused(Refusal::DeviceNotActive, format!("unknown state {state:?}"))),
    }
}

fn session_is_alive(batch: &Batch<'_>, id: SessionId, standing: &Standing) -> Result<Session, Stop> {
    let ended = |why: &str| Err(Stop::refused(Refusal::NotLoggedIn, why));
    let from = (rows::SESSION, "sessions WHERE id = ?");
    let Some(session) = rows::one(batch.tx, from, [id.0], rows::session)? else {
        return ended("no such session, or it was ended");
    };
    // A session without a device to hold it against is as good as one of another device.
    if standing.device != Some(session.device) {
        return ended("the session belongs to another device");
    }
    if session.expires <= batch.now {
        return ended("the session has reached its end");
    }
    if standing.session_idle.is_some_and(|idle| batch.now.duration_since(session.used) >= idle) {
        return ended("the session was idle for too long");
    }
    Ok(session)
}

fn user_may(batch: &Batch<'_>, session: &Session, standing: &Standing) -> Result<(), Stop> {
    let mut user = batch.tx.prepare_cached(
        "SELECT disabled AND coalesce(disabled_until > ?2, TRUE), roles, must_change, factor_required,
                factor_secret IS NOT NULL, groups FROM users WHERE id = ?1",
    )?;
    let (disabled, roles, must_change, factor, groups): (bool, u8, bool, FactorState, String) = user
        .query_row(params![session.user.as_str(), micros(batch.now)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, rows::factor_state(row, 3)?, row.get(5)?))
        })?;
    if disabled {
        return Err(Refusal::UserDisabled.into());
    }
    let password = if must_change { PasswordState::MustChange } else { PasswordState::Settled };
    standing.may_lack.check(password, factor, session.factor)?;
    // Taken back since the policy looked at it. (Nothing is less than any time.)
    if session.factor < standing.factor {
        return Err(factor.missing().into());
    }
    if standing.groups.as_ref().is_some_and(|(seen, _)| seen.as_str() != groups) {
        return Err(regrouped("user"));
    }
    let roles = Roles::from_bits(roles);
    if standing.role.is_some_and(|role| !roles.contains(role)) {
        return Err(Refusal::RoleMissing.into());
    }
    match standing.roles {
        Some(seen) if seen != roles => {
            Err(Stop::refused(Refusal::PolicyChanged, "the user has other roles now"))
        }
        _ => Ok(()),
    }
}

/// The policy decided on other groups. Asked again, it decides on these.
fn regrouped(of: &str) -> Stop {
    Stop::refused(Refusal::PolicyChanged, format!("the {of} is in other groups now"))
}

/// The version of the policy in force; 0 for the one that comes with the program.
pub(super) fn policy_version(connection: &Connection) -> rusqlite::Result<u64> {
    let mut version = connection.prepare_cached("SELECT coalesce(max(version), 0) FROM policies")?;
    version.query_row([], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}
