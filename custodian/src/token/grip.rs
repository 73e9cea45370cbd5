//! One thread's hold on the token: a session that is opened when it is needed, and given up when it is suspect.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    pkcs11::{Hands, Module},
    rv::{Failure, Sense},
};

/// The pause before the first repetition; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// The longest pause.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What has not passed after this long is not going to pass in this process.
const LASTING: Duration = Duration::from_secs(2);

/// A thread's session, or the right to open one.
pub(super) struct Grip<'a> {
    module: &'a Module,
    hands: Option<Hands>,
}

impl<'a> Grip<'a> {
    /// A hold on the token with this session.
    pub(super) fn new(module: &'a Module, hands: Hands) -> Self {
        Self { module, hands: Some(hands) }
    }

    /// Closes the session. The next use opens another: never two at once, since tokens count them.
    pub(super) fn let_go(&mut self) {
        self.hands = None;
    }

    /// Does something that may be done twice. What passes is waited out, until the deadline or for [`LASTING`]; a
    /// session that is gone is replaced once. After any failure the session is given up: some modules leave it busy for
    /// ever.
    pub(super) fn steadily<T>(
        &mut self,
        deadline: Instant,
        act: impl Fn(&Hands) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut replaced = false;
        patiently(deadline, || {
            let mut outcome = self.hands().and_then(&act);
            if matches!(outcome, Err(Failure { sense: Sense::SessionGone, .. })) && !replaced {
                replaced = true;
                self.let_go();
                outcome = self.hands().and_then(&act);
            }
            if outcome.is_err() {
                self.let_go();
            }
            outcome
        })
    }

    fn hands(&mut self) -> Result<&Hands, Failure> {
        let hands = match self.hands.take() {
            Some(hands) => hands,
            None => self.module.hands().map_err(|error| Failure::from(error).before())?,
        };
        Ok(self.hands.insert(hands))
    }
}

/// Waits out what passes, until the deadline or for [`LASTING`].
pub(super) fn patiently<T>(
    deadline: Instant,
    mut act: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let until = deadline.min(Instant::now() + LASTING);
    let mut pause = FIRST_PAUSE;
    loop {
        match act() {
            Err(Failure { sense: Sense::Transient, .. }) if Instant::now() + pause < until => {
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn what_passes_is_waited_out_and_nothing_else_is_repeated() {
        let mut calls = 0;
        let done = patiently(soon(), || {
            calls += 1;
            if calls < 4 { Err(Failure::new(Sense::Transient, "busy")) } else { Ok(calls) }
        });
        assert_eq!(done, Ok(4));
        for sense in [Sense::BadInput, Sense::Ambiguous, Sense::LoginGone, Sense::Configuration("")] {
            let mut calls = 0;
            let failed: Result<(), _> = patiently(soon(), || {
                calls += 1;
                Err(Failure::new(sense, ""))
            });
            assert_eq!((failed.unwrap_err().sense, calls), (sense, 1));
        }
    }

    #[test]
    fn waiting_ends_with_the_deadline_and_when_it_lasts() {
        let busy = || Err::<(), _>(Failure::new(Sense::Transient, "busy"));
        for (deadline, most) in [(Duration::from_millis(100), 100), (Duration::from_secs(60), 2_000)] {
            let begun = Instant::now();
            assert!(patiently(begun + deadline, busy).is_err());
            let took = begun.elapsed();
            assert!(took.as_millis() >= most / 4, "gave up after {took:?}");
            assert!(took < Duration::from_millis(most as u64) + Duration::from_secs(1), "{took:?}");
        }
    }
}
