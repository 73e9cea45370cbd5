//! `CustodyService.UnwrapBatch`: items in, outcomes out, in the same order.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use custodian_proto::{limits::MAX_BATCH_ITEMS, refusal::Refusal, v1};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
    time::{error::Elapsed, timeout},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Api,
    call::{Accepted, invalid},
    custody::approvable,
    room::ItemRoom,
    to_status,
};
use crate::{
    authority::{Asked, AskedRequest, Caller, Need, SpkiHash},
    custody::{Call, Denial, Fault, Place},
    server::{Crowd, Held},
};

/// Items of one batch under way, or answered and not read yet. They keep the token's threads and the committer busy, and are few
/// enough for whoever queues behind them.
const AT_ONCE: usize = 32;

/// Batches at once, and those of one device: a person runs few programs.
const BATCHES: usize = 64;
const OF_ONE_DEVICE: usize = 8;

/// A caller that sends no item, or reads no answer, for this long has lost its place.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file key that is not read for this long is not given out any more. It is recorded as released; the caller asks again.
const UNREAD: Duration = Duration::from_secs(2);

/// What is known about the caller is read again for the first item after this long. Less often than for calls by themselves, because
/// every item's settling reads it again (law 2).
const FRESH: Duration = Duration::from_millis(50);

/// What a batch answers.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Answer> + Send>>;
type Answer = Result<v1::UnwrapBatchResponse, Status>;

/// Room for batches.
#[derive(Clone)]
pub(super) struct Batches {
    open: Arc<Semaphore>,
    of_device: Arc<Crowd<SpkiHash>>,
}

impl Default for Batches {
    fn default() -> Self {
        let (open, of_device) = (Semaphore::new(BATCHES), Crowd::new(OF_ONE_DEVICE));
        Self { open: Arc::new(open), of_device: Arc::new(of_device) }
    }
}

impl Batches {
    /// Room for one more batch of this device.
    fn open(&self, device: SpkiHash) -> Option<Opened> {
        let batch = Arc::clone(&self.open).try_acquire_owned().ok()?;
        Some(Opened { _batch: batch, _of_device: self.of_device.enter(device)? })
    }
}

/// A batch's place. Free again when it ends.
struct Opened {
    _batch: OwnedSemaphorePermit,
    _of_device: Held<SpkiHash>,
}

/// What the caller is told next.
enum Next {
    /// The outcome of the item of this reference.
    Outcome(u64, JoinHandle<(Instant, Outcome)>),
    /// Why the batch ends before its end.
    End(Status),
}

type Outcome = Result<v1::UnwrapResponse, Status>;

