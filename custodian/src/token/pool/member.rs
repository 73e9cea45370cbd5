//! What the pool asks of one worker. Nobody else does: the permit is used up before (law 3).

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    sign::DigestToSign,
};

use super::super::{
    Health, KeyDescription, KeyTemplate, MemberConfig, StartError, Supervisor, Survey, TokenError, TokenKey,
    WorkerCommand,
    link::Reply,
    supervisor::{State, unexpected},
    turns::Turns,
    wire::{Sign, SignDigest, Task, Unwrap},
};

/// One worker of one token.
///
/// Every operation is tried once, by what serves now: whoever asks knows who else could do it.
#[async_trait]
pub(in crate::token) trait Member: Send + Sync + 'static {
    /// Unwraps one file key.
    async fn unwrap(&self, wrapped: &WrappedKey, deadline: Instant) -> Result<FileKey, Miss>;

    /// Signs a digest.
    async fn sign_digest(&self, digest: &DigestToSign, deadline: Instant) -> Result<Vec<u8>, Miss>;

    /// Signs a message (not its digest).
    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, Miss>;

    /// Generates a key pair. Not safe to repeat.
    async fn generate(&self, template: &KeyTemplate, deadline: Instant) -> Result<TokenKey, Miss>;

    /// Destroys a key pair, and forgets it whatever comes of it: its absence is no fault from now on. Whoever asks has the turn
    /// ([`Turns::change`]).
    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), Miss>;

    /// What the token says of a key.
    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<KeyDescription, Miss>;

    /// Looks into the token.
    async fn survey(&self, deadline: Instant) -> Result<Survey, Miss>;

    /// Never asks the token, never waits.
    fn health(&self) -> Health;

    /// Whether it serves now.
    fn readiness(&self) -> Readiness;

    /// Waits until its readiness is another than this.
    async fn other_than(&self, known: &Readiness) -> Readiness;

    /// Ends it, and waits for its end.
    async fn shutdown(&self);
}

/// Whether a worker serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::token) enum Readiness {
    /// It does.
    Ready,
    /// It is being replaced.
    Soon,
    /// It does not, and says why.
    Down(String),
}

/// Why one try gave nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::token) enum Miss {
    /// It had not begun: no worker serves.
    Gone,
    /// The worker ended while it had the operation.
    Lost,
    /// No answer in time.
    Late,
    /// The token answered, or says why it cannot.
    Error(TokenError),
}

impl From<Miss> for TokenError {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Gone => Self::Unavailable("no token worker serves".to_owned()),
            Miss::Lost => Self::Unavailable(
                "the token worker ended during the operation; it is being replaced".to_owned(),
            ),
            Miss::Late => Self::Unavailable("the token did not answer in time".to_owned()),
            Miss::Error(error) => error,
        }
    }
}

/// Where members come from.
#[async_trait]
pub(in crate::token) trait Source: Send + Sync + 'static {
    /// Starts one, and waits until it serves.
    async fn start(&self) -> Result<Arc<dyn Member>, StartError>;
}

/// Worker processes.
pub(in crate::token) struct Workers {
    pub(in crate::token) command: WorkerCommand,
    pub(in crate::token) config: MemberConfig,
    /// Those of all workers of this token.
    pub(in crate::token) turns: Turns,
}

#[async_trait]
impl Source for Workers {
    async fn start(&self) -> Result<Arc<dyn Member>, StartError> {
        let (command, config) = (self.command.clone(), self.config.token.clone());
        let supervisor = Supervisor::start_among(command, config, self.turns.clone()).await?;
        let found = supervisor.health().last_survey.map(|survey| survey.label.clone()).unwrap_or_default();
        match &self.config.label {
            Some(label) if *label != found => {
                supervisor.shutdown().await;
                Err(StartError::Token(format!(
                    "the token is labelled {found:?}, and the configuration says token={label}: is it the one that was \
                     meant?"
                )))
            }
            _ => Ok(Arc::new(supervisor)),
        }
    }
}

