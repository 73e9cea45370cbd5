//! Keeps a worker alive: starts it, notices that it is gone or hangs, kills it, starts the next.
//!
//! Runs on an OS thread of its own, for as long as the supervisor lives: Linux ends a child together with the *thread*
//! that started it.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, error, info, warn};

use super::{
    PinSource, StartError, Survey, TokenConfig, TokenKey, WorkerCommand,
    inventory::Inventory,
    link::{Link, read_report},
    logins::Logins,
    outgoing::outgoing,
    patience::Patience,
    supervisor::State,
    wire::{self, Order, Report, Setup, ToWorker},
};

/// How long a worker may take until it serves if a person types the PIN.
const PROMPT_LIMIT: Duration = Duration::from_secs(600);

/// How long a worker may take to end when asked.
const END_LIMIT: Duration = Duration::from_secs(2);

/// How many keys an error names.
const MOST_NAMES: usize = 8;

/// Room for orders that have not been written yet, beyond the worker's own queue.
const SLACK: usize = 64;

/// Learns how the first start went.
type Started = oneshot::Sender<Result<(), StartError>>;

pub(super) struct Keeper {
    pub(super) command: WorkerCommand,
    pub(super) config: TokenConfig,
    pub(super) logins: Logins,
    pub(super) state: watch::Sender<State>,
    pub(super) stop: CancellationToken,
    pub(super) restarts: Arc<AtomicU32>,
    pub(super) inventory: Arc<Inventory>,
    /// The runtime of those who use the token. The socket is read and written there.
    pub(super) callers: Handle,
}

/// A worker that serves.
struct Running {
    child: Child,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    survey: Survey,
}

