//! Requests that may be large: few are read at once, and none of somebody who is not let in anyway.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes};
use tokio::sync::Semaphore;
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;
use uuid::Uuid;

use super::{room::Room, status::to_status};
use crate::{
    authority::{DeviceState, Peer},
    ledger::Ledger,
};

/// Such requests at once. Their length is the most memory that they take together.
const AT_ONCE: usize = 32;

/// A message without fields, as gRPC sends it: not compressed, no bytes.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// A service whose requests may be large. What comes before the body decides whether it is read: unread, it waits at the client.
#[derive(Clone)]
pub(super) struct Large<S> {
    inner: S,
    ledger: Arc<dyn Ledger>,
    places: Arc<Semaphore>,
    room: Room,
}

impl<S> Large<S> {
    pub(super) fn new(inner: S, ledger: Arc<dyn Ledger>, room: Room) -> Self {
        Self { inner, ledger, places: Arc::new(Semaphore::new(AT_ONCE)), room }
    }
}

impl<S: NamedService> NamedService for Large<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Large<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready is the one that was asked whether it is.
        let mut inner = self.inner.clone();
        std::mem::swap(&mut inner, &mut self.inner);
        let (ledger, places, room) = (Arc::clone(&self.ledger), Arc::clone(&self.places), self.room.clone());
        Box::pin(async move {
            match is_active(ledger.as_ref(), request.extensions().get::<Peer>()).await {
                Err(status) => Ok(status.into_http()),
                // Refused and recorded as ever, whatever it asks for.
                Ok(false) => {
                    inner.call(request.map(|_| Body::new(Full::new(Bytes::from_static(EMPTY_MESSAGE))))).await
                }
                Ok(true) => match places.try_acquire() {
                    Err(_) => Ok(room.refuse(Uuid::now_v7()).into_http()),
                    Ok(_place) => inner.call(request).await,
                },
            }
        })
    }
}

/// Whether the peer is an active device now.
async fn is_active(ledger: &dyn Ledger, peer: Option<&Peer>) -> Result<bool, Status> {
    let Some(peer) = peer else { return Ok(false) };
    let identity = ledger
        .identify(peer.certificate.spki, None)
        .await
        .map_err(|error| to_status(&error.into(), Uuid::now_v7()))?;
    Ok(identity.device.is_some_and(|device| device.state == DeviceState::Active))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::Notify;
    use tonic::Code;

    use super::*;
    use crate::{
        api::ApiLimits,
        authority::{PeerCertificate, PeerKind, SpkiHash},
        ledger::{
            SqliteLedger,
            contract::world::{self, World},
        },
    };

    /// Reads a request to its end and tells how long it was, once it may.
    #[derive(Clone)]
    struct Reader(Arc<Semaphore>, Arc<Notify>);

    impl Service<Request<Body>> for Reader {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let Self(go_on, begun) = self.clone();
            Box::pin(async move {
                begun.notify_one();
                drop(go_on.acquire().await.unwrap());
                let len = request.into_body().collect().await.unwrap().to_bytes().len();
                Ok(Response::builder().header("len", len).body(Body::empty()).unwrap())
            })
        }
    }

    struct Scene {
        service: Large<Reader>,
        go_on: Arc<Semaphore>,
        begun: Arc<Notify>,
    }

    /// `laptop-1` is active, `laptop-2` suspended.
    async fn scene(go_on: usize) -> Scene {
        let ledger = Arc::new(SqliteLedger::for_test(world::options()));
        let world = World::peopled(Arc::clone(&ledger)).await;
        world.has_device("laptop-2", 2).await;
        world.sets_device("laptop-2", DeviceState::Suspended).await.unwrap();
        let (go_on, begun) = (Arc::new(Semaphore::new(go_on)), Arc::new(Notify::new()));
        let reader = Reader(Arc::clone(&go_on), Arc::clone(&begun));
        let room = Room::new(&ApiLimits { calls: 1, asking_token: 1, tails: 1 });
        Scene { service: Large::new(reader, ledger, room), go_on, begun }
    }

    fn request(spki: u8) -> Request<Body> {
        let certificate = PeerCertificate {
            spki: SpkiHash([spki; 32]),
            sha256: [spki; 32],
            not_before: world::ago(60),
            not_after: world::ahead(60),
            kind: PeerKind::Device,
        };
        let peer = Peer { ip: std::net::Ipv4Addr::LOCALHOST.into(), certificate };
        let mut request = Request::new(Body::new(Full::new(Bytes::from(vec![7; 1_000_000]))));
        request.extensions_mut().insert(peer);
        request
    }

    #[tokio::test]
    async fn what_somebody_sends_who_is_not_let_in_is_not_read() {
        let mut scene = scene(1).await;
        for (spki, read) in [(1, 1_000_000), (2, EMPTY_MESSAGE.len()), (9, EMPTY_MESSAGE.len())] {
            let answer = scene.service.call(request(spki)).await.unwrap();
            assert_eq!(answer.headers()["len"], read.to_string(), "{spki}");
        }
        let nobody = Request::new(Body::new(Full::new(Bytes::from(vec![7; 1_000_000]))));
        assert_eq!(scene.service.call(nobody).await.unwrap().headers()["len"], "5");
    }

    #[tokio::test]
    async fn few_large_requests_are_read_at_once() {
        let mut scene = scene(0).await;
        let mut reading = Vec::new();
        for _ in 0..AT_ONCE {
            reading.push(tokio::spawn(scene.service.call(request(1))));
            scene.begun.notified().await;
        }
        let one_more = scene.service.call(request(1)).await.unwrap();
        let status = Status::from_header_map(one_more.headers()).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        scene.go_on.add_permits(1);
        for one in reading {
            assert_eq!(one.await.unwrap().unwrap().headers()["len"], "1000000");
        }
        let again = scene.service.call(request(1)).await.unwrap();
        assert_eq!(again.headers()["len"], "1000000");
    }
}
