//! Resources as the API shows them, and the parts of requests that name them.

use std::str::FromStr;

use custodian_proto::{
    key::{KeyId, KeyWrapping},
    limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, MAX_TEXT_LEN},
    v1,
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::call::invalid;
use crate::{
    authority::{
        ApprovalId, Device, DeviceId, DeviceState, FactorRule, Groups, KeyPurpose, KeyState, PasswordState,
        Role, Roles, SigningScheme, User, UserId, WrappingKey,
    },
    custody::Denial,
    pki::openpgp,
    token::TokenName,
};

pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        // protobuf counts nanoseconds forward, jiff away from zero.
        (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000);
    }
    prost_types::Timestamp { seconds, nanos }
}

pub(super) fn from_timestamp(time: prost_types::Timestamp, field: &str) -> Result<Timestamp, Denial> {
    Timestamp::new(time.seconds, time.nanos).map_err(|_| invalid(format!("{field}: is no time")))
}

impl From<Device> for v1::Device {
    fn from(device: Device) -> Self {
        Self {
            name: device.id.resource_name(),
            state: v1::DeviceState::from(device.state).into(),
            spki_sha256: hex::encode(device.spki.0),
            certificate_sha256: hex::encode(Sha256::digest(&device.certificate)),
            certificate_expire_time: Some(timestamp(device.expires)),
            enroll_time: Some(timestamp(device.enrolled)),
            update_time: Some(timestamp(device.updated)),
            reason: device.reason,
            suspend_end_time: device.suspended_until.map(timestamp),
            stopped: None,
            groups: device.groups.iter().map(str::to_owned).collect(),
        }
    }
}

impl From<DeviceState> for v1::DeviceState {
    fn from(state: DeviceState) -> Self {
        match state {
            DeviceState::Enrolled => Self::Enrolled,
            DeviceState::Active => Self::Active,
            DeviceState::Suspended => Self::Suspended,
            DeviceState::Revoked => Self::Revoked,
        }
    }
}

impl From<User> for v1::User {
    fn from(user: User) -> Self {
        Self {
            name: user.id.resource_name(),
            roles: api_roles(user.roles),
            disabled: user.disabled,
            disable_end_time: user.disabled_until.map(timestamp),
            must_change_password: user.password_state == PasswordState::MustChange,
            groups: user.groups.iter().map(str::to_owned).collect(),
            second_factor_enrolled: user.factor.enrolled,
            second_factor_required: user.factor.rule == FactorRule::Always,
            create_time: Some(timestamp(user.created)),
            update_time: Some(timestamp(user.updated)),
        }
    }
}

impl From<WrappingKey> for v1::Key {
    fn from(key: WrappingKey) -> Self {
        let (wraps, wrapping) = (key.life.wraps(), key.wrapping());
        Self {
            openpgp_fingerprint: openpgp::fingerprint(&key).map(Vec::from).unwrap_or_default(),
            name: key.id.resource_name(),
            state: v1::KeyState::from(key.life.state(Timestamp::now())).into(),
            label: key.label,
            modulus_bits: key.modulus_bits,
            wrapping: wrapping.map_or(0, |wrapping| v1::KeyWrapping::from(wrapping).into()),
            r#use: v1::KeyUse::from(key.purpose).into(),
            certificate: key.certificate,
            create_time: Some(timestamp(key.created)),
            version: key.version,
            wrap_start_time: Some(timestamp(wraps.from())),
            wrap_end_time: Some(timestamp(wraps.until())),
            unwrap_end_time: key.life.unwraps_until().map(timestamp),
            update_time: Some(timestamp(key.updated)),
            reason: key.reason,
            // The tokens know.
            uris: Vec::new(),
            // Only for who asks for this one key.
            chain: Vec::new(),
            // The device CA's key is in it.
            openpgp_certificate_fingerprint: Vec::new(),
        }
    }
}

impl From<KeyPurpose> for v1::KeyUse {
    fn from(purpose: KeyPurpose) -> Self {
        match purpose {
            KeyPurpose::Unwrap(KeyWrapping::OpenPgp) => Self::Openpgp,
            KeyPurpose::Unwrap(KeyWrapping::Pkcs1) => Self::Pkcs1,
            KeyPurpose::Unwrap(_) => Self::Oaep,
            KeyPurpose::Sign(SigningScheme::RsaPss) => Self::Sign,
            KeyPurpose::Sign(SigningScheme::EcdsaP256) => Self::SignEcdsa,
            KeyPurpose::Timestamp => Self::Timestamp,
        }
    }
}

impl From<KeyState> for v1::KeyState {
    fn from(state: KeyState) -> Self {
        match state {
            KeyState::PreActive => Self::PreActive,
            KeyState::Active => Self::Active,
            KeyState::Suspended => Self::Suspended,
            KeyState::Deactivated => Self::Deactivated,
            KeyState::Compromised => Self::Compromised,
            KeyState::Destroyed => Self::Destroyed,
        }
    }
}

