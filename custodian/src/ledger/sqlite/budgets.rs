//! What was spent of the budgets: read and charged in the settling transaction (law 2).
//!
//! What one transaction reads of a spender it reads once, and writes once, at its end: under load, when one transaction
//! settles many attempts of few spenders, budgets cost little. Nothing is kept from one transaction to the next.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map::Entry};

use custodian_proto::{limits::MAX_TEXT_LEN, refusal::Refusal};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, Transaction, params};

use super::{
    changes::Made,
    rows::{self, micros},
    writer::{Batch, Stop},
};
use crate::{
    authority::{
        Budget, Charge, Cost, DeviceId, Guessed, Lift, Lock, Span, Spender, Spenders, Tally, UserId, Window,
        room_of_all,
    },
    custody::{Denial, Pause},
    ledger::{Changed, ManyFiles, OK, entry},
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
        room_of_all(each(spenders, charge, &tallies, &costs))?;
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

    /// Gives one of them more than its budget, or nothing more.
    pub(super) fn lift(&mut self, batch: &Batch<'_>, spender: &Spender, lift: Option<Lift>) -> Made {
        if !exists(batch.tx, spender)? {
            return Err(Refusal::NotFound.into());
        }
        let kept = self.tally(batch, &spender.resource_name())?;
        kept.now.lift = lift.map(|lift| Lift { reason: entry::clean(&lift.reason, MAX_TEXT_LEN), ..lift });
        kept.changed = true;
        Ok(Changed::Budget(kept.now.clone()))
    }

    /// Ends the lock of this pair, and begins to count anew.
    pub(super) fn unlock(&mut self, batch: &Batch<'_>, user: &UserId, device: &DeviceId) -> Made {
        for spender in [Spender::User(user.clone()), Spender::Device(device.clone())] {
            if !exists(batch.tx, &spender)? {
                return Err(Refusal::NotFound.into());
            }
        }
        let key = String::new();
        let pair = Spenders { user: user.resource_name(), device: device.resource_name(), key };
        let kept = self.guessed(batch, &pair)?;
        *kept = Kept { now: Guessed::default(), changed: true };
        Ok(Changed::Done)
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
    let room = |newest| room_of_all(each(spenders, charge, &tallies, &costs(&tallies, newest)));
    // Mostly there is room for a new file; then it need not be known whether this is one.
    if room([None; 3]).is_ok() {
        return Ok(Ok(()));
    }
    Ok(room(newest(connection, spenders, charge, floor(&tallies))?))
}

fn each<'a>(
    spenders: &'a Spenders,
    charge: &'a Charge,
    tallies: &'a [Tally],
    costs: &'a [Cost],
) -> impl Iterator<Item = (&'a str, Budget, &'a Tally, Cost)> {
    let each = spenders.each().into_iter().zip(tallies).zip(costs);
    each.map(|(((kind, spender), tally), cost)| (spender, charge.budgets.of(kind), tally, *cost))
}

/// Whether there would be room for all of these.
pub(super) fn room_for(
    connection: &Connection,
    many: &ManyFiles,
    now: Timestamp,
) -> rusqlite::Result<Result<(), Denial>> {
    let (user, device) = (many.user.resource_name(), many.device.resource_name());
    if let Err(locked) = read_guessed(connection, &user, &device)?.at(now).is_open(&user, &device) {
        return Ok(Err(locked));
    }
    let read = |spender: &str| Ok::<_, rusqlite::Error>(read_tally(connection, spender)?.at(now, i64::MAX));
    let (of_user, of_device) = (read(&user)?, read(&device)?);
    let (mut user_cost, mut device_cost) = (Cost::default(), Cost::default());
    let mut of_keys: BTreeMap<String, (Tally, Cost)> = BTreeMap::new();
    let mut seen = HashSet::new();
    let budgets = many.budgets;
    for (key, files) in &many.keys {
        let spenders = Spenders { user: user.clone(), device: device.clone(), key: key.resource_name() };
        let (of_key, mut key_cost) = match of_keys.remove(&spenders.key) {
            Some(begun) => begun,
            None => (read(&spenders.key)?, Cost::default()),
        };
        let tallies = [of_user.clone(), of_device.clone(), of_key];
        for file in files {
            let newest = if seen.insert(*file) {
                newest(connection, &spenders, &Charge { file: *file, budgets }, floor(&tallies))?
            } else {
                // The second of the same file is no further one.
                [Some(i64::MAX); 3]
            };
            user_cost = user_cost.and(&tallies[0], newest[0]);
            device_cost = device_cost.and(&tallies[1], newest[1]);
            key_cost = key_cost.and(&tallies[2], newest[2]);
        }
        let [_, _, of_key] = tallies;
        of_keys.insert(spenders.key, (of_key, key_cost));
    }
    let keys = of_keys.iter().map(|(key, (tally, cost))| (key.as_str(), budgets.key, tally, *cost));
    let all = [
        (user.as_str(), budgets.user, &of_user, user_cost),
        (device.as_str(), budgets.device, &of_device, device_cost),
    ];
    Ok(room_of_all(all.into_iter().chain(keys)))
}

/// What this one spent; `None` if there is no such user, device or key.
pub(super) fn budget(
    connection: &Connection,
    spender: &Spender,
    now: Timestamp,
) -> rusqlite::Result<Option<Tally>> {
    if !exists(connection, spender)? {
        return Ok(None);
    }
    Ok(Some(read_tally(connection, &spender.resource_name())?.at(now, i64::MAX)))
}

/// Those who spent something today or have a lift.
pub(super) fn budgets(
    connection: &Connection,
    after: &str,
    limit: u32,
    now: Timestamp,
) -> rusqlite::Result<Vec<(String, Tally)>> {
    let mut spenders = connection.prepare_cached(&format!(
        "SELECT {TALLY}, spender FROM budgets
         WHERE spender > ?1 AND (day >= ?2 OR lift_left > 0 AND lift_until > ?3) ORDER BY spender LIMIT ?4"
    ))?;
    let today = Span::Day.number(now);
    let rows = spenders.query_map(params![after, today, micros(now), limit], |row| {
        Ok((row.get(15)?, tally(row)?.at(now, i64::MAX)))
    })?;
    rows.collect()
}

/// Locks that hold now.
pub(super) fn locks(connection: &Connection, limit: u32, now: Timestamp) -> rusqlite::Result<Vec<Lock>> {
    let sql =
        "SELECT user, device, locked_until FROM guesses WHERE locked_until > ? ORDER BY user, device LIMIT ?";
    let mut locks = connection.prepare_cached(sql)?;
    let locks = locks.query_map(params![micros(now), limit], |row| {
        let until = rows::time_or_none(row, 2)?.unwrap_or_default();
        Ok(Lock { user: row.get(0)?, device: row.get(1)?, until })
    })?;
    locks.collect()
}

fn exists(connection: &Connection, spender: &Spender) -> rusqlite::Result<bool> {
    let there = |sql: &str, id: &dyn ToSql| connection.prepare_cached(sql)?.exists([id]);
    match spender {
        Spender::User(id) => there("SELECT 1 FROM users WHERE id = ?", &id.as_str()),
        Spender::Device(id) => there("SELECT 1 FROM devices WHERE id = ?", &id.as_str()),
        Spender::Key(id) => there("SELECT 1 FROM keys WHERE id = ?", &id.as_bytes()),
    }
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
