//! Keeping a way in: nothing that an administrator does may lock all of them out, for nobody could undo it.

use custodian_proto::refusal::Refusal;
use rusqlite::params;

use super::{
    rows::{DEVICE_IS_ACTIVE, USER_IS_ENABLED, micros},
    writer::{Batch, Stop},
};
use crate::authority::{Device, DeviceState, Role, Roles, User};

/// However many there are: for what is rare.
const ALL: u32 = u32::MAX;

/// Refuses what was just done to `before` if that was the last enabled administrator.
pub(super) fn an_admin_remains(batch: &Batch<'_>, before: &User) -> Result<(), Stop> {
    if before.disabled || !before.roles.contains(Role::Admin) || admins(batch, 1)? > 0 {
        return Ok(());
    }
    Err(Stop::refused(Refusal::StateConflict, "no enabled user with the role admin would remain"))
}

/// Refuses what was just done to `before` if that was the last device that an administrator could use.
pub(super) fn a_device_remains(batch: &Batch<'_>, before: &Device) -> Result<(), Stop> {
    if before.state != DeviceState::Active || before.expires <= batch.now || admins(batch, 1)? == 0 {
        return Ok(());
    }
    if active_devices(batch, 1)? > 0 {
        return Ok(());
    }
    Err(Stop::refused(
        Refusal::StateConflict,
        "no active device would remain: enrol and activate another first",
    ))
}

/// Refuses a policy that could not be replaced: the next one needs the approval of so many others.
pub(super) fn enough_admins(batch: &Batch<'_>, approvers: u32) -> Result<(), Stop> {
    if approvers == 0 {
        return Ok(());
    }
    let (admins, devices) = (admins(batch, ALL)?, active_devices(batch, ALL)?);
    if admins > approvers && devices > approvers {
        return Ok(());
    }
    let detail = format!(
        "the next policy would need the approval of {approvers} others: there are {admins} enabled admins and {devices} \
         active devices"
    );
    Err(Stop::refused(Refusal::StateConflict, detail))
}

/// Enabled users with the role, up to `enough`: no more are counted while everybody waits for the commit.
fn admins(batch: &Batch<'_>, enough: u32) -> rusqlite::Result<u32> {
    let admin: Roles = [Role::Admin].into_iter().collect();
    // As it stands in their index.
    let is_admin = format!("roles & {} <> 0", admin.bits());
    let enabled = format!("SELECT 1 FROM users WHERE {USER_IS_ENABLED} AND {is_admin}");
    count(batch, &enabled, enough)
}

/// Devices that are active, with a certificate that is good, up to `enough`.
fn active_devices(batch: &Batch<'_>, enough: u32) -> rusqlite::Result<u32> {
    // The states first: by their index.
    let active = format!(
        "SELECT 1 FROM devices WHERE state IN ('active', 'suspended') AND expires > ?1 AND {DEVICE_IS_ACTIVE}"
    );
    count(batch, &active, enough)
}

/// How many rows there are of this at the batch's time `?1`, up to `enough`.
fn count(batch: &Batch<'_>, rows: &str, enough: u32) -> rusqlite::Result<u32> {
    let sql = format!("SELECT count(*) FROM ({rows} LIMIT ?2)");
    batch.tx.prepare_cached(&sql)?.query_row(params![micros(batch.now), enough], |row| row.get(0))
}
