//! All cores at work: jobs without order, and jobs whose results are wanted in order.

use std::{
    collections::VecDeque,
    num::NonZero,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use crate::error::{Error, Kind, Result};

/// Most threads that one pipeline starts. Beyond them disks and memory are the limit.
const MAX_WORKERS: usize = 16;

/// How many results may wait for their turn, for each worker.
const WINDOW: usize = 4;

/// How many workers a pipeline has on this machine.
pub fn count() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(MAX_WORKERS)
}

/// Does all jobs on this many threads, in any order, and stops at the first failure. Each thread has a scratch of its own.
///
/// # Errors
/// The first one.
pub fn for_each<J: Sync, S: Default>(
    workers: usize,
    jobs: &[J],
    work: impl Fn(&J, &mut S) -> Result<()> + Sync,
) -> Result<()> {
    for_each_index(workers, jobs.len(), |index, scratch| {
        jobs.get(index).map_or(Ok(()), |job| work(job, scratch))
    })
}

/// As [`for_each`], for jobs that are told from each other by their number, from 0 on.
///
/// # Errors
/// The first one.
pub fn for_each_index<S: Default>(
    workers: usize,
    jobs: usize,
    work: impl Fn(usize, &mut S) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let run = || {
        let mut scratch = S::default();
        while !stop.load(Ordering::Relaxed) {
            let job = next.fetch_add(1, Ordering::Relaxed);
            if job >= jobs {
                return;
            }
            if let Err(error) = work(job, &mut scratch) {
                stop.store(true, Ordering::Relaxed);
                lock(&failure).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        // A thread that the system denies us is one less: this one works too.
        for _ in 1..workers.min(jobs) {
            if thread::Builder::new().spawn_scoped(scope, run).is_err() {
                break;
            }
        }
        run();
    });
    match lock(&failure).take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Does all jobs on this many threads, and hands over the results in the order of the jobs, on the calling thread. Holds
/// a bounded number of results.
///
/// # Errors
/// The first one in the order of the jobs.
pub fn in_order<J: Send, T: Send, S: Default>(
    workers: usize,
    jobs: impl Iterator<Item = Result<J>>,
    work: impl Fn(J, &mut S) -> Result<T> + Sync,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let (queue, waiting) = mpsc::channel::<(J, mpsc::SyncSender<Result<T>>)>();
    let waiting = Mutex::new(waiting);
    let run = || {
        let mut scratch = S::default();
        loop {
            let job = lock(&waiting).recv();
            let Ok((job, reply)) = job else { return };
            // Nobody waits for it any more: an earlier job failed.
            if reply.send(work(job, &mut scratch)).is_err() {
                return;
            }
        }
    };
    thread::scope(|scope| {
        // Dropped when this closure ends, whichever way, and then the workers end too.
        let queue = queue;
        let mut started = 0;
        for _ in 0..workers {
            match thread::Builder::new().spawn_scoped(scope, run) {
                Ok(_) => started += 1,
                Err(why) if started == 0 => return Err(lost(why)),
                Err(_) => break,
            }
        }
        let mut in_flight = VecDeque::<mpsc::Receiver<Result<T>>>::new();
        for job in jobs {
            if in_flight.len() >= started * WINDOW
                && let Some(first) = in_flight.pop_front()
            {
                take(first.recv().map_err(lost)??)?;
            }
            let (reply, result) = mpsc::sync_channel(1);
            queue.send((job?, reply)).map_err(|_| lost("no worker is left"))?;
            in_flight.push_back(result);
        }
        in_flight.into_iter().try_for_each(|result| take(result.recv().map_err(lost)??))
    })
}

/// A lock whose content no panic can leave half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "a worker thread was lost", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_failure_wins() {
        let mut seen = Vec::new();
        let double = |job: u32, (): &mut ()| Ok(job * 2);
        in_order(3, (0..1_000).map(Ok), double, |result| {
            seen.push(result);
            Ok(())
        })
        .expect("works");
        assert_eq!(seen, (0..1_000).map(|job| job * 2).collect::<Vec<_>>());

        let fail = |job: u32, (): &mut ()| match job {
            ..500 => Ok(job),
            _ => Err(Error::new(Kind::Local, "job", job)),
        };
        let error = in_order(3, (0..1_000).map(Ok), fail, |_| Ok(())).expect_err("fails");
        assert_eq!(error.why, "500");
    }

    #[test]
    fn every_job_is_done_once_and_a_failure_is_told() {
        let jobs: Vec<AtomicUsize> = (0..1_000).map(AtomicUsize::new).collect();
        for_each(3, &jobs, |job, (): &mut ()| {
            job.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .expect("works");
        assert!(jobs.iter().enumerate().all(|(n, job)| job.load(Ordering::Relaxed) == n + 1));

        let error = for_each(3, &jobs, |_, (): &mut ()| Err(lost("on purpose"))).expect_err("fails");
        assert_eq!(error.why, "on purpose");
    }
}
