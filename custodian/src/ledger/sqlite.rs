//! The ledger in one SQLite file, for one custodian.
//!
//! One thread writes (see [`committer`](super::committer)); others read beside it. Write-ahead log with
//! `synchronous=FULL`: what is committed survives a power failure, and nobody reads what could still be lost.

mod approvals;
mod backfill;
mod budgets;
mod certificates;
mod changes;
mod clock;
mod factor;
mod keys;
mod lockout;
mod log;
mod meanwhile;
mod open;
mod readers;
mod remembered;
mod rows;
mod schema;
mod span;
mod standing;
#[cfg(test)]
mod tests;
mod tree;
mod upgrade;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use async_trait::async_trait;
use custodian_proto::{
    key::KeyId,
    tlog::{Hash, Tile},
    v1,
};
use jiff::Timestamp;
use rusqlite::{Connection, params};
use tokio::sync::watch;

use self::{backfill::Backfill, readers::Readers, remembered::Remembered, rows::micros, writer::Writer};
use super::{
    ApprovalQuery, Attempt, CertificateQuery, Certified, Changed, Identity, Included, Intent, Ledger,
    LedgerError, ManyFiles, Opening, Outcome, RecordQuery, Release, TreeHead,
    committer::{Committer, Job},
};
use crate::{
    authority::{
        Approval, ApprovalId, Charge, Device, DeviceId, Factor, Invitation, Lock, Person, PersonCertificate,
        PolicyText, RevokedCertificate, Serial, Session, SessionId, Spender, Spenders, SpkiHash, Tally, User,
        UserId, WrappingKey,
    },
    custody::Denial,
    token::Drain,
};

pub use clock::Clock;
pub use open::OpenError;

/// What to do where there is no ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Make an empty one: for a set-up.
    Create,
    /// Refuse: an empty ledger would forget every revocation, and every record.
    Refuse,
}

/// How a ledger behaves.
#[derive(Clone, Debug)]
pub struct LedgerOptions {
    /// What to do where there is none.
    pub missing: Missing,
    /// The file that remembers the log's last checkpoint. `None`: beside the ledger, with `.checkpoint` behind its name.
    pub checkpoint: Option<PathBuf>,
    /// How long settling and reading may take before the answer is that the ledger is unavailable.
    pub deadline: Duration,
    /// Most writes, and most reads, that wait. An attempt takes the places of two writes from beginning to end.
    pub queue: usize,
    /// Threads for the short reads that decisions need. Long ones, of the log and of lists, have one of their own.
    pub readers: usize,
    /// What time it is.
    pub clock: Clock,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self {
            missing: Missing::Refuse,
            checkpoint: None,
            deadline: Duration::from_secs(2),
            queue: 8_192,
            readers: thread::available_parallelism().map_or(2, usize::from),
            clock: Clock::default(),
        }
    }
}

/// A ledger in a SQLite file.
///
/// Dropping it commits what is queued and closes the file, waiting no longer than the deadline.
pub struct SqliteLedger {
    /// For single rows.
    quick: Readers,
    /// For the log and for lists, so that nobody's long search holds up a decision.
    long: Readers,
    committer: Committer,
    remembered: Remembered,
    clock: Clock,
    /// What was remembered at the start.
    kept: String,
    /// Behind those, so that it waits for threads that have been told to end.
    _threads: Threads,
    #[cfg(test)]
    directory: Option<tempfile::TempDir>,
}

impl SqliteLedger {
    /// Opens the ledger at `path`, or makes it if the options say so. The file is then this process's alone. Attempts that an earlier run left
    /// in the middle are recorded first.
    pub fn open(path: &Path, options: LedgerOptions) -> Result<Self, OpenError> {
        let LedgerOptions { missing, checkpoint, deadline, queue, readers, clock } = options;
        let io = |error| OpenError::Io { path: path.to_owned(), error };
        if missing == Missing::Refuse {
            open::must_be_there(path)?;
        }
        let lock = open::lock(path)?;
        open::make_private(path)?;
        let remembered = Remembered::of(path, checkpoint);
        let connection = open::writing(path, deadline, &remembered)?;
        // Before anything is written: what is refused stays as it is.
        let kept = remembered.check(&connection)?;
        let (backfill, backfilling) = Backfill::start(open::backfilling(path, deadline)?).map_err(io)?;
        let mut threads = Threads { running: vec![backfilling], patience: deadline };
        let mut writer = Writer::new(connection, clock.clone(), backfill)?;
        let last = writer.recover()?;
        let start_readers = |count| {
            let connections = (0..count).map(|_| open::reading(path, deadline));
            let connections = connections.collect::<Result<Vec<_>, _>>()?;
            Readers::start(connections, queue, deadline).map_err(io)
        };
        let (quick, started) = start_readers(readers.max(1))?;
        threads.running.extend(started);
        let (long, started) = start_readers(1)?;
        threads.running.extend(started);
        let commit = move |jobs: &[Job]| {
            // The lock goes when the writing connection goes.
            let _held = &lock;
            writer.commit(jobs)
        };
        let (committer, started) = Committer::start(commit, last, queue, deadline).map_err(io)?;
        threads.running.push(started);
        Ok(Self {
            quick,
            long,
            committer,
            remembered,
            clock,
            kept,
            _threads: threads,
            #[cfg(test)]
            directory: None,
        })
    }

