//! Keeping a way in: nothing that an administrator does may lock all of them out, for nobody could undo it.

use custodian_proto::refusal::Refusal;
use rusqlite::params;

use super::{
    rows::micros,
    writer::{Batch, Stop},
};
use crate::authority::{Device, DeviceState, Role, Roles, User};

/// Refuses what was just done to `before` if that was the last enabled administrator.
pub(super) fn an_admin_remains(batch: &Batch<'_>, before: &User) -> Result<(), Stop> {
    if before.disabled || !before.roles.contains(Role::Admin) || has_admin(batch)? {
        return Ok(());
    }
    Err(Stop::refused(Refusal::StateConflict, "no enabled user with the role admin would remain"))
}

/// Refuses what was just done to `before` if that was the last device that an administrator could use.
pub(super) fn a_device_remains(batch: &Batch<'_>, before: &Device) -> Result<(), Stop> {
    if before.state != DeviceState::Active || before.expires <= batch.now || !has_admin(batch)? {
        return Ok(());
    }
    let sql =
        "SELECT EXISTS (SELECT 1 FROM devices WHERE (state = ?1 OR suspended_until <= ?2) AND expires > ?2)";
    let mut active = batch.tx.prepare_cached(sql)?;
    if active.query_row(params![DeviceState::Active.name(), micros(batch.now)], |row| row.get(0))? {
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
    let admin: Roles = [Role::Admin].into_iter().collect();
    let sql = "SELECT count(*) FROM users WHERE (NOT disabled OR disabled_until <= ?2) AND roles & ?1 <> 0";
    let params = params![admin.bits(), micros(batch.now)];
    let admins: u32 = batch.tx.prepare_cached(sql)?.query_row(params, |row| row.get(0))?;
    let sql = "SELECT count(*) FROM devices WHERE state = ? AND expires > ?";
    let params = params![DeviceState::Active.name(), micros(batch.now)];
    let devices: u32 = batch.tx.prepare_cached(sql)?.query_row(params, |row| row.get(0))?;
    if admins > approvers && devices > approvers {
        return Ok(());
    }
    let detail = format!(
        "the next policy would need the approval of {approvers} others: there are {admins} enabled admins and {devices} \
         active devices"
    );
    Err(Stop::refused(Refusal::StateConflict, detail))
}

fn has_admin(batch: &Batch<'_>) -> rusqlite::Result<bool> {
    let admin: Roles = [Role::Admin].into_iter().collect();
    let sql = "SELECT EXISTS (SELECT 1 FROM users
                               WHERE (NOT disabled OR disabled_until <= ?2) AND roles & ?1 <> 0)";
    batch.tx.prepare_cached(sql)?.query_row(params![admin.bits(), micros(batch.now)], |row| row.get(0))
}
