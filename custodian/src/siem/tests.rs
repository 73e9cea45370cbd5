//! What the stream promises, with a real ledger and real sockets.

use std::{path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::{TcpListener, TcpStream, UnixDatagram},
    task::JoinHandle,
};

use super::*;
use crate::{
    authority::Standing,
    ledger::{Grant, Outcome, SqliteLedger, contract::world},
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn settle(ledger: &SqliteLedger, records: usize) {
    for _ in 0..records {
        let grant = Grant { standing: Standing::default(), change: None };
        let attempt = ledger.begin(world::intent("Unwrap"));
        assert!(ledger.settle(attempt, Outcome::Granted(grant)).await.is_ok());
    }
}

struct Scene {
    directory: tempfile::TempDir,
    ledger: Arc<SqliteLedger>,
}

/// A stream at work.
struct Streaming {
    state: watch::Receiver<SiemState>,
    ends: CancellationToken,
    sending: JoinHandle<()>,
}

impl Scene {
    fn new() -> Self {
        let ledger = Arc::new(SqliteLedger::for_test(world::options()));
        Self { directory: tempfile::tempdir().unwrap(), ledger }
    }

    fn stream(&self, target: SyslogTarget) -> Streaming {
        let config = SiemConfig { target, cursor: self.directory.path().join("cursor") };
        let siem = Siem::open(self.ledger.clone(), config, "log.example/log-1").unwrap();
        let (state, ends) = (siem.state(), CancellationToken::new());
        let sending = tokio::spawn(siem.keep_sending(ends.clone()));
        Streaming { state, ends, sending }
    }
}

impl Streaming {
    async fn until(&mut self, wanted: impl FnMut(&SiemState) -> bool) -> SiemState {
        tokio::time::timeout(PATIENCE, self.state.wait_for(wanted)).await.unwrap().unwrap().clone()
    }

    async fn end(self) {
        self.ends.cancel();
        self.sending.await.unwrap();
    }
}

/// The number of the record in the next message of a stream.
async fn next(stream: &mut BufReader<TcpStream>) -> u64 {
    let mut length = Vec::new();
    stream.read_until(b' ', &mut length).await.unwrap();
    let length: usize = std::str::from_utf8(&length).unwrap().trim_end().parse().unwrap();
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.unwrap();
    sequence(std::str::from_utf8(&message).unwrap())
}

fn sequence(message: &str) -> u64 {
    assert!(message.starts_with("<110>1 20") && message.ends_with("] Unwrap OK"), "{message}");
    let (_, rest) = message.split_once("sequence=\"").unwrap();
    rest.split_once('"').unwrap().0.parse().unwrap()
}

async fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    BufReader::new(tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_sent_and_what_a_broken_connection_may_have_lost_is_sent_again() {
    let scene = Scene::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = || SyslogTarget::Tcp(listener.local_addr().unwrap().to_string());
    settle(&scene.ledger, 700).await;
    let mut streaming = scene.stream(target());
    let mut stream = accept(&listener).await;
    for expected in 1..=700 {
        assert_eq!(next(&mut stream).await, expected);
    }
    settle(&scene.ledger, 3).await;
    assert_eq!(next(&mut stream).await, 701);
    // The listener dies with the rest in its hands.
    drop(stream);
    streaming.until(|state| state.trouble.is_some()).await;
    let mut stream = accept(&listener).await;
    let mut seen = vec![next(&mut stream).await];
    while *seen.last().unwrap() < 703 {
        seen.push(next(&mut stream).await);
    }
    assert!(seen[0] <= 702, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seen:?}");
    // What was acknowledged for long enough is not sent again, not even after a restart.
    assert_eq!(streaming.until(|state| state.received == 703).await.trouble, None);
    streaming.end().await;
    drop(stream);
    settle(&scene.ledger, 1).await;
    let streaming = scene.stream(target());
    assert_eq!(next(&mut accept(&listener).await).await, 704);
    streaming.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_away_or_takes_nothing_is_in_nobodys_way() {
    let scene = Scene::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut streaming = scene.stream(SyslogTarget::Tcp(address));
    // It accepts, and never reads: far more than its buffers hold.
    let _stream = accept(&listener).await;
    tokio::time::timeout(PATIENCE, settle(&scene.ledger, 3_000)).await.unwrap();
    drop(_stream);
    drop(listener);
    let state = streaming.until(|state| state.trouble.is_some()).await;
    assert_eq!(state.received, 0);
    settle(&scene.ledger, 1).await;
    streaming.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_socket_gets_a_datagram_for_each_record() {
    let scene = Scene::new();
    let path = scene.directory.path().join("log");
    let mut streaming = scene.stream(SyslogTarget::Unix(path.clone()));
    streaming.until(|state| state.trouble.is_some()).await;
    settle(&scene.ledger, 20).await;
    let socket = listen(&path);
    for expected in 1..=20 {
        assert_eq!(receive(&socket).await, expected);
    }
    streaming.until(|state| state.received == 20 && state.trouble.is_none()).await;
    streaming.end().await;
    settle(&scene.ledger, 1).await;
    let streaming = scene.stream(SyslogTarget::Unix(path));
    assert_eq!(receive(&socket).await, 21);
    streaming.end().await;
}

fn listen(path: &Path) -> UnixDatagram {
    UnixDatagram::bind(path).unwrap()
}

async fn receive(socket: &UnixDatagram) -> u64 {
    let mut message = vec![0; 65_536];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut message)).await.unwrap().unwrap();
    sequence(std::str::from_utf8(&message[..length]).unwrap())
}

#[test]
fn a_number_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let cursor = directory.path().join("cursor");
    assert_eq!(Cursor::at(cursor.clone()).read().unwrap(), 0);
    Cursor::at(cursor.clone()).write(17).unwrap();
    assert_eq!(Cursor::at(cursor.clone()).read().unwrap(), 17);
    std::fs::write(&cursor, "x").unwrap();
    assert!(Cursor::at(cursor).read().unwrap_err().to_string().contains("all records are sent again"));
}
