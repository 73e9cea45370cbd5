//! What of an attempt goes into the log.

use custodian_proto::{
    approval::Glass,
    limits::{MAX_FORMAT_LEN, MAX_TEXT_LEN},
    v1,
};
use jiff::Timestamp;

use uuid::Uuid;

use super::{Change, Intent, about::About};
use crate::{
    authority::{Approval, Ending, Weight},
    custody::Pause,
};

/// The operation of a record that says that a limit was exceeded.
const EXCEEDED: &str = "BudgetExceeded";

/// The record of an attempt as far as it is known when it begins: without sequence, outcome, detail and duration.
pub(super) fn beginning(intent: &Intent, now: Timestamp) -> v1::Record {
    v1::Record {
        sequence: 0,
        time: Some(message_time(now)),
        request_id: intent.request_id.to_string(),
        operation: intent.operation.to_owned(),
        user: clean(&intent.user, MAX_TEXT_LEN),
        device: clean(&intent.device, MAX_TEXT_LEN),
        certificate_sha256: intent.certificate.map(hex::encode).unwrap_or_default(),
        peer_ip: intent.ip.to_string(),
        key: intent.key.map(|key| key.resource_name()).unwrap_or_default(),
        wrapped_key_sha256: intent.wrapped_sha256.map(hex::encode).unwrap_or_default(),
        claims: intent.claims.as_ref().map(clean_claims),
        target: clean(&intent.target, MAX_TEXT_LEN),
        outcome: String::new(),
        detail: String::new(),
        duration_us: 0,
        second_factor_time: intent.factor.map(message_time),
        approval: String::new(),
        break_glass: false,
        digest: intent.digest.clone(),
    }
}

/// The record of an attempt that ends now, with what its change says of itself where the intent says nothing.
pub(super) fn ending(
    intent: &Intent,
    change: Option<&Change>,
    now: Timestamp,
    sequence: u64,
    outcome: &str,
    detail: &str,
) -> v1::Record {
    let about = change.map(About::of).unwrap_or_default();
    let reason = match (intent.reason.as_str(), about.detail.as_str()) {
        (reason, "") => reason.to_owned(),
        ("", change) => change.to_owned(),
        (reason, change) => format!("{change}; {reason}"),
    };
    let mut record = v1::Record {
        sequence,
        outcome: outcome.to_owned(),
        detail: clean(if detail.is_empty() { &reason } else { detail }, MAX_TEXT_LEN),
        duration_us: u64::try_from(intent.arrived.elapsed().as_micros()).unwrap_or(u64::MAX),
        ..beginning(intent, now)
    };
    if record.target.is_empty() {
        record.target = about.target;
    }
    if let (true, Some(key)) = (record.key.is_empty(), about.key) {
        record.key = key.resource_name();
    }
    record
}

/// Marks the record of an attempt that asked for this approval, gave it, denied it or used it.
pub(super) fn mark(record: &mut v1::Record, approval: &Approval) {
    record.approval = approval.id.resource_name();
    record.break_glass = approval.request.glass == Glass::Broken;
    if approval.ending != Some(Ending::Used { sequence: record.sequence }) {
        return;
    }
    let approvers = approval.votes.iter().filter(|vote| vote.weight == Weight::Counts);
    let approvers: Vec<_> = approvers.map(|vote| vote.user.resource_name()).collect();
    let by = format!("approved by {}", approvers.join(", "));
    let detail = if record.detail.is_empty() { by } else { format!("{by}; {}", record.detail) };
    record.detail = clean(&detail, MAX_TEXT_LEN);
}

/// The record that says that this attempt was one too many: the first in its window. Its own is beside it.
pub(super) fn exceeded(intent: &Intent, pause: &Pause, now: Timestamp, sequence: u64) -> v1::Record {
    let target = pause.budget.as_ref().map(|budget| budget.spender.clone()).unwrap_or_default();
    v1::Record {
        sequence,
        time: Some(message_time(now)),
        request_id: Uuid::now_v7().to_string(),
        operation: EXCEEDED.to_owned(),
        target,
        wrapped_key_sha256: String::new(),
        digest: String::new(),
        claims: None,
        outcome: pause.refusal.code().to_owned(),
        detail: clean(&format!("{}; attempt {}", pause.detail, intent.request_id), MAX_TEXT_LEN),
        ..beginning(intent, now)
    }
}

pub(super) fn clean_claims(claims: &v1::Claims) -> v1::Claims {
    v1::Claims {
        file_name: clean(&claims.file_name, MAX_TEXT_LEN),
        file_size: claims.file_size,
        format: clean(&claims.format, MAX_FORMAT_LEN),
        reason: clean(&claims.reason, MAX_TEXT_LEN),
    }
}

/// A text for the log: at most `limit` bytes, cut between characters, and every character that could make a terminal
/// or an editor show something else than what is there replaced by U+FFFD: control characters, line separators, and
/// the bidirectional marks of Unicode Standard Annex #9.
pub(super) fn clean(text: &str, limit: usize) -> String {
    let mut cleaned = String::with_capacity(text.len().min(limit));
    for character in text.chars() {
        let character = if misleads(character) { char::REPLACEMENT_CHARACTER } else { character };
        if cleaned.len() + character.len_utf8() > limit {
            break;
        }
        cleaned.push(character);
    }
    cleaned
}

fn misleads(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// A time as it stands in messages, to the microsecond.
pub(super) fn message_time(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.as_microsecond();
    let nanos = micros.rem_euclid(1_000_000) * 1_000;
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}

/// Microseconds since 1970 of a time in a message.
pub(super) fn message_micros(time: &prost_types::Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_records_are_cut_between_characters() {
        assert_eq!(clean("äää", 5), "ää");
        assert_eq!(clean("abc", 3), "abc");
        assert_eq!(clean(&"x".repeat(5_000), MAX_TEXT_LEN).len(), MAX_TEXT_LEN);
    }

    #[test]
    fn no_text_in_a_record_can_fool_a_terminal() {
        assert_eq!(clean("a\x1b[2Kb\r\nc", 99), "a\u{FFFD}[2Kb\u{FFFD}\u{FFFD}c");
        assert_eq!(clean("exe.\u{202E}fdp", 99), "exe.\u{FFFD}fdp");
        assert_eq!(clean("\u{85}\u{2028}\0", 99), "\u{FFFD}\u{FFFD}\u{FFFD}");
        assert_eq!(clean("Müller & Söhne 👍", 99), "Müller & Söhne 👍");
    }

    #[test]
    fn times_before_1970_survive_messages() {
        for micros in [-1, -1_000_001, 0, 1_700_000_000_123_456] {
            let time = Timestamp::from_microsecond(micros).unwrap();
            assert_eq!(message_micros(&message_time(time)), micros);
            assert!((0..1_000_000_000).contains(&message_time(time).nanos));
        }
    }
}
