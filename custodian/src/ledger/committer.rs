//! The committer: one thread that owns the writing and commits for all who wait (group commit).

use std::{
    convert::Infallible,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use uuid::Uuid;

use super::{Attempt, Changed, Intent, LedgerError, Outcome, Release};
use crate::{
    authority::SessionId,
    custody::{Denial, Fault},
};

/// Most jobs of one transaction. Beyond this a larger group gains nothing and the first in it wait longer.
const MAX_BATCH: usize = 512;

/// How long after a failed commit to try again what is still to be recorded, if no new job comes before.
const RETRY: Duration = Duration::from_millis(500);

/// How long what nobody waits for may wait for company. Under load a beginning is then committed with the next settling
/// instead of alone, which halves the commits. If the process dies within this time (and [`GATHER`] in a crowd), such an attempt
/// leaves no trace; no key of it has left either.
const LINGER: Duration = Duration::from_millis(10);

/// So many attempts under way are a crowd: each of them waits for the token, or until a rejection may
/// leave, much longer than for a commit.
const CROWD: usize = 16;

/// How long a commit waits at most for more of a crowd's settlings: until as many have come as a quarter of those under way.
/// Commits cost about the same whatever is in them: with one for each settling, a crowd would spend as much processor time on
/// commits as on a tenth of its RSA operations. The token has the other three quarters to work on, however fast it is.
const GATHER: Duration = Duration::from_millis(20);

/// How often a commit that waits looks what has come. Not at each that comes: to be woken costs something, too.
const GLANCE: Duration = Duration::from_millis(1);

/// What settling answers.
pub(super) type Verdict = Result<(Release, Changed), Denial>;

/// One thing to write.
pub(super) enum Job {
    /// A step of an attempt.
    Attempt(Part),
    /// That a session was used at that time. It makes no record.
    Touch(SessionId, Timestamp),
}

/// A part of an attempt.
pub(super) struct Part {
    /// What is tried.
    pub(super) intent: Arc<Intent>,
    /// The last durable sequence number when the attempt began.
    pub(super) since: u64,
    /// How far it got.
    pub(super) step: Step,
    reply: Option<oneshot::Sender<Verdict>>,
}

impl Job {
    /// Whether nobody waits for it.
    fn can_wait(&self) -> bool {
        matches!(self, Self::Touch(..) | Self::Attempt(Part { reply: None, .. }))
    }

    /// Whether it changes who may do what: a revocation, above all.
    fn changes(&self) -> bool {
        matches!(self, Self::Attempt(Part { step: Step::Settle(outcome), .. }) if outcome.change().is_some())
    }
}

impl Part {
    /// Whether nobody waits for the answer any more. Then nothing can leave, and the record must not say that it did.
    ///
    /// To be asked as late as possible. A caller that gives up later still, while the commit itself runs, leaves a
    /// record of a release that did not happen: the harmless one of the two possible errors.
    pub(super) fn is_given_up(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    fn answer(&mut self, verdict: Option<Verdict>) {
        if let (Some(reply), Some(verdict)) = (self.reply.take(), verdict)
            && reply.send(verdict).is_err()
        {
            let request_id = self.intent.request_id;
            tracing::warn!(%request_id, "the record of this attempt came too late for its caller");
        }
    }
}

/// How far an attempt got.
pub(super) enum Step {
    /// Remember it until it is settled.
    Begin,
    /// Record it, with everything that depends on that.
    Settle(Box<Outcome>),
    /// Record that nobody knows how it ended.
    Abandon,
}

/// What a commit made.
pub(super) struct Committed {
    /// The sequence number of the last durable record.
    pub(super) last: u64,
    /// One for each job, in the same order; `None` for those that only begin, and for touches.
    pub(super) verdicts: Vec<Option<Verdict>>,
}

/// An attempt's place in the queue, kept for its settling from its beginning on. So what has begun can always be
/// settled, however many others wait.
pub(super) struct Slot {
    place: Option<mpsc::OwnedPermit<Job>>,
    since: u64,
    settled: bool,
    /// One more is held by whoever counts.
    _under_way: Arc<()>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.slot.settled {
            return;
        }
        let request_id = self.request_id();
        match self.slot.place.take() {
            Some(place) => drop(place.send(Job::Attempt(Part {
                intent: Arc::clone(&self.intent),
                since: self.slot.since,
                step: Step::Abandon,
                reply: None,
            }))),
            None => {
                tracing::error!(%request_id, "an attempt was given up while the ledger's queue was full: not recorded")
            }
        }
    }
}

/// The handle of the committing thread. When it is dropped, the thread commits what is queued and ends.
pub(super) struct Committer {
    jobs: mpsc::Sender<Job>,
    last: watch::Receiver<u64>,
    deadline: Duration,
    /// Held by every attempt that is not settled yet, too.
    under_way: Arc<()>,
    _alive: oneshot::Sender<Infallible>,
}

impl Committer {
    /// Starts the thread. `last` is the last durable sequence number; `commit` makes all of a batch in one durable
    /// transaction, or nothing of it.
    pub(super) fn start<C>(
        commit: C,
        last: u64,
        queue: usize,
        deadline: Duration,
    ) -> std::io::Result<(Self, thread::JoinHandle<()>)>
    where
        C: FnMut(&[Job]) -> Result<Committed, LedgerError> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (jobs, queued) = mpsc::channel(queue.max(2));
        let (last, last_seen) = watch::channel(last);
        let (alive, ended) = oneshot::channel();
        let under_way = Arc::new(());
        let work = Work {
            commit,
            last,
            unrecorded: Vec::new(),
            most_unrecorded: queue,
            under_way: Arc::downgrade(&under_way),
        };
        let thread = thread::Builder::new()
            .name("ledger-commit".to_owned())
            .spawn(move || runtime.block_on(work.run(queued, ended)))?;
        Ok((Self { jobs, last: last_seen, deadline, under_way, _alive: alive }, thread))
    }

    /// The sequence number of the last durable record, and a signal for each new one.
    pub(super) fn last_sequence(&self) -> watch::Receiver<u64> {
        self.last.clone()
    }

    /// Queues the beginning and keeps a place for the settling. If there is no room for both, the settling queues
    /// both: a record needs no beginning.
    pub(super) fn begin(&self, intent: Intent) -> Attempt {
        let intent = Arc::new(intent);
        let since = *self.last.borrow();
        let begin = || {
            let place = self.jobs.clone().try_reserve_owned().ok()?;
            let (intent, step) = (Arc::clone(&intent), Step::Begin);
            self.jobs.try_send(Job::Attempt(Part { intent, since, step, reply: None })).ok()?;
            Some(place)
        };
        let slot = Slot { place: begin(), since, settled: false, _under_way: Arc::clone(&self.under_way) };
        Attempt { intent, slot }
    }

    /// Queues that a session is used now. With a full queue it stays unknown, until the next use.
    pub(super) fn touch(&self, session: SessionId) {
        if self.jobs.try_send(Job::Touch(session, Timestamp::now())).is_err() {
            tracing::debug!("the ledger's queue is full: a session's use is not noted");
        }
    }

    /// Waits until the outcome is durable, at most until the deadline.
    pub(super) async fn settle(&self, mut attempt: Attempt, outcome: Outcome) -> Verdict {
        let deadline = Instant::now() + self.deadline;
        let request_id = attempt.request_id();
        attempt.slot.settled = true;
        let (reply, verdict) = oneshot::channel();
        let job = Job::Attempt(Part {
            intent: Arc::clone(&attempt.intent),
            since: attempt.slot.since,
            step: Step::Settle(Box::new(outcome)),
            reply: Some(reply),
        });
        match attempt.slot.place.take() {
            Some(place) => drop(place.send(job)),
            None => self.enqueue(job, request_id, deadline).await?,
        }
        match tokio::time::timeout_at(deadline, verdict).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(unavailable(format!("no commit within {:?}", self.deadline))),
        }
    }

    async fn enqueue(&self, job: Job, request_id: Uuid, deadline: Instant) -> Result<(), Denial> {
        match tokio::time::timeout_at(deadline, self.jobs.send(job)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => {
                tracing::error!(%request_id, "the ledger's queue stayed full: denied and not recorded");
                Err(unavailable(format!("its queue stayed full for {:?}", self.deadline)))
            }
        }
    }
}

