//! One worker in the pool: the line to it once it has started, what is under way on it, and its breaker.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use custodian_proto::key::{KeyId, KeyWrapping, WrappedKey};
use tokio::sync::Notify;

use super::{
    Miss, Tempo,
    breaker::{Breaker, Moved, Position},
    member::{Member, Readiness, Source},
};
use crate::token::{Health, KeyKind, StartError, TokenError, TokenKey, mechanism::Canary};

/// One worker of one token.
pub(super) struct Line {
    source: Box<dyn Source>,
    member: OnceLock<Arc<dyn Member>>,
    /// Why there is no member yet.
    away: Mutex<String>,
    breaker: Breaker,
    /// The breaker opened: whoever looks after the line tries a canary.
    pub(super) opened: Notify,
    under_way: AtomicUsize,
    /// Nothing is under way any more.
    idle: Notify,
    /// Operations that it does at a time.
    threads: usize,
    last_success: Mutex<Instant>,
    /// Canaries sung: each is to another of its keys.
    canaries: AtomicUsize,
}

impl Line {
    pub(super) fn new(source: Box<dyn Source>, threads: usize) -> Self {
        Self {
            source,
            member: OnceLock::new(),
            away: Mutex::new("it is being started".to_owned()),
            breaker: Breaker::default(),
            opened: Notify::new(),
            under_way: AtomicUsize::new(0),
            idle: Notify::new(),
            threads: threads.max(1),
            last_success: Mutex::new(Instant::now()),
            canaries: AtomicUsize::new(0),
        }
    }

    /// Starts the worker.
    pub(super) async fn start(&self) -> Result<(), StartError> {
        match self.source.start().await {
            Ok(member) => {
                // A second start would be a defect; its worker ends as it is dropped.
                drop(self.member.set(member));
                Ok(())
            }
            Err(error) => {
                *self.away.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
                Err(error)
            }
        }
    }

    pub(super) fn member(&self) -> Option<&Arc<dyn Member>> {
        self.member.get()
    }

    /// Whether operations may be given to it.
    pub(super) fn readiness(&self) -> Readiness {
        let Some(member) = self.member() else {
            let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
            return Readiness::Down(away.clone());
        };
        match member.readiness() {
            Readiness::Ready => match self.breaker.position() {
                Position::Closed => Readiness::Ready,
                Position::HalfOpen => Readiness::Soon,
                Position::Open(why) => Readiness::Down(why),
            },
            other => other,
        }
    }

    pub(super) fn health(&self) -> Health {
        let health = self.member().map(|member| member.health()).unwrap_or_default();
        let trouble = match self.readiness() {
            Readiness::Ready => None,
            Readiness::Soon => Some(health.trouble.unwrap_or_else(|| "its canary is being tried".to_owned())),
            Readiness::Down(why) => Some(why),
        };
        Health { trouble, ..health }
    }

    /// Whether what it has is known: it has served at least once.
    pub(super) fn is_known(&self) -> bool {
        self.member().is_some_and(|member| member.health().last_survey.is_some())
    }

    /// The key of this id, if the token has it.
    pub(super) fn key(&self, id: KeyId) -> Option<TokenKey> {
        let survey = self.member()?.health().last_survey?;
        survey.keys.iter().find(|key| key.id == id).cloned()
    }

    /// How much there is before the next operation, in operations for each thread and a thousand.
    pub(super) fn load(&self) -> usize {
        self.under_way().saturating_mul(1_000) / self.threads
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    /// Counts an operation as under way until what is returned is dropped.
    pub(super) fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(self)
    }

