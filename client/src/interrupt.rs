//! Ctrl-C: the first one asks jobs to stop and clean up, the second one ends the process.

use std::{io, process, thread};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::error::{Error, Kind, Result};

/// Whether the person asked us to stop. Cheap to clone.
#[derive(Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and SIGHUP from now on, for the life of the process. A SIGHUP that was ignored before
    /// stays ignored: that is what `nohup` asks for.
    ///
    /// # Errors
    /// The signals cannot be listened for.
    pub fn listen() -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let cannot = |error: io::Error| Error::new(Kind::Local, "cannot listen for Ctrl-C", error);
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        let (mut int, mut term, mut hup) = {
            let _inside = runtime.enter();
            let listen = |kind| signal(kind).map_err(cannot);
            let hangup = if hangup_is_ignored() { None } else { Some(listen(SignalKind::hangup())?) };
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, hangup)
        };
        let wait = async move {
            loop {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, () = hung_up(&mut hup) => {} }
                // The second one: do not wait for the job. What it leaves behind is hidden and swept by the next run.
                if stop.send_replace(true) {
                    process::exit(i32::from(Kind::Interrupted.exit_code()));
                }
            }
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(wait))
            .map_err(cannot)?;
        Ok(Self(stopped))
    }

    /// One that never happens.
    pub fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// One that happens when a test says so.
    #[cfg(test)]
    pub(crate) fn by_hand() -> (watch::Sender<bool>, Self) {
        let (stop, stopped) = watch::channel(false);
        (stop, Self(stopped))
    }

    /// Whether it happened.
    pub fn happened(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it happens.
    pub async fn wait(&self) {
        if self.0.clone().wait_for(|stop| *stop).await.is_err() {
            // Nobody is left to ask us to stop.
            std::future::pending::<()>().await;
        }
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether our parent told us to ignore SIGHUP.
fn hangup_is_ignored() -> bool {
    // proc(5): a mask in hexadecimal; the lowest bit is signal 1, SIGHUP.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
