//! MS-DOS time: two-second steps of local time, 1980 to 2107 (APPNOTE §4.4.6).

use jiff::{Timestamp, civil, tz::TimeZone};

/// `(time, date)` of a moment in seconds since 1970; the nearest there is, if it is out of range.
pub(super) fn to_dos(seconds: i64) -> (u16, u16) {
    let Ok(moment) = Timestamp::from_second(seconds) else { return (0, 0x21) };
    let local = moment.to_zoned(TimeZone::system()).datetime();
    match local.year() {
        ..1980 => (0, 0x21),
        2108.. => (0xbf7d, 0xff9f),
        year => {
            let time =
                unsigned(local.hour()) << 11 | unsigned(local.minute()) << 5 | (unsigned(local.second()) / 2);
            let date =
                (year - 1980).cast_unsigned() << 9 | unsigned(local.month()) << 5 | unsigned(local.day());
            (time, date)
        }
    }
}

/// Seconds since 1970. `None` if it is no date.
pub(super) fn from_dos(time: u16, date: u16) -> Option<i64> {
    let bits = |value: u16, shift: u16, len: u16| i8::try_from(value >> shift & ((1 << len) - 1)).ok();
    let year = 1980 + (date >> 9).cast_signed();
    let date = civil::Date::new(year, bits(date, 5, 4)?, bits(date, 0, 5)?).ok()?;
    let time =
        civil::Time::new(bits(time, 11, 5)?, bits(time, 5, 6)?, bits(time, 0, 5)?.checked_mul(2)?, 0).ok()?;
    let moment = date.to_datetime(time).to_zoned(TimeZone::system()).ok()?;
    Some(moment.timestamp().as_second())
}

fn unsigned(part: i8) -> u16 {
    part.cast_unsigned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dos_time_is_right_to_two_seconds_and_never_out_of_range() {
        let (time, date) = to_dos(1_700_000_001);
        assert_eq!(from_dos(time, date), Some(1_700_000_000));
        for extreme in [i64::MIN, -1, 0, 10_000_000_000, i64::MAX] {
            let (time, date) = to_dos(extreme);
            assert!(from_dos(time, date).is_some(), "{extreme}");
        }
        assert_eq!(from_dos(0, 0), None);
    }
}
