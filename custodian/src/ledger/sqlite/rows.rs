//! Rows of the tables, to and from the words of the field. Times are kept to the microsecond.

use std::str::FromStr;

use custodian_proto::key::KeyId;
use jiff::Timestamp;
use rusqlite::{
    Connection, OptionalExtension, Params, Result, Row,
    types::{FromSqlError, Type},
};

use crate::{
    authority::{
        Device, DeviceId, DeviceState, FactorRule, FactorState, Invitation, KeyLife, KeyPurpose, KeyState,
        Lift, PasswordHash, PasswordState, PolicyText, Roles, Session, SessionId, SpkiHash, User, UserId,
        WrapPeriod, WrappingKey,
    },
    token::Drain,
};

/// The columns of [`device`], in its order.
pub(super) const DEVICE: &str =
    "id, spki, state, certificate, expires, enrolled, updated, reason, suspended_until, groups";
/// The columns of [`invitation`], in its order.
pub(super) const INVITATION: &str = "code_hash, device, invited_by, expires";
/// The columns of [`user`], in its order.
pub(super) const USER: &str = "id, roles, disabled, password, created, updated, must_change, factor_required, \
                               factor_secret IS NOT NULL, groups, disabled_until";
/// The columns of [`session`], in its order.
pub(super) const SESSION: &str = "id, user, device, created, used, expires, factor";
/// The columns of [`key`], in its order.
pub(super) const KEY: &str = "id, label, version, state, wrap_from, wrap_until, unwrap_until, modulus_bits, wrapping, \
                              certificate, created, updated, reason";

/// The columns of [`drain`], in its order.
pub(super) const DRAIN: &str = "token, reason, since";

pub(super) fn drain(row: &Row<'_>) -> Result<Drain> {
    Ok(Drain { token: parsed(row, 0)?, reason: row.get(1)?, since: time(row, 2)? })
}

/// Whether a device is active at the time `?1`: as [`state_at`] says it.
pub(super) const DEVICE_IS_ACTIVE: &str =
    "(devices.state = 'active' OR devices.state = 'suspended' AND devices.suspended_until <= ?1)";
/// Whether a user is enabled at the time `?1`.
pub(super) const USER_IS_ENABLED: &str = "(NOT users.disabled OR users.disabled_until <= ?1)";

/// A suspension that has ended by itself is none any more.
pub(super) fn device(row: &Row<'_>) -> Result<Device> {
    let stored = named(row, 2, DeviceState::from_name)?;
    let until = time_or_none(row, 8)?;
    let state = state_at(stored, until, Timestamp::now());
    Ok(Device {
        id: parsed(row, 0)?,
        spki: SpkiHash(row.get(1)?),
        state,
        certificate: row.get(3)?,
        expires: time(row, 4)?,
        enrolled: time(row, 5)?,
        updated: time(row, 6)?,
        reason: row.get(7)?,
        suspended_until: until.filter(|_| state == DeviceState::Suspended),
        groups: parsed(row, 9)?,
    })
}

/// What the stored state is at this time.
pub(super) fn state_at(stored: DeviceState, until: Option<Timestamp>, now: Timestamp) -> DeviceState {
    match (stored, until) {
        (DeviceState::Suspended, Some(until)) if until <= now => DeviceState::Active,
        _ => stored,
    }
}

pub(super) fn invitation(row: &Row<'_>) -> Result<Invitation> {
    let invited_by = match row.get::<_, Option<String>>(2)? {
        Some(_) => Some(parsed::<UserId>(row, 2)?),
        None => None,
    };
    Ok(Invitation {
        code_hash: row.get(0)?,
        device: parsed::<DeviceId>(row, 1)?,
        invited_by,
        expires: time(row, 3)?,
    })
}

/// One whose time is over is not stopped any more.
pub(super) fn user(row: &Row<'_>) -> Result<User> {
    let until = time_or_none(row, 10)?;
    let disabled = row.get(2)? && until.is_none_or(|until| Timestamp::now() < until);
    Ok(User {
        id: parsed(row, 0)?,
        roles: Roles::from_bits(row.get(1)?),
        disabled,
        disabled_until: until.filter(|_| disabled),
        password: PasswordHash::from_phc(row.get(3)?),
        created: time(row, 4)?,
        updated: time(row, 5)?,
        password_state: match row.get(6)? {
            true => PasswordState::MustChange,
            false => PasswordState::Settled,
        },
        factor: factor_state(row, 7)?,
        groups: parsed(row, 9)?,
    })
}