fn unavailable(why: String) -> Denial {
    Fault::LedgerUnavailable(why).into()
}

fn stopped() -> Denial {
    unavailable("its committer has stopped; restart the custodian".to_owned())
}

/// What the thread works with.
struct Work<C> {
    commit: C,
    last: watch::Sender<u64>,
    /// Denied attempts that a failed commit left without record.
    unrecorded: Vec<Part>,
    most_unrecorded: usize,
    /// Held by every attempt that is not settled yet.
    under_way: Weak<()>,
}

impl<C: FnMut(&[Job]) -> Result<Committed, LedgerError>> Work<C> {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>, mut ended: oneshot::Receiver<Infallible>) {
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                count = queue.recv_many(&mut batch, MAX_BATCH) => if count == 0 { break },
                () = tokio::time::sleep(RETRY), if !self.unrecorded.is_empty() => {}
                _ = &mut ended => break,
            }
            self.gather(&mut batch, &mut queue).await;
            let lingering = tokio::time::sleep(LINGER);
            tokio::pin!(lingering);
            while batch.len() < MAX_BATCH && !batch.is_empty() && batch.iter().all(Job::can_wait) {
                tokio::select! {
                    biased;
                    count = queue.recv_many(&mut batch, MAX_BATCH) => if count == 0 { break },
                    () = &mut lingering => break,
                }
            }
            self.commit(batch);
        }
        // Attempts that are still under way stay begun; the next start records them.
        let mut rest = Vec::new();
        while let Ok(job) = queue.try_recv() {
            rest.push(job);
            if rest.len() == MAX_BATCH {
                self.commit(std::mem::take(&mut rest));
            }
        }
        self.commit(rest);
        if !self.unrecorded.is_empty() {
            tracing::error!(
                attempts = self.unrecorded.len(),
                "the ledger ends with denied attempts unrecorded"
            );
        }
    }

    /// Waits for more of a crowd's settlings. A change waits for nobody.
    async fn gather(&self, batch: &mut Vec<Job>, queue: &mut mpsc::Receiver<Job>) {
        let deadline = Instant::now() + GATHER;
        while batch.len() < MAX_BATCH && !batch.iter().any(Job::changes) {
            // One is the committer's own.
            let crowd = self.under_way.strong_count().saturating_sub(1);
            let settling = batch.iter().filter(|job| !job.can_wait()).count();
            if crowd < CROWD || settling >= crowd / 4 || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(GLANCE).await;
            while batch.len() < MAX_BATCH
                && let Ok(job) = queue.try_recv()
            {
                batch.push(job);
            }
        }
    }

    /// Commits what earlier failures left and the new jobs, then answers all of them.
    fn commit(&mut self, new: Vec<Job>) {
        let old = self.unrecorded.len().min(MAX_BATCH);
        let mut batch: Vec<Job> = self.unrecorded.drain(..old).map(Job::Attempt).collect();
        batch.extend(new);
        if batch.is_empty() {
            return;
        }
        match (self.commit)(&batch) {
            Ok(committed) => {
                // Ahead of the answers: whoever begins after one of them must see a number not below its record's.
                self.last.send_replace(committed.last);
                for (job, verdict) in batch.into_iter().zip(committed.verdicts) {
                    if let Job::Attempt(mut part) = job {
                        part.answer(verdict);
                    }
                }
            }
            Err(error) => self.keep(batch, &error),
        }
    }

    /// Denies everybody of a failed batch, and keeps what is to be recorded of it once the ledger recovers.
    fn keep(&mut self, batch: Vec<Job>, error: &LedgerError) {
        tracing::error!(%error, jobs = batch.len(), "the ledger could not commit");
        let mut lost = 0;
        for job in batch {
            // A use that is not noted now is noted with the next one.
            let Job::Attempt(mut part) = job else { continue };
            let denial = Denial::from(error.clone());
            if let Step::Settle(outcome) = &mut part.step
                && matches!(**outcome, Outcome::Granted(_))
            {
                **outcome = Outcome::Denied(denial.clone());
            }
            part.answer(Some(Err(denial)));
            // A beginning is not tried again: its settling may overtake it, and then it would look interrupted.
            if matches!(part.step, Step::Begin) {
                continue;
            }
            if self.unrecorded.len() < self.most_unrecorded {
                self.unrecorded.push(part);
            } else {
                lost += 1;
            }
        }
        if lost > 0 {
            tracing::error!(lost, "too many denied attempts wait for the ledger: these stay unrecorded");
        }
    }
}

#[cfg(test)]
mod tests;
