//! Finding records in the log.

use custodian_proto::v1;
use jiff::Timestamp;
use prost::Message as _;
use rusqlite::{Connection, Result, params_from_iter, types::Value};

use super::rows::micros;
use crate::ledger::{OK, RecordQuery};

/// The records that match, in the order of the query.
pub(super) fn records(connection: &Connection, query: &RecordQuery) -> Result<Vec<v1::Record>> {
    let Some(search) = Search::of(query) else { return Ok(Vec::new()) };
    let mut statement = connection.prepare_cached(&search.sql)?;
    let rows = statement.query_map(params_from_iter(search.values), |row| {
        v1::Record::decode(row.get_ref(0)?.as_blob()?).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
        })
    })?;
    rows.collect()
}

struct Search {
    sql: String,
    values: Vec<Value>,
}

impl Search {
    /// `None` if nothing can match.
    fn of(query: &RecordQuery) -> Option<Self> {
        let mut search = Self { sql: "SELECT entry FROM records WHERE true".to_owned(), values: Vec::new() };
        let texts = [("user", &query.user), ("device", &query.device), ("key", &query.key)];
        for (column, text) in texts {
            if let Some(text) = text {
                search.and(&format!("{column} = ?"), Value::Text(text.clone()));
            }
        }
        if let Some(hash) = &query.wrapped_key_sha256 {
            search.and("wrapped_sha256 = ?", Value::Blob(hex::decode(hash).ok()?));
        }
        // The second condition of each lets SQLite use the partial index.
        match query.operation.as_deref() {
            Some("Unwrap") => search.sql.push_str(" AND operation = 'Unwrap'"),
            Some(operation) => {
                search.and("operation = ? AND operation <> 'Unwrap'", Value::Text(operation.to_owned()));
            }
            None => {}
        }
        match query.outcome.as_deref() {
            Some(OK) => search.sql.push_str(" AND outcome = 'OK'"),
            Some("!OK") => search.sql.push_str(" AND outcome <> 'OK'"),
            Some(outcome) => search.and("outcome = ? AND outcome <> 'OK'", Value::Text(outcome.to_owned())),
            None => {}
        }
        if query.break_glass {
            search.sql.push_str(" AND break_glass IS NOT NULL");
        }
        search.within(query.start, query.end);
        if let Some(beyond) = query.beyond {
            let condition = if query.newest_first { "seq < ?" } else { "seq > ?" };
            search.and(condition, Value::Integer(i64::try_from(beyond).unwrap_or(i64::MAX)));
        }
        let order = if query.newest_first { "DESC" } else { "ASC" };
        search.sql.push_str(&format!(" ORDER BY seq {order} LIMIT ?"));
        search.values.push(Value::Integer(query.limit.into()));
        Some(search)
    }

    /// Times nearly follow the numbers, but a clock can be set back. So the span is first turned into the least and the
    /// greatest number in it (from the index alone), and then each record's time is compared (`+`: not by that index,
    /// which would have to be sorted).
    fn within(&mut self, start: Option<Timestamp>, end: Option<Timestamp>) {
        let (start, end) = (start.map(micros_up), end.map(micros_up));
        let mut conditions = Vec::new();
        let mut values = Vec::new();
        for (condition, bound) in [("time >= ?", start), ("time < ?", end)] {
            if let Some(bound) = bound {
                conditions.push(condition);
                values.push(Value::Integer(bound));
            }
        }
        if conditions.is_empty() {
            return;
        }
        let span = conditions.join(" AND ");
        for bound in [">= (SELECT min(seq)", "<= (SELECT max(seq)"] {
            self.sql.push_str(&format!(" AND seq {bound} FROM records WHERE {span})"));
            self.values.extend(values.iter().cloned());
        }
        for condition in conditions {
            self.sql.push_str(&format!(" AND +{condition}"));
        }
        self.values.extend(values);
    }

    fn and(&mut self, condition: &str, value: Value) {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
        self.values.push(value);
    }
}

/// The first whole microsecond that is not before `time`: records have whole ones.
fn micros_up(time: Timestamp) -> i64 {
    let below = micros(time);
    match Timestamp::from_microsecond(below) {
        Ok(whole) if whole < time => below.saturating_add(1),
        _ => below,
    }
}