pub(super) fn session(row: &Row<'_>) -> Result<Session> {
    Ok(Session {
        id: SessionId(row.get(0)?),
        user: parsed(row, 1)?,
        device: SpkiHash(row.get(2)?),
        created: time(row, 3)?,
        used: time(row, 4)?,
        expires: time(row, 5)?,
        factor: time_or_none(row, 6)?,
    })
}

/// Whether a user needs a second factor, and has one: two columns.
pub(super) fn factor_state(row: &Row<'_>, column: usize) -> Result<FactorState> {
    let rule = match row.get(column)? {
        true => FactorRule::Always,
        false => FactorRule::AsPolicySays,
    };
    Ok(FactorState { rule, enrolled: row.get(column + 1)? })
}

pub(super) fn key(row: &Row<'_>) -> Result<WrappingKey> {
    let id: [u8; KeyId::LEN] = row.get(0)?;
    let wraps = WrapPeriod::new(time(row, 4)?, time(row, 5)?).map_err(|_| unreadable(5, "no period"))?;
    let unwraps_until = time_or_none(row, 6)?;
    Ok(WrappingKey {
        id: KeyId::from_bytes(&id).ok_or_else(|| unreadable(0, "no key id"))?,
        label: row.get(1)?,
        version: row.get(2)?,
        life: KeyLife::restore(named(row, 3, KeyState::from_name)?, wraps, unwraps_until),
        modulus_bits: row.get(7)?,
        purpose: named(row, 8, KeyPurpose::from_name)?,
        certificate: row.get(9)?,
        created: time(row, 10)?,
        updated: time(row, 11)?,
        reason: row.get(12)?,
    })
}

/// The columns of [`policy`], in its order.
pub(super) const POLICY: &str = "version, text, applied_by, applied, reason";

pub(super) fn policy(row: &Row<'_>) -> Result<PolicyText> {
    let applied_by = match row.get::<_, Option<String>>(2)? {
        Some(_) => Some(parsed::<UserId>(row, 2)?),
        None => None,
    };
    Ok(PolicyText {
        version: row.get::<_, i64>(0)?.unsigned_abs(),
        text: row.get(1)?,
        applied_by,
        applied: time(row, 3)?,
        reason: row.get(4)?,
    })
}

/// The one row of `columns` in `table` that keeps `condition`.
pub(super) fn one<T>(
    connection: &Connection,
    (columns, from): (&str, &str),
    params: impl Params,
    read: fn(&Row<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {columns} FROM {from}"))?;
    statement.query_row(params, read).optional()
}

/// All such rows, in the order given.
pub(super) fn many<T>(
    connection: &Connection,
    (columns, from): (&str, &str),
    params: impl Params,
    read: fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {columns} FROM {from}"))?;
    statement.query_map(params, read)?.collect()
}

/// A time as it stands in the tables.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// A lift of a budget, in five columns from `first` on.
pub(super) fn lift(row: &Row<'_>, first: usize) -> Result<Option<Lift>> {
    let Some(until) = time_or_none(row, first + 2)? else { return Ok(None) };
    Ok(Some(Lift {
        count: row.get(first)?,
        left: row.get(first + 1)?,
        until,
        reason: row.get(first + 3)?,
        by: row.get(first + 4)?,
    }))
}

/// A time, where there may be none.
pub(super) fn time_or_none(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    row.get::<_, Option<i64>>(column)?.map(|_| time(row, column)).transpose()
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    Timestamp::from_microsecond(row.get(column)?).map_err(|_| unreadable(column, "no time"))
}

pub(super) fn parsed<T: FromStr>(row: &Row<'_>, column: usize) -> Result<T> {
    row.get_ref(column)?.as_str()?.parse().map_err(|_| unreadable(column, "no id"))
}

pub(super) fn named<T>(row: &Row<'_>, column: usize, from_name: fn(&str) -> Option<T>) -> Result<T> {
    from_name(row.get_ref(column)?.as_str()?).ok_or_else(|| unreadable(column, "no name this version knows"))
}

pub(super) fn unreadable(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(FromSqlError::Other(what.into())))
}
