//! Several tokens as one: the same key may live in more than one of them, and each may have more than one worker.
//!
//! An operation goes to the least busy worker that has the key and serves. If that one does not do it, another does, while
//! there is time: unwrap and sign are safe to repeat. What a token *answers* is final (law 5): a ciphertext that one
//! rejects is never tried on another.

mod breaker;
mod care;
mod choice;
mod line;
mod look;
mod member;
mod seat;
#[cfg(test)]
mod tests;
mod token;
mod usage;

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{
    breaker::Moved,
    care::{Tempo, look_after},
    choice::{Choice, Others, Place},
    line::Line,
    look::learn,
    member::{Readiness, Workers},
    seat::Seat,
    usage::Usage,
};
use super::{
    Drain, KeyTemplate, MemberConfig, PinSource, StartError, TokenError, TokenKey, TokenName, WorkerCommand,
    turns::Turns,
};

pub(in crate::token) use member::Miss;
pub use seat::TokenReport;

/// Workers that one operation may lose. One that ends every worker must not take every token down.
const MOST_LOST: u32 = 3;

/// How long a token that was resumed may take to tell its keys.
const LOOK: Duration = Duration::from_secs(10);

/// Several tokens as one. Dropping it ends their workers.
pub struct Pool {
    /// In the order of the configuration.
    seats: Vec<Arc<Seat>>,
    /// Whose turn it is among equals.
    turn: AtomicUsize,
    /// Counts what may let an operation pass that could not before.
    changed: watch::Sender<u64>,
    maintenance: Arc<Mutex<()>>,
    stop: CancellationToken,
}

impl Pool {
    /// Starts the workers of every token, and waits until they serve or have failed once. One token that serves is
    /// enough: the others are tried again by themselves, except after a wrong PIN. `drains`: what is not to be given
    /// operations.
    ///
    /// # Errors
    /// If no token serves: why, for the person who configures them.
    pub async fn start(
        command: WorkerCommand,
        members: Vec<MemberConfig>,
        drains: Vec<Drain>,
    ) -> Result<Self, StartError> {
        let seats = members.into_iter().map(|config| {
            let threads = config.token.threads();
            let asks = config.token.pin == PinSource::Prompt;
            let drain = drains.iter().find(|drain| drain.token == config.name).cloned();
            let turns = Turns::default();
            let lines = (0..config.workers.get()).map(|_| {
                let (command, config, turns) = (command.clone(), config.clone(), turns.clone());
                let workers = Workers { command, config, turns };
                Arc::new(Line::new(Box::new(workers), threads))
            });
            let found_by = (config.token.select.clone(), config.token.module.clone());
            let lines = lines.collect();
            let seat = Seat::new(config.name.clone(), found_by, config.deadline, (lines, turns), drain);
            (Arc::new(seat), asks)
        });
        let seats: Vec<_> = seats.collect();
        let mut failures = Vec::new();
        // One prompt after the other: two would fight for the terminal.
        for (seat, _) in seats.iter().filter(|(_, asks)| *asks) {
            failures.extend(begin(Arc::clone(seat)).await);
        }
        let mut starts = JoinSet::new();
        for (seat, _) in seats.iter().filter(|(_, asks)| !asks) {
            starts.spawn(begin(Arc::clone(seat)));
        }
        while let Some(started) = starts.join_next().await {
            failures.extend(started.ok().flatten());
        }
        Self::open(seats.into_iter().map(|(seat, _)| seat).collect(), failures, Tempo::default())
    }

    fn open(
        seats: Vec<Arc<Seat>>,
        failures: Vec<(TokenName, StartError)>,
        tempo: Tempo,
    ) -> Result<Self, StartError> {
        if !seats.iter().flat_map(|seat| &seat.lines).any(|line| line.member().is_some()) {
            return Err(none_serves(failures));
        }
        for (token, reason) in failures {
            warn!(%token, %reason, "the token is away: the others serve");
        }
        let (changed, stop) = (watch::Sender::new(0), CancellationToken::new());
        for seat in &seats {
            tokio::spawn(look_after(Arc::clone(seat), tempo, changed.clone(), stop.clone()));
        }
        Ok(Self { seats, turn: AtomicUsize::new(0), changed, maintenance: Arc::default(), stop })
    }