#[async_trait]
impl Member for Supervisor {
    async fn unwrap(&self, wrapped: &WrappedKey, deadline: Instant) -> Result<FileKey, Miss> {
        let task = Unwrap::new(wrapped.key_id(), wrapped.wrapping(), wrapped.ciphertext().to_vec());
        match self.ask_once(&Task::Unwrap(task), deadline).await? {
            Reply::FileKey(key) => Ok(key),
            Reply::UnknownKey => Err(Miss::Error(TokenError::UnknownKey(wrapped.key_id()))),
            _ => Err(Miss::Error(unexpected())),
        }
    }

    async fn sign_digest(&self, digest: &DigestToSign, deadline: Instant) -> Result<Vec<u8>, Miss> {
        match self.ask_once(&Task::SignDigest(SignDigest::new(digest)), deadline).await? {
            Reply::Signature(signature) => Ok(signature),
            Reply::UnknownKey => Err(Miss::Error(TokenError::UnknownKey(digest.key_id()))),
            _ => Err(Miss::Error(unexpected())),
        }
    }

    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, Miss> {
        let task = Sign { key: key.as_bytes().to_vec(), message: message.to_vec() };
        match self.ask_once(&Task::Sign(task), deadline).await? {
            Reply::Signature(signature) => Ok(signature),
            Reply::UnknownKey => Err(Miss::Error(TokenError::UnknownKey(key))),
            _ => Err(Miss::Error(unexpected())),
        }
    }

    async fn generate(&self, template: &KeyTemplate, deadline: Instant) -> Result<TokenKey, Miss> {
        let _turn = self.turns.change(deadline).await;
        match self.ask_once(&Task::Generate(template.into()), deadline).await? {
            Reply::Key(key) => Ok(key),
            _ => Err(Miss::Error(unexpected())),
        }
    }

    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), Miss> {
        self.inventory.forget(key);
        match self.ask_once(&Task::Destroy(key.as_bytes().to_vec()), deadline).await? {
            Reply::Destroyed => Ok(()),
            Reply::UnknownKey => Err(Miss::Error(TokenError::UnknownKey(key))),
            _ => Err(Miss::Error(unexpected())),
        }
    }

    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<KeyDescription, Miss> {
        match self.ask_once(&Task::Describe(key.as_bytes().to_vec()), deadline).await? {
            Reply::Described(said) => Ok(said),
            Reply::UnknownKey => Err(Miss::Error(TokenError::UnknownKey(key))),
            _ => Err(Miss::Error(unexpected())),
        }
    }

    async fn survey(&self, deadline: Instant) -> Result<Survey, Miss> {
        let _turn = self.turns.list(deadline).await;
        match self.ask_once(&Task::Survey(()), deadline).await? {
            Reply::Survey(survey) => Ok(survey),
            _ => Err(Miss::Error(unexpected())),
        }
    }

    fn health(&self) -> Health {
        super::super::Token::health(self)
    }

    fn readiness(&self) -> Readiness {
        (&*self.state.borrow()).into()
    }

    async fn other_than(&self, known: &Readiness) -> Readiness {
        let mut state = self.state.clone();
        let other =
            state.wait_for(|state| Readiness::from(state) != *known).await.map(|state| (&*state).into());
        match other {
            Ok(other) => other,
            // The keeper is gone: nothing changes any more.
            Err(_) => std::future::pending().await,
        }
    }

    async fn shutdown(&self) {
        Self::shutdown(self).await;
    }
}

impl From<&State> for Readiness {
    fn from(state: &State) -> Self {
        match state {
            State::Serving { .. } => Self::Ready,
            State::Restarting => Self::Soon,
            State::Down { .. } | State::Ended => Self::Down(state.trouble().unwrap_or_default()),
        }
    }
}
