//! The open streams, so that stopping a device ends its streams before the answer.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
};

use custodian_proto::refusal::Refusal;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use uuid::Uuid;

use super::status::to_status;
use crate::authority::SpkiHash;

/// All of them, by the id of the call that opened them.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<HashMap<Uuid, Entry>>>);

struct Entry {
    device: SpkiHash,
    cut: CancellationToken,
    why: Arc<OnceLock<Refusal>>,
}

impl Streams {
    /// Opens one on this device. What `inner` yields goes out until it ends or is cut.
    pub(super) fn open<S>(&self, call: Uuid, device: SpkiHash, inner: S) -> Open<S> {
        let (cut, why) = (CancellationToken::new(), Arc::default());
        self.entries().insert(call, Entry { device, cut: cut.clone(), why: Arc::clone(&why) });
        Open {
            inner: Some(inner),
            cut: Box::pin(cut.cancelled_owned()),
            why,
            call,
            place: Some(Place { streams: self.clone(), call }),
        }
    }

    /// Cuts those of a device: whoever reads on finds this refusal. Returns how many. Waits for no reader: one who does not
    /// read must not keep a revocation from returning.
    pub(super) fn cut(&self, device: SpkiHash, why: Refusal) -> usize {
        let mut entries = self.entries();
        let before = entries.len();
        entries.retain(|_, entry| {
            if entry.device == device {
                // Nobody else sets it: an entry is cut once.
                entry.why.set(why).ok();
                entry.cut.cancel();
            }
            entry.device != device
        });
        before - entries.len()
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place among the open ones.
struct Place {
    streams: Streams,
    call: Uuid,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.entries().remove(&self.call);
    }
}

/// An open stream. Once it is cut it yields the refusal and ends: what `inner` still holds does not go out.
pub(super) struct Open<S> {
    inner: Option<S>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    why: Arc<OnceLock<Refusal>>,
    call: Uuid,
    place: Option<Place>,
}

impl<T, S: Stream<Item = Result<T, Status>> + Unpin> Stream for Open<S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.place.is_some() && self.cut.as_mut().poll(context).is_ready() {
            (self.inner, self.place) = (None, None);
            let why = self.why.get().copied().unwrap_or(Refusal::DeviceRevoked);
            return Poll::Ready(Some(Err(to_status(&why.into(), self.call))));
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let next = Pin::new(inner).poll_next(context);
        if matches!(next, Poll::Ready(None)) {
            (self.inner, self.place) = (None, None);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use tonic_types::StatusExt;

    use super::*;

    const ONE: SpkiHash = SpkiHash([1; 32]);
    const OTHER: SpkiHash = SpkiHash([2; 32]);

    fn endless() -> impl Stream<Item = Result<u32, Status>> + Unpin {
        tokio_stream::iter((0..).map(Ok))
    }

    #[tokio::test]
    async fn cutting_a_device_ends_its_streams_and_no_others() {
        let streams = Streams::default();
        let mut open: Vec<_> = (0..3).map(|_| streams.open(Uuid::now_v7(), ONE, endless())).collect();
        let mut other = streams.open(Uuid::now_v7(), OTHER, endless());
        for stream in open.iter_mut().chain([&mut other]) {
            assert_eq!(stream.next().await.unwrap().unwrap(), 0);
        }
        // One reader has gone away by itself.
        drop(open.pop());
        assert_eq!(streams.cut(ONE, Refusal::DeviceSuspended), 2);
        for stream in &mut open {
            let refused = stream.next().await.unwrap().unwrap_err();
            assert_eq!(refused.get_error_details().error_info().unwrap().reason, "DEVICE_SUSPENDED");
            assert!(stream.next().await.is_none());
        }
        assert_eq!(streams.cut(ONE, Refusal::DeviceSuspended), 0);
        assert_eq!(other.next().await.unwrap().unwrap(), 1);
        drop(other);
        assert!(streams.entries().is_empty());
    }
}
