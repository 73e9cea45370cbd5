//! The token as the rest of the custodian sees it: a worker process that is replaced when it must be.

use std::{
    ffi::OsString,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Instant,
};

use async_trait::async_trait;
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    sign::DigestToSign,
};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    Health, KeyDescription, KeyTemplate, Survey, Token, TokenConfig, TokenError, TokenKey,
    inventory::Inventory,
    keeper::Keeper,
    link::{Link, NoReply, Reply},
    pool::Miss,
    turns::Turns,
    wire::{Sign, SignDigest, Task, Unwrap},
};
use crate::{
    authority::{KeyTask, Permit},
    custody::Withheld,
};

/// What to run as the worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments. Never a secret.
    pub args: Vec<OsString>,
}

impl Default for WorkerCommand {
    /// This very program, as `custodian worker`. `/proc/self/exe` stays right when the file is replaced by an upgrade.
    fn default() -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), args: vec![OsString::from("worker")] }
    }
}

/// Why the token cannot be served. Says what, why and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The token refused the PIN, or has it locked. Never tried again unasked.
    #[error("{0}")]
    Pin(String),
    /// The configuration is wrong, or the token is not there.
    #[error("{0}")]
    Token(String),
    /// The worker process could not be started, or ended without a word.
    #[error("{0}")]
    Worker(String),
}

/// A token behind a worker process.
///
/// A worker that ends, reports that its token is sick, or hangs in the module is replaced. Unwrap and sign are then tried
/// once more with the new one, while their deadline allows: both are safe to repeat. A worker that does not find every
/// key that was served before does not serve: it is ended and tried again. A refused PIN is final: no further worker is
/// started, and every operation says why. Dropping the supervisor ends the worker.
pub struct Supervisor {
    pub(super) state: watch::Receiver<State>,
    restarts: Arc<AtomicU32>,
    stop: CancellationToken,
    pub(super) inventory: Arc<Inventory>,
    pub(super) turns: Turns,
}

/// Where the supervision stands.
#[derive(Clone)]
pub(super) enum State {
    /// A worker serves.
    Serving { link: Arc<Link>, pid: u32 },
    /// A worker has just ended; the next is about to start.
    Restarting,
    /// No worker could be started.
    Down { why: Arc<str> },
    /// The supervisor was shut down.
    Ended,
}

/// Whether an operation may be done twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Safe,
    Unsafe,
}

impl Supervisor {
    /// Starts a worker and waits until it serves.
    ///
    /// # Errors
    /// [`StartError`], for the person who configures the token.
    pub async fn start(command: WorkerCommand, config: TokenConfig) -> Result<Self, StartError> {
        Self::start_among(command, config, Turns::default()).await
    }

    /// As [`Supervisor::start`], beside others of the same token, which share the turns.
    pub(super) async fn start_among(
        command: WorkerCommand,
        config: TokenConfig,
        turns: Turns,
    ) -> Result<Self, StartError> {
        let (sender, state) = watch::channel(State::Restarting);
        let (started, outcome) = oneshot::channel();
        let stop = CancellationToken::new();
        let restarts = Arc::new(AtomicU32::new(0));
        let inventory = Arc::new(Inventory::default());
        let keeper = Keeper {
            command,
            config,
            logins: turns.logins.clone(),
            state: sender,
            stop: stop.clone(),
            restarts: Arc::clone(&restarts),
            inventory: Arc::clone(&inventory),
            callers: Handle::current(),
        };
        // From here on a dropped future ends the worker, too.
        let supervisor = Self { state, restarts, stop, inventory, turns };
        thread::Builder::new().name("token".to_owned()).spawn(move || keeper.run(started)).map_err(
            |error| {
                StartError::Worker(format!("cannot start a thread to watch over the token worker: {error}"))
            },
        )?;
        match outcome.await {
            Ok(outcome) => outcome.map(|()| supervisor),
            Err(_) => Err(StartError::Worker("the watch over the token worker broke down".to_owned())),
        }
    }

    /// Ends the worker and waits for its end. Operations under way become unavailable.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        // The keeper drops its end when it is done. Until then the state may change.
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }

    /// The process id of the worker that serves, if one does.
    pub fn worker_pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            State::Serving { pid, .. } => Some(pid),
            _ => None,
        }
    }

    async fn ask(&self, task: Task, deadline: Instant, repeat: Repeat) -> Result<Reply, TokenError> {
        let mut tries = 0;
        loop {
            let link = self.link(deadline).await?;
            match link.ask(&task, deadline).await {
                Ok(Reply::Expired) | Err(NoReply::Late) => {
                    return Err(TokenError::Unavailable("the token did not answer in time".to_owned()));
                }
                Ok(Reply::Busy) => return Err(TokenError::Busy),
                Ok(Reply::Rejected) => return Err(TokenError::Rejected),
                Ok(Reply::Failed(reason)) => return Err(TokenError::Unavailable(reason)),
                Ok(reply) => return Ok(reply),
                // It has not begun.
                Err(NoReply::Gone) => {}
                Err(NoReply::Lost) if repeat == Repeat::Safe && tries == 0 => tries += 1,
                Err(NoReply::Lost) => {
                    return Err(TokenError::Unavailable(
                        "the token worker ended during the operation; it is being replaced".to_owned(),
                    ));
                }
            }
        }
    }

    /// Asks the worker that serves now, once: for the pool, which knows who else could do it.
    pub(super) async fn ask_once(&self, task: &Task, deadline: Instant) -> Result<Reply, Miss> {
        let link = match &*self.state.borrow() {
            State::Serving { link, .. } => Arc::clone(link),
            _ => return Err(Miss::Gone),
        };
        match link.ask(task, deadline).await {
            Ok(Reply::Expired) | Err(NoReply::Late) => Err(Miss::Late),
            Ok(Reply::Busy) => Err(Miss::Error(TokenError::Busy)),
            Ok(Reply::Rejected) => Err(Miss::Error(TokenError::Rejected)),
            Ok(Reply::Failed(reason)) => Err(Miss::Error(TokenError::Unavailable(reason))),
            Ok(reply) => Ok(reply),
            Err(NoReply::Gone) => Err(Miss::Gone),
            Err(NoReply::Lost) => Err(Miss::Lost),
        }
    }

    /// The line to a worker that serves. Waits for one that is about to, but not for a token that is down.
    async fn link(&self, deadline: Instant) -> Result<Arc<Link>, TokenError> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Restarting));
        match tokio::time::timeout_at(deadline.into(), settled).await {
            Ok(Ok(state)) => match &*state {
                State::Serving { link, .. } => Ok(Arc::clone(link)),
                other => Err(TokenError::Unavailable(other.trouble().unwrap_or_default())),
            },
            Ok(Err(_)) => Err(TokenError::Unavailable(State::Ended.trouble().unwrap_or_default())),
            Err(_) => Err(TokenError::Unavailable("no token worker served in time".to_owned())),
        }
    }
}