impl Keeper {
    /// The thread's life. `started` learns how the first start went; if it failed there is no second.
    pub(super) fn run(self, started: Started) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.keep(started)),
            Err(error) => {
                let why = StartError::Worker(format!("cannot watch over a token worker: {error}"));
                // Whoever started us may have given up.
                drop(started.send(Err(why)));
            }
        }
        self.state.send_replace(State::Ended);
    }

    async fn keep(&self, started: Started) {
        let mut started = Some(started);
        let mut patience = Patience::new();
        loop {
            let turn = tokio::select! {
                turn = self.logins.turn() => turn,
                () = self.stop.cancelled() => return,
            };
            let begun = Instant::now();
            let launched = match turn {
                Ok(turn) => {
                    let launched = self.launch(patience.limit()).await;
                    turn.ended(&launched);
                    launched
                }
                Err(refused) => Err(refused),
            };
            match launched {
                Ok(running) => {
                    patience.started(begun.elapsed());
                    let since = Instant::now();
                    let Some(why) = self.serve(running, started.take()).await else { return };
                    warn!(reason = why, "the token worker is replaced");
                    self.restarts.fetch_add(1, Ordering::Relaxed);
                    patience.ended(since.elapsed());
                }
                Err(error) => {
                    if let Some(started) = started.take() {
                        // Whoever started us may have given up.
                        drop(started.send(Err(error)));
                        return;
                    }
                    if matches!(error, StartError::Pin(_)) {
                        error!(reason = %error, "the token refuses the PIN; no worker is started any more");
                        self.state.send_replace(State::Down { why: error.to_string().into() });
                        return self.stop.cancelled().await;
                    }
                    warn!(reason = %error, "no token worker could be started; trying again");
                    self.state.send_replace(State::Down { why: error.to_string().into() });
                    patience.failed(begun.elapsed());
                }
            }
            tokio::select! {
                () = sleep(patience.pause()) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Serves with one worker until it is no good any more: says why. `None` if it is to stop.
    async fn serve(&self, running: Running, started: Option<Started>) -> Option<String> {
        let Running { child, reader, writer, survey } = running;
        let (outgoing, rest) = outgoing(writer, self.config.queue.saturating_add(SLACK));
        let (stuck, mut complaints) = mpsc::channel(1);
        let link = Arc::new(Link::new(outgoing, stuck, Arc::clone(&self.inventory)));
        info!(
            pid = child.id(),
            token = survey.label,
            model = survey.model,
            wrapping = %survey.wrapping,
            keys = survey.keys.len(),
            cage = survey.cage.holds.join(", "),
            "the token worker serves"
        );
        if started.is_some() {
            survey.cage.gaps.iter().for_each(|gap| warn!("the worker's cage has a gap: {gap}"));
        }
        for reason in &survey.unserved {
            warn!("not served: {reason}");
        }
        for remark in &survey.remarks {
            warn!("{remark}");
        }
        let pid = child.id();
        self.state.send_replace(State::Serving { link: Arc::clone(&link), pid });
        if let Some(started) = started {
            // Whoever started us may have given up: then we are stopped, too.
            drop(started.send(Ok(())));
        }
        // Where the callers run: an answer wakes them there, and no other thread in between.
        let mut listening = AbortOnDropHandle::new(self.callers.spawn(Arc::clone(&link).listen(reader)));
        let why = tokio::select! {
            why = &mut listening => Some(why.unwrap_or_else(|error| format!("its answers are not read: {error}"))),
            why = rest.write() => Some(why),
            Some(why) = complaints.recv() => Some(why),
            () = self.stop.cancelled() => None,
        };
        // In this order: who finds the line closed must not find it in the state again.
        match why {
            Some(_) => self.state.send_replace(State::Restarting),
            None => self.state.send_replace(State::Ended),
        };
        link.close();
        drop(listening);
        match why {
            None => {
                end(child, END_LIMIT).await;
                None
            }
            Some(why) => {
                let how = end(child, Duration::ZERO).await;
                Some(match how {
                    Some(status) => format!("{why} ({status})"),
                    None => why,
                })
            }
        }
    }

    /// Starts a worker and waits until it serves, up to this long unless a person types the PIN.
    async fn launch(&self, limit: Duration) -> Result<Running, StartError> {
        let program = self.command.program.display().to_string();
        let cannot = |error: io::Error| {
            StartError::Worker(format!("cannot start the token worker {program}: {error}"))
        };
        let (ours, theirs) = StdStream::pair().map_err(cannot)?;
        ours.set_nonblocking(true).map_err(cannot)?;
        let child = Command::new(&self.command.program)
            .args(&self.command.args)
            .envs(&self.config.environment)
            .stdin(OwnedFd::from(theirs))
            // Modules print. Our standard output is data.
            .stdout(Stdio::null())
            .spawn()
            .map_err(cannot)?;
        debug!(pid = child.id(), "started a token worker");
        let socket = {
            let _entered = self.callers.enter();
            UnixStream::from_std(ours).map_err(cannot)?
        };
        let (mut reader, mut writer) = socket.into_split();
        let limit = if self.config.pin == PinSource::Prompt { PROMPT_LIMIT } else { limit };
        let ready = tokio::select! {
            ready = timeout(limit, self.greet(&mut reader, &mut writer)) => ready,
            () = self.stop.cancelled() => Ok(Err(Greeting::Failed(StartError::Worker("stopped".to_owned())))),
        };
        let module = self.config.module.display();
        let error = match ready {
            Ok(Ok(survey)) => {
                let missing = self.inventory.missing_from(&survey);
                if missing.is_empty() {
                    self.inventory.update(survey.clone());
                    return Ok(Running { child, reader, writer, survey });
                }
                drop((reader, writer));
                end(child, END_LIMIT).await;
                return Err(StartError::Token(lost(&missing, &survey)));
            }
            Ok(Err(Greeting::Failed(error))) => {
                end(child, END_LIMIT).await;
                return Err(error);
            }
            Ok(Err(Greeting::Broken(error))) => {
                let how = end(child, END_LIMIT).await;
                let how = how.map_or_else(|| "still running".to_owned(), |status| status.to_string());
                format!(
                    "the token worker ended before it served ({error}; {how}). The module {module} may not be made for \
                     this machine: check it with pkcs11-tool --module {module} --list-slots"
                )
            }
            Err(_) => {
                end(child, Duration::ZERO).await;
                format!(
                    "the token worker did not serve within {limit:?}. The module {module} may wait for a device or a \
                     network: check it with pkcs11-tool --module {module} --list-slots"
                )
            }
        };
        Err(StartError::Worker(error))
    }

    async fn greet(
        &self,
        reader: &mut OwnedReadHalf,
        writer: &mut OwnedWriteHalf,
    ) -> Result<Survey, Greeting> {
        use tokio::io::AsyncWriteExt;
        let setup = Setup::new(&self.config, self.config.threads());
        let setup = wire::frame(&ToWorker { order: Some(Order::Setup(setup)) });
        writer.write_all(&setup).await.map_err(Greeting::Broken)?;
        match read_report(reader).await.map_err(Greeting::Broken)? {
            Report::Ready(survey) => survey.into_survey().ok_or_else(|| Greeting::Broken(wire::nonsense())),
            Report::NotReady(reason) => Err(Greeting::Failed(reason.into())),
            Report::Answer(_) | Report::Sick(_) => Err(Greeting::Broken(wire::nonsense())),
        }
    }
}

/// What to say of a token that no longer serves keys that it served before.
fn lost(missing: &[TokenKey], survey: &Survey) -> String {
    let mut names: Vec<_> =
        missing.iter().take(MOST_NAMES).map(|key| format!("{:?} ({})", key.label, key.id)).collect();
    if missing.len() > MOST_NAMES {
        names.push(format!("and {} more", missing.len() - MOST_NAMES));
    }
    let unserved = match &survey.unserved[..] {
        [] => String::new(),
        reasons => format!(" Not served: {}.", reasons.join("; ")),
    };
    format!(
        "the token {:?} no longer has keys that it served before: {}.{unserved} Nothing was forgotten, and the token is \
         tried again by itself. Bring its storage back; if a key was destroyed on purpose, restart the custodian",
        survey.label,
        names.join(", ")
    )
}

/// How a worker did not come to serve.
enum Greeting {
    /// It said why.
    Failed(StartError),
    /// It did not.
    Broken(io::Error),
}

/// Waits for the child's end for `patience`, then kills it. `None` if even that does not end it: a process inside an
/// uninterruptible system call.
async fn end(mut child: Child, patience: Duration) -> Option<ExitStatus> {
    if let Some(status) = wait(&mut child, patience).await {
        return Some(status);
    }
    if let Err(error) = child.kill() {
        warn!(pid = child.id(), %error, "cannot kill the token worker");
    }
    let status = wait(&mut child, END_LIMIT).await;
    if status.is_none() {
        error!(pid = child.id(), "the token worker does not die: it is left behind");
    }
    status
}

async fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + patience;
    let mut step = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => {}
            Ok(None) => return None,
            Err(error) => {
                warn!(pid = child.id(), %error, "cannot wait for the token worker");
                return None;
            }
        }
        sleep(step).await;
        step = (step * 2).min(Duration::from_millis(20));
    }
}
