//! What witnesses bring, with a witness of our own behind real HTTP.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use custodian_proto::tlog::{Checkpoint, Hash, VerifierKey, merkle, witness::AddCheckpoint};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{super::tests::Scene, *};

/// What a witness makes of everybody.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Honest,
    Says(StatusCode, &'static str),
}

/// A witness that remembers one checkpoint.
struct Double {
    pair: Ed25519KeyPair,
    key: CosignerKey,
    log: VerifierKey,
    last: Mutex<(u64, Hash)>,
    mood: Mutex<Mood>,
}

impl Double {
    fn answer(&self, text: &str) -> (StatusCode, String) {
        if let Mood::Says(status, text) = *self.mood.lock().unwrap_or_else(PoisonError::into_inner) {
            return (status, text.to_owned());
        }
        let request: AddCheckpoint = text.parse().unwrap();
        let checkpoint = Checkpoint::open(&request.checkpoint, &self.log).unwrap();
        let mut last = self.last.lock().unwrap();
        if request.old != last.0 {
            return (StatusCode::CONFLICT, format!("{}\n", last.0));
        }
        let new = (checkpoint.size, &checkpoint.root);
        merkle::verify_consistency((last.0, &last.1), new, &request.proof).unwrap();
        *last = (checkpoint.size, checkpoint.root);
        let time = Timestamp::now().as_second().unsigned_abs();
        let signature = self.pair.sign(cosignature::message(time, &checkpoint.text()).as_bytes());
        (StatusCode::OK, self.key.line(time, signature.as_ref().try_into().unwrap()))
    }

    async fn serve(log: &VerifierKey, name: &str) -> (Arc<Self>, WitnessConfig) {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = CosignerKey::new(name, pair.public_key().as_ref().try_into().unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/{name}", listener.local_addr().unwrap()).parse().unwrap();
        let config = WitnessConfig { key: key.clone(), url, ca: None };
        let last = Mutex::new((0, Hash::of_empty_tree()));
        let double = Arc::new(Self { pair, key, log: log.clone(), last, mood: Mutex::new(Mood::Honest) });
        let served = Arc::clone(&double);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let double = Arc::clone(&served);
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let double = Arc::clone(&double);
                    async move {
                        let body = request.into_body().collect().await?.to_bytes();
                        let (status, text) = double.answer(std::str::from_utf8(&body).unwrap());
                        let mut response = Response::new(Full::new(Bytes::from(text)));
                        *response.status_mut() = status;
                        Ok::<_, hyper::Error>(response)
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        (double, config)
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

/// Witnesses that are being asked.
struct Asking {
    ends: CancellationToken,
    rounds: tokio::task::JoinHandle<()>,
}

impl Asking {
    async fn end(self) {
        self.ends.cancel();
        self.rounds.await.unwrap();
    }
}

/// A log with these witnesses, which are being asked.
async fn watched(scene: Scene, witnesses: Vec<WitnessConfig>) -> (Scene, Asking) {
    let scene = scene.watched_by(witnesses).await;
    let ends = CancellationToken::new();
    let rounds = Arc::clone(&scene.log).keep_cosigned(std::time::Duration::from_millis(500), ends.clone());
    let rounds = tokio::spawn(rounds);
    (scene, Asking { ends, rounds })
}

fn cosigners(note: &str, witnesses: &[WitnessConfig]) -> usize {
    cosigned(note, witnesses).len()
}

const HOUR: SignedDuration = SignedDuration::from_hours(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_and_checkpoints_carry_the_cosignatures_and_a_restart_keeps_them() {
    let scene = Scene::new().await;
    let (_one, first) = Double::serve(scene.log.verifier(), "one.example").await;
    let (_two, second) = Double::serve(scene.log.verifier(), "two.example").await;
    let witnesses = vec![first, second];
    let (scene, asking) = watched(scene, witnesses.clone()).await;
    for sequence in 1..=3 {
        assert_eq!(scene.settle().await, sequence);
        let receipt = scene.log.receipt(sequence).await.unwrap_or_else(|denial| panic!("{denial}"));
        assert_eq!(cosigners(&receipt.checkpoint, &witnesses), 2, "{}", receipt.checkpoint);
        assert!(receipt.verify(scene.log.verifier()).unwrap().size >= sequence);
    }
    let newest = scene.log.checkpoint().await.unwrap();
    assert_eq!(cosigners(&newest.note, &witnesses), 2);
    assert_eq!(scene.log.cosigners(HOUR, Timestamp::now()), 2);
    assert_eq!(scene.log.cosigners(HOUR, Timestamp::now() + HOUR * 2), 0, "they grow old");
    assert_eq!(
        scene.log.cosigners(HOUR, Timestamp::now() - HOUR * 2),
        0,
        "and a clock that is far off is no proof"
    );
    scene.until(|state| state.collected >= 3).await;
    // Kept with the checkpoint, durably, before the round ends.
    asking.end().await;
    let scene = scene.restart().await.watched_by(witnesses.clone()).await;
    assert_eq!(scene.log.cosigners(HOUR, Timestamp::now()), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_does_not_cosign_is_named_and_stops_nothing() {
    let scene = Scene::new().await;
    let (one, first) = Double::serve(scene.log.verifier(), "one.example").await;
    let (_two, second) = Double::serve(scene.log.verifier(), "two.example").await;
    let (scene, _asking) = watched(scene, vec![first.clone(), second.clone()]).await;
    scene.settle().await;
    scene.until(|state| state.witnesses.iter().all(|witness| witness.size == 1)).await;
    one.becomes(Mood::Says(StatusCode::UNPROCESSABLE_ENTITY, ""));
    let sequence = scene.settle().await;
    let state = scene.until(|state| state.witnesses[0].trouble.is_some()).await;
    let told = state.witnesses[0].trouble.clone().unwrap();
    assert!(told.contains("does not begin with the 1 records"), "{told}");
    let receipt = scene.log.receipt(sequence).await.unwrap_or_else(|denial| panic!("{denial}"));
    assert_eq!(cosigners(&receipt.checkpoint, &[first, second]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_has_seen_more_than_the_ledger_has_gives_the_rollback_away() {
    for (status, answer, told) in [
        (StatusCode::CONFLICT, "7\n", "it has cosigned 7 records of this log, and we have signed for only 1"),
        (StatusCode::CONFLICT, "0\n", "it has cosigned another log of 0 records"),
        (StatusCode::CONFLICT, "x", "does not tell how many"),
        (StatusCode::NOT_FOUND, "", "does not watch this log"),
        (StatusCode::FORBIDDEN, "", "knows another key"),
        (StatusCode::OK, "", "no right signature"),
        (StatusCode::INTERNAL_SERVER_ERROR, "", "HTTP status 500"),
    ] {
        let scene = Scene::new().await;
        let (one, config) = Double::serve(scene.log.verifier(), "one.example").await;
        one.becomes(Mood::Says(status, answer));
        let (scene, _asking) = watched(scene, vec![config]).await;
        scene.settle().await;
        let state = scene.until(|state| state.witnesses[0].trouble.is_some()).await;
        assert!(state.witnesses[0].trouble.as_ref().unwrap().contains(told), "{:?}", state.witnesses[0]);
        assert_eq!(scene.log.cosigners(HOUR, Timestamp::now()), 0);
        assert!(scene.log.receipt(1).await.is_ok(), "receipts go on without");
    }
}