    /// Ends all workers and waits for their end. Operations under way become unavailable.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let mut ends = JoinSet::new();
        for member in self.lines().filter_map(|line| line.member()) {
            let member = Arc::clone(member);
            ends.spawn(async move { member.shutdown().await });
        }
        while ends.join_next().await.is_some() {}
    }

    /// How each token is, in the order of the configuration.
    pub fn reports(&self) -> Vec<TokenReport> {
        self.seats.iter().map(|seat| seat.report()).collect()
    }

    /// How one token is.
    pub fn report(&self, name: &TokenName) -> Option<TokenReport> {
        self.seat(name).map(|seat| seat.report())
    }

    /// A token that has not served since the start: what is missing may be in it.
    pub fn away(&self) -> Option<TokenName> {
        let away = |seat: &&Arc<Seat>| !seat.lines.iter().any(|line| line.is_known());
        self.seats.iter().find(away).map(|seat| seat.name.clone())
    }

    /// One change of what is drained at a time: hold this from the look at [`Pool::keys_only_in`] until the change is in
    /// force.
    pub async fn maintenance(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.maintenance).lock_owned().await
    }

    /// The keys that nobody would serve if this token were drained now.
    pub fn keys_only_in(&self, name: &TokenName) -> Vec<TokenKey> {
        let serves = |seat: &&Arc<Seat>| {
            let down = |line: &Arc<Line>| matches!(line.readiness(), Readiness::Down(_));
            !seat.is_drained() && !seat.lines.iter().all(down)
        };
        let Some(own) = self.seat(name).filter(serves).and_then(|seat| seat.survey()) else {
            return Vec::new();
        };
        let others: Vec<_> = self
            .seats
            .iter()
            .filter(|seat| seat.name != *name)
            .filter(serves)
            .filter_map(|seat| seat.survey())
            .collect();
        let elsewhere =
            |key: &&TokenKey| others.iter().flat_map(|other| &other.keys).any(|other| other.id == key.id);
        own.keys.iter().filter(|key| !elsewhere(key)).cloned().collect()
    }

    /// Gives a token no operations from now on. Those under way go on. Drained already: the first reason stays.
    pub fn drain(&self, drain: Drain) {
        if let Some(seat) = self.seat(&drain.token).filter(|seat| !seat.is_drained()) {
            seat.set_drain(Some(drain));
            self.tell();
        }
    }

    /// Gives a token operations again, and looks into it: maintenance may have brought it keys.
    pub fn resume(&self, name: &TokenName) {
        let Some(seat) = self.seat(name) else { return };
        seat.set_drain(None);
        self.tell();
        let lines: Vec<_> = seat.lines.clone();
        let changed = self.changed.clone();
        tokio::spawn(async move {
            learn(&lines, Instant::now() + LOOK).await;
            changed.send_modify(|count| *count += 1);
        });
    }

    /// Waits until no operation is under way on a token, for so long at most.
    pub async fn until_idle(&self, name: &TokenName, limit: Duration) {
        let Some(seat) = self.seat(name) else { return };
        let idle = async {
            for line in &seat.lines {
                line.until_idle().await;
            }
        };
        // Whoever waits looks how many are left.
        drop(tokio::time::timeout(limit, idle).await);
    }

    /// Generates a key pair in the token of this name, or in the first that serves.
    async fn make(
        &self,
        name: Option<&TokenName>,
        template: KeyTemplate,
        deadline: Instant,
    ) -> Result<TokenKey, TokenError> {
        let mut changes = self.changed.subscribe();
        while Instant::now() < deadline {
            // Before looking: what changes after the look must not be missed.
            changes.borrow_and_update();
            match self.choose_maker(name) {
                Choice::Try { seat, line, member, .. } => {
                    let made = {
                        let _counted = line.begin();
                        if seat.is_drained() {
                            continue;
                        }
                        member.generate(&template, deadline).await
                    };
                    self.note(line, &made);
                    match made {
                        Ok(key) => {
                            let siblings: Vec<_> = seat
                                .lines
                                .iter()
                                .filter(|other| !Arc::ptr_eq(other, line))
                                .cloned()
                                .collect();
                            learn(&siblings, deadline).await;
                            return Ok(key);
                        }
                        // It has not begun.
                        Err(Miss::Gone) => tokio::task::yield_now().await,
                        Err(miss) => return Err(miss.into()),
                    }
                }
                Choice::Wait => self.wait(&mut changes, deadline).await,
                Choice::Nobody(error) => return Err(error),
            }
        }
        Err(Miss::Late.into())
    }

    /// Uses a key, by whoever can.
    async fn perform<U: Usage>(&self, usage: &U, deadline: Instant) -> Result<U::Made, TokenError> {
        let mut changes = self.changed.subscribe();
        let (mut tried, mut lost): (Vec<Place>, u32) = (Vec::new(), 0);
        let mut last: Option<TokenError> = None;
        while Instant::now() < deadline {
            // Before looking: what changes after the look must not be missed.
            changes.borrow_and_update();
            match self.choose(usage, &tried) {
                Choice::Try { place, seat, line, member, others } => {
                    let outcome = {
                        let _counted = line.begin();
                        // Drained between the choice and the count: whoever waits for its end has not seen this one.
                        if seat.is_drained() {
                            continue;
                        }
                        usage.by(member.as_ref(), limit(deadline, seat.deadline, others)).await
                    };
                    self.note(line, &outcome);
                    match outcome {
                        Ok(made) => return Ok(made),
                        // Law 5: that is the answer, wherever it comes from.
                        Err(Miss::Error(TokenError::Rejected)) => return Err(TokenError::Rejected),
                        // It had not begun.
                        Err(Miss::Gone) => tokio::task::yield_now().await,
                        Err(Miss::Lost) => {
                            lost += 1;
                            last = Some(Miss::Lost.into());
                            if lost == MOST_LOST {
                                break;
                            }
                        }
                        Err(miss) => {
                            tried.push(place);
                            last = Some(more_telling(last, miss.into()));
                        }
                    }
                }
                Choice::Wait => self.wait(&mut changes, deadline).await,
                Choice::Nobody(error) => return Err(last.unwrap_or(error)),
            }
        }
        Err(last.unwrap_or_else(|| Miss::Late.into()))
    }

    async fn wait(&self, changes: &mut watch::Receiver<u64>, deadline: Instant) {
        // Late is found out by whoever waits; the sender lives as long as we do.
        drop(tokio::time::timeout_at(deadline.into(), changes.changed()).await);
    }

    fn note<T>(&self, line: &Line, outcome: &Result<T, Miss>) {
        if line.note(outcome) == Moved::Yes {
            self.tell();
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lines(&self) -> impl Iterator<Item = &Arc<Line>> {
        self.seats.iter().flat_map(|seat| &seat.lines)
    }

    fn seat(&self, name: &TokenName) -> Option<&Arc<Seat>> {
        self.seats.iter().find(|seat| seat.name == *name)
    }

    /// With the token's name in front, if there are several.
    fn named(&self, seat: &Seat, text: &str) -> String {
        if self.seats.len() == 1 { text.to_owned() } else { format!("token {}: {text}", seat.name) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts the workers of a token for the first time, one after the other: a wrong PIN is tried once.
async fn begin(seat: Arc<Seat>) -> Option<(TokenName, StartError)> {
    for line in &seat.lines {
        if let Err(error) = line.start().await {
            if matches!(error, StartError::Pin(_)) {
                seat.refuse();
            }
            return Some((seat.name.clone(), error));
        }
    }
    None
}

/// By when one try must be done: another needs time, too.
fn limit(deadline: Instant, own: Duration, others: Others) -> Instant {
    let now = Instant::now();
    let limit = deadline.min(now + own);
    match others {
        Others::None => limit,
        Others::Some => limit.min(now + deadline.saturating_duration_since(now) / 2),
    }
}

/// Which of two errors says more: waiting helps where a token was busy, and a token that lacks the key says least.
fn more_telling(last: Option<TokenError>, new: TokenError) -> TokenError {
    match (last, new) {
        (Some(TokenError::Busy), _) => TokenError::Busy,
        (Some(last), TokenError::UnknownKey(_)) => last,
        (_, new) => new,
    }
}

fn none_serves(mut failures: Vec<(TokenName, StartError)>) -> StartError {
    match failures.pop() {
        None => StartError::Token("no token is configured".to_owned()),
        Some((_, only)) if failures.is_empty() => only,
        Some(last) => {
            failures.push(last);
            failures.sort_by(|(a, _), (b, _)| a.cmp(b));
            let all: Vec<_> = failures.iter().map(|(name, error)| format!("token {name}: {error}")).collect();
            StartError::Token(format!("no token serves: {}", all.join("; ")))
        }
    }
}
