//! Second factors: what a user beside the password must have, and how wrong codes are answered.

use aws_lc_rs::rand;
use custodian_proto::{refusal::Refusal, secret::Secret};
use data_encoding::BASE32_NOPAD;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{SealedSecret, UserId};
use crate::custody::Fault;

/// A second factor that was shown within this time may be replaced.
pub const FRESH_FACTOR: SignedDuration = SignedDuration::from_mins(5);

/// So many wrong codes in a row lock the factor.
const WRONG_CODES: u32 = 5;

/// For so long, and twice as long after each further one.
const FIRST_LOCK: SignedDuration = SignedDuration::from_mins(15);

/// But not longer than this.
const LONGEST_LOCK: SignedDuration = SignedDuration::from_hours(24);

/// Whether a user has a second factor, and needs it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FactorState {
    /// Whether every session needs it.
    pub rule: FactorRule,
    /// Whether there is one.
    pub enrolled: bool,
}

impl FactorState {
    /// What to answer where only a fresh second factor is missing.
    pub fn missing(self) -> Refusal {
        if self.enrolled { Refusal::StepUpRequired } else { Refusal::FactorMissing }
    }
}

/// Whether a user's sessions need the second factor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum FactorRule {
    /// Where the policy says so.
    #[default]
    AsPolicySays,
    /// For everything.
    Always,
}

/// A user's second factor, as the ledger keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Factor {
    /// The one in force.
    pub secret: Option<SealedSecret>,
    /// One that waits for its first code.
    pub pending: Option<SealedSecret>,
    /// The recovery codes that are left.
    pub recovery: Vec<RecoveryHash>,
    /// The wrong codes since the last right one.
    pub wrong: WrongCodes,
}

/// Wrong codes in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WrongCodes {
    /// How many.
    pub count: u32,
    /// When the last one came.
    pub last: Timestamp,
}

impl WrongCodes {
    /// Refuses every code while the factor is locked.
    ///
    /// # Errors
    /// [`Refusal::FactorLocked`]
    pub fn allow(self, now: Timestamp) -> Result<(), Refusal> {
        let Some(beyond) = self.count.checked_sub(WRONG_CODES) else { return Ok(()) };
        // Twice seven times is more than the longest.
        let lock = (FIRST_LOCK * (1 << beyond.min(7))).min(LONGEST_LOCK);
        if now.duration_since(self.last) < lock { Err(Refusal::FactorLocked) } else { Ok(()) }
    }
}

/// What shows that a user has the second factor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FactorProof {
    /// A code of this step, of the factor with this secret. Good once.
    Code {
        /// The number of the step.
        step: u64,
        /// What it was compared with.
        secret: SealedSecret,
    },
    /// A recovery code. Good once.
    Recovery(RecoveryHash),
}

/// The SHA-256 of a recovery code and its user. A code has 80 random bits, so nobody finds it from its hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RecoveryHash(pub [u8; 32]);

impl RecoveryHash {
    /// How many codes a user gets.
    pub const CODES: usize = 10;

    /// Bytes of a code.
    const LEN: usize = 10;

    /// A new code, in four groups of four letters and digits, and its hash.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn generate(user: &UserId) -> Result<(Secret, Self), Fault> {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| Fault::Internal("no randomness".into()))?;
        let text = Zeroizing::new(BASE32_NOPAD.encode(bytes.as_slice()).to_ascii_lowercase());
        let mut code = String::with_capacity(text.len() + 3);
        for (index, letter) in text.chars().enumerate() {
            if index > 0 && index % 4 == 0 {
                code.push('-');
            }
            code.push(letter);
        }
        let code = Secret::new(code);
        let hash = Self::of(user, code.expose());
        Ok((code, hash))
    }

    /// The hash of what somebody typed: groups and case make no difference.
    pub fn of(user: &UserId, typed: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"custodian recovery code 1\n");
        hash.update(user.as_str());
        hash.update(b"\n");
        for byte in typed.bytes().filter(u8::is_ascii_alphanumeric) {
            hash.update([byte.to_ascii_lowercase()]);
        }
        Self(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_codes_lock_for_longer_and_longer() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let allowed = |count, minutes: i64| {
            WrongCodes { count, last: now - SignedDuration::from_mins(minutes) }.allow(now).is_ok()
        };
        for count in 0..WRONG_CODES {
            assert!(allowed(count, 0), "{count}");
        }
        for (count, lock) in
            [(5, 15), (6, 30), (7, 60), (10, 480), (12, 1_440), (99, 1_440), (u32::MAX, 1_440)]
        {
            assert!(!allowed(count, 0) && !allowed(count, lock - 1) && allowed(count, lock), "{count}");
        }
        // A clock that was set back locks longer, never shorter.
        assert!(!allowed(5, -60));
    }

    #[test]
    fn recovery_codes_are_of_one_user_and_easy_to_type() {
        let (anna, bob) = ("anna".parse().unwrap(), "bob".parse().unwrap());
        let (code, hash) = RecoveryHash::generate(&anna).unwrap();
        let code = code.expose();
        assert_eq!((code.len(), code.split('-').count()), (19, 4), "{code}");
        assert_eq!(RecoveryHash::of(&anna, &code.replace('-', " ").to_uppercase()), hash);
        assert_ne!(RecoveryHash::of(&bob, code), hash);
        assert_ne!(RecoveryHash::of(&anna, &code[1..]), hash);
    }
}
