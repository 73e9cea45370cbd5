//! The worker's one queue: bounded, first in first out, shared by its threads.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, PoisonError},
};

/// A bounded queue of jobs.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    capacity: usize,
}

struct State<T> {
    jobs: VecDeque<T>,
    idle: usize,
    closed: bool,
}

/// The queue is full: the job comes back.
pub(super) struct Full<T>(pub(super) T);

impl<T> Queue<T> {
    /// Holds up to `capacity` jobs beyond those that idle threads will take at once.
    pub(super) fn new(capacity: usize) -> Self {
        let state = State { jobs: VecDeque::new(), idle: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), capacity }
    }

    /// Appends a job.
    pub(super) fn push(&self, job: T) -> Result<(), Full<T>> {
        let mut state = self.lock();
        if state.jobs.len() >= self.capacity + state.idle {
            return Err(Full(job));
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the oldest job, waiting for one. `None` when the queue is closed.
    pub(super) fn take(&self) -> Option<T> {
        let mut state = self.lock();
        state.idle += 1;
        let mut state = self
            .changed
            .wait_while(state, |state| state.jobs.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        if state.closed { None } else { state.jobs.pop_front() }
    }

    /// Takes a job out that still waits.
    pub(super) fn remove(&self, unwanted: impl Fn(&T) -> bool) -> Option<T> {
        let mut state = self.lock();
        let index = state.jobs.iter().position(unwanted)?;
        state.jobs.remove(index)
    }

    /// No more jobs: those that wait are forgotten, those that take get `None`.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.jobs.clear();
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_the_capacity_is_refused() {
        let queue = Queue::new(2);
        assert!(queue.push(1).is_ok());
        assert!(queue.push(2).is_ok());
        assert!(queue.push(3).is_err_and(|full| full.0 == 3));
        assert_eq!(queue.take(), Some(1));
        assert!(queue.push(3).is_ok());
        assert_eq!(queue.remove(|job| *job == 2), Some(2));
        assert_eq!(queue.take(), Some(3));
        queue.close();
        assert_eq!(queue.take(), None);
    }
}
