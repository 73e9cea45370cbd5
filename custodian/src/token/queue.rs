//! The worker's one queue: bounded, shared by its threads, with two lanes.

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

/// Where a job waits. Each lane is first in, first out, and has room of its own. While jobs wait in both, they are taken from both
/// in turn, so neither stops the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    /// What callers ask for.
    Usual,
    /// What many callers may wait for: each would wait for the whole usual lane.
    Express,
}

struct State<T> {
    usual: VecDeque<T>,
    express: VecDeque<T>,
    /// Where the last job came from.
    last: Lane,
    idle: usize,
    closed: bool,
}

/// The queue is full: the job comes back.
pub(super) struct Full<T>(pub(super) T);

impl<T> Queue<T> {
    /// Holds up to `capacity` jobs in each lane, beyond those that idle threads will take at once.
    pub(super) fn new(capacity: usize) -> Self {
        let state = State {
            usual: VecDeque::new(),
            express: VecDeque::new(),
            last: Lane::Usual,
            idle: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), capacity }
    }

    /// Appends a job to a lane.
    pub(super) fn push(&self, lane: Lane, job: T) -> Result<(), Full<T>> {
        let mut state = self.lock();
        let room = self.capacity + state.idle;
        let jobs = state.lane(lane);
        if jobs.len() >= room {
            return Err(Full(job));
        }
        jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the next job, waiting for one. `None` when the queue is closed.
    pub(super) fn take(&self) -> Option<T> {
        let mut state = self.lock();
        state.idle += 1;
        let mut state = self
            .changed
            .wait_while(state, |state| state.len() == 0 && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        if state.closed { None } else { state.next() }
    }

    /// Takes a job out that still waits.
    pub(super) fn remove(&self, unwanted: impl Fn(&T) -> bool) -> Option<T> {
        let mut state = self.lock();
        [Lane::Usual, Lane::Express].into_iter().find_map(|lane| {
            let jobs = state.lane(lane);
            jobs.remove(jobs.iter().position(&unwanted)?)
        })
    }

    /// No more jobs: those that wait are forgotten, those that take get `None`.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.usual.clear();
        state.express.clear();
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn len(&self) -> usize {
        self.usual.len() + self.express.len()
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<T> {
        match lane {
            Lane::Usual => &mut self.usual,
            Lane::Express => &mut self.express,
        }
    }

    fn next(&mut self) -> Option<T> {
        let turn = match self.last {
            Lane::Usual if !self.express.is_empty() => Lane::Express,
            Lane::Express if self.usual.is_empty() => Lane::Express,
            _ => Lane::Usual,
        };
        self.last = turn;
        self.lane(turn).pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_the_capacity_is_refused_and_a_full_lane_takes_no_room_from_the_other() {
        let queue = Queue::new(2);
        assert!(queue.push(Lane::Usual, 1).is_ok());
        assert!(queue.push(Lane::Usual, 2).is_ok());
        assert!(queue.push(Lane::Usual, 3).is_err_and(|full| full.0 == 3));
        assert!(queue.push(Lane::Express, 4).is_ok());
        assert!(queue.push(Lane::Express, 5).is_ok());
        assert!(queue.push(Lane::Express, 6).is_err_and(|full| full.0 == 6));
        assert_eq!([queue.take(), queue.take()], [Some(4), Some(1)]);
        assert!(queue.push(Lane::Usual, 3).is_ok());
        assert_eq!(queue.remove(|job| *job == 5), Some(5));
        assert_eq!([queue.take(), queue.take()], [Some(2), Some(3)]);
        queue.close();
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn the_express_lane_passes_the_usual_one_and_does_not_stop_it() {
        let queue = Queue::new(8);
        for job in ["u1", "u2", "u3"] {
            assert!(queue.push(Lane::Usual, job).is_ok());
        }
        for job in ["e1", "e2", "e3"] {
            assert!(queue.push(Lane::Express, job).is_ok());
        }
        let taken: Vec<_> = (0..6).filter_map(|_| queue.take()).collect();
        assert_eq!(taken, ["e1", "u1", "e2", "u2", "e3", "u3"]);
        // After an express job one more comes, and nothing else waits.
        assert!(queue.push(Lane::Express, "e4").is_ok() && queue.push(Lane::Express, "e5").is_ok());
        assert_eq!([queue.take(), queue.take()], [Some("e4"), Some("e5")]);
    }
}
