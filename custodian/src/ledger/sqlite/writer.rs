//! The writing connection: what one batch does, in one transaction.

use std::collections::HashSet;

use custodian_proto::{
    refusal::Refusal,
    tlog::{Hash, tiles::Edge},
    v1,
};
use jiff::Timestamp;
use prost::Message as _;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::{
    approvals,
    backfill::Backfill,
    budgets::Tallies,
    changes,
    clock::Clock,
    factor,
    rows::micros,
    standing,
    tree::{self, TreeError},
};
use crate::{
    authority::{Approval, Budgets, Charge, Spenders},
    custody::{Denial, Fault, Pause},
    ledger::{
        Changed, Grant, Intent, LedgerError, OK, OUTCOME_UNKNOWN, Outcome, Release,
        committer::{Committed, Job, Part, Step, Verdict},
        entry,
    },
};

/// Why one job does not get what it asks for.
pub(super) enum Stop {
    /// The present state does not allow it.
    Refused(Denial),
    /// The database did not do it.
    Broken(rusqlite::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Refused(denial)
    }
}

impl Stop {
    /// A refusal of which the log learns more.
    pub(super) fn refused(refusal: Refusal, detail: impl Into<String>) -> Self {
        Self::Refused(Denial::Refused { refusal, detail: detail.into() })
    }
}

/// Owns the writing connection.
pub(super) struct Writer {
    connection: Connection,
    /// The right edge of the log's tree, as of the last commit.
    edge: Edge,
    clock: Clock,
    backfill: Backfill,
}

impl Writer {
    /// # Errors
    /// If the log and its tree do not fit together.
    pub(super) fn new(connection: Connection, clock: Clock, backfill: Backfill) -> Result<Self, TreeError> {
        let edge = tree::edge(&connection)?;
        Ok(Self { connection, edge, clock, backfill })
    }

    /// Records what an earlier run left in the middle. Returns the sequence number of the last record.
    pub(super) fn recover(&mut self) -> Result<u64, TreeError> {
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let now = self.clock.now();
        let mut edge = self.edge.clone();
        let mut leaves = Vec::new();
        let mut sequence = edge.size();
        let first_unknown = sequence + 1;
        {
            // Ids are UUIDs of version 7: in the order of beginning.
            let mut left = tx.prepare("SELECT entry FROM pending ORDER BY request_id")?;
            let mut left = left.query([])?;
            while let Some(row) = left.next()? {
                sequence += 1;
                let began = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
                let began = v1::Record::decode(began).map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
                })?;
                leaves.push(insert(&tx, &interrupted(began, sequence, now))?);
            }
        }
        tree::append(&tx, &mut edge, &leaves)?;
        tx.execute("DELETE FROM pending", [])?;
        tx.commit()?;
        self.edge = edge;
        if sequence >= first_unknown {
            let attempts = sequence - first_unknown + 1;
            tracing::warn!(
                attempts,
                "the last run ended in the middle of these; recorded as OUTCOME_UNKNOWN"
            );
        }
        Ok(sequence)
    }

    /// Makes all of a batch in one durable transaction, or nothing of it.
    pub(super) fn commit(&mut self, jobs: &[Job]) -> Result<Committed, LedgerError> {
        Ok(self.try_commit(jobs)?)
    }

    fn try_commit(&mut self, jobs: &[Job]) -> Result<Committed, TreeError> {
        let ending: HashSet<Uuid> = jobs.iter().filter_map(ends).collect();
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut edge = self.edge.clone();
        let mut last = tree::records(&tx)?;
        if last != edge.size() {
            // No record, no key (law 1): and what we would write now would be no part of the log that we know.
            return Err(TreeError::Broken(format!(
                "the log has {last} records, but {} were written: somebody changed the file. Stop the custodian, and \
                 compare the file with a backup",
                edge.size()
            )));
        }
        let mut leaves = Vec::new();
        let mut tallies = Tallies::default();
        let mut verdicts = Vec::with_capacity(jobs.len());
        for job in jobs {
            let part = match job {
                Job::Attempt(part) => part,
                Job::Touch(session, time) => {
                    standing::touch(&tx, *session, *time)?;
                    verdicts.push(None);
                    continue;
                }
            };
            // What ends in the same transaction need not be remembered.
            if matches!(part.step, Step::Begin) {
                if !ending.contains(&part.intent.request_id) {
                    remember(&tx, &part.intent, self.clock.now())?;
                }
                verdicts.push(None);
                continue;
            }
            last += 1;
            let now = self.clock.now();
            let batch = Batch { tx: &tx, now, sequence: last };
            let Ended { verdict, leaf, exceeded } = batch.end(part, &mut tallies)?;
            verdicts.push(Some(verdict));
            leaves.push(leaf);
            if let Some(pause) = exceeded {
                last += 1;
                leaves.push(insert(&tx, &entry::exceeded(&part.intent, &pause, now, last))?);
            }
        }
        tallies.write(&tx)?;
        tree::append(&tx, &mut edge, &leaves)?;
        tx.commit()?;
        self.edge = edge;
        self.backfill.note(self.connection.total_changes());
        Ok(Committed { last, verdicts })
    }
}

