//! Several tokens as one: the same key may live in more than one of them, and each may have more than one worker.
//!
//! An operation goes to the least busy worker that has the key and serves. If that one does not do it, another does, while
//! there is time: unwrap and sign are safe to repeat. What a token *answers* is final (law 5): a ciphertext that one
//! rejects is never tried on another.

mod breaker;
mod care;
mod choice;
mod line;
mod member;
mod seat;
#[cfg(test)]
mod tests;
mod usage;

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    sign::DigestToSign,
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
    member::{Readiness, Workers},
    seat::Seat,
    usage::{DigestSigning, Signing, Unwrapping, Usage},
};
use super::{
    Drain, Health, KeyDescription, KeyTemplate, MemberConfig, PinSource, StartError, Survey, Token,
    TokenError, TokenKey, TokenName, WorkerCommand, even::even_out, logins::Logins,
};
use crate::{
    authority::{KeyTask, Permit},
    custody::Withheld,
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
            let logins = Logins::default();
            let lines = (0..config.workers.get()).map(|_| {
                let (command, config, logins) = (command.clone(), config.clone(), logins.clone());
                let workers = Workers { command, config, logins };
                Arc::new(Line::new(Box::new(workers), threads))
            });
            let found_by = (config.token.select.clone(), config.token.module.clone());
            let seat = Seat::new(config.name.clone(), found_by, config.deadline, lines.collect(), drain);
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
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Token for Pool {
    async fn unwrap(
        &self,
        permit: Permit,
        wrapped: &WrappedKey,
        deadline: Instant,
    ) -> Result<Withheld<FileKey>, TokenError> {
        let standing =
            permit.redeem_for(KeyTask::Unwrap, wrapped.key_id()).ok_or(TokenError::NotPermitted)?;
        let begun = tokio::time::Instant::now();
        let unwrapped = self.perform(&Unwrapping(wrapped), deadline).await;
        even_out(begun, &unwrapped).await;
        unwrapped.map(|key| Withheld::new(key, standing))
    }

    async fn sign_digest(
        &self,
        permit: Permit,
        digest: &DigestToSign,
        deadline: Instant,
    ) -> Result<Withheld<Vec<u8>>, TokenError> {
        let standing = permit.redeem_to_sign(digest.key_id()).ok_or(TokenError::NotPermitted)?;
        let signature = self.perform(&DigestSigning(digest), deadline).await?;
        Ok(Withheld::new(signature, standing))
    }

    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, TokenError> {
        self.perform(&Signing { key, message }, deadline).await
    }

    async fn generate(&self, template: KeyTemplate, deadline: Instant) -> Result<TokenKey, TokenError> {
        self.make(None, template, deadline).await
    }

    async fn generate_in(
        &self,
        name: &TokenName,
        template: KeyTemplate,
        deadline: Instant,
    ) -> Result<TokenKey, TokenError> {
        self.make(Some(name), template, deadline).await
    }

    /// In every token, drained or not, and by every worker: each must learn that the key is gone. A token that is away may
    /// still have it, which is an error.
    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), TokenError> {
        let mut destroyed = Err(TokenError::UnknownKey(key));
        let mut failed = None;
        for seat in &self.seats {
            for line in &seat.lines {
                let outcome = match line.member() {
                    Some(member) => {
                        let _counted = line.begin();
                        member.destroy(key, deadline).await
                    }
                    None => Err(Miss::Gone),
                };
                match outcome {
                    Ok(()) => destroyed = Ok(()),
                    Err(Miss::Error(TokenError::UnknownKey(_))) => {}
                    Err(miss) => failed = Some(self.named(seat, &TokenError::from(miss).to_string())),
                }
            }
        }
        match failed {
            Some(why) => Err(TokenError::Unavailable(why)),
            None => destroyed,
        }
    }

    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<Vec<KeyDescription>, TokenError> {
        let (mut described, mut last) = (Vec::new(), TokenError::UnknownKey(key));
        for seat in &self.seats {
            // Any worker of a token can tell.
            for member in seat.lines.iter().filter_map(|line| line.member()) {
                match member.describe(key, deadline).await {
                    Ok(one) => {
                        described.push(one);
                        break;
                    }
                    Err(Miss::Error(TokenError::UnknownKey(_))) => break,
                    Err(miss) => last = miss.into(),
                }
            }
        }
        if described.is_empty() { Err(last) } else { Ok(described) }
    }

    fn uris(&self, key: KeyId) -> Vec<String> {
        let surveys: Vec<_> = self.seats.iter().filter_map(|seat| seat.survey()).collect();
        let keys = surveys.iter().flat_map(|survey| &survey.keys);
        keys.filter(|known| known.id == key).map(|known| known.uri.clone()).collect()
    }

    /// Looks into every token that is not drained. One that answers is enough; of the others it is said what is known.
    async fn survey(&self, deadline: Instant) -> Result<Survey, TokenError> {
        let lines: Vec<_> = self
            .seats
            .iter()
            .filter(|seat| !seat.is_drained())
            .flat_map(|seat| seat.lines.iter().cloned())
            .collect();
        let found = look(&lines, deadline).await;
        match (found, self.health().last_survey) {
            (Ok(()), Some(survey)) => Ok(Arc::unwrap_or_clone(survey)),
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(TokenError::Unavailable("no token tells what it has".to_owned())),
        }
    }

    fn health(&self) -> Health {
        let mut health = Health::default();
        let mut troubles = Vec::new();
        let mut serves = false;
        let mut surveys = Vec::new();
        for seat in &self.seats {
            let one = seat.health();
            health.restarts = health.restarts.saturating_add(one.restarts);
            match (seat.is_drained(), one.trouble) {
                (true, _) => troubles.push(self.named(seat, "it is drained")),
                (false, Some(trouble)) => troubles.push(self.named(seat, &trouble)),
                (false, None) => serves = true,
            }
            surveys.extend(one.last_survey.map(|survey| (seat, survey)));
        }
        health.trouble = if serves { None } else { Some(troubles.join("; ")) };
        health.last_survey = self.merge(surveys);
        health
    }
}

