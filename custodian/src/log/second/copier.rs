//! The copier: brings each record to the second place as soon as it is durable in the ledger, and each checkpoint after it.
//!
//! It has a thread of its own: another machine can hang for ever, and nothing else may hang with it.

use std::{io, path::PathBuf, sync::Arc, thread, time::Duration};

use custodian_proto::tlog::{
    Checkpoint,
    tiles::{Edge, WIDTH},
};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    CopyConfig, CopyError, CopyState, Place,
    growing::Growing,
    store::{self, Store},
};
use crate::{
    ledger::{Ledger, LedgerError},
    log::Log,
};

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// How long the second place may take to be looked at, at the start.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// How long the last records may take to get there, at the end.
const LAST_RECORDS: Duration = Duration::from_secs(5);

/// Copies the log to the second place.
pub struct Copier {
    ledger: Arc<dyn Ledger>,
    log: Arc<Log>,
    config: CopyConfig,
    /// `None` until it was looked at, and after a failure.
    copy: Option<Growing>,
    state: watch::Sender<CopyState>,
    runtime: Handle,
}

/// A copier at work.
pub struct Copying {
    ended: oneshot::Receiver<()>,
}

impl From<LedgerError> for CopyError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error.0)
    }
}

impl Copier {
    /// Looks at the second place. One that cannot be reached is tried again later.
    ///
    /// # Errors
    /// [`CopyError::Foreign`]: what is there is not the beginning of this log.
    pub async fn open(ledger: Arc<dyn Ledger>, log: Arc<Log>, config: CopyConfig) -> Result<Self, CopyError> {
        let state = watch::Sender::new(CopyState::default());
        let mut copier = Self { ledger, log, config, copy: None, state, runtime: Handle::current() };
        let (sender, looked) = oneshot::channel();
        let look = {
            let (ledger, log) = (Arc::clone(&copier.ledger), Arc::clone(&copier.log));
            let (config, runtime) = (copier.config.clone(), copier.runtime.clone());
            move || {
                // Who waited may have given up.
                sender.send(resume(&config.place, ledger.as_ref(), &log, &runtime)).ok();
            }
        };
        let io = |error| CopyError::Io { path: PathBuf::from(copier.config.place.to_string()), error };
        thread::Builder::new().name("log-copy-look".to_owned()).spawn(look).map_err(io)?;
        let looked = match tokio::time::timeout(FIRST_LOOK, looked).await {
            Ok(Ok(looked)) => looked,
            Ok(Err(_)) | Err(_) => Err(io(io::Error::from(io::ErrorKind::TimedOut))),
        };
        match looked {
            Err(foreign @ CopyError::Foreign(_)) => return Err(foreign),
            looked => {
                let looked = looked.map(|copy| {
                    copier.state.send_modify(|state| state.copied = copy.durable());
                    copier.copy = Some(copy);
                });
                copier.note(looked);
            }
        }
        Ok(copier)
    }

    /// How the copy is, and a signal for each change.
    pub fn state(&self) -> watch::Receiver<CopyState> {
        self.state.subscribe()
    }

    /// Copies until `ends`, and then what there is by then.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(self, ends: CancellationToken) -> io::Result<Copying> {
        let (sender, ended) = oneshot::channel();
        let work = move || {
            self.run(&ends);
            // Who waited may have given up.
            sender.send(()).ok();
        };
        thread::Builder::new().name("log-copy".to_owned()).spawn(work)?;
        Ok(Copying { ended })
    }

    fn run(mut self, ends: &CancellationToken) {
        let (mut records, mut log) = (self.ledger.last_sequence(), self.log.state());
        loop {
            let last_time = ends.is_cancelled();
            let last = *records.borrow_and_update();
            let newest = log.borrow_and_update().best();
            let copied =
                self.copy(last, newest.as_ref().map(|signed| (&signed.checkpoint, signed.note.as_str())));
            let well = copied.is_ok();
            self.note(copied);
            if last_time {
                return;
            }
            self.runtime.block_on(async {
                if !well {
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        () = ends.cancelled() => {}
                    }
                    return;
                }
                // Both go on for as long as the custodian does.
                tokio::select! {
                    changed = records.changed() => if changed.is_err() { ends.cancelled().await },
                    changed = log.changed() => if changed.is_err() { ends.cancelled().await },
                    () = ends.cancelled() => {}
                }
            });
        }
    }

    /// Copies the records up to number `last`, and then the checkpoint.
    fn copy(&mut self, last: u64, newest: Option<(&Checkpoint, &str)>) -> Result<(), CopyError> {
        // Out of here while it is worked with: a failure leaves it behind, to be looked at again.
        let mut copy = match self.copy.take() {
            Some(copy) => copy,
            None => resume(&self.config.place, self.ledger.as_ref(), &self.log, &self.runtime)?,
        };
        while copy.size() < last {
            let count = u64::try_from(copy.room()).unwrap_or(u64::MAX).min(last - copy.size());
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let entries = self.runtime.block_on(self.ledger.entries(copy.size(), count))?;
            if entries.is_empty() {
                return Err(CopyError::Ledger(format!("record {} is gone", copy.size() + 1)));
            }
            copy.append(&entries)?;
            self.state.send_modify(|state| state.copied = copy.durable());
        }
        if let Some((checkpoint, note)) = newest
            && copy.note() != Some(note)
            && copy.size() >= checkpoint.size
        {
            copy.sign(checkpoint, note)?;
        }
        self.copy = Some(copy);
        Ok(())
    }

    /// Lets the status know, and the operator, but not every second.
    fn note(&self, copied: Result<(), CopyError>) {
        let trouble = copied.err().map(|error| error.to_string());
        self.state.send_if_modified(|state| {
            if state.trouble == trouble {
                return false;
            }
            match &trouble {
                Some(why) => tracing::error!("no records of the log go to the second place: {why}"),
                None => tracing::info!("records of the log go to the second place again"),
            }
            state.trouble.clone_from(&trouble);
            true
        });
    }
}

