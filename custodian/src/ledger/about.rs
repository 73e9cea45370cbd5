//! What a record says about a change.

use custodian_proto::key::KeyId;
use sha2::{Digest, Sha256};

use super::Change;
use crate::{
    authority::{
        DeviceId, FactorProof, FactorRule, KeyPurpose, PasswordState, Person, Role, Roles, UserId,
        WrappingKey,
    },
    token::Drain,
};

/// What a change is about, for the fields of its record that the intent left empty.
#[derive(Default)]
pub(super) struct About {
    /// Resource name of the device, user or token.
    pub(super) target: String,
    pub(super) key: Option<KeyId>,
    /// What of it changes, where the operation's name does not say so.
    pub(super) detail: String,
}

impl About {
    pub(super) fn of(change: &Change) -> Self {
        match change {
            Change::OpenSession(_) | Change::CloseSession(_) => Self::default(),
            Change::Invite(invitation) => Self::device(&invitation.device),
            Change::WithdrawInvitation(device) => Self::device(device),
            Change::Enroll { device, invited_by, .. } => {
                let certificate = hex::encode(Sha256::digest(&device.certificate));
                let inviter = invited_by.as_ref().map_or("the set-up".to_owned(), UserId::resource_name);
                let detail = format!("certificate {certificate}, invited by {inviter}");
                Self { detail, ..Self::device(&device.id) }
            }
            Change::SetDeviceState { id, .. } => Self::device(id),
            Change::SuspendDevice { id, until, .. } => {
                Self { detail: format!("until {until}"), ..Self::device(id) }
            }
            Change::RenewDevice { certificate, .. } => {
                let detail = format!("certificate {}", hex::encode(Sha256::digest(certificate)));
                Self { detail, ..Self::default() }
            }
            Change::ListRevoked | Change::ListRevokedPeople => Self::default(),
            Change::CreateUser(user) => {
                let must_change = must_change(user.password_state);
                Self { detail: roles(user.roles) + must_change, ..Self::user(&user.id) }
            }
            Change::SetUserDisabled { id, .. } => Self::user(id),
            Change::SuspendUser { id, until } => Self { detail: format!("until {until}"), ..Self::user(id) },
            Change::SetPerson(person) => {
                let Person { user, email, level, evidence, .. } = person;
                let evidence = if evidence.is_empty() { String::new() } else { format!("; {evidence}") };
                Self { detail: format!("{email}, {level}{evidence}"), ..Self::user(user) }
            }
            Change::AddCertificate { certificate: issued, .. } => {
                let (usage, sha256) = (issued.usage.name(), hex::encode(Sha256::digest(&issued.certificate)));
                let detail = format!(
                    "certificate {} to {usage}, {}, {}, SHA-256 {sha256}",
                    issued.serial, issued.email, issued.level
                );
                Self { detail, ..Self::user(&issued.user) }
            }
            Change::RevokeCertificate { serial, why, .. } => {
                Self { target: serial.resource_name(), detail: why.name().to_owned(), ..Self::default() }
            }
            Change::SetPassword { id, state, .. } => {
                let detail = must_change(*state).trim_start_matches("; ").to_owned();
                Self { detail, ..Self::user(id) }
            }
            Change::ShowFactor { proof, .. } => {
                let detail = match proof {
                    FactorProof::Code { .. } => "code of the app",
                    FactorProof::Recovery(_) => "recovery code",
                };
                Self { detail: detail.to_owned(), ..Self::default() }
            }
            Change::PendFactor { .. } | Change::ConfirmFactor { .. } => Self::default(),
            Change::SetUserGroups { id, groups } => {
                Self { detail: format!("groups: {groups}"), ..Self::user(id) }
            }
            Change::SetDeviceGroups { id, groups } => {
                Self { detail: format!("groups: {groups}"), ..Self::device(id) }
            }
            Change::ResetFactor { id } => Self::user(id),
            Change::RequireFactor { id, rule } => {
                let detail = match rule {
                    FactorRule::Always => "for everything",
                    FactorRule::AsPolicySays => "where the policy says so",
                };
                Self { detail: detail.to_owned(), ..Self::user(id) }
            }
            Change::SetRoles { id, roles: new } => Self { detail: roles(*new), ..Self::user(id) },
            Change::AddKey(key) => Self { key: Some(key.id), detail: new_key(key), ..Self::default() },
            Change::StepKey { id, .. } => Self { key: Some(*id), ..Self::default() },
            Change::LimitKey { id, unwraps_until, .. } => {
                let detail = match unwraps_until {
                    Some(until) => format!("unwraps until {until}"),
                    None => "unwraps without end".to_owned(),
                };
                Self { key: Some(*id), detail, ..Self::default() }
            }
            Change::ApplyPolicy { policy, .. } => Self {
                target: format!("policies/{}", policy.version),
                detail: format!("SHA-256 {}", hex::encode(Sha256::digest(&policy.text))),
                ..Self::default()
            },
            Change::LiftBudget { spender, lift } => {
                let detail = match lift {
                    Some(lift) => format!("{} more until {}", lift.count, lift.until),
                    None => "no more than the budget".to_owned(),
                };
                Self { target: spender.resource_name(), detail, ..Self::default() }
            }
            Change::UnlockUnwrap { user, device } => {
                Self { detail: format!("on {}", device.resource_name()), ..Self::user(user) }
            }
            Change::Approve { id, .. } | Change::Deny { id, .. } | Change::Withdraw { id, .. } => {
                Self { target: id.resource_name(), ..Self::default() }
            }
            Change::DrainToken(Drain { token, .. }) | Change::ResumeToken(token) => {
                Self { target: token.resource_name(), ..Self::default() }
            }
        }
    }

    fn device(id: &DeviceId) -> Self {
        Self { target: id.resource_name(), ..Self::default() }
    }

    fn user(id: &UserId) -> Self {
        Self { target: id.resource_name(), ..Self::default() }
    }
}

fn new_key(key: &WrappingKey) -> String {
    let wraps = key.life.wraps();
    let unwraps =
        key.life.unwraps_until().map(|until| format!(", unwraps until {until}")).unwrap_or_default();
    let (kind, used) = match key.purpose {
        KeyPurpose::Unwrap(_) => (format!("RSA-{}", key.modulus_bits), "sealed to"),
        KeyPurpose::Sign(_) | KeyPurpose::Timestamp => (key.purpose.name().to_owned(), "signs"),
    };
    format!("{}, {kind}, {used} from {} until {}{unwraps}", key.full_label(), wraps.from(), wraps.until())
}

fn must_change(state: PasswordState) -> &'static str {
    match state {
        PasswordState::Settled => "",
        PasswordState::MustChange => "; the password must be changed",
    }
}

fn roles(roles: Roles) -> String {
    let names: Vec<_> = roles.iter().map(Role::name).collect();
    if names.is_empty() { "no roles".to_owned() } else { format!("roles: {}", names.join(", ")) }
}
