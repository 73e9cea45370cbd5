//! Making a [`Change`], or refusing what the present state does not allow.

use custodian_proto::{limits::MAX_TEXT_LEN, refusal::Refusal};
use jiff::Timestamp;
use rusqlite::{Params, params};

use super::{
    approvals,
    budgets::Tallies,
    certificates, factor, keys, lockout,
    rows::{self, micros},
    standing,
    writer::{Batch, Stop},
};
use crate::{
    authority::{
        Device, DeviceId, DeviceState, FactorRule, Invitation, PasswordState, PolicyText, Session, SpkiHash,
        User, UserId,
    },
    ledger::{Change, Changed, entry},
};

/// How long a session that has reached its end is kept, in microseconds: so that the log can still say whose it was.
const KEEP_ENDED_SESSIONS: i64 = 86_400_000_000;

pub(super) type Made = Result<Changed, Stop>;

/// Makes the change for an attempt that began when `since` was the last record.
pub(super) fn make(batch: &Batch<'_>, tallies: &mut Tallies, since: u64, change: &Change) -> Made {
    match change {
        Change::OpenSession(session) => batch.open_session(since, session),
        Change::CloseSession(id) => match batch.execute("DELETE FROM sessions WHERE id = ?", [id.0])? {
            0 => Err(Refusal::NotFound.into()),
            _ => Ok(Changed::Done),
        },
        Change::Invite(invitation) => batch.invite(invitation),
        Change::WithdrawInvitation(device) => {
            let open = "DELETE FROM invitations WHERE device = ? AND expires > ?";
            batch.update(open, params![device.as_str(), micros(batch.now)])?;
            Ok(Changed::Done)
        }
        Change::Enroll { code_hash, device, .. } => batch.enroll(code_hash, device),
        Change::SetDeviceState { id, state, reason } => batch.set_device_state(id, *state, None, reason),
        Change::SuspendDevice { id, until, reason } => {
            batch.set_device_state(id, DeviceState::Suspended, Some(*until), reason)
        }
        Change::RenewDevice { was, spki, certificate, expires } => {
            batch.renew(was, spki, certificate, *expires)
        }
        Change::ListRevoked => batch.list_revoked(),
        Change::SetUserGroups { id, groups } => {
            let set = "UPDATE users SET groups = ?2, updated = ?3 WHERE id = ?1";
            batch.update(set, params![id.as_str(), groups.as_str(), micros(batch.now)])?;
            batch.changed_user(id)
        }
        Change::SetDeviceGroups { id, groups } => {
            let set = "UPDATE devices SET groups = ?2 WHERE id = ?1";
            batch.update(set, params![id.as_str(), groups.as_str()])?;
            batch.changed_device(id)
        }
        Change::SetPerson(person) => certificates::set_person(batch, person),
        Change::AddCertificate { certificate, spki, session } => {
            factor::is_fresh(batch, *session, "to get a certificate")?;
            certificates::add(batch, certificate, *spki)
        }
        Change::RevokeCertificate { serial, why, reason } => {
            certificates::revoke(batch, *serial, *why, reason)
        }
        Change::ListRevokedPeople => Ok(Changed::Listed(batch.sequence)),
        Change::CreateUser(user) => batch.create_user(user),
        Change::SetUserDisabled { id, disabled } => batch.set_user_disabled(id, *disabled),
        Change::SuspendUser { id, until } => batch.suspend_user(id, *until),
        Change::SetPassword { id, password, state, keep } => {
            let set = "UPDATE users SET password = ?2, password_since = ?3, updated = ?4, must_change = ?5
                       WHERE id = ?1";
            let (since, must_change) = (batch.sequence.cast_signed(), *state == PasswordState::MustChange);
            let params = params![id.as_str(), password.as_phc(), since, micros(batch.now), must_change];
            batch.update(set, params)?;
            let end = "DELETE FROM sessions WHERE user = ? AND id IS NOT ?";
            batch.execute(end, params![id.as_str(), keep.map(|id| id.0)])?;
            batch.changed_user(id)
        }
        Change::ShowFactor { session, proof } => factor::prove(batch, *session, proof),
        Change::PendFactor { session, secret } => factor::pend(batch, *session, secret),
        Change::ConfirmFactor { session, secret, step, recovery } => {
            factor::confirm(batch, *session, secret, *step, recovery)
        }
        Change::ResetFactor { id } => factor::reset(batch, id),
        Change::RequireFactor { id, rule } => factor::require(batch, id, *rule),
        Change::SetRoles { id, roles } => {
            let before = batch.user(id)?.ok_or(Refusal::NotFound)?;
            let set = "UPDATE users SET roles = ?2, updated = ?3 WHERE id = ?1";
            batch.update(set, params![id.as_str(), roles.bits(), micros(batch.now)])?;
            lockout::an_admin_remains(batch, &before)?;
            batch.changed_user(id)
        }
        Change::ApplyPolicy { policy, approvers } => {
            lockout::enough_admins(batch, *approvers)?;
            batch.apply_policy(policy)
        }
        Change::Approve { id, digest, approves, user, device } => {
            approvals::approve(batch, *id, digest, approves, user, device)
        }
        Change::Deny { id, user, reason } => approvals::deny(batch, *id, user, reason),
        Change::Withdraw { id, user } => approvals::withdraw(batch, *id, user),
        Change::AddKey(key) => keys::add(batch, key),
        Change::StepKey { id, step, reason } => keys::step(batch, *id, *step, reason),
        Change::LimitKey { id, unwraps_until, reason } => keys::limit(batch, *id, *unwraps_until, reason),
        Change::LiftBudget { spender, lift } => tallies.lift(batch, spender, lift.clone()),
        Change::UnlockUnwrap { user, device } => tallies.unlock(batch, user, device),
        Change::DrainToken(drain) => {
            let reason = entry::clean(&drain.reason, MAX_TEXT_LEN);
            let add = "INSERT INTO drains (token, reason, since) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
            batch.execute(add, params![drain.token.as_str(), reason, micros(drain.since)])?;
            Ok(Changed::Done)
        }
        Change::ResumeToken(token) => {
            batch.execute("DELETE FROM drains WHERE token = ?", [token.as_str()])?;
            Ok(Changed::Done)
        }
    }
}

