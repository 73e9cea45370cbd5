//! The ledger: the one transactional store of devices, users, sessions, keys' metadata and budgets, and the log of
//! every attempt.

mod about;
mod change;
mod committer;
#[cfg(test)]
pub(crate) mod contract;
mod entry;
mod record;
mod sqlite;

use async_trait::async_trait;
use custodian_proto::{
    email::Email,
    key::KeyId,
    tlog::{Hash, Tile},
    v1,
};
use jiff::Timestamp;
use tokio::sync::watch;

pub use change::{Change, Changed};
pub use record::{Attempt, Grant, Intent, OK, OUTCOME_UNKNOWN, Outcome, Release};
pub use sqlite::{Clock, LedgerOptions, Missing, OpenError, SqliteLedger};

use crate::{
    authority::{
        Approval, ApprovalId, Budgets, CertificateUse, Charge, Device, DeviceId, Factor, Invitation, Lock,
        Person, PersonCertificate, PolicyText, RevokedCertificate, Serial, Session, SessionId, Spender,
        Spenders, SpkiHash, Tally, User, UserId, WrappingKey,
    },
    custody::{Denial, Fault},
    token::Drain,
};

/// The store that every decision reads and every attempt is written to.
///
/// All writes but [`Ledger::touch`] go through [`Ledger::settle`]: a change and its record are one transaction, committed
/// in groups.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Queues the beginning of an attempt ahead of everything that follows. Does not wait.
    ///
    /// The beginning becomes durable with the next commit. If the custodian dies after that and before the attempt is
    /// settled, the next start records it with the outcome `OUTCOME_UNKNOWN`.
    fn begin(&self, intent: Intent) -> Attempt;

    /// Records the outcome durably, and for a [`Outcome::Granted`] one first reads, in the same transaction, that its
    /// standing still holds (law 2), charges the budget and makes the change. If it no longer holds, the record is of
    /// the refusal.
    ///
    /// `Ok`: durably recorded as allowed. `Err`: durably recorded as denied, or the ledger could not record within its
    /// deadline ([`Fault::LedgerUnavailable`]); either way nothing may leave (law 1).
    async fn settle(&self, attempt: Attempt, outcome: Outcome) -> Result<(Release, Changed), Denial>;

    /// Queues that a session is used now, for calls that leave no record. Does not wait, and makes none. With a full
    /// queue it is forgotten.
    fn touch(&self, session: SessionId);

    /// The device of this key, and the session with its user, if one is named; and the version of the policy: one read.
    async fn identify(&self, spki: SpkiHash, session: Option<SessionId>) -> Result<Identity, LedgerError>;

    /// One device.
    async fn device(&self, id: &DeviceId) -> Result<Option<Device>, LedgerError>;
    /// Up to `limit` devices with ids greater than `after`, in order.
    async fn devices(&self, after: Option<DeviceId>, limit: u32) -> Result<Vec<Device>, LedgerError>;
    /// The invitation of this code, if it is neither used nor expired at `now`.
    async fn invitation(
        &self,
        code_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<Invitation>, LedgerError>;
    /// Whether any invitation is neither used nor expired at `now`.
    async fn has_open_invitation(&self, now: Timestamp) -> Result<bool, LedgerError>;

    /// One user.
    async fn user(&self, id: &UserId) -> Result<Option<User>, LedgerError>;
    /// Up to `limit` users with ids greater than `after`, in order.
    async fn users(&self, after: Option<UserId>, limit: u32) -> Result<Vec<User>, LedgerError>;

    /// A user's second factor; `None`: there is no such user.
    async fn factor(&self, id: &UserId) -> Result<Option<Factor>, LedgerError>;
    /// Whether any user has a second factor.
    async fn has_factors(&self) -> Result<bool, LedgerError>;

    /// Who a user is, if anybody recorded it.
    async fn person(&self, id: &UserId) -> Result<Option<Person>, LedgerError>;
    /// One certificate of a person.
    async fn certificate(&self, serial: Serial) -> Result<Option<PersonCertificate>, LedgerError>;
    /// Those that the query asks for, newest first, each with its number.
    async fn certificates(
        &self,
        query: CertificateQuery,
    ) -> Result<Vec<(u64, PersonCertificate)>, LedgerError>;

    /// Certificates that are not over, and are to be taken no more, as of now, in the order of when that began.
    async fn revoked(&self, of: Certified) -> Result<Vec<RevokedCertificate>, LedgerError>;

    /// One wrapping key.
    async fn key(&self, id: KeyId) -> Result<Option<WrappingKey>, LedgerError>;
    /// One wrapping key, and whether its budget and those of the others have room for this charge now: one read. It is
    /// charged when the attempt is settled.
    async fn opening(&self, key: KeyId, spenders: Spenders, charge: Charge) -> Result<Opening, LedgerError>;
    /// Whether the budgets have room for all of these files at once. Reserves nothing.
    async fn room_for(&self, many: ManyFiles) -> Result<Result<(), Denial>, LedgerError>;
    /// What this one spent, as of now. `None`: there is no such user, device or key.
    async fn budget(&self, spender: &Spender) -> Result<Option<Tally>, LedgerError>;
    /// Up to `limit` of those who spent something today or have a lift, with names greater than `after`, in order; as of now.
    async fn budgets(&self, after: &str, limit: u32) -> Result<Vec<(String, Tally)>, LedgerError>;
    /// Up to `limit` locks that hold now.
    async fn locks(&self, limit: u32) -> Result<Vec<Lock>, LedgerError>;

    /// The newest version of the wrapping key of this label.
    async fn key_by_label(&self, label: &str) -> Result<Option<WrappingKey>, LedgerError>;
    /// Up to `limit` keys with ids greater than `after`, in order.
    async fn keys(&self, after: Option<KeyId>, limit: u32) -> Result<Vec<WrappingKey>, LedgerError>;

    /// The policy in force; `None`: the one that comes with the program.
    async fn policy(&self) -> Result<Option<PolicyText>, LedgerError>;
    /// Up to `limit` policies with versions below `before`, newest first.
    async fn policies(&self, before: Option<u64>, limit: u32) -> Result<Vec<PolicyText>, LedgerError>;

    /// One approval.
    async fn approval(&self, id: ApprovalId) -> Result<Option<Approval>, LedgerError>;
    /// The newest approval that is bound to this.
    async fn approval_of(&self, digest: [u8; 32]) -> Result<Option<Approval>, LedgerError>;
    /// Those that the query asks for, newest first.
    async fn approvals(&self, query: ApprovalQuery) -> Result<Vec<Approval>, LedgerError>;

    /// The tokens that are drained, in the order of their names.
    async fn drains(&self) -> Result<Vec<Drain>, LedgerError>;

    /// Durable records that match the query, in its order.
    async fn records(&self, query: RecordQuery) -> Result<Vec<v1::Record>, LedgerError>;

    /// The sequence number of the last durable record (0: none), and a signal for each new one.
    fn last_sequence(&self) -> watch::Receiver<u64>;

    /// The tree (RFC 6962) of the first `size` records, or of all. Entry `n` of the tree is the record of sequence number
    /// `n + 1`, as it was encoded.
    async fn tree_head(&self, size: Option<u64>) -> Result<TreeHead, LedgerError>;

    /// The entry at `index`, byte for byte, and the proof that it is in the tree of the first `size` ones. `None`: there is no
    /// such entry.
    async fn inclusion(&self, index: u64, size: u64) -> Result<Option<Included>, LedgerError>;

    /// The proof that the tree of the first `new` entries begins with that of the first `old` ones.
    async fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, LedgerError>;

    /// The hashes of a tile of the tree, as many as there are by now; empty if there are none.
    async fn tile(&self, tile: Tile) -> Result<Vec<Hash>, LedgerError>;

    /// Up to `count` entries of the tree, from the one at `first` on, byte for byte. Ends where one is missing.
    async fn entries(&self, first: u64, count: u32) -> Result<Vec<Vec<u8>>, LedgerError>;

    /// Remembers the newest checkpoint (a signed note) durably and apart from the records: the next start refuses a log that
    /// does not begin with it.
    async fn keep_checkpoint(&self, note: String) -> Result<(), LedgerError>;

    /// The checkpoint that an earlier run kept, as it was found at the start.
    fn kept_checkpoint(&self) -> Option<String>;
}

