//! What the custodian tells, as JSON objects. Their field names are stable.

use custodian_proto::v1::{self, KeyState, Role};
use serde::Serialize;

use super::{csv, when::rfc3339};

/// `laptop-7` or `devices/laptop-7` → `devices/laptop-7`.
pub(super) fn device_name(text: &str) -> String {
    format!("devices/{}", text.strip_prefix("devices/").unwrap_or(text))
}

/// `anna` or `users/anna` → `users/anna`.
pub(super) fn user_name(text: &str) -> String {
    format!("users/{}", text.strip_prefix("users/").unwrap_or(text))
}

/// What follows the slash of a resource name.
pub(super) fn id_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, id)| id)
}

/// A workstation.
#[derive(Serialize)]
pub(super) struct DeviceView {
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) spki_sha256: String,
    pub(super) certificate_sha256: String,
    pub(super) certificate_expire_time: Option<String>,
    pub(super) enroll_time: Option<String>,
    pub(super) update_time: Option<String>,
    pub(super) reason: String,
    pub(super) suspend_end_time: Option<String>,
    pub(super) groups: Vec<String>,
    /// Of a command that stopped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<StoppedView>,
}

/// What stopping a device took and ended.
#[derive(Serialize)]
pub(super) struct StoppedView {
    sessions: u32,
    streams: u32,
    duration_us: u64,
}

impl From<&v1::Device> for DeviceView {
    fn from(device: &v1::Device) -> Self {
        Self {
            name: device.name.clone(),
            state: device_state(device.state()),
            spki_sha256: device.spki_sha256.clone(),
            certificate_sha256: device.certificate_sha256.clone(),
            certificate_expire_time: rfc3339(device.certificate_expire_time.as_ref()),
            enroll_time: rfc3339(device.enroll_time.as_ref()),
            update_time: rfc3339(device.update_time.as_ref()),
            reason: device.reason.clone(),
            suspend_end_time: rfc3339(device.suspend_end_time.as_ref()),
            groups: device.groups.clone(),
            stopped: device.stopped.as_ref().map(|stopped| StoppedView {
                sessions: stopped.sessions,
                streams: stopped.streams,
                duration_us: stopped.duration_us,
            }),
        }
    }
}

/// A user.
#[derive(Serialize)]
pub(super) struct UserView {
    pub(super) name: String,
    pub(super) roles: Vec<&'static str>,
    pub(super) disabled: bool,
    pub(super) disable_end_time: Option<String>,
    pub(super) must_change_password: bool,
    pub(super) groups: Vec<String>,
    pub(super) second_factor_enrolled: bool,
    pub(super) second_factor_required: bool,
    pub(super) create_time: Option<String>,
    pub(super) update_time: Option<String>,
}

impl From<&v1::User> for UserView {
    fn from(user: &v1::User) -> Self {
        Self {
            name: user.name.clone(),
            roles: user.roles().map(role_name).collect(),
            disabled: user.disabled,
            disable_end_time: rfc3339(user.disable_end_time.as_ref()),
            must_change_password: user.must_change_password,
            groups: user.groups.clone(),
            second_factor_enrolled: user.second_factor_enrolled,
            second_factor_required: user.second_factor_required,
            create_time: rfc3339(user.create_time.as_ref()),
            update_time: rfc3339(user.update_time.as_ref()),
        }
    }
}

/// A wrapping key.
#[derive(Serialize)]
pub(super) struct KeyView {
    pub(super) name: String,
    pub(super) label: String,
    pub(super) version: u32,
    pub(super) state: &'static str,
    pub(super) modulus_bits: u32,
    /// What it is made for.
    #[serde(rename = "use")]
    pub(super) usage: &'static str,
    /// Empty for a signing key.
    pub(super) wrapping: String,
    /// Of the subkey that people encrypt to, or that signs, as GnuPG shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) openpgp_fingerprint: Option<String>,
    pub(super) create_time: Option<String>,
    pub(super) wrap_start_time: Option<String>,
    pub(super) wrap_end_time: Option<String>,
    pub(super) unwrap_end_time: Option<String>,
    pub(super) update_time: Option<String>,
    pub(super) reason: String,
    /// RFC 7512.
    pub(super) uris: Vec<String>,
}

