//! A record as a syslog message: RFC 5424.

use custodian_proto::v1;
use jiff::Timestamp;

use crate::ledger::OK;

/// "log audit", RFC 5424 §6.2.1.
const FACILITY: u8 = 13;

const WARNING: u8 = 4;

const INFORMATIONAL: u8 = 6;

/// The structured data's name. 32473 is the number that RFC 5612 keeps for those who have none of their own.
const SD_ID: &str = "custodian@32473";

/// The longest name of an operation in a message (MSGID).
const MAX_ID_LEN: usize = 32;

/// What is the same in all messages.
pub(super) struct Format {
    /// HOSTNAME: the host in the log's name.
    host: String,
    log: String,
}

impl Format {
    /// Of the log with this name.
    pub(super) fn of_log(log: &str) -> Self {
        let host = log.split('/').next().unwrap_or_default();
        Self { host: header(host, 255), log: log.to_owned() }
    }

    /// One message, without framing. It has no line breaks in it, whatever the record says.
    pub(super) fn message(&self, record: &v1::Record) -> String {
        let ordinary = record.outcome == OK && !record.break_glass;
        let severity = if ordinary { INFORMATIONAL } else { WARNING };
        let priority = FACILITY * 8 + severity;
        let time = text(record.time.as_ref()).unwrap_or_else(|| "-".to_owned());
        let factor = text(record.second_factor_time.as_ref()).unwrap_or_default();
        let id = header(&record.operation, MAX_ID_LEN);
        let mut message = format!("<{priority}>1 {time} {} custodian - {id} [{SD_ID}", self.host);
        let claims = record.claims.clone().unwrap_or_default();
        let (sequence, duration) = (record.sequence.to_string(), record.duration_us.to_string());
        let size = if record.claims.is_some() { claims.file_size.to_string() } else { String::new() };
        for (name, value) in [
            ("log", self.log.as_str()),
            ("sequence", &sequence),
            ("requestId", &record.request_id),
            ("operation", &record.operation),
            ("outcome", &record.outcome),
            ("user", &record.user),
            ("device", &record.device),
            ("certificateSha256", &record.certificate_sha256),
            ("peerIp", &record.peer_ip),
            ("key", &record.key),
            ("wrappedKeySha256", &record.wrapped_key_sha256),
            ("digest", &record.digest),
            ("target", &record.target),
            ("detail", &record.detail),
            ("approval", &record.approval),
            ("breakGlass", if record.break_glass { "true" } else { "" }),
            ("secondFactorTime", &factor),
            ("durationUs", &duration),
            ("claimedFileName", &claims.file_name),
            ("claimedFileSize", &size),
            ("claimedFormat", &claims.format),
            ("claimedReason", &claims.reason),
        ] {
            if !value.is_empty() {
                message.push_str(&format!(" {name}=\"{}\"", escaped(value)));
            }
        }
        message.push_str(&format!("] {id} {}", header(&record.outcome, 64)));
        message
    }
}

/// A time as RFC 5424 §6.2.3 has it.
fn text(time: Option<&prost_types::Timestamp>) -> Option<String> {
    let time = time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())?;
    Some(format!("{time:.6}"))
}

/// PRINTUSASCII of a header field, or `-` for nothing: RFC 5424 §6.
fn header(text: &str, limit: usize) -> String {
    let text: String = text.chars().filter(char::is_ascii_graphic).take(limit).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// PARAM-VALUE: RFC 5424 §6.3.3. Control characters, which a record does not have, could end a line where one is expected.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len() + 8);
    for character in value.chars() {
        match character {
            '"' | '\\' | ']' => escaped.extend(['\\', character]),
            control if control.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> v1::Record {
        v1::Record {
            sequence: 7,
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_456_000 }),
            operation: "Unwrap".into(),
            user: "users/anna".into(),
            outcome: "OK".into(),
            ..v1::Record::default()
        }
    }

    #[test]
    fn a_record_is_a_message_of_rfc_5424() {
        let format = Format::of_log("custodian.example.com/log-1f2e3d4c");
        assert_eq!(
            format.message(&record()),
            "<110>1 2023-11-14T22:13:20.123456Z custodian.example.com custodian - Unwrap [custodian@32473 \
             log=\"custodian.example.com/log-1f2e3d4c\" sequence=\"7\" operation=\"Unwrap\" outcome=\"OK\" \
             user=\"users/anna\" durationUs=\"0\"] Unwrap OK"
        );
        let refused = v1::Record { outcome: "DEVICE_REVOKED".into(), ..record() };
        assert!(format.message(&refused).starts_with("<108>1 "));
        let shown = v1::Record { second_factor_time: record().time, ..record() };
        let shown = format.message(&shown);
        assert!(shown.contains(" secondFactorTime=\"2023-11-14T22:13:20.123456Z\" "), "{shown}");
    }

    #[test]
    fn no_claim_ends_a_value_an_element_or_a_line() {
        let claims = v1::Claims {
            file_name: "a\"] <8>1 - evil\n<8>1".into(),
            reason: "\\ \r\u{85}".into(),
            ..v1::Claims::default()
        };
        let message = Format::of_log("a\nb").message(&v1::Record { claims: Some(claims), ..record() });
        assert!(message.contains(r#"claimedFileName="a\"\] <8>1 - evil"#), "{message}");
        assert!(message.contains("claimedReason=\"\\\\ \u{FFFD}\u{FFFD}\""), "{message}");
        assert!(!message.chars().any(char::is_control), "{message}");
        let nothing = Format::of_log("").message(&v1::Record::default());
        assert!(nothing.starts_with("<108>1 - - custodian - - ["), "{nothing}");
    }
}
