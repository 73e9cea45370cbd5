//! The breaker of one worker: after some failures in a row it is given no operations until a canary succeeds.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Failures in a row that open it.
pub(super) const FAILURES: u32 = 3;

/// Counts failures in a row.
#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    failures: u32,
    /// Canaries that failed since it opened, and why the last failure was. `None`: closed.
    open: Option<Open>,
}

struct Open {
    canaries: u32,
    why: String,
}

/// Whether operations pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Position {
    /// They do.
    Closed,
    /// They do not, but a canary is about to tell whether they may.
    HalfOpen,
    /// They do not: canaries fail, too. Says why.
    Open(String),
}

/// Whether something just changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moved {
    Yes,
    No,
}

impl Breaker {
    pub(super) fn position(&self) -> Position {
        match &self.lock().open {
            None => Position::Closed,
            Some(Open { canaries: 0, .. }) => Position::HalfOpen,
            Some(Open { why, .. }) => Position::Open(why.clone()),
        }
    }

    /// An operation failed, and not through the caller's fault.
    pub(super) fn failed(&self, why: &str) -> Moved {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        if state.open.is_some() || state.failures < FAILURES {
            return Moved::No;
        }
        state.open = Some(Open { canaries: 0, why: why.to_owned() });
        Moved::Yes
    }

    /// A canary failed. A canary is proof enough: one opens it.
    pub(super) fn canary_failed(&self, why: &str) -> Moved {
        let mut state = self.lock();
        let canaries = state.open.as_ref().map_or(0, |open| open.canaries).saturating_add(1);
        state.open = Some(Open { canaries, why: why.to_owned() });
        if canaries == 1 { Moved::Yes } else { Moved::No }
    }

    /// An operation or a canary was done.
    pub(super) fn succeeded(&self) -> Moved {
        let mut state = self.lock();
        state.failures = 0;
        if state.open.take().is_some() { Moved::Yes } else { Moved::No }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_with_the_first_success() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            assert_eq!(breaker.failed("late"), Moved::No);
            assert_eq!(breaker.failed("late"), Moved::No);
            assert_eq!(breaker.succeeded(), Moved::No);
        }
        assert_eq!([breaker.failed("a"), breaker.failed("b")], [Moved::No; 2]);
        assert_eq!(breaker.position(), Position::Closed);
        assert_eq!(breaker.failed("late"), Moved::Yes);
        assert_eq!(breaker.position(), Position::HalfOpen);
        assert_eq!(breaker.failed("late"), Moved::No);
        assert_eq!(breaker.canary_failed("still late"), Moved::Yes);
        assert_eq!(breaker.position(), Position::Open("still late".to_owned()));
        assert_eq!(breaker.canary_failed("sick"), Moved::No);
        assert_eq!(breaker.succeeded(), Moved::Yes);
        assert_eq!(breaker.position(), Position::Closed);
    }
}