impl Api {
    /// Opens a batch.
    pub(super) async fn batch(
        &self,
        request: Request<Streaming<v1::UnwrapBatchRequest>>,
    ) -> Result<Response<Answers>, Status> {
        // Approvals are bound to the items.
        let Accepted { call } = self.accept_as(&request, |_| Vec::new()).await?;
        // A batch has a place among the batches instead, and each item one among the calls.
        let call = Call { place: Place::default(), ..call };
        let denied = |denial: Denial| to_status(&denial, call.request_id);
        // Whoever is not signed in takes no batch's place: refused and recorded as by itself, once for all items.
        if !self.custodian.authority().has_session(&call.caller) {
            self.custodian.admit(&call, Need::Session, "Unwrap").await.map_err(denied)?;
        }
        let device = call.caller.peer.certificate.spki;
        let opened = self.batches.open(device).ok_or_else(|| self.room.refuse(call.request_id))?;
        // One more, for how it ends: whoever does not read has filled the others.
        let (sender, answers) = mpsc::channel(AT_ONCE + 1);
        // The batch has its place until its last answer is read.
        let answers = ReceiverStream::new(answers).then(move |next| {
            let _place = &opened;
            answer(next)
        });
        let answers = self.streams.open(call.request_id, device, Box::pin(answers));
        let batch =
            Batch { api: Arc::new(self.clone()), seen: Instant::now(), caller: call.caller.clone(), call };
        tokio::spawn(batch.run(request.into_inner(), sender));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// A batch under way.
struct Batch {
    api: Arc<Api>,
    /// The call that opened it.
    call: Call,
    /// Who asks, as of then.
    caller: Caller,
    seen: Instant,
}

impl Batch {
    /// Begins items as there is room for them and their answers are read, until there are no more. An end before that is told.
    async fn run(mut self, items: Streaming<v1::UnwrapBatchRequest>, answers: mpsc::Sender<Next>) {
        let Ok(end) = answers.clone().reserve_owned().await else { return };
        let stop = self.api.shutdown.clone();
        match pass(items, &answers, &stop, PATIENCE, &mut self).await {
            Ok(()) | Err(Cut::Gone) => {}
            Err(Cut::Denied(denial)) => drop(end.send(self.end(denial))),
            Err(Cut::Broken(status)) => drop(end.send(Next::End(status))),
        }
    }

    /// The item as a call by itself.
    async fn accept(&mut self, item: Option<&v1::UnwrapRequest>, place: Place) -> Result<Accepted, Denial> {
        if self.seen.elapsed() >= FRESH {
            self.caller = self.api.custodian.authority().look_again(&self.caller).await?;
            self.seen = Instant::now();
        }
        let asked = match &self.call.asked {
            Asked::Kept(batch) => Asked::Kept(Arc::new(AskedRequest {
                message: Zeroizing::new(item.map(approvable).unwrap_or_default()),
                glass: batch.glass,
            })),
            other => other.clone(),
        };
        let (request_id, arrived, caller) = (Uuid::now_v7(), Instant::now(), self.caller.clone());
        Ok(Accepted { call: Call { request_id, arrived, caller, asked, place } })
    }

    fn end(&self, why: Denial) -> Next {
        Next::End(to_status(&why, self.call.request_id))
    }
}

/// Why a batch ends before its end.
#[derive(Debug)]
enum Cut {
    /// Nobody is there to be told.
    Gone,
    Denied(Denial),
    /// The stream of items broke.
    Broken(Status),
}

impl From<Denial> for Cut {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// What items are passed on to.
trait Begin<I>: Send {
    /// Begins one; or why neither it nor any after it is begun.
    fn begin(&mut self, item: I) -> impl Future<Output = Result<Next, Denial>> + Send;
}

impl Begin<v1::UnwrapBatchRequest> for Batch {
    /// Begins an item on a task of its own, which ends by itself whatever becomes of the caller.
    async fn begin(&mut self, item: v1::UnwrapBatchRequest) -> Result<Next, Denial> {
        let ItemRoom { share, place } = self.api.room.enter_item().await?;
        let accepted = self.accept(item.unwrap.as_ref(), place).await?;
        let api = Arc::clone(&self.api);
        let task = tokio::spawn(async move {
            let outcome = api.unwrap_item(&accepted, item.unwrap.unwrap_or_default()).await;
            // Its place before its share: else the next item would want a place that is not free yet.
            drop((accepted, share));
            (Instant::now(), outcome)
        });
        Ok(Next::Outcome(item.reference, task))
    }
}

/// Passes items on, each once there is room for its answer.
async fn pass<I: Send>(
    mut items: impl Stream<Item = Result<I, Status>> + Unpin + Send,
    answers: &mpsc::Sender<Next>,
    stop: &CancellationToken,
    patience: Duration,
    batch: &mut impl Begin<I>,
) -> Result<(), Cut> {
    let slow = |_: Elapsed| Cut::Denied(Refusal::TooSlow.into());
    let stopped = || Err(Cut::Denied(Refusal::Stopping.into()));
    let mut count = 0;
    loop {
        // Whoever does not read has hung up, or lost its place.
        let slot = tokio::select! {
            slot = timeout(patience, answers.reserve()) => slot,
            () = stop.cancelled() => return stopped(),
        };
        let slot = slot.map_err(slow)?.map_err(|_| Cut::Gone)?;
        let next = tokio::select! {
            next = timeout(patience, items.next()) => next,
            () = answers.closed() => return Err(Cut::Gone),
            () = stop.cancelled() => return stopped(),
        };
        let Some(item) = next.map_err(slow)? else { return Ok(()) };
        let item = item.map_err(Cut::Broken)?;
        count += 1;
        if count > MAX_BATCH_ITEMS {
            return Err(invalid(format!("a batch has at most {MAX_BATCH_ITEMS} items")).into());
        }
        slot.send(batch.begin(item).await?);
    }
}

impl Api {
    /// An item, if there is room for its caller.
    async fn unwrap_item(&self, accepted: &Accepted, request: v1::UnwrapRequest) -> Outcome {
        let caller = &accepted.call.caller;
        if !self.custodian.authority().has_session(caller) && !self.strangers.admit(caller) {
            return Err(accepted.status(Refusal::Overloaded.into()));
        }
        self.unwrap_one(accepted, request).await
    }
}

async fn answer(next: Next) -> Answer {
    let (reference, outcome) = match next {
        Next::Outcome(reference, task) => (reference, task.await),
        Next::End(status) => return Err(status),
    };
    let outcome = match outcome {
        // Somebody may have been stopped meanwhile.
        Ok((made, Ok(released))) if made.elapsed() > UNREAD => {
            let detail = format!("request {} was not read in time", released.request_id);
            let denial = Denial::Refused { refusal: Refusal::Overloaded, detail };
            Err(to_status(&denial, Uuid::now_v7()))
        }
        Ok((_, outcome)) => outcome,
        Err(error) => {
            let fault = Fault::Internal(format!("an item of a batch did not end: {error}"));
            Err(to_status(&fault.into(), Uuid::now_v7()))
        }
    };
    let outcome = match outcome {
        Ok(released) => v1::unwrap_batch_response::Outcome::Released(released),
        Err(status) => v1::unwrap_batch_response::Outcome::Denied(v1::ItemDenial {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: status.details().to_vec(),
        }),
    };
    Ok(v1::UnwrapBatchResponse { reference, outcome: Some(outcome) })
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn released(made: Instant) -> Next {
        let released = v1::UnwrapResponse { file_key: vec![7; 32], ..v1::UnwrapResponse::default() };
        Next::Outcome(5, tokio::spawn(async move { (made, Ok(released)) }))
    }

    /// Releases a key for each item.
    struct AtOnce;

    impl Begin<u64> for AtOnce {
        async fn begin(&mut self, _: u64) -> Result<Next, Denial> {
            Ok(released(Instant::now()))
        }
    }

    fn items(count: u64) -> impl Stream<Item = Result<u64, Status>> + Unpin + Send {
        tokio_stream::iter((0..count).map(Ok))
    }

    /// What a batch whose items are all released at once ends with, if nobody reads before its end; and what is read then.
    async fn unread(
        items: impl Stream<Item = Result<u64, Status>> + Unpin + Send,
        stop: &CancellationToken,
    ) -> (Result<(), Cut>, usize) {
        let (sender, mut answers) = mpsc::channel(AT_ONCE);
        let patience = Duration::from_millis(50);
        let end = pass(items, &sender, stop, patience, &mut AtOnce).await;
        drop(sender);
        let mut read = 0;
        while answers.recv().await.is_some() {
            read += 1;
        }
        (end, read)
    }

    fn refusal(end: Result<(), Cut>) -> Refusal {
        match end.unwrap_err() {
            Cut::Denied(Denial::Refused { refusal, .. }) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_key_that_nobody_reads_in_time_is_not_given_out() {
        let outcome = async |made| answer(released(made)).await.unwrap().outcome.unwrap();
        let old = Instant::now().checked_sub(UNREAD + Duration::from_millis(1)).unwrap();
        match outcome(old).await {
            v1::unwrap_batch_response::Outcome::Denied(denial) => {
                let status = Status::with_details(
                    denial.code.into(),
                    denial.message.clone(),
                    denial.details.clone().into(),
                );
                assert_eq!(status.get_error_details().error_info().unwrap().reason, "OVERLOADED");
                assert!(!denial.details.windows(32).any(|bytes| bytes == [7; 32]));
            }
            v1::unwrap_batch_response::Outcome::Released(_) => panic!("it was given out"),
        }
        match outcome(Instant::now()).await {
            v1::unwrap_batch_response::Outcome::Released(released) => assert_eq!(released.file_key, [7; 32]),
            v1::unwrap_batch_response::Outcome::Denied(denial) => panic!("{}", denial.message),
        }
    }

    #[tokio::test]
    async fn a_batch_that_ends_with_items_missing_says_so() {
        let stop = CancellationToken::new();
        let (end, read) = unread(items(AT_ONCE as u64), &stop).await;
        assert!(matches!(refusal(end), Refusal::TooSlow), "nobody reads, and more may come");
        assert_eq!(read, AT_ONCE);
        let (end, read) = unread(items(3), &stop).await;
        end.unwrap();
        assert_eq!(read, 3);
        let (end, read) = unread(items(3).chain(tokio_stream::pending()), &stop).await;
        assert_eq!((refusal(end), read), (Refusal::TooSlow, 3), "no more comes, and no end");
        let broken = items(3).chain(tokio_stream::iter([Err(Status::data_loss("broken"))]));
        let (end, read) = unread(broken, &stop).await;
        assert!(matches!(end, Err(Cut::Broken(_))));
        assert_eq!(read, 3);
        stop.cancel();
        let (end, _) = unread(items(3).chain(tokio_stream::pending()), &stop).await;
        assert_eq!(refusal(end), Refusal::Stopping);
    }
}