    /// Goes on with the ledger as it is, although the remembered checkpoint says that it was otherwise: an explicit act of
    /// somebody who knows that records are lost. Returns where that checkpoint is kept from now on; `None` if there was none.
    ///
    /// # Errors
    /// As [`SqliteLedger::open`].
    pub fn accept_as_it_is(path: &Path, options: LedgerOptions) -> Result<Option<PathBuf>, OpenError> {
        open::must_be_there(path)?;
        let _lock = open::lock(path)?;
        let remembered = Remembered::of(path, options.checkpoint);
        let connection = open::writing(path, options.deadline, &remembered)?;
        let aside = match remembered.set_aside() {
            Ok(aside) => Some(aside),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(OpenError::Io { path: path.to_owned(), error }),
        };
        remembered.begin(&connection)?;
        Ok(aside)
    }

    /// An empty ledger that is gone when dropped.
    #[cfg(test)]
    pub(crate) fn for_test(options: LedgerOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Self::open(&directory.path().join("ledger.db"), options).unwrap();
        ledger.directory = Some(directory);
        ledger
    }

    /// Another program's connection to the file of [`Self::for_test`].
    #[cfg(test)]
    pub(crate) fn other_program(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.directory.as_ref().unwrap().path().join("ledger.db")).unwrap()
    }
}

/// Threads that have been told to end, or soon will be.
struct Threads {
    running: Vec<JoinHandle<()>>,
    patience: Duration,
}

impl Drop for Threads {
    fn drop(&mut self) {
        let running = std::mem::take(&mut self.running);
        let (ended, all_ended) = mpsc::channel::<()>();
        // A thread of its own waits, since a commit that hangs must not keep the custodian from ending.
        let joiner = thread::Builder::new().spawn(move || {
            let panicked = running.into_iter().filter_map(|thread| thread.join().err()).count();
            if panicked > 0 {
                tracing::error!(panicked, "threads of the ledger panicked");
            }
            drop(ended);
        });
        let waited = all_ended.recv_timeout(self.patience);
        if joiner.is_err() || waited == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the ledger did not close in time; what was not committed is not recorded");
        }
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    fn begin(&self, intent: Intent) -> Attempt {
        self.committer.begin(intent)
    }

    async fn settle(&self, attempt: Attempt, outcome: Outcome) -> Result<(Release, Changed), Denial> {
        self.committer.settle(attempt, outcome).await
    }

    fn touch(&self, session: SessionId) {
        self.committer.touch(session);
    }

    async fn identify(&self, spki: SpkiHash, session: Option<SessionId>) -> Result<Identity, LedgerError> {
        self.quick.read(move |connection| identify(connection, spki, session)).await
    }

    async fn device(&self, id: &DeviceId) -> Result<Option<Device>, LedgerError> {
        let id = id.clone();
        let from = (rows::DEVICE, "devices WHERE id = ?");
        self.quick.read(move |connection| rows::one(connection, from, [id.as_str()], rows::device)).await
    }

    async fn devices(&self, after: Option<DeviceId>, limit: u32) -> Result<Vec<Device>, LedgerError> {
        let from = (rows::DEVICE, "devices WHERE id > ? ORDER BY id LIMIT ?");
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        self.long
            .read(move |connection| rows::many(connection, from, params![after, limit], rows::device))
            .await
    }

