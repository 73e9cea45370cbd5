//! Passwords: hashing and verifying, a few at a time.

use std::{fmt::Display, sync::Arc, thread};

use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _, password_hash};
use custodian_proto::{
    limits::{MAX_PASSWORD_LEN, MIN_PASSWORD_LEN},
    refusal::Refusal,
    secret::Secret,
};
use rustix::{process::setpriority_process, thread::gettid};
use tokio::sync::{Semaphore, oneshot};
use zeroize::Zeroizing;

use zxcvbn::{Score, zxcvbn};

use super::{PasswordHash, User, UserId};
use crate::custody::{Denial, Fault};

/// What to verify against where there is no user: the work is the same as for one. Nothing verifies against it.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IG5vYm9keSAhIQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Of a longer password, the estimator sees so many characters: its work grows faster than the length.
const ESTIMATED: usize = 72;

/// How many wait for each hash that runs. The last of them waits for less than a second where processors are not short, for some
/// 20 s where token workers compute on them all the time, and in vain where the network process does: a call ends before.
const WAITING: usize = 32;

/// How far a thread that hashes gives way, as nice(1) counts: as far as possible. Beside a thread of a token worker that always has
/// something to do it gets a twentieth of a processor: who signs in then waits for more than half a second, and who opens files
/// hardly longer.
const POLITENESS: i32 = 19;

/// Hashes and verifies passwords with Argon2id (RFC 9106), 19 MiB, 2 passes, 1 lane: about 25 ms of one core each, so
/// only a few at once, on threads of their own.
#[derive(Clone)]
pub struct Passwords {
    /// Who hashes.
    running: Arc<Semaphore>,
    /// Who hashes or waits for it.
    places: Arc<Semaphore>,
}

impl Passwords {
    /// At most `at_once` hashes run, at least 1, and [`WAITING`] times as many wait. Whoever comes then is refused
    /// (OVERLOADED).
    pub fn new(at_once: usize) -> Self {
        Self::with_places(at_once.max(1), at_once.max(1).saturating_mul(WAITING))
    }

