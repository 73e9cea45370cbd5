//! What was spent of the budgets: read and charged in the settling transaction (law 2).
//!
//! What one transaction reads of a spender it reads once, and writes once, at its end: under load, when one transaction
//! settles many attempts of few spenders, budgets cost little. Nothing is kept from one transaction to the next.

use std::collections::{HashMap, hash_map::Entry};

use custodian_proto::refusal::Refusal;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{
    rows::{self, micros},
    writer::{Batch, Stop},
};
use crate::{
    authority::{Charge, Cost, Guessed, Spenders, Tally, Window, room_of_all},
    custody::{Denial, Pause},
    ledger::OK,
};

/// Most records of one file that are looked through for its last unwrap by a spender. One that is further back counts as a
/// file of its own once more: too much may be charged, never too little.
const MOST_RECORDS: u32 = 256;

/// What has been spent, as far as one transaction knows and changes it.
#[derive(Default)]
pub(super) struct Tallies {
    tallies: HashMap<String, Kept<Tally>>,
    guessed: HashMap<(String, String), Kept<Guessed>>,
}

/// Something of the tables, and whether it is still as it stands there.
struct Kept<T> {
    now: T,
    changed: bool,
}

impl<T> Kept<T> {
    fn unchanged(now: T) -> Self {
        Self { now, changed: false }
    }
}

impl Tallies {
    /// Charges one unwrap to all three, or to none.
    pub(super) fn charge(
        &mut self,
        batch: &Batch<'_>,
        spenders: &Spenders,
        charge: &Charge,
    ) -> Result<(), Stop> {
        self.guessed(batch, spenders)?.now.is_open(&spenders.user, &spenders.device)?;
        let mut tallies = Vec::with_capacity(3);
        for (_, spender) in spenders.each() {
            tallies.push(self.tally(batch, spender)?.now.clone());
        }
        let newest = newest(batch.tx, spenders, charge, floor(&tallies))?;
        let costs = costs(&tallies, newest);
        room_of_all(spenders, &charge.budgets, &tallies, &costs)?;
        for ((kind, spender), cost) in spenders.each().into_iter().zip(costs) {
            let kept = self.tally(batch, spender)?;
            kept.now.charge(&charge.budgets.of(kind), cost);
            kept.changed = true;
        }
        Ok(())
    }

    /// Charges a wrapped key that did not unwrap as one that did, and counts it as a guess. Returns the lock, if this was one
    /// too many.
    pub(super) fn charge_guess(
        &mut self,
        batch: &Batch<'_>,
        spenders: &Spenders,
        charge: &Charge,
    ) -> Result<Option<Pause>, Stop> {
        self.charge(batch, spenders, charge)?;
        let kept = self.guessed(batch, spenders)?;
        kept.changed = true;
        if !kept.now.count_one(&charge.budgets.guesses, batch.now) {
            return Ok(None);
        }
        match kept.now.is_open(&spenders.user, &spenders.device) {
            Err(Denial::Paused(lock)) => Ok(Some(*lock)),
            // A lock of no time at all.
            _ => Ok(None),
        }
    }

    /// Notes that the log says of this refusal that a budget was exceeded. `false`: it said so before, in this window.
    pub(super) fn tell(&mut self, batch: &Batch<'_>, pause: &Pause) -> rusqlite::Result<bool> {
        let Some(budget) = &pause.budget else { return Ok(false) };
        let kept = self.tally(batch, &budget.spender)?;
        let is_first = kept.now.tell(budget.measure, budget.span, pause.until);
        kept.changed |= is_first;
        Ok(is_first)
    }

    /// Writes what changed.
    pub(super) fn write(self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        for (spender, kept) in self.tallies.into_iter().filter(|(_, kept)| kept.changed) {
            write_tally(tx, &spender, &kept.now)?;
        }
        let mut write = tx.prepare_cached(
            "INSERT OR REPLACE INTO guesses (user, device, hour, rejected, locked_until) VALUES (?, ?, ?, ?, ?)",
        )?;
        for ((user, device), kept) in self.guessed.into_iter().filter(|(_, kept)| kept.changed) {
            let Guessed { hour, count, locked_until } = kept.now;
            write.execute(params![user, device, hour, count, locked_until.map(micros)])?;
        }
        Ok(())
    }

    /// What this spender spent, as of now.
    fn tally(&mut self, batch: &Batch<'_>, spender: &str) -> rusqlite::Result<&mut Kept<Tally>> {
        let kept = match self.tallies.entry(spender.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Kept::unchanged(read_tally(batch.tx, spender)?)),
        };
        kept.now = std::mem::take(&mut kept.now).at(batch.now, batch.sequence.cast_signed());
        Ok(kept)
    }

    /// What this user sent from this device that did not unwrap, as of now.
    fn guessed(
        &mut self,
        batch: &Batch<'_>,
        Spenders { user, device, .. }: &Spenders,
    ) -> rusqlite::Result<&mut Kept<Guessed>> {
        let kept = match self.guessed.entry((user.clone(), device.clone())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Kept::unchanged(read_guessed(batch.tx, user, device)?)),
        };
        kept.now = kept.now.at(batch.now);
        Ok(kept)
    }
}