    async fn invitation(
        &self,
        code_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<Invitation>, LedgerError> {
        let from = (rows::INVITATION, "invitations WHERE code_hash = ? AND expires > ?");
        let params = (code_hash, micros(now));
        self.quick.read(move |connection| rows::one(connection, from, params, rows::invitation)).await
    }

    async fn has_open_invitation(&self, now: Timestamp) -> Result<bool, LedgerError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM invitations WHERE expires > ?)";
        let read = move |connection: &Connection| {
            connection.prepare_cached(sql)?.query_row([micros(now)], |row| row.get(0))
        };
        self.quick.read(read).await
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>, LedgerError> {
        let id = id.clone();
        let from = (rows::USER, "users WHERE id = ?");
        self.quick.read(move |connection| rows::one(connection, from, [id.as_str()], rows::user)).await
    }

    async fn users(&self, after: Option<UserId>, limit: u32) -> Result<Vec<User>, LedgerError> {
        let from = (rows::USER, "users WHERE id > ? ORDER BY id LIMIT ?");
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        self.long
            .read(move |connection| rows::many(connection, from, params![after, limit], rows::user))
            .await
    }

    async fn factor(&self, id: &UserId) -> Result<Option<Factor>, LedgerError> {
        let id = id.clone();
        self.quick.read(move |connection| factor::factor(connection, &id)).await
    }

    async fn has_factors(&self) -> Result<bool, LedgerError> {
        self.quick.read(factor::any).await
    }

    async fn person(&self, id: &UserId) -> Result<Option<Person>, LedgerError> {
        let id = id.clone();
        self.quick.read(move |connection| certificates::person(connection, &id)).await
    }

    async fn certificate(&self, serial: Serial) -> Result<Option<PersonCertificate>, LedgerError> {
        self.quick.read(move |connection| certificates::read(connection, serial)).await
    }

    async fn certificates(
        &self,
        query: CertificateQuery,
    ) -> Result<Vec<(u64, PersonCertificate)>, LedgerError> {
        self.long.read(move |connection| certificates::many(connection, &query)).await
    }