impl Batch<'_> {
    fn open_session(&self, since: u64, session: &Session) -> Made {
        let id = session.user.as_str();
        let mut user = self.tx.prepare_cached(
            "SELECT disabled AND coalesce(disabled_until > ?2, TRUE), password_since FROM users WHERE id = ?1",
        )?;
        let user =
            rusqlite::OptionalExtension::optional(user.query_row(params![id, micros(self.now)], |row| {
                Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?))
            }))?;
        match user {
            None => return Err(Stop::refused(Refusal::LoginFailed, "no such user")),
            Some((true, _)) => return Err(Stop::refused(Refusal::LoginFailed, "the user is disabled")),
            // The password that was verified may be the old one.
            Some((_, password_since)) if password_since.unsigned_abs() > since => {
                return Err(Stop::refused(Refusal::LoginFailed, "the password changed during this login"));
            }
            Some(_) => {}
        }
        if self.device_by("spki", session.device.0)?.is_none() {
            return Err(Refusal::DeviceUnknown.into());
        }
        let long_ended = micros(self.now).saturating_sub(KEEP_ENDED_SESSIONS);
        self.execute("DELETE FROM sessions WHERE expires < ?", [long_ended])?;
        let [created, used, expires] = [session.created, session.used, session.expires].map(micros);
        self.add(
            "INSERT INTO sessions (id, user, device, created, used, expires) VALUES (?, ?, ?, ?, ?, ?)
             ON CONFLICT DO NOTHING",
            params![session.id.0, id, session.device.0, created, used, expires],
        )?;
        Ok(Changed::Done)
    }

    fn invite(&self, invitation: &Invitation) -> Made {
        let device = invitation.device.as_str();
        if self.device_by("id", device)?.is_some_and(|device| device.state == DeviceState::Revoked) {
            return Err(Stop::refused(Refusal::StateConflict, "the device of this id is revoked, for good"));
        }
        self.execute("DELETE FROM invitations WHERE expires <= ?", [micros(self.now)])?;
        self.execute("DELETE FROM invitations WHERE device = ?", [device])?;
        let invited_by = invitation.invited_by.as_ref().map(UserId::as_str);
        self.add(
            "INSERT INTO invitations (code_hash, device, invited_by, expires) VALUES (?, ?, ?, ?)
             ON CONFLICT DO NOTHING",
            params![invitation.code_hash, device, invited_by, micros(invitation.expires)],
        )?;
        Ok(Changed::Done)
    }

    fn enroll(&self, code_hash: &[u8; 32], device: &Device) -> Made {
        let refused = |why: &str| Stop::refused(Refusal::EnrollmentRefused, why);
        let from = (rows::INVITATION, "invitations WHERE code_hash = ?");
        let invitation = rows::one(self.tx, from, [code_hash], rows::invitation)?
            .ok_or_else(|| refused("no such code, or it was used"))?;
        if invitation.expires <= self.now {
            return Err(refused("the code has expired"));
        }
        if invitation.device != device.id {
            return Err(refused("the code is for another device"));
        }
        self.execute("DELETE FROM invitations WHERE code_hash = ?", [code_hash])?;
        match self.device_by("id", device.id.as_str())? {
            None => self.add_device(device)?,
            Some(known) if known.state == DeviceState::Revoked => {
                return Err(refused("the device is revoked"));
            }
            Some(known) => self.renew_device(&known, device)?,
        }
        self.changed_device(&device.id)
    }

    fn add_device(&self, device: &Device) -> Result<(), Stop> {
        let [expires, enrolled, updated] = [device.expires, device.enrolled, device.updated].map(micros);
        self.add(
            "INSERT INTO devices (id, spki, state, certificate, expires, enrolled, updated, reason)
             VALUES (?, ?, ?, ?, ?, ?, ?, '') ON CONFLICT DO NOTHING",
            params![
                device.id.as_str(),
                device.spki.0,
                DeviceState::Enrolled.name(),
                device.certificate,
                expires,
                enrolled,
                updated
            ],
        )
    }

    /// Another key and certificate for a device. An administrator looks at it again before it may be used.
    fn renew_device(&self, known: &Device, device: &Device) -> Result<(), Stop> {
        let holder = self.device_by("spki", device.spki.0)?;
        if holder.is_some_and(|holder| holder.id != known.id) {
            return Err(Stop::refused(Refusal::AlreadyExists, "another device has this key"));
        }
        self.execute("DELETE FROM sessions WHERE device = ?", [known.spki.0])?;
        self.retire(known)?;
        let [expires, enrolled, updated] = [device.expires, device.enrolled, device.updated].map(micros);
        self.update(
            "UPDATE devices SET spki = ?2, state = ?3, certificate = ?4, expires = ?5, enrolled = ?6, updated = ?7,
                                suspended_until = NULL
             WHERE id = ?1",
            params![
                known.id.as_str(),
                device.spki.0,
                DeviceState::Enrolled.name(),
                device.certificate,
                expires,
                enrolled,
                updated
            ],
        )?;
        lockout::a_device_remains(self, known)
    }

    /// The device itself asked for it, with the old key: no administrator needs to look again.
    fn renew(&self, was: &SpkiHash, spki: &SpkiHash, certificate: &[u8], expires: Timestamp) -> Made {
        let known = self.device_by("spki", was.0)?.ok_or(Refusal::DeviceUnknown)?;
        if self.device_by("spki", spki.0)?.is_some() {
            return Err(Stop::refused(Refusal::AlreadyExists, "a device has this key"));
        }
        self.execute("DELETE FROM sessions WHERE device = ?", [was.0])?;
        self.retire(&known)?;
        let set = "UPDATE devices SET spki = ?2, certificate = ?3, expires = ?4, updated = ?5 WHERE id = ?1";
        let (expires, now) = (micros(expires), micros(self.now));
        self.update(set, params![known.id.as_str(), spki.0, certificate, expires, now])?;
        self.changed_device(&known.id)
    }

    /// Keeps a certificate that is replaced, for the revocation list.
    fn retire(&self, known: &Device) -> Result<(), Stop> {
        let add = "INSERT INTO retired (certificate, expires, since) VALUES (?, ?, ?)";
        let (expires, now) = (micros(known.expires), micros(self.now));
        Ok(self.execute(add, params![known.certificate, expires, now]).map(drop)?)
    }

    /// Numbers a list, and forgets what none needs any more: not all at once, since everybody waits for this commit.
    fn list_revoked(&self) -> Made {
        let over =
            "DELETE FROM retired WHERE rowid IN (SELECT rowid FROM retired WHERE expires <= ? LIMIT 1000)";
        self.execute(over, [micros(self.now)])?;
        Ok(Changed::Listed(self.sequence))
    }

    fn set_device_state(
        &self,
        id: &DeviceId,
        state: DeviceState,
        until: Option<Timestamp>,
        reason: &str,
    ) -> Made {
        let device = self.device_by("id", id.as_str())?.ok_or(Refusal::NotFound)?;
        if (device.state, state) == (DeviceState::Revoked, DeviceState::Revoked) {
            return Ok(Changed::Stopped(device, 0));
        }
        if until.is_some_and(|until| until <= self.now) {
            return Err(Stop::refused(Refusal::StateConflict, "it would end before it begins"));
        }
        if !device.state.may_become(state) {
            let detail = format!("{} cannot become {}", device.state.name(), state.name());
            return Err(Stop::refused(Refusal::StateConflict, detail));
        }
        let (name, now, until) = (state.name(), micros(self.now), until.map(micros));
        if !matches!(state, DeviceState::Suspended | DeviceState::Revoked) {
            let set = "UPDATE devices SET state = ?2, updated = ?3, suspended_until = NULL WHERE id = ?1";
            self.update(set, params![id.as_str(), name, now])?;
            return self.changed_device(id);
        }
        let set =
            "UPDATE devices SET state = ?2, updated = ?3, reason = ?4, suspended_until = ?5 WHERE id = ?1";
        self.update(set, params![id.as_str(), name, now, entry::clean(reason, MAX_TEXT_LEN), until])?;
        let sessions = self.execute("DELETE FROM sessions WHERE device = ?", [device.spki.0])?;
        lockout::a_device_remains(self, &device)?;
        if state == DeviceState::Revoked {
            self.execute("DELETE FROM invitations WHERE device = ?", [id.as_str()])?;
        }
        let device = self.device_by("id", id.as_str())?.ok_or(Refusal::NotFound)?;
        Ok(Changed::Stopped(device, sessions))
    }

    fn create_user(&self, user: &User) -> Made {
        self.add(
            "INSERT INTO users (id, roles, disabled, password, password_since, created, updated, must_change,
                                factor_required)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            params![
                user.id.as_str(),
                user.roles.bits(),
                user.disabled,
                user.password.as_phc(),
                self.sequence.cast_signed(),
                micros(user.created),
                micros(user.updated),
                user.password_state == PasswordState::MustChange,
                user.factor.rule == FactorRule::Always
            ],
        )?;
        self.changed_user(&user.id)
    }

    fn set_user_disabled(&self, id: &UserId, disabled: bool) -> Made {
        let user = self.user(id)?.ok_or(Refusal::NotFound)?;
        if user.disabled == disabled && user.disabled_until.is_none() {
            return Ok(Changed::User(user));
        }
        let set = "UPDATE users SET disabled = ?2, disabled_until = NULL, updated = ?3 WHERE id = ?1";
        self.update(set, params![id.as_str(), disabled, micros(self.now)])?;
        lockout::an_admin_remains(self, &user)?;
        // The sessions of a disabled user are dead, but stay until then: so their owner learns why (USER_DISABLED).
        if !disabled {
            self.execute("DELETE FROM sessions WHERE user = ?", [id.as_str()])?;
        }
        self.changed_user(id)
    }

    fn suspend_user(&self, id: &UserId, until: Timestamp) -> Made {
        let user = self.user(id)?.ok_or(Refusal::NotFound)?;
        if until <= self.now {
            return Err(Stop::refused(Refusal::StateConflict, "it would end before it begins"));
        }
        // Stopping is always allowed, letting in is not: the one must be no way to the other.
        if user.disabled && user.disabled_until.is_none_or(|end| until < end) {
            return Err(Stop::refused(Refusal::StateConflict, "the user is disabled for longer than that"));
        }
        let set = "UPDATE users SET disabled = TRUE, disabled_until = ?2, updated = ?3 WHERE id = ?1";
        self.update(set, params![id.as_str(), micros(until), micros(self.now)])?;
        lockout::an_admin_remains(self, &user)?;
        // Gone for good: nothing else would end them when the user is let in again.
        self.execute("DELETE FROM sessions WHERE user = ?", [id.as_str()])?;
        self.changed_user(id)
    }

    fn apply_policy(&self, policy: &PolicyText) -> Made {
        let current = standing::policy_version(self.tx)?;
        if policy.version != current + 1 {
            let detail =
                format!("version {current} is in force, and version {} does not follow it", policy.version);
            return Err(Stop::refused(Refusal::StateConflict, detail));
        }
        let policy = PolicyText { reason: entry::clean(&policy.reason, MAX_TEXT_LEN), ..policy.clone() };
        let applied_by = policy.applied_by.as_ref().map(UserId::as_str);
        self.add(
            "INSERT INTO policies (version, text, applied_by, applied, reason) VALUES (?, ?, ?, ?, ?)",
            params![
                policy.version.cast_signed(),
                policy.text,
                applied_by,
                micros(policy.applied),
                policy.reason
            ],
        )?;
        Ok(Changed::Policy(policy))
    }

    fn changed_device(&self, id: &DeviceId) -> Made {
        Ok(Changed::Device(self.device_by("id", id.as_str())?.ok_or(Refusal::NotFound)?))
    }

    pub(super) fn changed_user(&self, id: &UserId) -> Made {
        Ok(Changed::User(self.user(id)?.ok_or(Refusal::NotFound)?))
    }

    fn user(&self, id: &UserId) -> rusqlite::Result<Option<User>> {
        rows::one(self.tx, (rows::USER, "users WHERE id = ?"), [id.as_str()], rows::user)
    }

    fn device_by(&self, column: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<Option<Device>> {
        let from = format!("devices WHERE {column} = ?");
        rows::one(self.tx, (rows::DEVICE, &from), [value], rows::device)
    }

    /// Adds a row, unless an id or another unique part of it is in use.
    pub(super) fn add(&self, sql: &str, params: impl Params) -> Result<(), Stop> {
        if self.execute(sql, params)? == 0 { Err(Refusal::AlreadyExists.into()) } else { Ok(()) }
    }

    /// Changes one row that must be there.
    pub(super) fn update(&self, sql: &str, params: impl Params) -> Result<(), Stop> {
        if self.execute(sql, params)? == 0 { Err(Refusal::NotFound.into()) } else { Ok(()) }
    }

    pub(super) fn execute(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.tx.prepare_cached(sql)?.execute(params)
    }
}
