//! Looking ahead: the keys of the envelopes that come next are asked for in groups while the present one is decrypted.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    v1::Claims,
};

use crate::error::Result;

/// Envelopes whose keys are asked for together.
pub const GROUP: usize = 16;

/// At most this many keys are there before their turn: two groups, so that one is asked for while the other is used.
pub const AHEAD: usize = 2 * GROUP;

/// What a custodian is asked about an envelope.
#[derive(Clone)]
pub struct Question {
    /// What to unwrap.
    pub wrapped: WrappedKey,
    /// What the log will say about the file.
    pub claims: Claims,
}

/// What is found out about an envelope before its turn.
pub enum Found {
    /// What will be asked.
    Question(Question),
    /// It cannot be known before its turn.
    Nothing,
    /// A person must be asked for a password first, which is done in its turn. After that, more can be found out.
    LoginFirst,
}

/// The answer to a question that was asked before its turn.
pub struct Early {
    about: (KeyId, [u8; 32]),
    claims: Claims,
    answer: Result<FileKey>,
}

impl Early {
    /// The answer, if this is what was asked, and the log says this of it.
    pub fn answer_to(self, wrapped: &WrappedKey, claims: &Claims) -> Option<Result<FileKey>> {
        (self.about == about(wrapped) && self.claims == *claims).then_some(self.answer)
    }
}

fn about(wrapped: &WrappedKey) -> (KeyId, [u8; 32]) {
    (wrapped.key_id(), wrapped.sha256())
}

/// Whether it is worth it to look further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Further {
    /// It is.
    Look,
    /// It failed: the rest is asked for in its turn.
    Stop,
}

/// Does `turns` while another thread looks ahead, at `count` envelopes in their order.
///
/// `question` finds out what will be asked about an envelope. `ask` asks several questions, and tells the answers by their numbers among these, as they come. What it does not tell is left to the turn, and so is a
/// question that was asked before: who gives the same envelope twice has a reason, or made a mistake that shows before its key is needed.
pub fn with_keys_ahead<R>(
    count: usize,
    question: impl Fn(usize) -> Found + Sync,
    ask: impl Fn(&[Question], &mut dyn FnMut(usize, Result<FileKey>)) -> Further + Sync,
    turns: impl FnOnce(&Ahead) -> R,
) -> R {
    let ahead = Ahead::default();
    thread::scope(|scope| {
        // Whichever way the turns end: nobody looks on.
        let _stop = Stop(&ahead);
        let look = || {
            let _end = End(&ahead);
            ahead.look(count, &question, &ask);
        };
        if thread::Builder::new().name("ahead".to_owned()).spawn_scoped(scope, look).is_err() {
            // A thread that the system denies us is no failure: each is asked for in its turn.
            ahead.end();
        }
        turns(&ahead)
    })
}

/// What is known before its turn.
#[derive(Default)]
pub struct Ahead {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whose turn it is.
    turn: usize,
    /// What was found out, by the envelope's number. `None`: to be asked for in its turn.
    early: BTreeMap<usize, Option<Early>>,
    /// Nobody needs more.
    stopped: bool,
    /// No more will come.
    ended: bool,
}