/// The log's tree at some size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeHead {
    /// Entries in it.
    pub size: u64,
    /// Its root.
    pub root: Hash,
}

/// An entry of the log's tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Included {
    /// The record, as it was encoded.
    pub entry: Vec<u8>,
    /// From the entry's sibling up to the root's child: RFC 6962 §2.1.1.
    pub proof: Vec<Hash>,
}

/// Who a certificate and a session belong to, and by which policy they are judged.
#[derive(Clone, Default)]
pub struct Identity {
    /// The device of the certificate's key.
    pub device: Option<Device>,
    /// The session that was named, whether still alive or not.
    pub session: Option<Session>,
    /// The session's user.
    pub user: Option<User>,
    /// The version of the policy in force; 0 for the one that comes with the program.
    pub policy: u64,
}

/// What an unwrap would find now.
pub struct Opening {
    /// The wrapping key.
    pub key: Option<WrappingKey>,
    /// Why there is no room in a budget, if there is none.
    pub room: Result<(), Denial>,
}

/// A wrapping key, and the SHA-256 of wrapped keys of it.
pub type KeyFiles = (KeyId, Vec<[u8; 32]>);

/// Files that somebody would like to open.
pub struct ManyFiles {
    /// Who.
    pub user: UserId,
    /// On which device.
    pub device: DeviceId,
    /// Which files of which keys.
    pub keys: Vec<KeyFiles>,
    /// The limits that hold.
    pub budgets: Budgets,
}