    async fn revoked(&self, of: Certified) -> Result<Vec<RevokedCertificate>, LedgerError> {
        let now = self.clock.now();
        let read = match of {
            Certified::Devices => certificates::revoked_devices,
            Certified::People => certificates::revoked,
        };
        self.long.read(move |connection| read(connection, now)).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<WrappingKey>, LedgerError> {
        let from = (rows::KEY, "keys WHERE id = ?");
        self.quick.read(move |connection| rows::one(connection, from, [id.as_bytes()], rows::key)).await
    }

    async fn opening(&self, key: KeyId, spenders: Spenders, charge: Charge) -> Result<Opening, LedgerError> {
        let now = self.clock.now();
        let read = move |connection: &Connection| {
            let from = (rows::KEY, "keys WHERE id = ?");
            let key = rows::one(connection, from, [key.as_bytes()], rows::key)?;
            let room = budgets::room(connection, &spenders, &charge, now)?;
            Ok::<_, rusqlite::Error>(Opening { key, room })
        };
        self.quick.read(read).await
    }

    async fn room_for(&self, many: ManyFiles) -> Result<Result<(), Denial>, LedgerError> {
        let now = self.clock.now();
        self.long.read(move |connection| budgets::room_for(connection, &many, now)).await
    }

    async fn budget(&self, spender: &Spender) -> Result<Option<Tally>, LedgerError> {
        let (spender, now) = (spender.clone(), self.clock.now());
        self.quick.read(move |connection| budgets::budget(connection, &spender, now)).await
    }

    async fn budgets(&self, after: &str, limit: u32) -> Result<Vec<(String, Tally)>, LedgerError> {
        let (after, now) = (after.to_owned(), self.clock.now());
        self.long.read(move |connection| budgets::budgets(connection, &after, limit, now)).await
    }

    async fn locks(&self, limit: u32) -> Result<Vec<Lock>, LedgerError> {
        let now = self.clock.now();
        self.long.read(move |connection| budgets::locks(connection, limit, now)).await
    }

    async fn key_by_label(&self, label: &str) -> Result<Option<WrappingKey>, LedgerError> {
        let label = label.to_owned();
        let from = (rows::KEY, "keys WHERE label = ? ORDER BY version DESC LIMIT 1");
        self.quick.read(move |connection| rows::one(connection, from, [label], rows::key)).await
    }

    async fn keys(&self, after: Option<KeyId>, limit: u32) -> Result<Vec<WrappingKey>, LedgerError> {
        let from = (rows::KEY, "keys WHERE id > ? ORDER BY id LIMIT ?");
        let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
        self.long.read(move |connection| rows::many(connection, from, params![after, limit], rows::key)).await
    }

    async fn policy(&self) -> Result<Option<PolicyText>, LedgerError> {
        let from = (rows::POLICY, "policies ORDER BY version DESC LIMIT 1");
        self.quick.read(move |connection| rows::one(connection, from, [], rows::policy)).await
    }

    async fn policies(&self, before: Option<u64>, limit: u32) -> Result<Vec<PolicyText>, LedgerError> {
        let from = (rows::POLICY, "policies WHERE version < ? ORDER BY version DESC LIMIT ?");
        let before = before.map_or(i64::MAX, |version| i64::try_from(version).unwrap_or(i64::MAX));
        self.long
            .read(move |connection| rows::many(connection, from, params![before, limit], rows::policy))
            .await
    }

    async fn approval(&self, id: ApprovalId) -> Result<Option<Approval>, LedgerError> {
        let now = self.clock.now();
        self.quick.read(move |connection| approvals::read(connection, id, now)).await
    }

    async fn approval_of(&self, digest: [u8; 32]) -> Result<Option<Approval>, LedgerError> {
        let now = self.clock.now();
        self.quick.read(move |connection| approvals::of_digest(connection, digest, now)).await
    }

    async fn approvals(&self, query: ApprovalQuery) -> Result<Vec<Approval>, LedgerError> {
        let now = self.clock.now();
        self.long.read(move |connection| approvals::many(connection, &query, now)).await
    }

    async fn drains(&self) -> Result<Vec<Drain>, LedgerError> {
        let from = (rows::DRAIN, "drains ORDER BY token");
        self.quick.read(move |connection| rows::many(connection, from, [], rows::drain)).await
    }

    async fn records(&self, query: RecordQuery) -> Result<Vec<v1::Record>, LedgerError> {
        self.long.read(move |connection| log::records(connection, &query)).await
    }

    fn last_sequence(&self) -> watch::Receiver<u64> {
        self.committer.last_sequence()
    }

    async fn tree_head(&self, size: Option<u64>) -> Result<TreeHead, LedgerError> {
        self.quick.read(move |connection| tree::head(connection, size)).await
    }

    async fn inclusion(&self, index: u64, size: u64) -> Result<Option<Included>, LedgerError> {
        let read = move |connection: &_, subtrees: &mut _| tree::inclusion(connection, subtrees, index, size);
        self.quick.read_tree(read).await
    }

    async fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, LedgerError> {
        self.quick.read(move |connection| tree::consistency(connection, old, new)).await
    }

    async fn tile(&self, tile: Tile) -> Result<Vec<Hash>, LedgerError> {
        self.long.read(move |connection| tree::hashes(connection, tile)).await
    }

    async fn entries(&self, first: u64, count: u32) -> Result<Vec<Vec<u8>>, LedgerError> {
        // By their numbers, and few at once: releases wait for this where there is a second place.
        self.quick.read(move |connection| tree::entries(connection, first, count)).await
    }

    async fn keep_checkpoint(&self, note: String) -> Result<(), LedgerError> {
        let remembered = self.remembered.clone();
        let kept = tokio::task::spawn_blocking(move || remembered.keep(&note)).await;
        let kept = kept.map_err(|error| LedgerError(error.to_string()))?;
        kept.map_err(|error| LedgerError(format!("the last checkpoint cannot be kept: {error}")))
    }

    fn kept_checkpoint(&self) -> Option<String> {
        Some(self.kept.clone())
    }
}

/// All of it from one state of the ledger.
fn identify(
    connection: &Connection,
    spki: SpkiHash,
    session: Option<SessionId>,
) -> rusqlite::Result<Identity> {
    let state = connection.unchecked_transaction()?;
    let device = rows::one(&state, (rows::DEVICE, "devices WHERE spki = ?"), [spki.0], rows::device)?;
    let from = (rows::SESSION, "sessions WHERE id = ?");
    let session: Option<Session> = match session {
        Some(id) => rows::one(&state, from, [id.0], rows::session)?,
        None => None,
    };
    let user = match &session {
        Some(session) => {
            rows::one(&state, (rows::USER, "users WHERE id = ?"), [session.user.as_str()], rows::user)?
        }
        None => None,
    };
    let policy = standing::policy_version(&state)?;
    state.finish()?;
    Ok(Identity { device, session, user, policy })
}