/// One job's view of the transaction.
pub(super) struct Batch<'a> {
    pub(super) tx: &'a Transaction<'a>,
    pub(super) now: Timestamp,
    /// The number of the record that this job makes.
    pub(super) sequence: u64,
}

/// What is answered to a wrapped key that did not unwrap.
struct Rejected {
    denial: Denial,
    /// The lock, if it was one too many.
    lock: Option<Pause>,
}

/// How one job ended.
struct Ended {
    verdict: Verdict,
    /// The hash of its record as an entry of the log's tree.
    leaf: Hash,
    /// What it made exceed its limit, if that has not been recorded yet.
    exceeded: Option<Pause>,
}

impl Batch<'_> {
    fn end(&self, part: &Part, tallies: &mut Tallies) -> rusqlite::Result<Ended> {
        let mut exceeded = None;
        let verdict = match &part.step {
            Step::Settle(outcome) => match &**outcome {
                Outcome::Granted(_) if part.is_given_up() => {
                    let why = "recorded after the deadline: nothing was released".to_owned();
                    Err(Fault::LedgerUnavailable(why).into())
                }
                Outcome::Granted(grant) => self.grant(part.since, grant, tallies)?,
                Outcome::Denied(Denial::Unapproved(unapproved)) => Err(self
                    .guarded(|| approvals::ask(self, &unapproved.request))?
                    .unwrap_or_else(|denial| denial)),
                Outcome::Denied(denial) => Err(denial.clone()),
                Outcome::WrongCode(denial) => Err(factor::charge(self, &part.intent, denial)?),
                Outcome::Rejected { denial, budgets } => {
                    let rejected = self.reject(&part.intent, denial, *budgets, tallies)?;
                    exceeded = rejected.lock;
                    Err(rejected.denial)
                }
            },
            Step::Begin | Step::Abandon => {
                Err(Fault::Internal("given up without an outcome".to_owned()).into())
            }
        };
        // Only where a key is asked to do something: whoever asks whether files would fit has exceeded nothing.
        if let Err(Denial::Paused(pause)) = &verdict
            && part.intent.key.is_some()
            && tallies.tell(self, pause)?
        {
            exceeded = Some((**pause).clone());
        }
        let (outcome, detail) = match (&part.step, &verdict) {
            (Step::Settle(_), Ok(_)) => (OK, ""),
            (Step::Settle(_), Err(denial)) => (denial.code(), denial.detail()),
            (Step::Begin | Step::Abandon, _) => {
                (OUTCOME_UNKNOWN, "the custodian gave it up in the middle; nothing was released")
            }
        };
        let change = match &part.step {
            Step::Settle(outcome) => outcome.change(),
            Step::Begin | Step::Abandon => None,
        };
        let mut record = entry::ending(&part.intent, change, self.now, self.sequence, outcome, detail);
        if let Some(approval) = self.approval_of(&part.step, &verdict)? {
            entry::mark(&mut record, &approval);
        }
        let leaf = insert(self.tx, &record)?;
        self.forget(part.intent.request_id)?;
        let verdict = verdict.map(|changed| (Release { sequence: self.sequence }, changed));
        Ok(Ended { verdict, leaf, exceeded })
    }

    /// Grants or denies. Fails only with what makes the whole batch fail.
    fn grant(
        &self,
        since: u64,
        grant: &Grant,
        tallies: &mut Tallies,
    ) -> rusqlite::Result<Result<Changed, Denial>> {
        self.guarded(|| {
            let charge = standing::hold(self, &grant.standing)?;
            let changed = match &grant.change {
                Some(change) => changes::make(self, tallies, since, change)?,
                None => Changed::Done,
            };
            // Last: a charge is not in the savepoint, and nothing may fail behind it.
            if let Some((spenders, charge)) = charge {
                tallies.charge(self, &spenders, charge)?;
            }
            Ok(changed)
        })
    }

    /// Does all of `job` or nothing of it. Fails only with what makes the whole batch fail.
    fn guarded<T>(&self, job: impl FnOnce() -> Result<T, Stop>) -> rusqlite::Result<Result<T, Denial>> {
        self.run("SAVEPOINT grant_one")?;
        let denial = match job() {
            Ok(done) => {
                self.run("RELEASE grant_one")?;
                return Ok(Ok(done));
            }
            Err(Stop::Refused(denial)) => denial,
            Err(Stop::Broken(error)) if is_of_one_job(&error) => {
                Fault::Internal(format!("the ledger: {error}")).into()
            }
            Err(Stop::Broken(error)) => return Err(error),
        };
        self.run("ROLLBACK TO grant_one")?;
        self.run("RELEASE grant_one")?;
        Ok(Err(denial))
    }

    /// The approval that this attempt asked for, gave or used, as it is now.
    fn approval_of(
        &self,
        step: &Step,
        verdict: &Result<Changed, Denial>,
    ) -> rusqlite::Result<Option<Approval>> {
        let id = match (step, verdict) {
            (_, Ok(Changed::Approval(approval))) => return Ok(Some((**approval).clone())),
            (_, Err(Denial::Unapproved(unapproved))) => unapproved.waiting.map(|waiting| waiting.id),
            (Step::Settle(outcome), Ok(_)) => match &**outcome {
                Outcome::Granted(grant) => grant.standing.approval.map(|used| used.id),
                Outcome::Denied(_) | Outcome::WrongCode(_) | Outcome::Rejected { .. } => None,
            },
            (Step::Settle(_) | Step::Begin | Step::Abandon, _) => None,
        };
        id.map_or(Ok(None), |id| approvals::read(self.tx, id, self.now))
    }

    /// Charges a rejected ciphertext. Beyond the budgets, the answer is that of a good one (law 5).
    fn reject(
        &self,
        intent: &Intent,
        denial: &Denial,
        budgets: Budgets,
        tallies: &mut Tallies,
    ) -> rusqlite::Result<Rejected> {
        let denial = denial.clone();
        let (Some(key), Some(file)) = (intent.key, intent.wrapped_sha256) else {
            return Ok(Rejected { denial, lock: None });
        };
        let (user, device) = (intent.user.clone(), intent.device.clone());
        let spenders = Spenders { user, device, key: key.resource_name() };
        match tallies.charge_guess(self, &spenders, &Charge { file, budgets }) {
            Ok(lock) => Ok(Rejected { denial, lock }),
            Err(Stop::Refused(denial)) => Ok(Rejected { denial, lock: None }),
            Err(Stop::Broken(error)) => Err(error),
        }
    }

    fn forget(&self, request_id: Uuid) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached("DELETE FROM pending WHERE request_id = ?")?
            .execute([request_id.as_bytes()])
            .map(drop)
    }

    fn run(&self, sql: &str) -> rusqlite::Result<()> {
        self.tx.prepare_cached(sql)?.execute([]).map(drop)
    }
}

