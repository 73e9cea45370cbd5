//! Which token to serve, and how.

use std::{collections::BTreeMap, fmt, num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{CageConfig, TokenName};

/// One token among several: a `[[token]]` table of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberConfig {
    /// What it is called here.
    pub name: TokenName,
    /// Which token, and how to serve it.
    pub token: TokenConfig,
    /// The label that the token must have, where it is chosen by something else.
    pub label: Option<String>,
    /// Worker processes: more than one for a module that does one operation at a time.
    pub workers: NonZeroUsize,
    /// How long one operation on this token may take.
    pub deadline: Duration,
}

impl MemberConfig {
    /// How many operations of callers there can be at once on it: under way, and waiting for a thread. One thread of each worker may
    /// be making a signature for the custodian itself.
    pub fn room(&self) -> usize {
        let of_one_worker = self.token.queue.saturating_add(self.token.threads().saturating_sub(1));
        self.workers.get().saturating_mul(of_one_worker)
    }
}

/// Which token to serve. Says where the PIN is, never what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenConfig {
    /// The PKCS#11 module, as an absolute path: it is never searched for.
    pub module: PathBuf,
    /// Which of the module's tokens.
    pub select: TokenSelect,
    /// Where the worker finds the user PIN.
    pub pin: PinSource,
    /// Environment of the worker beyond ours: `SOFTHSM2_CONF` and the like.
    pub environment: BTreeMap<String, String>,
    /// Threads, each with a session of its own. `None`: one per core, which is best for a module that computes in the
    /// process; for a network HSM, its rate times its latency.
    pub threads: Option<usize>,
    /// Operations that may wait for a thread. One more is refused as busy.
    pub queue: usize,
    /// What the module may do to the rest of the machine.
    pub cage: CageConfig,
}

impl TokenConfig {
    /// How many threads there are to be.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

/// What a token is chosen by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenSelect {
    /// The label it was initialised with.
    Label(String),
    /// Its serial number.
    Serial(String),
    /// The number of its slot, for a module whose token information cannot be read. Many modules change their slot
    /// numbers when tokens come and go.
    Slot(u64),
}

/// For a person who is asked for its PIN.
impl fmt::Display for TokenSelect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => f.write_str(label),
            Self::Serial(serial) => write!(f, "serial {serial}"),
            Self::Slot(number) => write!(f, "slot {number}"),
        }
    }
}

/// Where the worker finds the user PIN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PinSource {
    /// A file, which others must not be able to read. One trailing newline is not part of the PIN.
    File(PathBuf),
    /// A systemd credential of this name: a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// A prompt on the controlling terminal. A worker that had to be replaced asks again.
    Prompt,
}
