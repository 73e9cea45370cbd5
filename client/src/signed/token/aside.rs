//! A thread of its own for a library that may hang: whoever waits for it hears the person, too.

use std::{
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use tokio::{runtime, sync::oneshot};

use super::cannot_sign;
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
};

/// How long the library may take to put its things away. Longer, and the process ends without that.
const PATIENCE: Duration = Duration::from_secs(2);

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread that has something which never leaves it, and does one thing after the other with it.
pub(super) struct Aside<S> {
    jobs: Option<mpsc::Sender<Job<S>>>,
    /// Tells that the thread put its things away.
    ended: Mutex<mpsc::Receiver<()>>,
    interrupt: Interrupt,
}

impl<S: 'static> Aside<S> {
    /// Starts a thread, which makes what it has. Returns also what it first says of it.
    ///
    /// # Errors
    /// Those of `make`; [`Kind::Interrupted`]; [`Kind::Local`] if there is no thread to be had.
    pub(super) fn start<T: Send + 'static>(
        interrupt: &Interrupt,
        make: impl FnOnce() -> Result<(S, T)> + Send + 'static,
    ) -> Result<(Self, T)> {
        let (jobs, wanted) = mpsc::channel::<Job<S>>();
        let (end, ended) = mpsc::channel();
        let (made, first) = oneshot::channel();
        let work = move || {
            match make() {
                Ok((mut own, said)) => {
                    // Nobody waits any longer: there is nothing to do either.
                    if made.send(Ok(said)).is_ok() {
                        wanted.into_iter().for_each(|job| job(&mut own));
                    }
                    drop(own);
                }
                Err(error) => drop(made.send(Err(error))),
            }
            end.send(()).ok();
        };
        thread::Builder::new().name("token".into()).spawn(work).map_err(cannot_sign)?;
        let said = wait(interrupt, first)??;
        Ok((Self { jobs: Some(jobs), ended: Mutex::new(ended), interrupt: interrupt.clone() }, said))
    }

    /// Has something done, and waits for it.
    ///
    /// # Errors
    /// [`Kind::Interrupted`]; [`Kind::Local`] if the thread ended.
    pub(super) fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job<S> = Box::new(move |own| drop(answer.send(job(own))));
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job).map_err(|_| gone())?;
        wait(&self.interrupt, answered)
    }
}

impl<S> Drop for Aside<S> {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Ok(ended) = self.ended.get_mut() {
            // Whether it did or not, the process goes on to its end.
            ended.recv_timeout(PATIENCE).ok();
        }
    }
}

fn wait<T>(interrupt: &Interrupt, answer: oneshot::Receiver<T>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().build().map_err(cannot_sign)?;
    runtime.block_on(async {
        tokio::select! {
            answer = answer => answer.map_err(|_| gone()),
            () = interrupt.wait() => {
                Err(Error::new(Kind::Interrupted, "cannot sign with the token", "interrupted"))
            }
        }
    })
}

fn gone() -> Error {
    cannot_sign("the thread that has the token ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_hangs_keeps_nobody_who_was_interrupted() {
        let (stop, interrupt) = Interrupt::by_hand();
        let (aside, said) = Aside::start(&interrupt, || Ok((7, "made"))).unwrap();
        assert_eq!((said, aside.call(|own| *own).unwrap()), ("made", 7));
        let (release, hold) = mpsc::channel::<()>();
        stop.send_replace(true);
        let error = aside.call(move |_| hold.recv().ok()).unwrap_err();
        assert_eq!(error.kind, Kind::Interrupted);
        drop(release);
    }

    #[test]
    fn what_cannot_be_made_is_told_and_a_thread_that_is_gone_too() {
        let made: Result<(Aside<()>, ())> = Aside::start(&Interrupt::never(), || Err(cannot_sign("no card")));
        assert_eq!(made.err().unwrap().why, "no card");
        let (aside, ()) = Aside::start(&Interrupt::never(), || Ok(((), ()))).unwrap();
        let error = aside.call(|()| -> () { panic!("the library is broken") }).unwrap_err();
        assert!(error.why.contains("ended"), "{error}");
        assert!(aside.call(|()| ()).unwrap_err().why.contains("ended"));
    }
}