impl Ahead {
    /// The next turn: waits until the answer is there, if it is asked for.
    pub fn turn(&self, index: usize) -> Option<Early> {
        let mut state = self.lock();
        state.turn = index;
        // Of turns that did not come to ask.
        state.early = state.early.split_off(&index);
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| !state.ended && !state.early.contains_key(&index))
            .unwrap_or_else(PoisonError::into_inner);
        state.early.remove(&index).flatten()
    }

    fn look(
        &self,
        count: usize,
        question: &impl Fn(usize) -> Found,
        ask: &impl Fn(&[Question], &mut dyn FnMut(usize, Result<FileKey>)) -> Further,
    ) {
        let mut asked = HashSet::new();
        let mut next = 0;
        while next < count && self.has_room(next) {
            let end = count.min(next + GROUP);
            let (mut numbers, mut questions, mut before) = (Vec::new(), Vec::new(), None);
            while next < end && before.is_none() {
                match question(next) {
                    Found::Question(question) if asked.insert(about(&question.wrapped)) => {
                        numbers.push(next);
                        questions.push(question);
                    }
                    Found::Question(_) | Found::Nothing => self.found(next, None),
                    Found::LoginFirst => before = Some(next),
                }
                next += 1;
            }
            if !questions.is_empty() {
                let mut told = |index: usize, answer| {
                    if let (Some(number), Some(question)) = (numbers.get(index), questions.get(index)) {
                        let (about, claims) = (about(&question.wrapped), question.claims.clone());
                        self.found(*number, Some(Early { about, claims, answer }));
                    }
                };
                let further = ask(&questions, &mut told);
                numbers.iter().for_each(|number| self.found(*number, None));
                if further == Further::Stop {
                    return;
                }
            }
            if let Some(number) = before {
                self.found(number, None);
                self.until_after(number);
            }
        }
    }

    /// Waits for room for the group that begins there. `false`: nobody needs it any more.
    fn has_room(&self, start: usize) -> bool {
        let full = |state: &mut State| !state.stopped && start + GROUP > state.turn + AHEAD;
        !self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner).stopped
    }

    /// Waits until this turn is over, or nobody needs more.
    fn until_after(&self, number: usize) {
        let before = |state: &mut State| !state.stopped && state.turn <= number;
        drop(self.changed.wait_while(self.lock(), before).unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes note of it, unless something is known already, or its turn is over.
    fn found(&self, number: usize, early: Option<Early>) {
        let mut state = self.lock();
        if number >= state.turn && !state.stopped {
            state.early.entry(number).or_insert(early);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The looking thread has ended when this is dropped: even by a panic, nobody may wait for it.
struct End<'a>(&'a Ahead);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The turns have ended when this is dropped. No key that nobody needs is kept.
struct Stop<'a>(&'a Ahead);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.stopped = true;
        state.early.clear();
        drop(state);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use custodian_proto::key::KeyWrapping;

    use super::*;
    use crate::error::{Error, Kind};

    fn wrapped(number: usize) -> WrappedKey {
        let key = KeyId::from_bytes(&[1; 20]).unwrap();
        WrappedKey::new(key, KeyWrapping::OaepSha1, number.to_be_bytes().to_vec()).unwrap()
    }

    /// Each has claims of its own.
    fn claims(number: usize) -> Claims {
        Claims { file_name: number.to_string(), ..Claims::default() }
    }

    fn question(number: usize) -> Found {
        Found::Question(Question { wrapped: wrapped(number), claims: claims(number) })
    }

    fn key(number: usize) -> FileKey {
        FileKey::new([u8::try_from(number % 251).unwrap(); 32])
    }

    fn number_of(question: &Question) -> usize {
        usize::from_be_bytes(question.wrapped.ciphertext().try_into().unwrap())
    }

    /// Answers every question.
    fn answers(questions: &[Question], told: &mut dyn FnMut(usize, Result<FileKey>)) -> Further {
        for (index, question) in questions.iter().enumerate() {
            told(index, Ok(key(number_of(question))));
        }
        Further::Look
    }

    #[test]
    fn every_turn_has_its_own_key_and_few_wait() {
        let (asked, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let ask = |questions: &[Question], told: &mut dyn FnMut(usize, Result<FileKey>)| {
            let ahead = asked.fetch_add(questions.len(), Ordering::SeqCst) + questions.len();
            assert!(ahead <= done.load(Ordering::SeqCst) + AHEAD, "{ahead} were asked for");
            answers(questions, told)
        };
        with_keys_ahead(1_000, question, ask, |ahead| {
            for turn in 0..1_000 {
                done.store(turn, Ordering::SeqCst);
                let answer =
                    ahead.turn(turn).unwrap().answer_to(&wrapped(turn), &claims(turn)).unwrap().unwrap();
                assert!(answer.expose() == key(turn).expose());
            }
        });
        assert_eq!(asked.into_inner(), 1_000);
    }

    #[test]
    fn what_is_unknown_unanswered_or_asked_before_is_left_to_its_turn() {
        let question = |number| match number {
            3 => Found::Nothing,
            5 => super::tests::question(4),
            number => super::tests::question(number),
        };
        let ask = |questions: &[Question], told: &mut dyn FnMut(usize, Result<FileKey>)| {
            for (index, question) in questions.iter().enumerate() {
                match number_of(question) {
                    6 => {}
                    7 => told(index, Err(Error::new(Kind::Refused, "cannot", "not allowed"))),
                    number => told(index, Ok(key(number))),
                }
            }
            Further::Look
        };
        with_keys_ahead(GROUP + 1, question, ask, |ahead| {
            for turn in 0..=GROUP {
                let early = ahead.turn(turn);
                let early = early.and_then(|early| early.answer_to(&wrapped(turn), &claims(turn)));
                match (turn, early.map(|answer| answer.map(drop).map_err(|error| error.kind))) {
                    (3 | 5 | 6, None) | (7, Some(Err(Kind::Refused))) => {}
                    (turn, Some(Ok(()))) if ![3, 5, 6, 7].contains(&turn) => {}
                    (turn, early) => panic!("{turn}: {early:?}"),
                }
            }
        });
    }

    #[test]
    fn an_answer_is_only_for_what_was_asked() {
        with_keys_ahead(1, question, answers, |ahead| {
            assert!(ahead.turn(0).unwrap().answer_to(&wrapped(1), &claims(0)).is_none());
        });
        // The envelope was replaced meanwhile: the log must say what is opened.
        with_keys_ahead(1, question, answers, |ahead| {
            assert!(ahead.turn(0).unwrap().answer_to(&wrapped(0), &claims(1)).is_none());
        });
    }

    #[test]
    fn after_a_failure_all_others_are_left_to_their_turn() {
        let calls = AtomicUsize::new(0);
        let ask = |_: &[Question], _: &mut dyn FnMut(usize, Result<FileKey>)| {
            calls.fetch_add(1, Ordering::SeqCst);
            Further::Stop
        };
        with_keys_ahead(100, question, ask, |ahead| {
            assert!((0..100).all(|turn| ahead.turn(turn).is_none()));
        });
        assert_eq!(calls.into_inner(), 1);
    }

    #[test]
    fn the_first_key_is_used_while_others_are_still_asked_for() {
        let used = Barrier::new(2);
        let ask = |questions: &[Question], told: &mut dyn FnMut(usize, Result<FileKey>)| {
            told(0, Ok(key(number_of(&questions[0]))));
            // Comes back once the first turn has its key.
            used.wait();
            answers(questions, told)
        };
        with_keys_ahead(2, question, ask, |ahead| {
            assert!(ahead.turn(0).is_some());
            used.wait();
            assert!(ahead.turn(1).is_some());
        });
    }

    #[test]
    fn a_login_is_left_to_its_turn_and_what_comes_after_is_asked_for_ahead() {
        let (logged_in, turn) = (AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
        // The session ends before the fourth turn, and the next two logins fail.
        let question = |number| match number {
            0..3 => super::tests::question(number),
            _ if turn.load(Ordering::SeqCst) > logged_in.load(Ordering::SeqCst) => {
                super::tests::question(number)
            }
            _ => {
                assert!(
                    number == 3 || number == turn.load(Ordering::SeqCst),
                    "{number} is looked at in its turn"
                );
                Found::LoginFirst
            }
        };
        with_keys_ahead(20, question, answers, |ahead| {
            for number in 0..20 {
                turn.store(number, Ordering::SeqCst);
                let early = ahead.turn(number);
                let answer = early.and_then(|early| early.answer_to(&wrapped(number), &claims(number)));
                match number {
                    3..=5 => assert!(answer.is_none(), "{number}"),
                    _ => assert!(answer.unwrap().unwrap().expose() == key(number).expose()),
                }
                if number == 5 {
                    logged_in.store(5, Ordering::SeqCst);
                }
            }
        });
    }

    #[test]
    fn turns_that_end_early_end_the_looking() {
        let asked = AtomicUsize::new(0);
        let ask = |questions: &[Question], told: &mut dyn FnMut(usize, Result<FileKey>)| {
            asked.fetch_add(questions.len(), Ordering::SeqCst);
            answers(questions, told)
        };
        with_keys_ahead(10_000, question, ask, |ahead| drop(ahead.turn(0)));
        assert!(asked.into_inner() <= AHEAD);
    }
}
