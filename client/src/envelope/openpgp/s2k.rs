//! How a passphrase becomes a key (RFC 9580 §3.7): salted and iterated, as GnuPG and Sequoia have it, or with Argon2 (RFC 9106).

use argon2::{Algorithm, Argon2, Params, Version};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::signature::{SHA_256, SHA_384, SHA_512};

const SALT_LEN: usize = 8;
const ARGON2_SALT_LEN: usize = 16;

/// Memory that Argon2 may ask for, in KiB: what RFC 9106 §4 recommends first, and RFC 9580's own example does.
pub(super) const MAX_MEMORY: u32 = 2 << 20;

/// Memory times passes, in KiB: some twenty seconds.
const MAX_WORK: u64 = 16 << 20;

/// A way to make a key of a passphrase.
pub(super) enum Derivation<'p> {
    /// RFC 9580 §3.7.1.2 and §3.7.1.3.
    Hashed {
        hash: Hash,
        salt: &'p [u8],
        /// Bytes to hash at least.
        count: usize,
    },
    /// RFC 9580 §3.7.1.4.
    Argon2 { salt: &'p [u8], params: Params },
}

/// RFC 9580 §9.5.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    fn numbered(number: u8) -> Result<Self, String> {
        const SHA_1: u8 = 2;
        match number {
            SHA_1 => Ok(Self::Sha1),
            SHA_256 => Ok(Self::Sha256),
            SHA_384 => Ok(Self::Sha384),
            SHA_512 => Ok(Self::Sha512),
            other => Err(format!("its passphrase is hashed with hash {other}, which is not known here")),
        }
    }
}

impl<'p> Derivation<'p> {
    /// Takes one from the start of `bytes`. `None`: the secret is not there, on a card, or left out. `memory`: KiB that it may
    /// take at most.
    ///
    /// # Errors
    /// In text: it is cut off, makes no sense, is not known here, or takes too much.
    pub(super) fn take(bytes: &mut &'p [u8], memory: u32) -> Result<Option<Self>, String> {
        const SALTED: u8 = 1;
        const ITERATED: u8 = 3;
        const ARGON2: u8 = 4;
        const GNU: u8 = 101;
        match take_byte(bytes)? {
            GNU => Ok(None),
            SALTED => {
                let (hash, salt) = (Hash::numbered(take_byte(bytes)?)?, take(bytes, SALT_LEN)?);
                Ok(Some(Self::Hashed { hash, salt, count: 0 }))
            }
            ITERATED => {
                let hash = Hash::numbered(take_byte(bytes)?)?;
                let (salt, coded) = (take(bytes, SALT_LEN)?, take_byte(bytes)?);
                let count = (16 + usize::from(coded & 15)) << ((coded >> 4) + 6);
                Ok(Some(Self::Hashed { hash, salt, count }))
            }
            ARGON2 => {
                let salt = take(bytes, ARGON2_SALT_LEN)?;
                let (passes, lanes, exponent) = (take_byte(bytes)?, take_byte(bytes)?, take_byte(bytes)?);
                let params = argon2(passes.into(), lanes.into(), exponent.into(), memory)?;
                Ok(Some(Self::Argon2 { salt, params }))
            }
            other => Err(format!("its passphrase is used in a way (S2K {other}) that is not known here")),
        }
    }

    /// A key of so many bytes.
    ///
    /// # Errors
    /// In text: there is not enough memory.
    pub(super) fn key(&self, passphrase: &[u8], len: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        match self {
            Self::Hashed { hash, salt, count } => Ok(match hash {
                Hash::Sha1 => hashed::<Sha1>(salt, *count, passphrase, len),
                Hash::Sha256 => hashed::<Sha256>(salt, *count, passphrase, len),
                Hash::Sha384 => hashed::<Sha384>(salt, *count, passphrase, len),
                Hash::Sha512 => hashed::<Sha512>(salt, *count, passphrase, len),
            }),
            Self::Argon2 { salt, params } => {
                let mut key = Zeroizing::new(vec![0; len]);
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
                let failed = |why| format!("its passphrase cannot be hashed with Argon2: {why}");
                argon2.hash_password_into(passphrase, salt, &mut key).map_err(failed)?;
                Ok(key)
            }
        }
    }
}