impl Copying {
    /// Waits until the last records are there, once it was told to end. Not for ever: the second place may hang.
    pub async fn end(self) {
        if !matches!(tokio::time::timeout(LAST_RECORDS, self.ended).await, Ok(Ok(()))) {
            tracing::error!("the last records of the log are not in the second place yet; they will follow");
        }
    }
}

/// Goes on with what is in the second place, if it is the beginning of our log: the records that its checkpoint is of by their
/// tree, and those after it one by one.
fn resume(place: &Place, ledger: &dyn Ledger, log: &Log, runtime: &Handle) -> Result<Growing, CopyError> {
    let mut store = store::open(place, runtime)?;
    let note = store.checkpoint()?;
    let signed = match &note {
        Some(note) => the_beginning(store.as_ref(), note, ledger, log, runtime)?,
        None => 0,
    };
    let first = signed / WIDTH as u64;
    let mut found = signed;
    for index in first.. {
        let Some(copied) = store.bundle(index)? else { break };
        let before = index * WIDTH as u64;
        let count = u32::try_from(copied.len()).unwrap_or(u32::MAX);
        let ours = runtime.block_on(ledger.entries(before, count))?;
        let same = copied.iter().zip(&ours).take_while(|(theirs, ours)| theirs == ours).count();
        if same < copied.len() {
            let record = before + same as u64 + 1;
            return Err(CopyError::Foreign(if same == ours.len() {
                format!(
                    "{} has record {record}, and the ledger does not: an old copy of the ledger is in its place. Keep both; \
                     docs/operations.md tells what to do",
                    store.shown()
                )
            } else {
                format!(
                    "{} has another record {record} than the ledger: one of them was changed. Keep both",
                    store.shown()
                )
            }));
        }
        found = found.max(before + u64::from(count));
        if copied.len() < WIDTH {
            break;
        }
    }
    let edge = Edge::load(first * WIDTH as u64, |tile| {
        runtime.block_on(ledger.tile(tile)).map_err(|error| EdgeError(error.0))
    });
    Ok(Growing::new(store, edge.map_err(|error| CopyError::Ledger(error.0))?, note, found))
}

/// The size of the checkpoint in the second place, which must be ours and of the beginning of the ledger's log.
fn the_beginning(
    store: &dyn Store,
    note: &str,
    ledger: &dyn Ledger,
    log: &Log,
    runtime: &Handle,
) -> Result<u64, CopyError> {
    let foreign = |why: String| Err(CopyError::Foreign(format!("{}: {why}", store.shown())));
    let checkpoint = match Checkpoint::open(note, log.verifier()) {
        Ok(checkpoint) => checkpoint,
        Err(flaw) => {
            return foreign(format!("its checkpoint is not one of this log ({flaw}). Give an empty folder"));
        }
    };
    let records = *ledger.last_sequence().borrow();
    if checkpoint.size > records {
        return foreign(format!(
            "it has {} records, and the ledger only {records}: an old copy of the ledger is in its place. Keep both; \
             docs/operations.md tells what to do",
            checkpoint.size
        ));
    }
    let ours = runtime.block_on(ledger.tree_head(Some(checkpoint.size)))?;
    if ours.root != checkpoint.root {
        return foreign(format!(
            "its first {} records are not those of the ledger: one of them was rewritten. Keep both",
            checkpoint.size
        ));
    }
    Ok(checkpoint.size)
}

struct EdgeError(String);

impl From<custodian_proto::tlog::Flaw> for EdgeError {
    fn from(flaw: custodian_proto::tlog::Flaw) -> Self {
        Self(flaw.to_string())
    }
}
