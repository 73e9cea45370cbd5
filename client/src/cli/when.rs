//! Times and durations, as people write and read them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo, Timestamp, Zoned, civil, tz::TimeZone};

/// `2026-11-03 14:05:09` in local time; empty if not set.
pub(super) fn local(time: Option<&prost_types::Timestamp>) -> String {
    read(time).map(|time| local_text(time, &TimeZone::system())).unwrap_or_default()
}

/// RFC 3339 in UTC, as a program wants it.
pub(super) fn rfc3339(time: Option<&prost_types::Timestamp>) -> Option<String> {
    read(time).map(|time| time.to_string())
}

/// The same instant in protocol buffers.
pub(super) fn to_proto(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

/// Local time without fractions.
pub(super) fn local_text(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Reads RFC 3339, a local date or date and time, or how long ago: `24h`, `7d`.
pub(super) fn parse_instant(text: &str) -> Result<Timestamp, String> {
    instant(text, &Zoned::now())
}

/// Reads a time to come: RFC 3339, a local date or date and time, or how long from now: `24h`, `365d`, `2y`.
pub(super) fn parse_future(text: &str) -> Result<Timestamp, String> {
    future(text, &Zoned::now())
}

/// Reads `90s`, `24h`, `7d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration such as 90s, 24h or 7d");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(duration).ok().filter(|duration| duration.as_secs() > 0).ok_or_else(wrong)
}

fn future(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let wrong = || {
        format!(
            "{text:?} is no time to come: give 2026-11-03T14:05:00Z, 2026-11-03, or how long from now: 24h, 365d, 2y"
        )
    };
    let time = match text.parse::<Span>() {
        // Years and months by the calendar.
        Ok(ahead) => now.checked_add(ahead).map_err(|_| wrong())?.timestamp(),
        Err(_) => instant(text, now).map_err(|_| wrong())?,
    };
    if time > now.timestamp() { Ok(time) } else { Err(wrong()) }
}

fn instant(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    // A civil time would also take a zone that it then ignores: only what has none comes here.
    if let Ok(civil) = text.parse::<civil::DateTime>()
        && let Ok(zoned) = civil.to_zoned(now.time_zone().clone())
    {
        return Ok(zoned.timestamp());
    }
    let ago = parse_duration(text).ok().and_then(|ago| now.timestamp().checked_sub(ago).ok());
    ago.ok_or_else(|| {
        format!("{text:?} is no time: give 2026-11-03T14:05:00Z, 2026-11-03, or how long ago: 24h, 7d")
    })
}

fn read(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let time = time?;
    Timestamp::new(time.seconds, time.nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_rfc_3339_local_dates_or_ago() {
        let now: Zoned = "2026-11-03T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        let read = |text| instant(text, &now).map(|time| time.to_string());
        assert_eq!(read("2026-11-03T10:00:00Z").unwrap(), "2026-11-03T10:00:00Z");
        assert_eq!(read("2026-11-03T10:00:00+02:00").unwrap(), "2026-11-03T08:00:00Z");
        assert_eq!(read("2026-11-03").unwrap(), "2026-11-02T23:00:00Z");
        assert_eq!(read("2026-11-03 10:30").unwrap(), "2026-11-03T09:30:00Z");
        assert_eq!(read("24h").unwrap(), "2026-11-02T11:00:00Z");
        assert_eq!(read("7d").unwrap(), "2026-10-27T11:00:00Z");
        for wrong in ["", "yesterday", "-24h", "25", "2026-13-01"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_to_come_is_a_date_or_how_long_from_now() {
        let now: Zoned = "2026-11-03T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        let read = |text| future(text, &now).map(|time| time.to_string());
        assert_eq!(read("2027-01-01").unwrap(), "2026-12-31T23:00:00Z");
        assert_eq!(read("2027-01-01T00:00:00Z").unwrap(), "2027-01-01T00:00:00Z");
        assert_eq!(read("24h").unwrap(), "2026-11-04T11:00:00Z");
        assert_eq!(read("2y").unwrap(), "2028-11-03T11:00:00Z");
        for wrong in ["", "soon", "2026-11-03", "2020-01-01T00:00:00Z", "-24h", "0s", "9999y"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_positive() {
        assert_eq!(parse_duration("24h").unwrap().as_secs(), 86_400);
        assert_eq!(parse_duration("30d").unwrap().as_secs(), 30 * 86_400);
        assert_eq!(parse_duration("90s").unwrap().as_secs(), 90);
        for wrong in ["", "0s", "-1h", "x", "1y", "5"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_that_is_not_set_is_empty() {
        assert_eq!(local(None), "");
        assert_eq!(rfc3339(None), None);
        assert_eq!(
            rfc3339(Some(&prost_types::Timestamp { seconds: 0, nanos: -5 })),
            Some("1969-12-31T23:59:59.999999995Z".into())
        );
    }
}
