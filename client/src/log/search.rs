//! Finding records by what was logged, not by what an index says of it.

use custodian_proto::{
    tlog::{Checkpoint, VerifierKey},
    v1,
};
use prost::Message as _;

use super::{Part, Source, Verified, broken, verify::verify_each};
use crate::{error::Result, progress::Progress};

/// The outcome that a filter for all refusals and faults asks for.
const NOT_OK: &str = "!OK";

/// Whether a record fits everything that the filter gives.
pub fn matches(filter: &v1::RecordFilter, record: &v1::Record) -> bool {
    let same = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
    let time = record.time.as_ref().map(moment);
    let start = filter.start_time.as_ref().map(moment);
    let end = filter.end_time.as_ref().map(moment);
    same(&filter.user, &record.user)
        && same(&filter.device, &record.device)
        && same(&filter.key, &record.key)
        && same(&filter.wrapped_key_sha256, &record.wrapped_key_sha256)
        && same(&filter.operation, &record.operation)
        && (filter.outcome == NOT_OK && record.outcome != "OK" || same(&filter.outcome, &record.outcome))
        && (record.break_glass || !filter.break_glass)
        && start.is_none_or(|start| time.is_some_and(|time| time >= start))
        && end.is_none_or(|end| time.is_some_and(|time| time < end))
}

fn moment(time: &prost_types::Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

/// Reads the whole log, checks it as [`verify`](super::verify) does, and hands those records that match to `found`.
///
/// What `found` was given counts only once this has returned `Ok`.
///
/// # Errors
/// As [`verify`](super::verify); those of `found`.
pub fn search(
    source: Source<'_>,
    key: &VerifierKey,
    known: Option<&Checkpoint>,
    filter: &v1::RecordFilter,
    progress: &dyn Progress,
    found: &mut dyn FnMut(v1::Record) -> Result<()>,
) -> Result<Verified> {
    verify_each(source, key, known, Part::All, progress, &mut |sequence, entry| {
        let what = "the log makes no sense";
        let record = v1::Record::decode(entry)
            .map_err(|error| broken(what, format!("entry {sequence} is no record: {error}")))?;
        if record.sequence != sequence {
            return Err(broken(
                what,
                format!("record {sequence} says that it is record {}", record.sequence),
            ));
        }
        if matches(filter, &record) { found(record) } else { Ok(()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> v1::Record {
        v1::Record {
            sequence: 7,
            time: Some(prost_types::Timestamp { seconds: 100, nanos: 5 }),
            user: "users/anna".into(),
            device: "devices/laptop-7".into(),
            key: "keys/ab".into(),
            wrapped_key_sha256: "cd".into(),
            operation: "Unwrap".into(),
            outcome: "OK".into(),
            ..v1::Record::default()
        }
    }

    fn time(seconds: i64, nanos: i32) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos })
    }

    #[test]
    fn a_record_matches_what_it_says_and_nothing_else() {
        let any = v1::RecordFilter::default;
        for filter in [
            any(),
            v1::RecordFilter { user: "users/anna".into(), device: "devices/laptop-7".into(), ..any() },
            v1::RecordFilter { key: "keys/ab".into(), wrapped_key_sha256: "cd".into(), ..any() },
            v1::RecordFilter { operation: "Unwrap".into(), outcome: "OK".into(), ..any() },
            v1::RecordFilter { start_time: time(100, 5), end_time: time(100, 6), ..any() },
        ] {
            assert!(matches(&filter, &record()), "{filter:?}");
        }
        for filter in [
            v1::RecordFilter { user: "users/ann".into(), ..any() },
            v1::RecordFilter { device: "devices/laptop-8".into(), ..any() },
            v1::RecordFilter { key: "keys/a".into(), ..any() },
            v1::RecordFilter { wrapped_key_sha256: "ce".into(), ..any() },
            v1::RecordFilter { operation: "Login".into(), ..any() },
            v1::RecordFilter { outcome: "!OK".into(), ..any() },
            v1::RecordFilter { outcome: "DEVICE_REVOKED".into(), ..any() },
            v1::RecordFilter { start_time: time(100, 6), ..any() },
            v1::RecordFilter { end_time: time(100, 5), ..any() },
        ] {
            assert!(!matches(&filter, &record()), "{filter:?}");
        }
        let refused = v1::Record { outcome: "KEY_UNKNOWN".into(), ..record() };
        assert!(matches(&v1::RecordFilter { outcome: "!OK".into(), ..any() }, &refused));
        let breaking = v1::RecordFilter { break_glass: true, ..any() };
        assert!(!matches(&breaking, &record()));
        assert!(matches(&breaking, &v1::Record { break_glass: true, ..record() }));
    }
}