impl From<&v1::Key> for KeyView {
    fn from(key: &v1::Key) -> Self {
        Self {
            name: key.name.clone(),
            label: key.label.clone(),
            version: key.version,
            state: key_state(key.state()),
            modulus_bits: key.modulus_bits,
            usage: key_use(key.r#use()),
            wrapping: match key.wrapping() {
                v1::KeyWrapping::Unspecified => String::new(),
                wrapping => wrapping_name(wrapping),
            },
            openpgp_fingerprint: Some(hex::encode_upper(&key.openpgp_fingerprint))
                .filter(|text| !text.is_empty()),
            create_time: rfc3339(key.create_time.as_ref()),
            wrap_start_time: rfc3339(key.wrap_start_time.as_ref()),
            wrap_end_time: rfc3339(key.wrap_end_time.as_ref()),
            unwrap_end_time: rfc3339(key.unwrap_end_time.as_ref()),
            update_time: rfc3339(key.update_time.as_ref()),
            reason: key.reason.clone(),
            uris: key.uris.clone(),
        }
    }
}

/// A file key that was released.
#[derive(Serialize)]
pub(super) struct UnwrappedView {
    pub(super) sequence: u64,
    pub(super) time: Option<String>,
    pub(super) user: String,
    pub(super) device: String,
    pub(super) wrapped_key_sha256: String,
    /// Not verified: what the client said.
    pub(super) claims: Option<ClaimsView>,
}

impl From<&v1::Unwrapped> for UnwrappedView {
    fn from(unwrapped: &v1::Unwrapped) -> Self {
        Self {
            sequence: unwrapped.sequence,
            time: rfc3339(unwrapped.time.as_ref()),
            user: unwrapped.user.clone(),
            device: unwrapped.device.clone(),
            wrapped_key_sha256: unwrapped.wrapped_key_sha256.clone(),
            claims: unwrapped.claims.clone().map(ClaimsView::from),
        }
    }
}

/// One attempt.
#[derive(Serialize)]
pub(super) struct RecordView {
    pub(super) sequence: u64,
    pub(super) time: Option<String>,
    pub(super) request_id: String,
    pub(super) operation: String,
    pub(super) user: String,
    pub(super) device: String,
    pub(super) certificate_sha256: String,
    pub(super) peer_ip: String,
    pub(super) key: String,
    pub(super) wrapped_key_sha256: String,
    /// What was to be signed.
    pub(super) digest: String,
    /// Not verified: what the client said.
    pub(super) claims: Option<ClaimsView>,
    pub(super) target: String,
    pub(super) outcome: String,
    pub(super) detail: String,
    pub(super) duration_us: u64,
    pub(super) second_factor_time: Option<String>,
    /// The approval that the attempt asked for, gave or used.
    pub(super) approval: String,
    pub(super) break_glass: bool,
}

impl RecordView {
    /// The columns of [`csv`](Self::csv).
    pub(super) const CSV_HEADER: [&str; 18] = [
        "sequence",
        "time",
        "request_id",
        "operation",
        "user",
        "device",
        "certificate_sha256",
        "peer_ip",
        "key",
        "wrapped_key_sha256",
        "claimed_file_name",
        "claimed_file_size",
        "claimed_format",
        "claimed_reason",
        "target",
        "outcome",
        "detail",
        "duration_us",
    ];

    /// One row. What nobody verified is in the columns that say `claimed`.
    pub(super) fn csv(&self) -> String {
        let (sequence, duration) = (self.sequence.to_string(), self.duration_us.to_string());
        let claims = self.claims.as_ref();
        let claim = |text: fn(&ClaimsView) -> &String| claims.map(text).map_or("", String::as_str);
        let size = claims.map(|claims| claims.file_size.to_string()).unwrap_or_default();
        csv::row([
            sequence.as_str(),
            self.time.as_deref().unwrap_or_default(),
            &self.request_id,
            &self.operation,
            &self.user,
            &self.device,
            &self.certificate_sha256,
            &self.peer_ip,
            &self.key,
            &self.wrapped_key_sha256,
            claim(|claims| &claims.file_name),
            &size,
            claim(|claims| &claims.format),
            claim(|claims| &claims.reason),
            &self.target,
            &self.outcome,
            &self.detail,
            &duration,
        ])
    }
}

/// What a client said about a file.
#[derive(Serialize)]
pub(super) struct ClaimsView {
    pub(super) file_name: String,
    pub(super) file_size: u64,
    pub(super) format: String,
    pub(super) reason: String,
}

impl From<v1::Claims> for ClaimsView {
    fn from(claims: v1::Claims) -> Self {
        let v1::Claims { file_name, file_size, format, reason } = claims;
        Self { file_name, file_size, format, reason }
    }
}

impl From<&v1::Record> for RecordView {
    fn from(record: &v1::Record) -> Self {
        let record = record.clone();
        Self {
            sequence: record.sequence,
            time: rfc3339(record.time.as_ref()),
            request_id: record.request_id,
            operation: record.operation,
            user: record.user,
            device: record.device,
            certificate_sha256: record.certificate_sha256,
            peer_ip: record.peer_ip,
            key: record.key,
            wrapped_key_sha256: record.wrapped_key_sha256,
            digest: record.digest,
            claims: record.claims.map(ClaimsView::from),
            target: record.target,
            outcome: record.outcome,
            detail: record.detail,
            duration_us: record.duration_us,
            second_factor_time: rfc3339(record.second_factor_time.as_ref()),
            approval: record.approval,
            break_glass: record.break_glass,
        }
    }
}

/// `RSA-OAEP-SHA256`.
pub(super) fn wrapping_name(wrapping: v1::KeyWrapping) -> String {
    custodian_proto::key::KeyWrapping::try_from(wrapping)
        .map_or_else(|_| "unknown".to_owned(), |wrapping| wrapping.to_string())
}

fn key_use(usage: v1::KeyUse) -> &'static str {
    match usage {
        v1::KeyUse::Oaep => "seal",
        v1::KeyUse::Openpgp => "openpgp",
        v1::KeyUse::Pkcs1 => "pkcs1",
        v1::KeyUse::Sign => "sign",
        v1::KeyUse::SignEcdsa => "sign-ecdsa",
        v1::KeyUse::Timestamp => "timestamp",
        v1::KeyUse::Unspecified => "unknown",
    }
}

/// A role's name.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Operator => "operator",
        Role::Auditor => "auditor",
        Role::Admin => "admin",
        Role::Unspecified => "unknown",
    }
}

fn device_state(state: v1::DeviceState) -> &'static str {
    match state {
        v1::DeviceState::Enrolled => "enrolled",
        v1::DeviceState::Active => "active",
        v1::DeviceState::Suspended => "suspended",
        v1::DeviceState::Revoked => "revoked",
        v1::DeviceState::Unspecified => "unknown",
    }
}

fn key_state(state: KeyState) -> &'static str {
    match state {
        KeyState::PreActive => "pre-active",
        KeyState::Active => "active",
        KeyState::Suspended => "suspended",
        KeyState::Deactivated => "deactivated",
        KeyState::Compromised => "compromised",
        KeyState::Destroyed => "destroyed",
        KeyState::Unspecified => "unknown",
    }
}