/// Whether the error is about one job's rows, and the transaction can go on without it.
fn is_of_one_job(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(error, _) => error.code == ErrorCode::ConstraintViolation,
        _ => true,
    }
}

/// The attempt that this job brings to its end, if it does.
fn ends(job: &Job) -> Option<Uuid> {
    match job {
        Job::Attempt(part) if !matches!(part.step, Step::Begin) => Some(part.intent.request_id),
        Job::Attempt(_) | Job::Touch(..) => None,
    }
}

fn remember(tx: &Transaction<'_>, intent: &Intent, now: Timestamp) -> rusqlite::Result<()> {
    let entry = entry::beginning(intent, now).encode_to_vec();
    tx.prepare_cached("INSERT OR REPLACE INTO pending (request_id, entry) VALUES (?, ?)")?
        .execute(params![intent.request_id.as_bytes(), entry])
        .map(drop)
}

fn interrupted(began: v1::Record, sequence: u64, now: Timestamp) -> v1::Record {
    let began_at = began.time.as_ref().map_or(0, entry::message_micros);
    v1::Record {
        sequence,
        time: Some(entry::message_time(now)),
        outcome: OUTCOME_UNKNOWN.to_owned(),
        detail: "the custodian stopped in the middle; nothing was released".to_owned(),
        duration_us: u64::try_from(micros(now).saturating_sub(began_at)).unwrap_or_default(),
        ..began
    }
}

/// Appends a record to the log. Returns its hash as an entry of the tree.
fn insert(tx: &Transaction<'_>, record: &v1::Record) -> rusqlite::Result<Hash> {
    let entry = record.encode_to_vec();
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut insert = tx.prepare_cached(
        "INSERT INTO records (seq, time, user, device, key, wrapped_sha256, operation, outcome, break_glass, entry)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    insert.execute(params![
        record.sequence.cast_signed(),
        record.time.as_ref().map_or(0, entry::message_micros),
        some(&record.user),
        some(&record.device),
        some(&record.key),
        hex::decode(&record.wrapped_key_sha256).ok().filter(|hash| !hash.is_empty()),
        record.operation,
        record.outcome,
        record.break_glass.then_some(1),
        entry,
    ])?;
    Ok(Hash::of_entry(&entry))
}
