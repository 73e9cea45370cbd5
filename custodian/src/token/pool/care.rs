//! Looking after a token of the pool: it is started again while it is away, and tried by a canary when it is idle or sick.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    breaker::Moved,
    line::Line,
    member::{Member, Readiness},
    seat::Seat,
};
use crate::token::StartError;

/// How fast things are noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::token) struct Tempo {
    /// A worker that nothing was asked of for so long is tried by a canary.
    pub(in crate::token) idle: Duration,
    /// How long a canary may take.
    pub(in crate::token) canary: Duration,
    /// The pause after the first failed start or canary; doubles with each further one.
    pub(in crate::token) first_pause: Duration,
    /// The longest such pause.
    pub(in crate::token) longest_pause: Duration,
}

impl Default for Tempo {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(5),
            canary: Duration::from_secs(2),
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(10),
        }
    }
}

/// Looks after one token until `stop`. `changed` is told whatever may let an operation pass that could not before.
pub(super) async fn look_after(
    seat: Arc<Seat>,
    tempo: Tempo,
    changed: watch::Sender<u64>,
    stop: CancellationToken,
) {
    let work = async {
        let mut lines = JoinSet::new();
        let keep = |line: &Arc<Line>, lines: &mut JoinSet<()>| {
            if let Some(member) = line.member() {
                let care =
                    Care { seat: Arc::clone(&seat), line: Arc::clone(line), tempo, changed: changed.clone() };
                lines.spawn(care.keep(Arc::clone(member)));
            }
        };
        let (started, missing): (Vec<_>, Vec<_>) =
            seat.lines.iter().partition(|line| line.member().is_some());
        started.into_iter().for_each(|line| keep(line, &mut lines));
        // One after the other: a PIN that is wrong is wrong for all of them, and must not be tried for each.
        for line in missing {
            if start(&seat, line, tempo).await.is_err() {
                break;
            }
            changed.send_modify(|count| *count += 1);
            keep(line, &mut lines);
        }
        while lines.join_next().await.is_some() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// The token refuses the PIN: no further start.
#[derive(Debug)]
pub(super) struct Refused;

/// Starts a worker, however often it takes.
pub(super) async fn start(seat: &Seat, line: &Line, tempo: Tempo) -> Result<(), Refused> {
    if seat.is_refused() {
        return Err(Refused);
    }
    let mut pause = tempo.first_pause;
    loop {
        sleep(pause).await;
        match line.start().await {
            Ok(()) => {
                info!(token = %seat.name, "the token that was away serves");
                return Ok(());
            }
            Err(StartError::Pin(reason)) => {
                error!(token = %seat.name, %reason, "the token refuses the PIN; it is not tried any more");
                seat.refuse();
                return Err(Refused);
            }
            Err(reason) => warn!(token = %seat.name, %reason, "the token is away; trying again"),
        }
        pause = (pause * 2).min(tempo.longest_pause);
    }
}

/// What looks after one worker.
struct Care {
    seat: Arc<Seat>,
    line: Arc<Line>,
    tempo: Tempo,
    changed: watch::Sender<u64>,
}

impl Care {
    async fn keep(self, member: Arc<dyn Member>) {
        let mut readiness = member.readiness();
        let mut pause = self.tempo.first_pause;
        loop {
            let wait = if self.line.is_closed() { self.tempo.idle } else { pause };
            tokio::select! {
                other = member.other_than(&readiness) => {
                    readiness = other;
                    pause = self.tempo.first_pause;
                    self.tell();
                }
                () = self.line.opened.notified() => {
                    warn!(token = %self.seat.name, "operations fail: none are given to this worker until a test succeeds");
                }
                () = sleep(wait) => {}
            }
            // A token under maintenance is left alone.
            let ready = readiness == Readiness::Ready && self.seat.drain().is_none();
            if !ready || !self.line.wants_canary(&self.tempo) {
                continue;
            }
            match self.line.try_canary(&self.tempo).await {
                None => {}
                Some(Ok(Moved::No)) => pause = self.tempo.first_pause,
                Some(Ok(Moved::Yes)) => {
                    info!(token = %self.seat.name, "a test succeeds: operations are given to this worker again");
                    pause = self.tempo.first_pause;
                    self.tell();
                }
                Some(Err(reason)) => {
                    warn!(token = %self.seat.name, reason, "a test fails: no operations are given to this worker");
                    pause = (pause * 2).min(self.tempo.longest_pause);
                    self.tell();
                }
            }
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}
