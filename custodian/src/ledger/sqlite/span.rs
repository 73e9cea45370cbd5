//! From times to the numbers of records.
//!
//! Times follow the numbers, but where the clock was set back. Those places are kept; between two of them a time is found by
//! halving, which takes as long in a log of ten million records as in one of a thousand. (An index of the times would not do:
//! the least number of a span is anywhere in it.)

use rusqlite::{Connection, OptionalExtension as _, Result, Transaction};

use super::tree;

/// Where the clock was set back: the triggers of the table keep it, whoever writes records.
pub(super) fn add_setbacks(tx: &Transaction<'_>) -> Result<()> {
    tx.execute_batch(
        "CREATE TABLE setbacks (
            -- The first record after it.
            seq INTEGER PRIMARY KEY,
            -- The time of the record before that, and its own, which is earlier.
            before INTEGER NOT NULL,
            time INTEGER NOT NULL
        ) STRICT;
        INSERT INTO setbacks
            SELECT seq, before, time FROM (SELECT seq, time, lag(time) OVER (ORDER BY seq) AS before FROM records)
            WHERE time < before;
        CREATE TRIGGER records_tell_setbacks AFTER INSERT ON records
        WHEN NEW.time < (SELECT time FROM records WHERE seq = NEW.seq - 1) BEGIN
            INSERT INTO setbacks SELECT NEW.seq, time, NEW.time FROM records WHERE seq = NEW.seq - 1;
        END;
        DROP INDEX records_time;",
    )
}

/// The number of the first record of `time`, in microseconds, or later; of the one that comes next, if there is none.
pub(super) fn first_since(connection: &Connection, time: i64) -> Result<i64> {
    // The first stretch that does not end before it.
    let end = one(connection, "SELECT seq FROM setbacks WHERE before >= ? ORDER BY seq LIMIT 1", time)?;
    let end = end.map_or_else(|| next(connection), Ok)?;
    let begin = one(connection, "SELECT seq FROM setbacks WHERE seq < ? ORDER BY seq DESC LIMIT 1", end)?;
    halve(connection, begin.unwrap_or(1), end, time)
}

/// The number of the last record before `time`, in microseconds; 0 if there is none.
pub(super) fn last_before(connection: &Connection, time: i64) -> Result<i64> {
    // The last stretch that begins before it.
    let begin = one(connection, "SELECT seq FROM setbacks WHERE time < ? ORDER BY seq DESC LIMIT 1", time)?;
    let begin = begin.unwrap_or(1);
    let end = one(connection, "SELECT seq FROM setbacks WHERE seq > ? ORDER BY seq LIMIT 1", begin)?;
    let end = end.map_or_else(|| next(connection), Ok)?;
    Ok(halve(connection, begin, end, time)? - 1)
}

/// Of the numbers from `begin` to before `end`, whose times do not decrease, the first of `time` or later; else `end`.
fn halve(connection: &Connection, mut begin: i64, mut end: i64, time: i64) -> Result<i64> {
    while begin < end {
        let middle = begin + (end - begin) / 2;
        let found = one(connection, "SELECT time FROM records WHERE seq >= ? ORDER BY seq LIMIT 1", middle)?;
        match found {
            Some(found) if found < time => begin = middle + 1,
            _ => end = middle,
        }
    }
    Ok(begin)
}

/// The number of the record that comes next.
fn next(connection: &Connection) -> Result<i64> {
    Ok(tree::records(connection)?.cast_signed() + 1)
}

fn one(connection: &Connection, sql: &str, value: i64) -> Result<Option<i64>> {
    connection.prepare_cached(sql)?.query_row([value], |row| row.get(0)).optional()
}
