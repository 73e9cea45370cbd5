//! Codes of authenticator apps: TOTP (RFC 6238) with HMAC-SHA-1, 6 digits and steps of 30 seconds, which all of them know.

use aws_lc_rs::{
    hmac::{self, HMAC_SHA1_FOR_LEGACY_USE_ONLY},
    rand,
};
use custodian_proto::secret::Secret;
use data_encoding::BASE32_NOPAD;
use jiff::Timestamp;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::UserId;
use crate::custody::Fault;

/// Seconds for which a code is shown.
const STEP: i64 = 30;

/// Digits of a code.
const DIGITS: usize = 6;

/// The secret that the custodian shares with an authenticator app: as long as the hash (RFC 4226 §4, R6). Has no `Debug`
/// (law 9), and is overwritten when dropped.
#[derive(Clone)]
pub struct TotpSecret(Zeroizing<[u8; TotpSecret::LEN]>);

impl TotpSecret {
    /// Bytes of a secret.
    pub const LEN: usize = 20;

    /// A new one.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn generate() -> Result<Self, Fault> {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| Fault::Internal("no randomness".into()))?;
        Ok(Self(bytes))
    }

    /// Takes its bytes over. `None` if they are not so many.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// Its bytes, to be sealed.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// What an authenticator app scans: a URI with the secret in it.
    pub fn uri(&self, user: &UserId) -> Secret {
        let secret = Zeroizing::new(BASE32_NOPAD.encode(self.as_bytes()));
        // The id of a user needs no escapes.
        Secret::new(format!(
            "otpauth://totp/Custodian:{user}?secret={}&issuer=Custodian&algorithm=SHA1&digits=6&period=30",
            *secret
        ))
    }

    /// The step whose code this is, of the present one and its two neighbours: the clocks may differ by one step (RFC 6238
    /// §5.2). The newest, if it should be of several.
    pub fn step_of(&self, code: &str, now: Timestamp) -> Option<u64> {
        let present = step(now);
        // All three are compared, whatever the first says.
        let matches = [present.saturating_sub(1), present, present + 1].map(|step| {
            let is_it = bool::from(self.code(step).as_bytes().ct_eq(code.as_bytes()));
            is_it.then_some(step)
        });
        matches.into_iter().flatten().next_back()
    }

    /// The code of a step (RFC 4226 §5.3).
    fn code(&self, step: u64) -> Zeroizing<String> {
        let key = hmac::Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.as_bytes());
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let tag = tag.as_ref();
        let offset = usize::from(tag.last().copied().unwrap_or_default() & 0x0f);
        let number = tag.iter().skip(offset).take(4).fold(0, |number, byte| number << 8 | u32::from(*byte));
        Zeroizing::new(format!("{:0DIGITS$}", (number & 0x7fff_ffff) % 1_000_000))
    }
}

/// The number of the step that this time is in.
fn step(now: Timestamp) -> u64 {
    u64::try_from(now.as_second().div_euclid(STEP)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn secret() -> TotpSecret {
        TotpSecret::from_bytes(b"12345678901234567890").unwrap()
    }

    #[test]
    fn codes_are_those_of_rfc_4226_appendix_d() {
        let codes = [
            "755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871",
            "520489",
        ];
        for (step, code) in (0..).zip(codes) {
            assert_eq!(secret().code(step).as_str(), code);
        }
    }

    #[test]
    fn codes_are_those_of_rfc_6238_appendix_b() {
        // The appendix shows 8 digits; 6 are their end.
        let vectors = [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ];
        for (second, code) in vectors {
            assert_eq!(secret().step_of(&code[2..], at(second)), Some(step(at(second))), "{second}");
        }
    }

    #[test]
    fn a_clock_may_be_one_step_off_and_no_more() {
        let (code, now) = (secret().code(1_000), 1_000 * STEP);
        for (second, known) in [
            (now - STEP - 1, false),
            (now - STEP, true),
            (now, true),
            (now + 2 * STEP - 1, true),
            (now + 2 * STEP, false),
        ] {
            assert_eq!(secret().step_of(&code, at(second)), known.then_some(1_000), "{second}");
        }
    }

    #[test]
    fn what_is_no_code_is_none() {
        let code = secret().code(1_000);
        for bad in ["", "12345", &code[1..], &format!("{}0", *code), &format!(" {}", *code), "１２３４５６"]
        {
            assert_eq!(secret().step_of(bad, at(1_000 * STEP)), None, "{bad}");
        }
    }

    #[test]
    fn the_uri_is_what_authenticator_apps_read() {
        let uri = secret().uri(&"anna.b".parse().unwrap());
        assert_eq!(
            uri.expose(),
            "otpauth://totp/Custodian:anna.b?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Custodian&algorithm=SHA1\
             &digits=6&period=30"
        );
        assert_ne!(TotpSecret::generate().unwrap().as_bytes(), TotpSecret::generate().unwrap().as_bytes());
    }
}
