//! What a settled attempt changes.

use custodian_proto::key::KeyId;
use jiff::Timestamp;

use crate::{
    authority::{
        Approval, ApprovalId, Device, DeviceId, DeviceState, FactorProof, FactorRule, Groups, Invitation,
        KeyStep, Lift, PasswordHash, PasswordState, Person, PersonCertificate, PolicyText, RecoveryHash,
        Roles, SealedSecret, Serial, Session, SessionId, Spender, SpkiHash, Tally, User, UserId, Why,
        WrappingKey,
    },
    token::{Drain, TokenName},
};

#[cfg(doc)]
use crate::authority::FRESH_FACTOR;

/// One change of the ledger's state, made in the transaction that records the attempt.
///
/// The transaction refuses what the present state does not allow: NOT_FOUND, ALREADY_EXISTS, STATE_CONFLICT,
/// ENROLLMENT_REFUSED, LOGIN_FAILED, DEVICE_UNKNOWN. STATE_CONFLICT also if no enabled user with the role admin would
/// remain, or no active device for one.
#[derive(Clone)]
pub enum Change {
    /// Adds a session. Its user must be enabled, and its password must not have changed since the attempt began
    /// (LOGIN_FAILED); its device must be known (DEVICE_UNKNOWN).
    OpenSession(Session),
    /// Removes a session.
    CloseSession(SessionId),
    /// Adds an invitation, in the place of an earlier one for that id, whose code is void from then on. A device that has
    /// the id may be renewed with it, unless it is revoked (STATE_CONFLICT).
    Invite(Invitation),
    /// Takes the open invitation for this id back (NOT_FOUND if there is none).
    WithdrawInvitation(DeviceId),
    /// Uses the invitation up and adds the device, ENROLLED. A device that has the id gets the new key and certificate
    /// instead, is ENROLLED again, and its sessions end. No other device may have the key.
    Enroll {
        /// Which invitation.
        code_hash: [u8; 32],
        /// Who made that invitation, for the record.
        invited_by: Option<UserId>,
        /// The new device.
        device: Device,
    },
    /// Steps a device through its life; see [`DeviceState::may_become`]. Suspending and revoking ends its sessions,
    /// revoking its invitation too. Revoked already, to be revoked: no change, no error.
    SetDeviceState {
        /// Which device.
        id: DeviceId,
        /// Its next state.
        state: DeviceState,
        /// Why.
        reason: String,
    },
    /// Suspends an active device until a time at which it is active again by itself; as [`Change::SetDeviceState`].
    SuspendDevice {
        /// Which device.
        id: DeviceId,
        /// When it ends.
        until: Timestamp,
        /// Why.
        reason: String,
    },
    /// Gives the device of a key another key and certificate. It stays what it is; its sessions end. No other device may have
    /// the key (ALREADY_EXISTS).
    RenewDevice {
        /// The present key.
        was: SpkiHash,
        /// The new key.
        spki: SpkiHash,
        /// The new certificate, DER.
        certificate: Vec<u8>,
        /// When that ends.
        expires: Timestamp,
    },
    /// Numbers a list of the devices' certificates that are revoked: it is read from the state that this leaves, or a later one
    /// ([`Ledger::revoked`](super::Ledger::revoked)).
    ListRevoked,
    /// Adds a user.
    CreateUser(User),
    /// Records who a user is. No other user may have the address (ALREADY_EXISTS). Certificates that say otherwise (another
    /// address, a level that is lower now) are revoked.
    SetPerson(Person),
    /// Adds a certificate of a user, who must still be who it says (STATE_CONFLICT). Its key must not be one of another user,
    /// for another use, of a device, or a wrapping key (STATE_CONFLICT). Who has a second factor must have shown it in this
    /// session a moment ago ([`FRESH_FACTOR`]; STEP_UP_REQUIRED).
    AddCertificate {
        /// The certificate.
        certificate: Box<PersonCertificate>,
        /// Its key, as devices are known by.
        spki: SpkiHash,
        /// The session that asks.
        session: SessionId,
    },
    /// Ends a certificate. Revoked already: no change, no error.
    RevokeCertificate {
        /// Which.
        serial: Serial,
        /// What kind of reason.
        why: Why,
        /// The reason.
        reason: String,
    },
    /// The same of people's certificates.
    ListRevokedPeople,
    /// Stops a user or lets one in again. Already so: no change, no error. Its sessions end: they are refused with
    /// USER_DISABLED, and are gone when it is let in again. Of one that was stopped until a time, the end is taken away.
    SetUserDisabled {
        /// Which user.
        id: UserId,
        /// Stop or not.
        disabled: bool,
    },
    /// Stops a user until a time at which it is let in again by itself. Its sessions end. Whoever is stopped for longer
    /// stays so (STATE_CONFLICT): ending that takes [`Change::SetUserDisabled`].
    SuspendUser {
        /// Which user.
        id: UserId,
        /// When it ends.
        until: Timestamp,
    },
    /// Sets a password and ends the user's sessions, except one.
    SetPassword {
        /// Which user.
        id: UserId,
        /// The new hash.
        password: PasswordHash,
        /// Whether the user must change it again.
        state: PasswordState,
        /// The session that made the change, if it is the user's own.
        keep: Option<SessionId>,
    },
    /// The session shows the second factor of its user: the code, which must not have been used before and no later one
    /// either (FACTOR_REFUSED), is used up. FACTOR_LOCKED after too many wrong ones.
    ShowFactor {
        /// Which session.
        session: SessionId,
        /// The code.
        proof: FactorProof,
    },
    /// Remembers another second factor of the session's user, until it is confirmed. Who has one must have shown it in this
    /// session a moment ago ([`FRESH_FACTOR`]; STEP_UP_REQUIRED).
    PendFactor {
        /// Which session.
        session: SessionId,
        /// The new factor's secret.
        secret: SealedSecret,
    },
    /// Puts the remembered one in force with its recovery codes; the session has it. Refused as [`Change::PendFactor`] is,
    /// and if it is no longer the one that is remembered (STATE_CONFLICT).
    ConfirmFactor {
        /// Which session.
        session: SessionId,
        /// The secret that the first code was compared with.
        secret: SealedSecret,
        /// The step of that code: it and those before it are used up.
        step: u64,
        /// In the place of any earlier ones.
        recovery: Vec<RecoveryHash>,
    },
    /// Takes a user's second factor and recovery codes away, and ends the user's sessions.
    ResetFactor {
        /// Which user.
        id: UserId,
    },
    /// Sets whether a user's sessions need the second factor.
    RequireFactor {
        /// Which user.
        id: UserId,
        /// Whether.
        rule: FactorRule,
    },
    /// Replaces the groups of a user.
    SetUserGroups {
        /// Which user.
        id: UserId,
        /// The new groups.
        groups: Groups,
    },
    /// Replaces the groups of a device.
    SetDeviceGroups {
        /// Which device.
        id: DeviceId,
        /// The new groups.
        groups: Groups,
    },
    /// Replaces a user's roles.
    SetRoles {
        /// Which user.
        id: UserId,
        /// The new roles.
        roles: Roles,
    },
    /// Adds a wrapping key. Its id must not be in use, and its version must be the next of its label, beginning with 1
    /// (ALREADY_EXISTS). The version before it, if active, is deactivated.
    AddKey(WrappingKey),
    /// Steps a wrapping key through its life; see [`next`](crate::authority::next).
    StepKey {
        /// Which key.
        id: KeyId,
        /// What to do to it.
        step: KeyStep,
        /// Why.
        reason: String,
    },
    /// Sets until when a wrapping key unwraps.
    LimitKey {
        /// Which key.
        id: KeyId,
        /// The first moment at which it does not; `None`: no end.
        unwraps_until: Option<Timestamp>,
        /// Why.
        reason: String,
    },
    /// Puts a policy in force. Its version must follow the one in force, and there must be enough administrators for the
    /// next one (STATE_CONFLICT).
    ApplyPolicy {
        /// The policy.
        policy: PolicyText,
        /// How many must approve the next one. One more enabled admin than this must be there, and as many active devices.
        approvers: u32,
    },
    /// Approves a request. It must be open, and bound to this digest (STATE_CONFLICT); APPROVAL_DENIED, APPROVAL_USED and
    /// APPROVAL_EXPIRED if it is not open any more; OWN_REQUEST from the requester. Approved already: no change, no error.
    Approve {
        /// Which.
        id: ApprovalId,
        /// What the approver looked at.
        digest: [u8; 32],
        /// The operation that the policy was asked about approving. It must be that of the request (STATE_CONFLICT).
        approves: String,
        /// Who approves.
        user: UserId,
        /// On which device.
        device: DeviceId,
    },
    /// Denies a request, which must be open. Denied already: no change, no error.
    Deny {
        /// Which.
        id: ApprovalId,
        /// Who denies.
        user: UserId,
        /// Why.
        reason: String,
    },
    /// Takes a request back, which must be open. Only its requester may (NOT_OWN_REQUEST). Taken back already: no change, no
    /// error. The same request may be made again at once, and then waits for other approvals.
    Withdraw {
        /// Which.
        id: ApprovalId,
        /// Who takes it back.
        user: UserId,
    },
    /// Gives a user, a device or a key more than its budget, in the place of what is left of an earlier lift; `None`: nothing
    /// more. There must be one of that name (NOT_FOUND).
    LiftBudget {
        /// Whose.
        spender: Spender,
        /// What is given.
        lift: Option<Lift>,
    },
    /// Ends the lock of a user on a device, and forgets what of theirs did not unwrap. Not locked: no error.
    UnlockUnwrap {
        /// Who.
        user: UserId,
        /// Where.
        device: DeviceId,
    },
    /// Takes a token out of service. Drained already: no change, no error.
    DrainToken(Drain),
    /// Puts a token into service again. Not drained: no change, no error.
    ResumeToken(TokenName),
}

impl Changed {
    /// The device as it is now, stopped or not.
    pub fn device(self) -> Option<Device> {
        match self {
            Self::Device(device) | Self::Stopped(device, _) => Some(device),
            _ => None,
        }
    }
}

/// What a change left behind.
#[derive(Clone)]
pub enum Changed {
    /// Nothing to show: sessions, invitations and tokens.
    Done,
    /// The device as it is now.
    Device(Device),
    /// The device that was stopped, and how many sessions ended.
    Stopped(Device, usize),
    /// The number of the record, which is the list's.
    Listed(u64),
    /// The user as it is now.
    User(User),
    /// Who the user is now.
    Person(Person),
    /// The certificate as it is now.
    Certificate(Box<PersonCertificate>),
    /// The key as it is now.
    Key(WrappingKey),
    /// The policy that is in force now.
    Policy(PolicyText),
    /// What was spent, with the new lift.
    Budget(Tally),
    /// The approval as it is now.
    Approval(Box<Approval>),
}