impl State {
    pub(super) fn trouble(&self) -> Option<String> {
        match self {
            Self::Serving { .. } => None,
            Self::Restarting => Some("the token worker is being replaced".to_owned()),
            Self::Down { why } => Some(why.to_string()),
            Self::Ended => Some("the token was shut down".to_owned()),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Token for Supervisor {
    async fn unwrap(
        &self,
        permit: Permit,
        wrapped: &WrappedKey,
        deadline: Instant,
    ) -> Result<Withheld<FileKey>, TokenError> {
        let standing =
            permit.redeem_for(KeyTask::Unwrap, wrapped.key_id()).ok_or(TokenError::NotPermitted)?;
        let task = Unwrap::new(wrapped.key_id(), wrapped.wrapping(), wrapped.ciphertext().to_vec());
        match self.ask(Task::Unwrap(task), deadline, Repeat::Safe).await? {
            Reply::FileKey(key) => Ok(Withheld::new(key, standing)),
            Reply::UnknownKey => Err(TokenError::UnknownKey(wrapped.key_id())),
            _ => Err(unexpected()),
        }
    }

    async fn sign_digest(
        &self,
        permit: Permit,
        digest: &DigestToSign,
        deadline: Instant,
    ) -> Result<Withheld<Vec<u8>>, TokenError> {
        let standing = permit.redeem_to_sign(digest.key_id()).ok_or(TokenError::NotPermitted)?;
        match self.ask(Task::SignDigest(SignDigest::new(digest)), deadline, Repeat::Safe).await? {
            Reply::Signature(signature) => Ok(Withheld::new(signature, standing)),
            Reply::UnknownKey => Err(TokenError::UnknownKey(digest.key_id())),
            _ => Err(unexpected()),
        }
    }

    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, TokenError> {
        let task = Sign { key: key.as_bytes().to_vec(), message: message.to_vec() };
        match self.ask(Task::Sign(task), deadline, Repeat::Safe).await? {
            Reply::Signature(signature) => Ok(signature),
            Reply::UnknownKey => Err(TokenError::UnknownKey(key)),
            _ => Err(unexpected()),
        }
    }

    async fn generate(&self, template: KeyTemplate, deadline: Instant) -> Result<TokenKey, TokenError> {
        let _turn = self.turns.change(deadline).await;
        match self.ask(Task::Generate((&template).into()), deadline, Repeat::Unsafe).await? {
            Reply::Key(key) => Ok(key),
            _ => Err(unexpected()),
        }
    }

    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), TokenError> {
        let _turn = self.turns.change(deadline).await;
        // Before it is asked: should the worker end in the middle, the next one must not miss the key. If the key is still
        // there, the next survey knows it again.
        self.inventory.forget(key);
        match self.ask(Task::Destroy(key.as_bytes().to_vec()), deadline, Repeat::Safe).await? {
            Reply::Destroyed => Ok(()),
            Reply::UnknownKey => Err(TokenError::UnknownKey(key)),
            _ => Err(unexpected()),
        }
    }

    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<Vec<KeyDescription>, TokenError> {
        match self.ask(Task::Describe(key.as_bytes().to_vec()), deadline, Repeat::Safe).await? {
            Reply::Described(said) => Ok(vec![said]),
            Reply::UnknownKey => Err(TokenError::UnknownKey(key)),
            _ => Err(unexpected()),
        }
    }

    async fn survey(&self, deadline: Instant) -> Result<Survey, TokenError> {
        let _turn = self.turns.list(deadline).await;
        match self.ask(Task::Survey(()), deadline, Repeat::Safe).await? {
            Reply::Survey(survey) => Ok(survey),
            _ => Err(unexpected()),
        }
    }

    fn health(&self) -> Health {
        Health {
            restarts: self.restarts.load(Ordering::Relaxed),
            trouble: self.state.borrow().trouble(),
            last_survey: self.inventory.last(),
        }
    }
}

pub(super) fn unexpected() -> TokenError {
    TokenError::Unavailable("the token worker answered something else than was asked".to_owned())
}
