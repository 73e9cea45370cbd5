//! What the ledger knows of a key. The key pair itself is in the token.

use custodian_proto::{
    key::{KeyId, KeyWrapping},
    refusal::Refusal,
    sign::SignatureAlgorithm,
};
use jiff::Timestamp;

use super::KeyLife;

/// The metadata of a wrapping key, or of a signing key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrappingKey {
    /// Its id.
    pub id: KeyId,
    /// For people. All versions of a key share it.
    pub label: String,
    /// 1, 2, 3 …: each rotation makes the next. Unique together with the label.
    pub version: u32,
    /// Where it is in its life.
    pub life: KeyLife,
    /// The size of the modulus; 0 if it is no RSA key.
    pub modulus_bits: u32,
    /// What it is made for.
    pub purpose: KeyPurpose,
    /// Its X.509 certificate, DER.
    pub certificate: Vec<u8>,
    /// When it was made.
    pub created: Timestamp,
    /// When an administrator last changed it.
    pub updated: Timestamp,
    /// The reason given for the last change, else empty.
    pub reason: String,
}

impl WrappingKey {
    /// How people tell it from its other versions: `invoices@2`.
    pub fn full_label(&self) -> String {
        format!("{}@{}", self.label, self.version)
    }

    /// The one wrapping it unwraps, if it is a wrapping key.
    pub fn wrapping(&self) -> Option<KeyWrapping> {
        match self.purpose {
            KeyPurpose::Unwrap(wrapping) => Some(wrapping),
            KeyPurpose::Sign(_) | KeyPurpose::Timestamp => None,
        }
    }

    /// Whether it does this task at this time, or why not.
    ///
    /// # Errors
    /// The refusal for the caller.
    pub fn may(&self, task: KeyTask, now: Timestamp) -> Result<(), Refusal> {
        match (task, self.purpose) {
            (KeyTask::Unwrap, KeyPurpose::Unwrap(_)) => self.life.may_unwrap(now),
            (KeyTask::Wrap, KeyPurpose::Unwrap(_)) => self.life.may_wrap(now),
            (KeyTask::Sign, KeyPurpose::Sign(_)) | (KeyTask::Timestamp, KeyPurpose::Timestamp) => {
                self.life.may_sign(now)
            }
            (KeyTask::Unwrap | KeyTask::Wrap | KeyTask::Sign | KeyTask::Timestamp, _) => {
                Err(Refusal::WrongKeyUse)
            }
        }
    }
}

/// What a key is made for, and how it does that. One key, one purpose (NIST SP 800-57 part 1 §5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyPurpose {
    /// To unwrap file keys that are wrapped like this.
    Unwrap(KeyWrapping),
    /// To sign digests.
    Sign(SigningScheme),
    /// To sign timestamps (RFC 3161), with ECDSA on P-256.
    Timestamp,
}

impl KeyPurpose {
    const SIGNING: [Self; 3] =
        [Self::Sign(SigningScheme::RsaPss), Self::Sign(SigningScheme::EcdsaP256), Self::Timestamp];

    /// As it stands in the ledger: `RSA-OAEP-SHA256`, `SIGN-RSA-PSS`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unwrap(wrapping) => wrapping.name(),
            Self::Sign(SigningScheme::RsaPss) => "SIGN-RSA-PSS",
            Self::Sign(SigningScheme::EcdsaP256) => "SIGN-ECDSA-P256",
            Self::Timestamp => "TIMESTAMP-ECDSA-P256",
        }
    }

    /// What has an OpenPGP certificate: OpenPGP encrypts and signs with RSA in PKCS #1 v1.5 only, and signs with ECDSA.
    pub const WITH_OPENPGP_CERTIFICATE: [Self; 2] =
        [Self::Unwrap(KeyWrapping::OpenPgp), Self::Sign(SigningScheme::EcdsaP256)];

    /// Whether it is one of those.
    pub fn has_openpgp_certificate(self) -> bool {
        Self::WITH_OPENPGP_CERTIFICATE.contains(&self)
    }

    /// What can be asked of it.
    pub fn task(self) -> KeyTask {
        match self {
            Self::Unwrap(_) => KeyTask::Unwrap,
            Self::Sign(_) => KeyTask::Sign,
            Self::Timestamp => KeyTask::Timestamp,
        }
    }

    /// Reads what [`KeyPurpose::name`] writes.
    pub fn from_name(name: &str) -> Option<Self> {
        let wrapping = KeyWrapping::from_name(name).map(Self::Unwrap);
        wrapping.or_else(|| Self::SIGNING.into_iter().find(|purpose| purpose.name() == name))
    }
}

/// What is asked of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum KeyTask {
    /// Unwrap a file key.
    #[default]
    Unwrap,
    /// Wrap a file key for a user.
    Wrap,
    /// Sign a digest for a user.
    Sign,
    /// Issue a timestamp.
    Timestamp,
}

/// The one scheme that a signing key signs with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SigningScheme {
    /// RSASSA-PSS, over any of the hashes.
    RsaPss,
    /// ECDSA on P-256 over SHA-256.
    EcdsaP256,
}

impl SigningScheme {
    /// Whether a key with this scheme signs so.
    pub fn has(self, algorithm: SignatureAlgorithm) -> bool {
        match self {
            Self::RsaPss => matches!(algorithm, SignatureAlgorithm::RsaPss(_)),
            Self::EcdsaP256 => algorithm == SignatureAlgorithm::EcdsaP256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_survive_the_ledger() {
        let all = KeyWrapping::ALL.map(KeyPurpose::Unwrap).into_iter().chain(KeyPurpose::SIGNING);
        for purpose in all {
            assert_eq!(KeyPurpose::from_name(purpose.name()), Some(purpose));
        }
        assert_eq!(KeyPurpose::from_name("RSA"), None);
    }
}
