//! How a token makes a signature: over a digest of ours, or over the message, which it hashes itself.

use cryptoki::mechanism::{
    Mechanism, MechanismType,
    rsa::{PkcsMgfType, PkcsPssParams},
};
use der::{Encode, Sequence, asn1::UintRef};

use crate::signed::{Algorithm, Hash};

/// The way that a key signs, settled once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Way {
    algorithm: Algorithm,
    who_hashes: WhoHashes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WhoHashes {
    We,
    TheToken,
}

impl Way {
    /// The way that a token with these mechanisms signs. Of a key that wants the PIN before each signature, only the token can
    /// hash: `cryptoki` has no place for the PIN otherwise.
    ///
    /// # Errors
    /// In text: there is none.
    pub(super) fn of(
        algorithm: Algorithm,
        mechanisms: &[MechanismType],
        pin_each_time: bool,
    ) -> Result<Self, String> {
        let (ours, theirs) = match algorithm {
            Algorithm::RsaPss(Hash::Sha256) => {
                (MechanismType::RSA_PKCS_PSS, MechanismType::SHA256_RSA_PKCS_PSS)
            }
            Algorithm::EcdsaP256 => (MechanismType::ECDSA, MechanismType::ECDSA_SHA256),
            Algorithm::EcdsaP384 => (MechanismType::ECDSA, MechanismType::ECDSA_SHA384),
            Algorithm::RsaPss(_) | Algorithm::Ed25519 => {
                return Err(format!(
                    "{algorithm} is not used with tokens; RSA-PSS, ECDSA P-256 and P-384 are"
                ));
            }
        };
        let has = |mechanism| mechanisms.contains(&mechanism);
        match (has(ours) && !pin_each_time, has(theirs)) {
            (true, _) => Ok(Self { algorithm, who_hashes: WhoHashes::We }),
            (false, true) => Ok(Self { algorithm, who_hashes: WhoHashes::TheToken }),
            (false, false) => Err(match (algorithm, pin_each_time) {
                (Algorithm::RsaPss(_), false) => "its token does not sign with RSA-PSS (neither CKM_RSA_PKCS_PSS nor \
                     CKM_SHA256_RSA_PKCS_PSS), and RSA signatures with the older padding, PKCS #1 v1.5, are not made here"
                    .to_owned(),
                (_, true) => format!(
                    "it wants the PIN before each signature (CKA_ALWAYS_AUTHENTICATE), and its token does not have {theirs}, \
                     with which that can be done"
                ),
                (_, false) => format!("its token has neither {ours} nor {theirs}"),
            }),
        }
    }

    pub(super) fn mechanism(self) -> Mechanism<'static> {
        // A salt as long as the hash.
        let pss = PkcsPssParams {
            hash_alg: MechanismType::SHA256,
            mgf: PkcsMgfType::MGF1_SHA256,
            s_len: 32.into(),
        };
        match (self.algorithm, self.who_hashes) {
            (Algorithm::RsaPss(_), WhoHashes::We) => Mechanism::RsaPkcsPss(pss),
            (Algorithm::RsaPss(_), WhoHashes::TheToken) => Mechanism::Sha256RsaPkcsPss(pss),
            (Algorithm::EcdsaP384, WhoHashes::TheToken) => Mechanism::EcdsaSha384,
            (_, WhoHashes::TheToken) => Mechanism::EcdsaSha256,
            (_, WhoHashes::We) => Mechanism::Ecdsa,
        }
    }

    /// What the token is given.
    pub(super) fn input(self, message: &[u8]) -> Vec<u8> {
        match self.who_hashes {
            WhoHashes::We => self.algorithm.hash().of(message),
            WhoHashes::TheToken => message.to_vec(),
        }
    }

    /// A signature as PKCS #11 has it, as it stands in messages. `None` if it is none.
    pub(super) fn output(self, raw: Vec<u8>) -> Option<Vec<u8>> {
        match self.algorithm {
            Algorithm::EcdsaP256 => to_der(&raw, 32),
            Algorithm::EcdsaP384 => to_der(&raw, 48),
            Algorithm::RsaPss(_) | Algorithm::Ed25519 => Some(raw),
        }
    }
}

/// RFC 3279 §2.2.3.
#[derive(Sequence)]
struct EcdsaSigValue<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// `r ‖ s`, each of this many bytes, to `Ecdsa-Sig-Value` in DER.
fn to_der(raw: &[u8], len: usize) -> Option<Vec<u8>> {
    if raw.len() != 2 * len {
        return None;
    }
    let (r, s) = raw.split_at(len);
    EcdsaSigValue { r: UintRef::new(r).ok()?, s: UintRef::new(s).ok()? }.to_der().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_signs_in_the_way_its_token_knows_or_is_refused_by_name() {
        let rsa = Algorithm::RsaPss(Hash::Sha256);
        let (raw, hashing) = (MechanismType::RSA_PKCS_PSS, MechanismType::SHA256_RSA_PKCS_PSS);
        let who = |algorithm, mechanisms: &[MechanismType], each_time| {
            Way::of(algorithm, mechanisms, each_time).map(|way| way.who_hashes)
        };
        assert_eq!(who(rsa, &[raw, hashing], false), Ok(WhoHashes::We));
        assert_eq!(who(rsa, &[hashing], false), Ok(WhoHashes::TheToken));
        assert_eq!(who(rsa, &[raw, hashing], true), Ok(WhoHashes::TheToken));
        let old = [MechanismType::RSA_PKCS, MechanismType::SHA256_RSA_PKCS];
        assert!(who(rsa, &old, false).unwrap_err().contains("does not sign with RSA-PSS"));
        assert!(who(rsa, &[raw], true).unwrap_err().contains("CKA_ALWAYS_AUTHENTICATE"));
        assert!(who(Algorithm::EcdsaP384, &[MechanismType::ECDSA_SHA256], false).is_err());
        assert!(who(Algorithm::Ed25519, &[MechanismType::EDDSA], false).unwrap_err().contains("Ed25519"));
    }

    #[test]
    fn ecdsa_signatures_become_der_of_their_curve() {
        let way = Way::of(Algorithm::EcdsaP384, &[MechanismType::ECDSA], false).unwrap();
        let mut raw = vec![0; 96];
        (raw[0], raw[95]) = (0x80, 1);
        assert_eq!(way.output(raw.clone()).unwrap()[..6], [0x30, 54, 0x02, 49, 0, 0x80]);
        assert_eq!(way.output(raw[1..].to_vec()), None);
    }
}
