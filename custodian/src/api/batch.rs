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
    time::timeout,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Api,
    call::{Accepted, invalid},
    custody::approvable,
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
    /// Their part of the places for calls: the other half is left to who asks for one thing.
    share: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

impl Batches {
    /// Beside `places` calls at once, which `calls` gives out.
    pub(super) fn beside(calls: Arc<Semaphore>, places: usize) -> Self {
        Self {
            open: Arc::new(Semaphore::new(BATCHES)),
            of_device: Arc::new(Crowd::new(OF_ONE_DEVICE)),
            share: Arc::new(Semaphore::new((places / 2).max(1))),
            calls,
        }
    }

    /// Room for one more batch of this device.
    fn open(&self, device: SpkiHash) -> Option<Opened> {
        let batch = Arc::clone(&self.open).try_acquire_owned().ok()?;
        Some(Opened { _batch: batch, _of_device: self.of_device.enter(device)? })
    }

    /// Room for one item: waits for it.
    async fn room(&self) -> Result<Room, Denial> {
        let closed = |_| Fault::Internal("there is no room for items any more".to_owned());
        let share = Arc::clone(&self.share).acquire_owned().await.map_err(closed)?;
        let call = Arc::clone(&self.calls).acquire_owned().await.map_err(closed)?;
        Ok(Room { share, call })
    }
}

/// A batch's place. Free again when it ends.
struct Opened {
    _batch: OwnedSemaphorePermit,
    _of_device: Held<SpkiHash>,
}

/// An item's place.
struct Room {
    share: OwnedSemaphorePermit,
    call: OwnedSemaphorePermit,
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
        let overloaded = || denied(Refusal::Overloaded.into());
        let opened = self.batches.open(device).ok_or_else(overloaded)?;
        let (sender, answers) = mpsc::channel(AT_ONCE);
        // The batch has its place until its last answer is read.
        let answers = ReceiverStream::new(answers).then(move |next| {
            let _place = &opened;
            answer(next)
        });
        let answers = self.streams.open(call.request_id, device, Box::pin(answers));
        let batch =
            Batch { api: Arc::new(self.clone()), seen: Instant::now(), caller: call.caller.clone(), call };
        tokio::spawn(async move { batch.run(request.into_inner(), &sender).await });
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
    /// Begins items as there is room for them and their answers are read, until there are no more.
    async fn run(mut self, mut items: Streaming<v1::UnwrapBatchRequest>, answers: &mpsc::Sender<Next>) {
        let mut count = 0;
        // Whoever does not read has hung up, or lost its place.
        while let Ok(Ok(slot)) = timeout(PATIENCE, answers.reserve()).await {
            let next = tokio::select! {
                next = timeout(PATIENCE, items.message()) => next,
                () = answers.closed() => return,
                () = self.api.shutdown.cancelled() => return slot.send(self.end(Refusal::Overloaded.into())),
            };
            let item = match next {
                Ok(Ok(Some(item))) => item,
                // That was all, or the next one takes too long.
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(status)) => return slot.send(Next::End(status)),
            };
            count += 1;
            if count > MAX_BATCH_ITEMS {
                return slot.send(self.end(invalid(format!("a batch has at most {MAX_BATCH_ITEMS} items"))));
            }
            match self.begin(item).await {
                Ok(next) => slot.send(next),
                Err(denial) => return slot.send(self.end(denial)),
            }
        }
    }

    /// Begins an item on a task of its own, which ends by itself whatever becomes of the caller.
    async fn begin(&mut self, item: v1::UnwrapBatchRequest) -> Result<Next, Denial> {
        let Room { share, call: place } = self.api.batches.room().await?;
        let accepted = self.accept(item.unwrap.as_ref(), place.into()).await?;
        let api = Arc::clone(&self.api);
        let task = tokio::spawn(async move {
            let outcome = api.unwrap_item(&accepted, item.unwrap.unwrap_or_default()).await;
            drop(share);
            (Instant::now(), outcome)
        });
        Ok(Next::Outcome(item.reference, task))
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
