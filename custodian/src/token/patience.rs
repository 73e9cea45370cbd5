//! How long a new worker may take until it serves, and how long to wait before the next is started.

use std::time::Duration;

/// How long the first worker may take until it serves, and the longest that any may.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The least that a worker is given, however fast the last one was.
const LEAST_LIMIT: Duration = Duration::from_secs(2);

/// A worker is given so many times what the last one needed.
const MARGIN: u32 = 10;

/// The pause after the first failed start; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between two starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The longest pause after a worker that did serve: calls wait for the next.
const LONGEST_PAUSE_IN_SERVICE: Duration = Duration::from_secs(1);

/// A worker that served this long was no failed start.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// What the last workers taught.
pub(super) struct Patience {
    limit: Duration,
    pause: Duration,
}

impl Patience {
    /// With a token nothing is known of.
    pub(super) fn new() -> Self {
        Self { limit: START_LIMIT, pause: Duration::ZERO }
    }

    /// How long the next worker may take until it serves. A module that hangs where it took 0.1 s before must not keep
    /// the service waiting for as long as a slow one may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// A worker serves, after this long.
    pub(super) fn started(&mut self, took: Duration) {
        self.limit = (took * MARGIN).clamp(LEAST_LIMIT, START_LIMIT);
    }

    /// A worker did not come to serve, after this long.
    pub(super) fn failed(&mut self, took: Duration) {
        if took >= self.limit {
            // Maybe it was not given enough: the machine is busy, or the token is.
            self.limit = (self.limit * 2).min(START_LIMIT);
        }
        self.pause = self.pause.max(FIRST_PAUSE);
    }

    /// A worker that served for this long is no good any more.
    pub(super) fn ended(&mut self, served: Duration) {
        let most = if served > STABLE_AFTER { Duration::ZERO } else { LONGEST_PAUSE_IN_SERVICE };
        self.pause = self.pause.min(most);
    }

    /// The pause before the next start. The one after it is longer.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_grow_to_ten_seconds_and_to_one_while_workers_serve() {
        let mut patience = Patience::new();
        let mut failing = || {
            patience.failed(MS);
            patience.pause()
        };
        let pauses: Vec<_> = (0..9).map(|_| failing().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        for _ in 0..3 {
            patience.ended(MS);
            assert_eq!(patience.pause(), LONGEST_PAUSE_IN_SERVICE);
        }
        patience.ended(STABLE_AFTER + MS);
        let mut ending = || {
            let pause = patience.pause();
            patience.ended(MS);
            pause.as_millis()
        };
        assert_eq!(
            [ending(), ending(), ending(), ending(), ending(), ending()],
            [0, 100, 200, 400, 800, 1_000]
        );
    }

    #[test]
    fn a_worker_is_given_what_the_last_one_needed_and_more_when_that_was_too_little() {
        let mut patience = Patience::new();
        assert_eq!(patience.limit(), START_LIMIT);
        patience.started(100 * MS);
        assert_eq!(patience.limit(), LEAST_LIMIT);
        // A start that fails at once says nothing of how long one takes.
        patience.failed(100 * MS);
        assert_eq!(patience.limit(), LEAST_LIMIT);
        for seconds in [4, 8, 16, 30, 30] {
            patience.failed(patience.limit());
            assert_eq!(patience.limit(), Duration::from_secs(seconds));
        }
        patience.started(1_500 * MS);
        assert_eq!(patience.limit(), 15_000 * MS);
    }
}