    /// Waits until nothing is under way.
    pub(super) async fn until_idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            // Before looking: what ends after the look must not be missed.
            idle.as_mut().enable();
            if self.under_way() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Takes note of how an operation went. Busy is no failure, and what the caller did wrong is a success.
    pub(super) fn note<T>(&self, outcome: &Result<T, Miss>) -> Moved {
        let why = match outcome {
            Ok(_) | Err(Miss::Error(TokenError::Rejected)) => {
                *self.last_success.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                return self.breaker.succeeded();
            }
            // Whoever supervises the worker knows, and does what is to be done.
            Err(Miss::Gone | Miss::Lost) => return Moved::No,
            Err(Miss::Late) => "it did not answer in time".to_owned(),
            Err(Miss::Error(TokenError::Unavailable(why))) => why.clone(),
            Err(Miss::Error(_)) => return Moved::No,
        };
        let moved = self.breaker.failed(&why);
        if moved == Moved::Yes {
            self.opened.notify_one();
        }
        moved
    }

    /// Whether it is time for a canary: the breaker is open, or nothing has shown for a while that the token is well.
    pub(super) fn wants_canary(&self, tempo: &Tempo) -> bool {
        let last = *self.last_success.lock().unwrap_or_else(PoisonError::into_inner);
        self.breaker.position() != Position::Closed || last.elapsed() >= tempo.idle
    }

    pub(super) fn is_closed(&self) -> bool {
        self.breaker.position() == Position::Closed
    }

    /// Lets the token decrypt what it can only decrypt if it is well. `None`: it is too busy to tell.
    pub(super) async fn try_canary(&self, tempo: &Tempo) -> Option<Result<Moved, String>> {
        let member = self.member()?;
        let _counted = self.begin();
        let deadline = Instant::now() + tempo.canary;
        let turn = self.canaries.fetch_add(1, Ordering::Relaxed);
        let sung = match sing(member.as_ref(), turn, deadline).await {
            Err(Miss::Error(TokenError::Busy) | Miss::Gone | Miss::Lost) => return None,
            Err(Miss::Late) => Err(format!("it does not answer a test within {:?}", tempo.canary)),
            Err(Miss::Error(error)) => Err(error.to_string()),
            Ok(Song::Right) => Ok(()),
            Ok(Song::Wrong) => Err("it decrypts a test ciphertext to something else".to_owned()),
        };
        match sung {
            Ok(()) => Some(Ok(self.note(&Ok(())))),
            Err(why) => {
                self.breaker.canary_failed(&why);
                Some(Err(why))
            }
        }
    }
}

enum Song {
    Right,
    Wrong,
}

async fn sing(member: &dyn Member, turn: usize, deadline: Instant) -> Result<Song, Miss> {
    let survey = member.health().last_survey;
    let keys: Vec<_> = survey.iter().flat_map(|survey| &survey.keys).collect();
    let wrapping = |key: &&&TokenKey| matches!(key.kind, KeyKind::RsaUnwrap { .. });
    let count = keys.iter().filter(wrapping).count();
    let key = keys.iter().filter(wrapping).nth(turn.checked_rem(count).unwrap_or(0));
    let Some((key, canary, wrapped)) = key.and_then(|key| canary(key)) else {
        // Nothing to decrypt with: that it still finds its keys must do.
        return member.survey(deadline).await.map(|_| Song::Right);
    };
    match member.unwrap(&wrapped, deadline).await {
        Ok(file_key) if canary.sings(file_key.expose()) => Ok(Song::Right),
        Ok(_) => Ok(Song::Wrong),
        Err(Miss::Error(TokenError::Rejected)) => Err(Miss::Error(TokenError::Unavailable(format!(
            "key {:?} ({}) does not decrypt a test ciphertext",
            key.label, key.id
        )))),
        Err(miss) => Err(miss),
    }
}

fn canary(key: &TokenKey) -> Option<(&TokenKey, Canary, WrappedKey)> {
    let wrapping: KeyWrapping = key.wrapping?;
    let canary = Canary::new(&key.spki, wrapping)?;
    let wrapped = WrappedKey::new(key.id, wrapping, canary.ciphertext().to_vec())?;
    Some((key, canary, wrapped))
}

/// An operation that is under way.
pub(super) struct UnderWay<'a>(&'a Line);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