/// What a record of an Unwrap says of the file key that was released.
pub(super) fn unwrapped(record: v1::Record) -> v1::Unwrapped {
    v1::Unwrapped {
        sequence: record.sequence,
        time: record.time,
        user: record.user,
        device: record.device,
        wrapped_key_sha256: record.wrapped_key_sha256,
        claims: record.claims,
    }
}

/// Roles as the API shows them.
pub(super) fn api_roles(roles: Roles) -> Vec<i32> {
    roles
        .iter()
        .map(|role| match role {
            Role::Operator => v1::Role::Operator.into(),
            Role::Auditor => v1::Role::Auditor.into(),
            Role::Admin => v1::Role::Admin.into(),
        })
        .collect()
}

/// Roles out of a request.
pub(super) fn roles(roles: &[i32]) -> Result<Roles, Denial> {
    roles
        .iter()
        .map(|role| match v1::Role::try_from(*role) {
            Ok(v1::Role::Operator) => Ok(Role::Operator),
            Ok(v1::Role::Auditor) => Ok(Role::Auditor),
            Ok(v1::Role::Admin) => Ok(Role::Admin),
            Ok(v1::Role::Unspecified) | Err(_) => Err(invalid("roles: must be operator, auditor or admin")),
        })
        .collect()
}

/// Groups out of a request.
pub(super) fn groups(names: &[String]) -> Result<Groups, Denial> {
    Groups::new(names.iter().map(String::as_str)).map_err(|error| invalid(format!("groups: {error}")))
}

/// `devices/laptop-7` out of a request.
pub(super) fn device_id(name: &str) -> Result<DeviceId, Denial> {
    let id = name.strip_prefix("devices/").and_then(|id| id.parse().ok());
    id.ok_or_else(|| invalid("name: must be devices/ID"))
}

/// `users/anna` out of a request.
pub(super) fn user_id(name: &str) -> Result<UserId, Denial> {
    let id = name.strip_prefix("users/").and_then(|id| id.parse().ok());
    id.ok_or_else(|| invalid("name: must be users/ID"))
}

/// `keys/KEY_ID` out of a request.
pub(super) fn key_id(name: &str) -> Result<KeyId, Denial> {
    KeyId::from_resource_name(name)
        .map_err(|_| invalid("name: must be keys/KEY_ID, KEY_ID being 40 hex digits"))
}

/// `tokens/hsm-1` out of a request.
pub(super) fn token_name(name: &str) -> Result<TokenName, Denial> {
    let id = name.strip_prefix("tokens/").and_then(|id| id.parse().ok());
    id.ok_or_else(|| invalid("name: must be tokens/NAME"))
}

/// `approvals/17` out of a request.
pub(super) fn approval_id(name: &str) -> Result<ApprovalId, Denial> {
    let id = name.strip_prefix("approvals/").and_then(|id| id.parse().ok());
    id.ok_or_else(|| invalid("name: must be approvals/NUMBER"))
}

/// A reason out of a request.
pub(super) fn reason(reason: String) -> Result<String, Denial> {
    if reason.len() > MAX_TEXT_LEN { Err(invalid("reason: may have 1,024 bytes")) } else { Ok(reason) }
}

/// A reason that must be given.
pub(super) fn required_reason(given: String) -> Result<String, Denial> {
    if given.trim().is_empty() { Err(invalid("reason: is required")) } else { reason(given) }
}

/// A page size out of a request.
pub(super) fn page_size(asked: u32) -> u32 {
    if asked == 0 { DEFAULT_PAGE_SIZE } else { asked.min(MAX_PAGE_SIZE) }
}

/// How many rows to read for a page of this size: one more tells whether there is another page.
pub(super) fn rows_for(size: u32) -> u32 {
    size.saturating_add(1)
}

/// Where a list goes on, out of a request: a token of [`page`], or its start.
pub(super) fn page_start<T: FromStr>(token: &str) -> Result<Option<T>, Denial> {
    if token.is_empty() {
        return Ok(None);
    }
    token.parse().map(Some).map_err(|_| invalid("page_token: is none of ours"))
}

/// A page of what [`rows_for`] it were read, and the next page's token: empty on the last page.
pub(super) fn page<T>(mut rows: Vec<T>, size: u32, token: impl Fn(&T) -> String) -> (Vec<T>, String) {
    if rows.len() <= size as usize {
        return (rows, String::new());
    }
    rows.truncate(size as usize);
    let next = rows.last().map(token).unwrap_or_default();
    (rows, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_page_has_no_successor_however_full_it_is() {
        let of = |rows: u32| page((1..=rows).collect(), 3, u32::to_string);
        assert_eq!(rows_for(3), 4);
        assert_eq!(of(0), (vec![], String::new()));
        assert_eq!(of(2), (vec![1, 2], String::new()));
        assert_eq!(of(3), (vec![1, 2, 3], String::new()));
        assert_eq!(of(4), (vec![1, 2, 3], "3".to_owned()));
    }

    #[test]
    fn times_survive_the_api() {
        for (second, nanosecond) in [(0, 0), (1_700_000_000, 1), (-1, -500_000_000)] {
            let time = Timestamp::new(second, nanosecond).unwrap();
            assert_eq!(from_timestamp(timestamp(time), "t").unwrap(), time);
        }
    }
}