    fn with_places(at_once: usize, waiting: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(at_once)),
            places: Arc::new(Semaphore::new(at_once.saturating_add(waiting))),
        }
    }

    /// Whether this may become the password of this user. Refused (INVALID_ARGUMENT) if it has fewer than
    /// [`MIN_PASSWORD_LEN`] or more than [`MAX_PASSWORD_LEN`] bytes, or if it is easy to guess: zxcvbn's score is below 3,
    /// which is 10^8 guesses.
    pub fn check(password: &Secret, user: &UserId) -> Result<(), Denial> {
        let refused = |detail: String| Err(Denial::Refused { refusal: Refusal::InvalidArgument, detail });
        if !(MIN_PASSWORD_LEN..=MAX_PASSWORD_LEN).contains(&password.expose().len()) {
            return refused(format!("a password has {MIN_PASSWORD_LEN} to {MAX_PASSWORD_LEN} bytes"));
        }
        let seen: Zeroizing<String> = Zeroizing::new(password.expose().chars().take(ESTIMATED).collect());
        let mut known = vec!["custodian", user.as_str()];
        known.extend(user.as_str().split(['.', '-', '_']));
        let estimate = zxcvbn(&seen, &known);
        if estimate.score() >= Score::Three {
            return Ok(());
        }
        let feedback = estimate.feedback();
        let warning = feedback.and_then(|feedback| feedback.warning()).map(|warning| warning.to_string());
        let suggestions = feedback.map(|feedback| feedback.suggestions()).unwrap_or_default();
        let advice = warning.into_iter().chain(suggestions.iter().map(ToString::to_string));
        let advice = advice.collect::<Vec<_>>().join(" ");
        refused(format!("the password is easy to guess. {advice}"))
    }

    /// The hash of a new password of this user. Refused as [`Passwords::check`] says, or if too many wait (OVERLOADED).
    pub async fn hash(&self, password: Secret, user: &UserId) -> Result<PasswordHash, Denial> {
        let user = user.clone();
        self.run(move || {
            Self::check(&password, &user)?;
            Argon2::default()
                .hash_password(password.expose().as_bytes())
                .map(|hash| PasswordHash::from_phc(hash.to_string()))
                .map_err(|error| Fault::Internal(format!("cannot hash a password: {error}")).into())
        })
        .await?
    }

    /// Whether this is the password of this user, and the user is enabled. For an unknown or disabled user it does the
    /// same work, so that the time tells nothing. Refused if too many wait (OVERLOADED).
    pub async fn verify(&self, user: Option<&User>, password: Secret) -> Result<bool, Denial> {
        // Nobody can have it, whoever it is tried on.
        if password.expose().len() > MAX_PASSWORD_LEN {
            return Ok(false);
        }
        let user = user.filter(|user| !user.disabled);
        let phc = user.map_or(NOBODY, |user| user.password.as_phc()).to_owned();
        let is_somebody = user.is_some();
        let verified = self
            .run(move || Argon2::default().verify_password(password.expose().as_bytes(), phc.as_str()))
            .await?;
        match verified {
            Ok(()) => Ok(is_somebody),
            Err(password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(Fault::Internal(format!("cannot verify a password: {error}")).into()),
        }
    }

    /// Runs the work when its turn comes. What has started ends, and keeps its turn until then, even if the caller
    /// has gone meanwhile.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Denial> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::Overloaded)?;
        let turn = Arc::clone(&self.running).acquire_owned().await.map_err(|_| Refusal::Overloaded)?;
        let (reply, done) = oneshot::channel();
        let hash = move || {
            if let Err(error) = setpriority_process(Some(gettid()), POLITENESS) {
                tracing::debug!("a password is hashed at the usual priority: {error}");
            }
            let made = work();
            drop((place, turn));
            // The caller may have gone.
            drop(reply.send(made));
        };
        let broken = |why: &dyn Display| Fault::Internal(format!("hashing a password: {why}")).into();
        thread::Builder::new().name("password".to_owned()).spawn(hash).map_err(|error| broken(&error))?;
        done.await.map_err(|error| broken(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::ledger::contract::world;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    async fn anna(passwords: &Passwords, password: &str) -> User {
        let password = passwords.hash(secret(password), &world::user_id("anna")).await.unwrap();
        User { password, ..world::user("anna", &[]) }
    }

    fn code<T>(result: Result<T, Denial>) -> &'static str {
        result.err().unwrap().code()
    }

    #[tokio::test]
    async fn only_the_right_password_of_an_enabled_user_verifies() {
        let passwords = Passwords::new(2);
        let anna = anna(&passwords, "correct horse battery").await;
        let disabled = User { disabled: true, ..anna.clone() };
        assert_eq!(passwords.verify(Some(&anna), secret("correct horse battery")).await, Ok(true));
        for wrong in
            ["correct horse batterz", "", "correct horse battery ", &"x".repeat(MAX_PASSWORD_LEN + 1)]
        {
            assert_eq!(passwords.verify(Some(&anna), secret(wrong)).await, Ok(false));
        }
        assert_eq!(passwords.verify(Some(&disabled), secret("correct horse battery")).await, Ok(false));
        assert_eq!(passwords.verify(None, secret("correct horse battery")).await, Ok(false));
    }

    #[tokio::test]
    async fn hashes_are_salted_and_as_strong_as_they_should_be() {
        let passwords = Passwords::new(1);
        let [one, two] =
            [anna(&passwords, "the same password").await, anna(&passwords, "the same password").await];
        assert_ne!(one.password.as_phc(), two.password.as_phc());
        let strength = "$argon2id$v=19$m=19456,t=2,p=1$";
        for phc in [one.password.as_phc(), two.password.as_phc(), NOBODY] {
            assert!(phc.starts_with(strength) && phc.len() == one.password.as_phc().len());
        }
    }

    #[tokio::test]
    async fn an_unknown_user_takes_as_long_as_a_wrong_password() {
        let passwords = Passwords::new(1);
        let anna = anna(&passwords, "correct horse battery").await;
        let disabled = User { disabled: true, ..anna.clone() };
        let least = async |user: Option<&User>| {
            let mut least = Duration::MAX;
            for _ in 0..5 {
                let began = Instant::now();
                assert_eq!(passwords.verify(user, secret("wrong password")).await, Ok(false));
                least = least.min(began.elapsed());
            }
            least
        };
        // No machine fills 19 MiB twice in less, and a skipped hash takes microseconds. A bound relative to the first would
        // fail on a busy machine.
        let work = Duration::from_millis(2);
        for user in [Some(&anna), Some(&disabled), None] {
            assert!(least(user).await > work);
        }
    }

    #[tokio::test]
    async fn passwords_of_the_wrong_length_are_not_set() {
        let passwords = Passwords::new(1);
        let anna = world::user_id("anna");
        let of_length = |len: usize| {
            let text = "zK7-qo.Wv2_ay".chars().cycle().take(len).collect::<String>();
            secret(&text)
        };
        for len in [0, MIN_PASSWORD_LEN - 1, MAX_PASSWORD_LEN + 1] {
            let denial = passwords.hash(of_length(len), &anna).await.err().unwrap();
            assert!(denial.detail().contains("12 to 1024 bytes"), "{}", denial.detail());
            assert_eq!(denial.code(), "INVALID_ARGUMENT");
        }
        for len in [MIN_PASSWORD_LEN, MAX_PASSWORD_LEN] {
            assert!(passwords.hash(of_length(len), &anna).await.is_ok());
        }
    }

    #[test]
    fn a_password_that_is_easy_to_guess_is_refused_with_what_would_help() {
        let anna: UserId = "anna.schmidt".parse().unwrap();
        for easy in [
            "password1234",
            "qwertyuiop[]",
            "aaaaaaaaaaaaaaaa",
            "abcabcabcabcabc",
            "anna.schmidt",
            "Anna.Schmidt1",
            "custodian123",
            "P4ssw0rdP4ssw0rd",
        ] {
            let denial = Passwords::check(&secret(easy), &anna).unwrap_err();
            assert_eq!(denial.code(), "INVALID_ARGUMENT");
            assert!(denial.detail().contains("easy to guess. "), "{easy}: {}", denial.detail());
            assert!(!denial.detail().contains(easy));
        }
        for hard in
            ["correct horse battery", "another horse battery", "tangible-osprey-moraine", "zK7-qo.Wv2_ay"]
        {
            assert_eq!(Passwords::check(&secret(hard), &anna), Ok(()), "{hard}");
        }
    }

    #[test]
    fn the_longest_password_takes_the_estimator_no_time() {
        let anna = world::user_id("anna");
        // What its matchers like best: everything repeats, is in a dictionary, and has substitutes.
        for hostile in ["4@8({[</369&#!1|0$57+2%", "password", "a", "abcdefgh1987qwerty"] {
            let text: String = hostile.chars().cycle().take(MAX_PASSWORD_LEN).collect();
            let began = Instant::now();
            drop(Passwords::check(&secret(&text), &anna));
            // It takes some 10 ms; without a cap, minutes.
            assert!(began.elapsed() < Duration::from_secs(5), "{hostile}: {:?}", began.elapsed());
        }
    }

    #[tokio::test]
    async fn too_many_at_once_are_refused_and_the_others_take_turns() {
        let passwords = Passwords::with_places(1, 1);
        let (finish, finished) = mpsc::channel::<()>();
        let first = passwords.run(move || finished.recv());
        let waiting = passwords.run(|| "waited");
        let refused = async {
            // Both places (one turn, one to wait) are taken by now: `join` polls in order.
            let refused = passwords.verify(None, secret("any password")).await;
            finish.send(()).unwrap();
            refused
        };
        let (first, waiting, refused) = tokio::join!(first, waiting, refused);
        assert_eq!(first, Ok(Ok(())));
        assert_eq!(waiting, Ok("waited"));
        assert_eq!(code(refused), "OVERLOADED");
        assert_eq!(passwords.verify(None, secret("any password")).await, Ok(false));
    }

    #[tokio::test]
    async fn a_caller_that_has_gone_frees_no_turn_before_its_hash_is_done() {
        let passwords = Passwords::with_places(1, 0);
        let (finish, finished) = mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let abandoned = passwords.run(move || {
            started.send(()).unwrap();
            finished.recv()
        });
        tokio::select! {
            _ = abandoned => panic!("it cannot be done yet"),
            begun = has_started => begun.unwrap(),
        }
        assert_eq!(code(passwords.run(|| ()).await), "OVERLOADED");
        finish.send(()).unwrap();
        let freed = passwords.places.acquire().await.unwrap();
        drop(freed);
        assert_eq!(passwords.run(|| ()).await, Ok(()));
    }
}
