//! The records as a stream of syslog messages (RFC 5424), for whoever watches many systems at once.
//!
//! At least once: what was sent in the moments before a connection broke is sent again. Never in the way of a release: the
//! records are read from the ledger like everybody reads them, and wait there while nobody listens.

mod connection;
mod cursor;
mod message;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use connection::SyslogTarget;

use self::{connection::Connection, cursor::Cursor, message::Format};
use crate::ledger::{Ledger, RecordQuery};

/// Records that are read, and sent, at once.
const PAGE: u32 = 500;

/// After a failure: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long a stream must have gone on for what was sent before to count as received. More than
/// [`connection::UNACKNOWLEDGED`]: until then, the other machine's system has acknowledged it, or the connection is broken.
const SETTLED: Duration = Duration::from_secs(6);

/// Where the stream goes, and where it is remembered how far it is.
#[derive(Clone, Debug)]
pub struct SiemConfig {
    /// Where to.
    pub target: SyslogTarget,
    /// The file with the number of the last record that was received.
    pub cursor: PathBuf,
}

/// How the stream is.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct SiemState {
    /// The last record that was received, as far as is known.
    pub received: u64,
    /// Why nothing is sent; `None` while all is well.
    pub trouble: Option<String>,
}

/// Sends the records.
pub struct Siem {
    ledger: Arc<dyn Ledger>,
    target: SyslogTarget,
    cursor: Cursor,
    format: Format,
    state: watch::Sender<SiemState>,
}

impl Siem {
    /// The stream of this ledger's records. `log` is the name of the log that they are in.
    ///
    /// # Errors
    /// If the file with the last number cannot be read.
    pub fn open(ledger: Arc<dyn Ledger>, config: SiemConfig, log: &str) -> std::io::Result<Self> {
        let cursor = Cursor::at(config.cursor);
        let received = cursor.read()?;
        let state = watch::Sender::new(SiemState { received, trouble: None });
        Ok(Self { ledger, target: config.target, cursor, format: Format::of_log(log), state })
    }

    /// How it is, and a signal for each change.
    pub fn state(&self) -> watch::Receiver<SiemState> {
        self.state.subscribe()
    }

    /// Sends until `ends`.
    pub async fn keep_sending(self, ends: CancellationToken) {
        let mut pause = PAUSES.0;
        loop {
            let before = self.state.borrow().received;
            let why = tokio::select! {
                why = self.send() => why,
                () = ends.cancelled() => return,
            };
            self.note(Some(why));
            // A listener that took something may be back soon.
            pause = if self.state.borrow().received > before { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = ends.cancelled() => return,
            }
        }
    }

    /// Sends over one connection until it breaks. Returns why.
    async fn send(&self) -> String {
        let mut connection = match self.target.connect().await {
            Ok(connection) => connection,
            Err(why) => return why,
        };
        self.note(None);
        let mut news = self.ledger.last_sequence();
        let mut sent = self.state.borrow().received;
        let mut unsettled = VecDeque::new();
        loop {
            news.borrow_and_update();
            let more = match self.send_page(&mut connection, &mut sent).await {
                Ok(more) => more,
                Err(why) => return why,
            };
            if unsettled.back().is_none_or(|(_, last)| *last < sent) && sent > self.state.borrow().received {
                unsettled.push_back((Instant::now(), sent));
            }
            if let Err(error) = self.settle(&mut unsettled, connection.settles_after(SETTLED)) {
                return format!("cannot remember how far it is: {error}");
            }
            if more {
                continue;
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return "the ledger has ended".to_owned() },
                why = connection.breaks() => return why,
                () = tokio::time::sleep(Duration::from_secs(1)), if !unsettled.is_empty() => {}
            }
        }
    }

    /// Sends what is there, up to a page. Whether there is more.
    async fn send_page(&self, connection: &mut Connection, sent: &mut u64) -> Result<bool, String> {
        let query = RecordQuery { beyond: Some(*sent), limit: PAGE, ..RecordQuery::default() };
        let records = self.ledger.records(query).await.map_err(|error| error.0)?;
        for record in &records {
            connection.send(&self.format.message(record)).await?;
        }
        connection.flush().await?;
        if let Some(last) = records.last() {
            *sent = last.sequence;
        }
        Ok(records.len() == PAGE as usize)
    }

    /// Remembers what was sent long enough ago.
    fn settle(&self, unsettled: &mut VecDeque<(Instant, u64)>, after: Duration) -> std::io::Result<()> {
        let mut received = None;
        while let Some((when, sequence)) = unsettled.front()
            && when.elapsed() >= after
        {
            received = Some(*sequence);
            unsettled.pop_front();
        }
        let Some(received) = received else { return Ok(()) };
        self.cursor.write(received)?;
        self.state.send_modify(|state| state.received = received);
        Ok(())
    }

    fn note(&self, trouble: Option<String>) {
        self.state.send_if_modified(|state| {
            if state.trouble == trouble {
                return false;
            }
            match &trouble {
                Some(why) => tracing::warn!("records do not go to the SIEM: {why}"),
                None => tracing::info!("records go to the SIEM"),
            }
            state.trouble.clone_from(&trouble);
            true
        });
    }
}
