//! Reading: threads with a read-only connection each, so that no read ever holds up the async runtime.

use std::{
    fmt::Display,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use custodian_proto::tlog::nodes::Subtrees;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::ledger::LedgerError;

/// What a thread reads with: its connection, and what it knows of the log's tree already.
type Job = Box<dyn FnOnce(&Connection, &mut Subtrees) + Send>;

/// Threads that read. They end when this is dropped.
pub(super) struct Readers {
    jobs: SyncSender<Job>,
    deadline: Duration,
}

impl Readers {
    /// Starts a thread for each connection.
    pub(super) fn start(
        connections: Vec<Connection>,
        queue: usize,
        deadline: Duration,
    ) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let (jobs, queued) = sync_channel(queue);
        let queued = Arc::new(Mutex::new(queued));
        let threads = connections.into_iter().map(|connection| {
            let queued = Arc::clone(&queued);
            let name = "ledger-read".to_owned();
            thread::Builder::new().name(name).spawn(move || serve(&connection, &queued))
        });
        let threads = threads.collect::<io::Result<_>>()?;
        Ok((Self { jobs, deadline }, threads))
    }

    /// Runs `read` on one of the threads. Answers by the deadline; what nobody waits for any more is not begun.
    pub(super) async fn read<T: Send + 'static, E: Display + Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.read_tree(move |connection, _| read(connection)).await
    }

    /// The same of the log's tree. Each thread keeps subtrees of its own: so nobody waits for what another one reads.
    pub(super) async fn read_tree<T: Send + 'static, E: Display + Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, &mut Subtrees) -> Result<T, E> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let job = move |connection: &Connection, subtrees: &mut Subtrees| {
            if !reply.is_closed() {
                // The caller may have given up meanwhile: then nobody misses the answer.
                drop(reply.send(read(connection, subtrees)));
            }
        };
        self.jobs.try_send(Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) => LedgerError("too many reads are waiting".to_owned()),
            TrySendError::Disconnected(_) => stopped(),
        })?;
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(Ok(rows)) => rows.map_err(|error| LedgerError(format!("cannot read: {error}"))),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(LedgerError(format!("no read within {:?}", self.deadline))),
        }
    }
}

fn serve(connection: &Connection, queued: &Mutex<Receiver<Job>>) {
    let mut subtrees = Subtrees::default();
    loop {
        let next = queued.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        job(connection, &mut subtrees);
    }
}

fn stopped() -> LedgerError {
    LedgerError("its readers have stopped; restart the custodian".to_owned())
}
