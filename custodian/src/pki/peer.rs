//! What a peer's certificate says. Whether to believe it is decided elsewhere.

use der::{Decode, Encode};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use x509_cert::{Certificate, time::Time};

use crate::authority::SpkiHash;

/// Largest certificate, in bytes.
pub const MAX_CERTIFICATE_LEN: usize = 16 * 1024;

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFacts {
    /// SHA-256 of the key's SubjectPublicKeyInfo.
    pub spki: SpkiHash,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// Whether the issuer has the subject's name.
    pub self_issued: bool,
    /// The subject's common name; empty if it has none.
    pub common_name: String,
}

/// This is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no X.509 certificate in DER: {0}")]
pub struct BadCertificate(String);

impl From<der::Error> for BadCertificate {
    fn from(error: der::Error) -> Self {
        Self(error.to_string())
    }
}

impl CertificateFacts {
    /// Reads a certificate, DER.
    ///
    /// # Errors
    /// If it is longer than [`MAX_CERTIFICATE_LEN`] or does not parse.
    pub fn read(certificate: &[u8]) -> Result<Self, BadCertificate> {
        if certificate.len() > MAX_CERTIFICATE_LEN {
            return Err(BadCertificate(format!("it has more than {MAX_CERTIFICATE_LEN} bytes")));
        }
        let bad = |error: der::Error| BadCertificate(error.to_string());
        let parsed = Certificate::from_der(certificate).map_err(bad)?;
        let tbs = parsed.tbs_certificate();
        let spki = tbs.subject_public_key_info().to_der().map_err(bad)?;
        let common_name = tbs.subject().common_name().map_err(bad)?;
        Ok(Self {
            spki: SpkiHash(Sha256::digest(spki).into()),
            sha256: Sha256::digest(certificate).into(),
            not_before: timestamp(&tbs.validity().not_before)?,
            not_after: timestamp(&tbs.validity().not_after)?,
            self_issued: tbs.issuer() == tbs.subject(),
            common_name: common_name.map(|name| name.value().into_owned()).unwrap_or_default(),
        })
    }
}

fn timestamp(time: &Time) -> Result<Timestamp, BadCertificate> {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).ok();
    seconds
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .ok_or_else(|| BadCertificate("its validity is beyond all time".to_owned()))
}