/// Whether there would be room for this charge. The settling transaction decides.
pub(super) fn room(
    connection: &Connection,
    spenders: &Spenders,
    charge: &Charge,
    now: Timestamp,
) -> rusqlite::Result<Result<(), Denial>> {
    let guessed = read_guessed(connection, &spenders.user, &spenders.device)?.at(now);
    if let Err(locked) = guessed.is_open(&spenders.user, &spenders.device) {
        return Ok(Err(locked));
    }
    let mut tallies = Vec::with_capacity(3);
    for (_, spender) in spenders.each() {
        tallies.push(read_tally(connection, spender)?.at(now, i64::MAX));
    }
    let room = |newest| room_of_all(spenders, &charge.budgets, &tallies, &costs(&tallies, newest));
    // Mostly there is room for a new file; then it need not be known whether this is one.
    if room([None; 3]).is_ok() {
        return Ok(Ok(()));
    }
    Ok(room(newest(connection, spenders, charge, floor(&tallies))?))
}

fn costs(tallies: &[Tally], newest: [Option<i64>; 3]) -> Vec<Cost> {
    tallies.iter().zip(newest).map(|(tally, newest)| Cost::of_one(tally, newest)).collect()
}

/// The first record that is in a window of any of them.
fn floor(tallies: &[Tally]) -> i64 {
    tallies.iter().map(|tally| tally.hour.since.min(tally.day.since)).min().unwrap_or_default()
}

/// For each spender, the last record, from `floor` on, of an unwrap of this file that it was charged for.
fn newest(
    connection: &Connection,
    spenders: &Spenders,
    charge: &Charge,
    floor: i64,
) -> rusqlite::Result<[Option<i64>; 3]> {
    let charged = [OK, Refusal::WrappedKeyRejected.code()];
    let mut newest = [None; 3];
    let mut records = connection.prepare_cached(
        "SELECT user, device, key, seq, outcome FROM records WHERE wrapped_sha256 = ? AND seq >= ?
         ORDER BY seq DESC LIMIT ?",
    )?;
    let mut records = records.query(params![charge.file, floor, MOST_RECORDS])?;
    while let Some(record) = records.next()?
        && newest.iter().any(Option::is_none)
    {
        if !charged.contains(&record.get_ref(4)?.as_str()?) {
            continue;
        }
        let sequence = record.get(3)?;
        for (column, ((_, spender), newest)) in spenders.each().into_iter().zip(&mut newest).enumerate() {
            if newest.is_none() && record.get_ref(column)?.as_str_or_null()? == Some(spender) {
                *newest = Some(sequence);
            }
        }
    }
    Ok(newest)
}

/// The columns of [`tally`], in its order.
const TALLY: &str = "hour, hour_since, hour_files, hour_unwraps, hour_told, day, day_since, day_files, day_unwraps, day_told, \
                     lift_count, lift_left, lift_until, lift_reason, lift_by";

fn tally(row: &Row<'_>) -> rusqlite::Result<Tally> {
    let window = |first: usize| {
        Ok::<_, rusqlite::Error>(Window {
            number: row.get(first)?,
            since: row.get(first + 1)?,
            files: row.get(first + 2)?,
            unwraps: row.get(first + 3)?,
            told: row.get(first + 4)?,
        })
    };
    Ok(Tally { hour: window(0)?, day: window(5)?, lift: rows::lift(row, 10)? })
}

fn read_tally(connection: &Connection, spender: &str) -> rusqlite::Result<Tally> {
    Ok(rows::one(connection, (TALLY, "budgets WHERE spender = ?"), [spender], tally)?.unwrap_or_default())
}

fn write_tally(
    tx: &Transaction<'_>,
    spender: &str,
    Tally { hour, day, lift }: &Tally,
) -> rusqlite::Result<()> {
    let mut write = tx.prepare_cached(&format!(
        "INSERT OR REPLACE INTO budgets (spender, {TALLY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ))?;
    write.execute(params![
        spender,
        hour.number,
        hour.since,
        hour.files,
        hour.unwraps,
        hour.told,
        day.number,
        day.since,
        day.files,
        day.unwraps,
        day.told,
        lift.as_ref().map(|lift| lift.count),
        lift.as_ref().map(|lift| lift.left),
        lift.as_ref().map(|lift| micros(lift.until)),
        lift.as_ref().map(|lift| &lift.reason),
        lift.as_ref().map(|lift| &lift.by),
    ])?;
    Ok(())
}

fn read_guessed(connection: &Connection, user: &str, device: &str) -> rusqlite::Result<Guessed> {
    let sql = "SELECT hour, rejected, locked_until FROM guesses WHERE user = ? AND device = ?";
    let mut guessed = connection.prepare_cached(sql)?;
    let read = |row: &Row<'_>| {
        Ok(Guessed { hour: row.get(0)?, count: row.get(1)?, locked_until: rows::time_or_none(row, 2)? })
    };
    Ok(guessed.query_row([user, device], read).optional()?.unwrap_or_default())
}
