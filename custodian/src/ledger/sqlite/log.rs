//! Finding records in the log.

use custodian_proto::v1;
use jiff::Timestamp;
use prost::Message as _;
use rusqlite::{Connection, Result, params_from_iter, types::Value};

use super::{rows::micros, span};
use crate::ledger::{OK, RecordQuery};

/// The records that match, in the order of the query.
pub(super) fn records(connection: &Connection, query: &RecordQuery) -> Result<Vec<v1::Record>> {
    let state = connection.unchecked_transaction()?;
    let Some(search) = Search::of(&state, query)? else { return Ok(Vec::new()) };
    let mut statement = state.prepare_cached(&search.sql)?;
    let rows = statement.query_map(params_from_iter(search.values), |row| {
        v1::Record::decode(row.get_ref(0)?.as_blob()?).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
        })
    })?;
    rows.collect()
}

/// What SQLite is asked.
pub(super) struct Search {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
}

impl Search {
    /// `None` if nothing can match.
    pub(super) fn of(connection: &Connection, query: &RecordQuery) -> Result<Option<Self>> {
        let mut search = Self { sql: "SELECT entry FROM records WHERE true".to_owned(), values: Vec::new() };
        let texts = [("user", &query.user), ("device", &query.device), ("key", &query.key)];
        for (column, text) in texts {
            if let Some(text) = text {
                search.and(&format!("{column} = ?"), Value::Text(text.clone()));
            }
        }
        if let Some(hash) = &query.wrapped_key_sha256 {
            let Ok(hash) = hex::decode(hash) else { return Ok(None) };
            search.and("wrapped_sha256 = ?", Value::Blob(hash));
        }
        // The second condition of each lets SQLite use the partial index.
        match query.operation.as_deref() {
            Some("Unwrap") => search.sql.push_str(" AND operation = 'Unwrap'"),
            // Of one user or device there is less than of one operation (`+`: not by its index).
            Some(operation) if query.user.is_some() || query.device.is_some() => {
                search.and("+operation = ?", Value::Text(operation.to_owned()));
            }
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
        search.within(connection, query.start, query.end)?;
        if let Some(beyond) = query.beyond {
            let condition = if query.newest_first { "seq < ?" } else { "seq > ?" };
            search.and(condition, Value::Integer(i64::try_from(beyond).unwrap_or(i64::MAX)));
        }
        let order = if query.newest_first { "DESC" } else { "ASC" };
        search.sql.push_str(&format!(" ORDER BY seq {order} LIMIT ?"));
        search.values.push(Value::Integer(query.limit.into()));
        Ok(Some(search))
    }

    /// The first and the last number of the span; between them, each record's time is compared, since a clock can be set back.
    fn within(
        &mut self,
        connection: &Connection,
        start: Option<Timestamp>,
        end: Option<Timestamp>,
    ) -> Result<()> {
        if let Some(start) = start.map(micros_up) {
            self.and("seq >= ?", Value::Integer(span::first_since(connection, start)?));
            self.and("time >= ?", Value::Integer(start));
        }
        if let Some(end) = end.map(micros_up) {
            self.and("seq <= ?", Value::Integer(span::last_before(connection, end)?));
            self.and("time < ?", Value::Integer(end));
        }
        Ok(())
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