/// RFC 9580 §3.7.1.4. `memory`: KiB, at most.
fn argon2(passes: u32, lanes: u32, exponent: u32, memory: u32) -> Result<Params, String> {
    let kib = 1_u64.checked_shl(exponent).filter(|_| exponent <= 31).unwrap_or(u64::MAX);
    if passes == 0 || lanes == 0 || kib < 8 * u64::from(lanes) || kib == u64::MAX {
        return Err("what it says of Argon2 makes no sense".to_owned());
    }
    let asked = u32::try_from(kib).ok().filter(|kib| *kib <= memory);
    let Some(asked) = asked else {
        return Err(format!(
            "its passphrase takes {} MiB of memory (Argon2), and more than {} MiB are not given",
            kib / 1024,
            memory / 1024
        ));
    };
    if kib * u64::from(passes) > MAX_WORK {
        return Err(format!(
            "its passphrase takes {passes} passes through {} MiB of memory (Argon2), which is too much",
            kib / 1024
        ));
    }
    Params::new(asked, passes, lanes, None)
        .map_err(|why| format!("what it says of Argon2 makes no sense: {why}"))
}

/// RFC 9580 §3.7.1.3. What one hash is too short for goes on with the next, which begins with one more zero.
fn hashed<H: Digest>(salt: &[u8], count: usize, passphrase: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let unit = Zeroizing::new([salt, passphrase].concat());
    let mut key = Zeroizing::new(Vec::with_capacity(len.next_multiple_of(64)));
    let mut zeros = 0;
    while key.len() < len {
        let mut hash = H::new();
        hash.update(vec![0; zeros]);
        let mut left = count.max(unit.len());
        while left > 0 {
            let taken = left.min(unit.len());
            hash.update(&unit[..taken]);
            left -= taken;
        }
        key.extend_from_slice(&hash.finalize());
        zeros += 1;
    }
    key.truncate(len);
    key
}

/// The next byte.
pub(super) fn take_byte(bytes: &mut &[u8]) -> Result<u8, String> {
    let (first, rest) = bytes.split_first().ok_or_else(cut_off)?;
    *bytes = rest;
    Ok(*first)
}

/// The next so many.
pub(super) fn take<'b>(bytes: &mut &'b [u8], len: usize) -> Result<&'b [u8], String> {
    let (taken, rest) = bytes.split_at_checked(len).ok_or_else(cut_off)?;
    *bytes = rest;
    Ok(taken)
}

pub(super) fn cut_off() -> String {
    "it is cut off".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argon2_of(passes: u8, lanes: u8, exponent: u8, memory: u32) -> Result<u32, String> {
        let bytes = [&[4], &[7; ARGON2_SALT_LEN][..], &[passes, lanes, exponent]].concat();
        match Derivation::take(&mut bytes.as_slice(), memory)? {
            Some(Derivation::Argon2 { params, .. }) => Ok(params.m_cost()),
            _ => Err("something else".to_owned()),
        }
    }

    #[test]
    fn a_hash_that_is_not_known_is_told_before_anybody_is_asked_for_a_passphrase() {
        for (how, hash, why) in [(1, 1, "hash 1"), (3, 11, "hash 11"), (3, 0, "hash 0")] {
            let bytes = [&[how, hash][..], &[7; SALT_LEN], &[96]].concat();
            let told = Derivation::take(&mut bytes.as_slice(), MAX_MEMORY).err().expect("refused");
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn argon2_takes_what_the_standard_recommends_and_more_is_refused_by_name() {
        assert_eq!(argon2_of(1, 4, 21, MAX_MEMORY), Ok(2 << 20), "RFC 9106 §4, first");
        assert_eq!(argon2_of(3, 4, 16, MAX_MEMORY), Ok(64 << 10), "RFC 9106 §4, second");
        assert_eq!(argon2_of(8, 4, 21, MAX_MEMORY), Ok(2 << 20));
        assert_eq!(argon2_of(1, 1, 3, MAX_MEMORY), Ok(8));
        for (passes, lanes, exponent, memory, why) in [
            (1, 4, 22, MAX_MEMORY, "takes 4096 MiB of memory (Argon2), and more than 2048 MiB"),
            (1, 4, 31, MAX_MEMORY, "takes 2097152 MiB"),
            (1, 4, 21, 1 << 20, "takes 2048 MiB of memory (Argon2), and more than 1024 MiB"),
            (9, 4, 21, MAX_MEMORY, "9 passes through 2048 MiB"),
            (255, 1, 17, MAX_MEMORY, "255 passes through 128 MiB"),
            (0, 1, 10, MAX_MEMORY, "makes no sense"),
            (1, 0, 10, MAX_MEMORY, "makes no sense"),
            (1, 1, 2, MAX_MEMORY, "makes no sense"),
            (1, 4, 4, MAX_MEMORY, "makes no sense"),
            (1, 1, 32, MAX_MEMORY, "makes no sense"),
            (1, 1, 255, MAX_MEMORY, "makes no sense"),
        ] {
            let told = argon2_of(passes, lanes, exponent, memory).expect_err(why);
            assert!(told.contains(why), "{told}");
        }
    }
}
