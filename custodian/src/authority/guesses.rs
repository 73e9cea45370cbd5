//! Guesses: wrapped keys that do not unwrap. Too many lock their sender out (law 5).

use custodian_proto::refusal::Refusal;
use jiff::{SignedDuration, Timestamp};

use super::Span;
use crate::custody::{Denial, Pause};

/// How many wrapped keys one user on one device may send that do not unwrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guesses {
    /// With so many within an hour, the pair is locked.
    pub per_hour: u32,
    /// For so long.
    pub lock: SignedDuration,
}

/// A user for whom nothing is unwrapped on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lock {
    /// `users/anna`
    pub user: String,
    /// `devices/laptop-7`
    pub device: String,
    /// The first moment at which it is over.
    pub until: Timestamp,
}

/// What one user sent from one device that did not unwrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Guessed {
    /// The hour it was in, counted from 1970.
    pub hour: i64,
    /// So many within it.
    pub count: u32,
    /// Until then, nothing is unwrapped for this pair.
    pub locked_until: Option<Timestamp>,
}

impl Guessed {
    /// As it is at this moment.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        let hour = Span::Hour.number(now);
        let (hour, count) = if hour > self.hour { (hour, 0) } else { (self.hour, self.count) };
        Self { hour, count, locked_until: self.locked_until.filter(|until| now < *until) }
    }

    /// Refuses a locked pair.
    pub fn is_open(&self, user: &str, device: &str) -> Result<(), Denial> {
        match self.locked_until {
            None => Ok(()),
            Some(until) => Err(Pause {
                refusal: Refusal::UnwrapLocked,
                until,
                detail: format!(
                    "too many wrapped keys of {user} on {device} did not unwrap: nothing is unwrapped for them until {until}"
                ),
                budget: None,
            }
            .into()),
        }
    }

    /// Counts one that did not unwrap. Whether the pair is locked from now on.
    pub fn count_one(&mut self, guesses: &Guesses, now: Timestamp) -> bool {
        self.count = self.count.saturating_add(1);
        let locks = self.count >= guesses.per_hour;
        if locks {
            self.locked_until = Some(now.checked_add(guesses.lock).unwrap_or(Timestamp::MAX));
        }
        locks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-21T{text}Z").parse().unwrap()
    }

    #[test]
    fn guessing_locks_and_the_lock_ends() {
        let guesses = Guesses { per_hour: 2, lock: SignedDuration::from_mins(15) };
        let open = |guessed: &Guessed| guessed.is_open("users/anna", "devices/laptop-1").is_ok();
        let mut guessed = Guessed::default().at(at("10:50:00"));
        assert!(!guessed.count_one(&guesses, at("10:50:00")) && open(&guessed));
        assert!(guessed.count_one(&guesses, at("10:50:00")) && !open(&guessed));
        assert!(!open(&guessed.at(at("11:04:59"))) && open(&guessed.at(at("11:05:00"))));
        // A clock that is set back prolongs it, and forgets nothing.
        assert!(!open(&guessed.at(at("09:50:00"))));
        assert_eq!(guessed.at(at("09:50:00")).count, 2);
        // Within the same hour, one more is enough.
        let guesses = Guesses { lock: SignedDuration::from_secs(1), ..guesses };
        let mut guessed = Guessed { locked_until: None, ..guessed }.at(at("10:55:00"));
        assert!(guessed.count_one(&guesses, at("10:55:00")));
        assert!(!guessed.at(at("11:00:00")).count_one(&guesses, at("11:00:00")));
    }
}