impl Pool {
    /// With the token's name in front, if there are several.
    fn named(&self, seat: &Seat, text: &str) -> String {
        if self.seats.len() == 1 { text.to_owned() } else { format!("token {}: {text}", seat.name) }
    }

    /// What all tokens together are and have. New keys are made in the first.
    fn merge(&self, surveys: Vec<(&Arc<Seat>, Arc<Survey>)>) -> Option<Arc<Survey>> {
        let mut surveys = surveys.into_iter();
        let (first, merged) = surveys.next()?;
        if self.seats.len() == 1 {
            return Some(merged);
        }
        let mut merged = Arc::unwrap_or_clone(merged);
        for text in merged.unserved.iter_mut().chain(&mut merged.remarks) {
            *text = self.named(first, text);
        }
        let (mut labels, mut models) = (vec![merged.label.clone()], vec![merged.model.clone()]);
        for (seat, survey) in surveys {
            for (all, one) in [(&mut labels, &survey.label), (&mut models, &survey.model)] {
                if !all.contains(one) {
                    all.push(one.clone());
                }
            }
            for key in &survey.keys {
                if !merged.keys.iter().any(|known| known.id == key.id) {
                    merged.keys.push(key.clone());
                }
            }
            merged.unserved.extend(survey.unserved.iter().map(|reason| self.named(seat, reason)));
            merged.remarks.extend(survey.remarks.iter().map(|remark| self.named(seat, remark)));
        }
        merged.keys.sort_by(|a, b| (&a.label, a.id).cmp(&(&b.label, b.id)));
        (merged.label, merged.model) = (labels.join(", "), models.join(", "));
        Some(Arc::new(merged))
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

/// [`look`], where nobody waits for what is found: a worker that cannot look now learns of new keys at its next start.
async fn learn(lines: &[Arc<Line>], deadline: Instant) {
    if lines.is_empty() {
        return;
    }
    if let Err(reason) = look(lines, deadline).await {
        warn!(%reason, "a token's workers do not look into it: keys that are new there are served after their next start");
    }
}

/// Lets the tokens behind these lines be looked into, so that their workers know every key. One that answers is enough.
async fn look(lines: &[Arc<Line>], deadline: Instant) -> Result<(), TokenError> {
    let mut looks = JoinSet::new();
    for line in lines.iter().filter(|line| line.member().is_some()) {
        let line = Arc::clone(line);
        looks.spawn(async move {
            let _counted = line.begin();
            match line.member() {
                Some(member) => member.survey(deadline).await.map(drop),
                None => Err(Miss::Gone),
            }
        });
    }
    let mut looked = Err(TokenError::Unavailable("no token worker serves".to_owned()));
    while let Some(ended) = looks.join_next().await {
        match ended {
            Ok(Ok(())) => looked = Ok(()),
            Ok(Err(miss)) if looked.is_err() => looked = Err(miss.into()),
            Ok(Err(miss)) => warn!(reason = %TokenError::from(miss), "a worker does not look into its token"),
            Err(error) => warn!(%error, "the look into a token broke down"),
        }
    }
    looked
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
