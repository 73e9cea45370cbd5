//! Bringing the write-ahead log back into the file, beside the commits instead of in them.
//!
//! In a large ledger each record touches pages of its own, and bringing thousands of them back takes as long as a hundred
//! commits. SQLite does it in the commit that makes the log long, and everybody waits. So a thread does it earlier, and what is
//! left for that commit is what came meanwhile.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
};

use rusqlite::Connection;

/// Rows that may change before the log is brought back: some thousand pages, fewer in a small ledger.
const ROWS: u64 = 1_000;

/// A round that brought back more pages than this is worth another: as many may have come meanwhile.
const REST: i64 = 200;

/// Wakes the thread. It ends when this is dropped.
pub(super) struct Backfill {
    wake: SyncSender<()>,
    /// Rows that had changed when it was woken last.
    changed: u64,
}

impl Backfill {
    /// Starts the thread on a connection of its own.
    pub(super) fn start(connection: Connection) -> io::Result<(Self, JoinHandle<()>)> {
        let (wake, woken) = sync_channel(1);
        let name = "ledger-backfill".to_owned();
        let thread = thread::Builder::new().name(name).spawn(move || work(&connection, &woken))?;
        Ok((Self { wake, changed: 0 }, thread))
    }

    /// Tells how many rows the writing connection has changed by now.
    pub(super) fn note(&mut self, changed: u64) {
        if changed.saturating_sub(self.changed) < ROWS {
            return;
        }
        match self.wake.try_send(()) {
            // Woken already: it goes on with these, too.
            Ok(()) | Err(TrySendError::Full(())) => self.changed = changed,
            Err(TrySendError::Disconnected(())) => {
                tracing::error!("the ledger's log is not brought back any more")
            }
        }
    }
}

fn work(connection: &Connection, woken: &Receiver<()>) {
    let mut before = 0;
    while woken.recv().is_ok() {
        loop {
            // Passive: never waits for anybody, and nobody for it.
            let pages = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            });
            let (there, back) = match pages {
                Ok(pages) => pages,
                // The commit that makes the log too long tries again; while that fails, too, the log grows.
                Err(error) => {
                    tracing::warn!("the ledger's log is not brought back into its file: {error}");
                    break;
                }
            };
            // The log begins anew when all of it is back.
            let brought = if back >= before { back - before } else { back };
            before = back;
            // A reader holds the rest, or there is little of it.
            if back < there || brought <= REST {
                break;
            }
        }
    }
}
