//! The supervisor's end of the line to one worker: many callers, one socket.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use custodian_proto::key::FileKey;
use prost::Message;
use tokio::{
    io::AsyncReadExt,
    net::unix::OwnedReadHalf,
    sync::{mpsc, oneshot},
};
use zeroize::Zeroizing;

use super::{
    KeyDescription, Survey, TokenKey,
    inventory::Inventory,
    outgoing::{NotTaken, Outgoing},
    wire::{self, Answer, FromWorker, HEADER, Job, Order, Outcome, Report, Task, ToWorker},
};

/// How long after its deadline an operation may still be inside the module before the worker counts as stuck.
pub(super) const STUCK_AFTER: Duration = Duration::from_millis(500);

/// What a worker answers to a job.
pub(super) enum Reply {
    FileKey(FileKey),
    Signature(Vec<u8>),
    Key(TokenKey),
    Survey(Survey),
    Destroyed,
    Described(KeyDescription),
    Rejected,
    UnknownKey,
    Busy,
    Expired,
    Failed(String),
}

/// Why there is no answer.
pub(super) enum NoReply {
    /// The worker was gone before it had the job.
    Gone,
    /// The worker ended while it had the job.
    Lost,
    /// The deadline passed.
    Late,
}

/// The line to one worker.
pub(super) struct Link {
    outgoing: Outgoing,
    /// `None` when the worker is gone.
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
    next: AtomicU64,
    stuck: mpsc::Sender<String>,
    inventory: Arc<Inventory>,
}

impl Link {
    /// A line whose messages go to `outgoing`, and whose complaint that the worker hangs goes to `stuck`. Keys that
    /// the worker makes or finds go to `inventory`.
    pub(super) fn new(outgoing: Outgoing, stuck: mpsc::Sender<String>, inventory: Arc<Inventory>) -> Self {
        let pending = Mutex::new(Some(HashMap::new()));
        Self { outgoing, pending, next: AtomicU64::new(1), stuck, inventory }
    }

    /// Sends a job and waits for its answer, until the deadline.
    pub(super) async fn ask(self: &Arc<Self>, task: &Task, deadline: Instant) -> Result<Reply, NoReply> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(NoReply::Late);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, mut reply) = oneshot::channel();
        match &mut *self.pending() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(NoReply::Gone),
        };
        let job = Job {
            id,
            remaining: u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX),
            task: Some(task.clone()),
        };
        match self.outgoing.send(wire::frame(&ToWorker { order: Some(Order::Job(job)) })) {
            Ok(()) => {}
            Err(NotTaken::Gone) => return Err(NoReply::Gone),
            Err(NotTaken::Full) => {
                self.forget(id);
                return Ok(Reply::Busy);
            }
        }
        match tokio::time::timeout_at(deadline.into(), &mut reply).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(NoReply::Lost),
            Err(_) => {
                tokio::spawn(Arc::clone(self).watch(id, reply));
                Err(NoReply::Late)
            }
        }
    }

    /// Withdraws a late job. If it is still inside the module after a while, the worker is stuck.
    async fn watch(self: Arc<Self>, id: u64, reply: oneshot::Receiver<Reply>) {
        let cancel = wire::frame(&ToWorker { order: Some(Order::Cancel(id)) });
        // A line that takes no message either is as stuck as a module that does not return.
        drop(self.outgoing.send(cancel));
        if tokio::time::timeout(STUCK_AFTER, reply).await.is_err() {
            let why = format!("an operation was stuck in the module {STUCK_AFTER:?} after its deadline");
            // If somebody else has already complained, that is as good.
            drop(self.stuck.try_send(why));
        }
    }

    /// Takes the worker's reports until it is gone or sick. Says why.
    pub(super) async fn listen(self: Arc<Self>, mut reader: OwnedReadHalf) -> String {
        loop {
            match read_report(&mut reader).await {
                Ok(Report::Answer(Answer { id, outcome: Some(outcome) })) => match outcome.try_into() {
                    Ok(reply) => self.deliver(id, reply),
                    Err(Nonsense) => return wire::nonsense().to_string(),
                },
                Ok(Report::Sick(reason)) => return format!("the token is sick: {reason}"),
                Ok(_) => return wire::nonsense().to_string(),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return "it ended".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    }

    /// The worker is gone: nobody waits for it any more.
    pub(super) fn close(&self) {
        self.outgoing.close();
        self.pending().take();
    }

    fn deliver(&self, id: u64, reply: Reply) {
        // Here, not where it was asked: whoever asked may have gone, and the key is there all the same.
        match &reply {
            Reply::Key(key) => self.inventory.add(key),
            Reply::Survey(survey) => self.inventory.update(survey.clone()),
            _ => {}
        }
        if let Some(waiting) = self.forget(id) {
            // Whoever asked may have gone; the reply is dropped then, and overwritten if it is a file key.
            drop(waiting.send(reply));
        }
    }

    fn forget(&self, id: u64) -> Option<oneshot::Sender<Reply>> {
        self.pending().as_mut()?.remove(&id)
    }

    fn pending(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Reply>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads one report. What carried it is overwritten: it may be a file key.
pub(super) async fn read_report(reader: &mut OwnedReadHalf) -> io::Result<Report> {
    let mut header = [0; HEADER];
    reader.read_exact(&mut header).await?;
    let mut body = Zeroizing::new(vec![0; wire::frame_len(header)?]);
    reader.read_exact(&mut body).await?;
    let message = FromWorker::decode(body.as_slice()).map_err(|_| wire::nonsense())?;
    message.report.ok_or_else(wire::nonsense)
}

pub(super) struct Nonsense;

impl TryFrom<Outcome> for Reply {
    type Error = Nonsense;

    fn try_from(outcome: Outcome) -> Result<Self, Nonsense> {
        Ok(match outcome {
            Outcome::FileKey(key) => Self::FileKey(key.into_key().ok_or(Nonsense)?),
            Outcome::Signature(signature) => Self::Signature(signature),
            Outcome::Key(key) => Self::Key(key.into_key().ok_or(Nonsense)?),
            Outcome::Survey(survey) => Self::Survey(survey.into_survey().ok_or(Nonsense)?),
            Outcome::Destroyed(()) => Self::Destroyed,
            Outcome::Described(said) => Self::Described(said.into_description().ok_or(Nonsense)?),
            Outcome::Rejected(()) => Self::Rejected,
            Outcome::UnknownKey(()) => Self::UnknownKey,
            Outcome::Busy(()) => Self::Busy,
            Outcome::Expired(()) => Self::Expired,
            Outcome::Failed(reason) => Self::Failed(reason),
        })
    }
}