/// Which records to read. Every given field must match.
#[derive(Clone, Default, Debug)]
pub struct RecordQuery {
    /// `users/anna`
    pub user: Option<String>,
    /// `devices/laptop-7`
    pub device: Option<String>,
    /// `keys/KEY_ID`
    pub key: Option<String>,
    /// Hex.
    pub wrapped_key_sha256: Option<String>,
    /// `Unwrap`
    pub operation: Option<String>,
    /// `OK`; `!OK` for everything else.
    pub outcome: Option<String>,
    /// Only attempts to break the glass.
    pub break_glass: bool,
    /// Inclusive.
    pub start: Option<Timestamp>,
    /// Exclusive.
    pub end: Option<Timestamp>,
    /// Only records beyond this one, in the direction of reading.
    pub beyond: Option<u64>,
    /// Newest first instead of oldest first.
    pub newest_first: bool,
    /// At most this many.
    pub limit: u32,
}

/// Which approvals to read.
#[derive(Clone, Default, Debug)]
pub struct ApprovalQuery {
    /// Only this user's requests.
    pub user: Option<UserId>,
    /// Only those that are open at this time. `None`: those that are over, too.
    pub open_at: Option<Timestamp>,
    /// Only ids below this one.
    pub before: Option<ApprovalId>,
    /// At most this many.
    pub limit: u32,
}

/// Which certificates of people to read.
#[derive(Clone, Default, Debug)]
pub struct CertificateQuery {
    /// Only this user's.
    pub user: Option<UserId>,
    /// Only those of enabled users with this address that may be used at this time.
    pub current: Option<(Email, Timestamp)>,
    /// Only those for this.
    pub usage: Option<CertificateUse>,
    /// Only numbers below this one.
    pub before: Option<u64>,
    /// At most this many.
    pub limit: u32,
}

/// Whose certificates: each has a CA of its own, and a revocation list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Certified {
    /// Devices.
    Devices,
    /// People.
    People,
}

/// The ledger cannot record or read now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LedgerError(pub String);

impl From<LedgerError> for Denial {
    fn from(error: LedgerError) -> Self {
        Self::Failed(Fault::LedgerUnavailable(error.0))
    }
}
