//! Certificates of wrapping keys that somebody else issued: whether senders can use them as they are.

use custodian_proto::key::{KeyId, KeyWrapping};
use der::{Decode, asn1::ObjectIdentifier};
use x509_cert::{
    Certificate,
    ext::pkix::{KeyUsage, SubjectKeyIdentifier},
};

use super::{
    capabilities,
    peer::{BadCertificate, CertificateFacts},
};

/// What a sender takes if the certificate does not say how to wrap.
const USUAL_WRAPPING: KeyWrapping = KeyWrapping::OaepSha256;

/// A certificate of a wrapping key.
pub struct WrappingCertificate {
    /// Its validity and more.
    pub facts: CertificateFacts,
    /// The id of its public key.
    pub key: KeyId,
    parsed: Certificate,
}

impl WrappingCertificate {
    /// Reads a certificate, DER.
    ///
    /// # Errors
    /// If it does not parse or is too long.
    pub fn read(der: &[u8]) -> Result<Self, BadCertificate> {
        let facts = CertificateFacts::read(der)?;
        let parsed = Certificate::from_der(der).map_err(BadCertificate::from)?;
        let public = parsed.tbs_certificate().subject_public_key_info();
        let key = KeyId::of_public_key(public.subject_public_key.raw_bytes());
        Ok(Self { facts, key, parsed })
    }

    /// Whether senders who follow it make what a key with this wrapping can open; or why not. Who issued it is not asked.
    pub fn suits(&self, wrapping: KeyWrapping) -> Result<(), String> {
        let tbs = self.parsed.tbs_certificate();
        let unreadable = |what: &str| format!("its {what} cannot be read");
        let id =
            tbs.get_extension::<SubjectKeyIdentifier>().map_err(|_| unreadable("SubjectKeyIdentifier"))?;
        if id.is_some_and(|(_, id)| id.0.as_bytes() != self.key.as_bytes()) {
            return Err(format!(
                "its SubjectKeyIdentifier must be {}, the key's id (RFC 7093 method 1)",
                self.key
            ));
        }
        let usage = tbs.get_extension::<KeyUsage>().map_err(|_| unreadable("key usage"))?;
        if usage.is_some_and(|(_, usage)| !usage.key_encipherment()) {
            return Err("its key usage must have keyEncipherment".to_owned());
        }
        let announced = ObjectIdentifier::from_arcs(
            capabilities::EXTENSION.iter().filter_map(|arc| u32::try_from(*arc).ok()),
        )
        .map_err(|_| unreadable("S/MIME capabilities"))?;
        let announced = tbs
            .extensions()
            .and_then(|all| all.iter().find(|one| one.extn_id == announced))
            .map(|extension| extension.extn_value.as_bytes());
        let ours = capabilities::der(wrapping).map_err(|error| error.to_string())?;
        match announced {
            Some(announced) if announced == ours => Ok(()),
            None if wrapping == USUAL_WRAPPING => Ok(()),
            _ => Err(format!(
                "its S/MIME capabilities must announce {wrapping} (and AES-256-GCM), which is how the token unwraps"
            )),
        }
    }
}
