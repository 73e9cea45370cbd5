//! A signer's certificate: what it says of the signer.

use std::time::SystemTime;

use custodian_proto::{identity::IdentityLevel, key::KeyId};
use der::{Decode, asn1::ObjectIdentifier};
use x509_cert::{
    Certificate,
    ext::pkix::{
        CertificatePolicies, ExtendedKeyUsage, KeyUsage, SubjectAltName, SubjectKeyIdentifier,
        name::GeneralName,
    },
};

use cms::signed_data::SignerIdentifier;

use super::{Hash, read::unreadable};
use crate::error::{Error, Kind, Result};

/// What a certificate for signing may be for, if it says: e-mail (RFC 5280 §4.2.1.12), documents (RFC 9336), anything.
const PURPOSES: [ObjectIdentifier; 3] = [
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.4"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.36"),
    ObjectIdentifier::new_unwrap("2.5.29.37.0"),
];

/// A certificate that somebody signs with.
pub struct SignerCertificate {
    der: Vec<u8>,
    parsed: Certificate,
}

impl SignerCertificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is none.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        let parsed = Certificate::from_der(der)
            .map_err(|why| unreadable(format!("a certificate cannot be read ({why})")))?;
        Ok(Self { der: der.to_vec(), parsed })
    }

    /// In DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What it says.
    pub(crate) fn parsed(&self) -> &Certificate {
        &self.parsed
    }

    pub(super) fn public_key(&self) -> &spki::SubjectPublicKeyInfoOwned {
        self.parsed.tbs_certificate().subject_public_key_info()
    }

    /// The id of the key, computed from the key itself: what the certificate claims it to be does not count.
    pub fn key_id(&self) -> KeyId {
        KeyId::of_public_key(self.public_key().subject_public_key.raw_bytes())
    }

    /// SHA-256 of the certificate.
    pub fn sha256(&self) -> Vec<u8> {
        Hash::Sha256.of(&self.der)
    }

    /// Whom it names, as in RFC 4514.
    pub fn subject(&self) -> String {
        self.parsed.tbs_certificate().subject().to_string()
    }

    /// Who issued it.
    pub fn issuer(&self) -> String {
        self.parsed.tbs_certificate().issuer().to_string()
    }

    /// Its serial number, hex.
    pub fn serial(&self) -> String {
        hex::encode(self.parsed.tbs_certificate().serial_number().as_bytes())
    }

    /// Its e-mail addresses, from the subject's alternative names only (RFC 8550 §3).
    pub fn emails(&self) -> Vec<String> {
        let Ok(Some((_, names))) = self.parsed.tbs_certificate().get_extension::<SubjectAltName>() else {
            return Vec::new();
        };
        let emails = names.0.into_iter().filter_map(|name| match name {
            GeneralName::Rfc822Name(email) => Some(email.to_string()),
            _ => None,
        });
        emails.collect()
    }

    /// The highest identity level among its policies. It is worth what its CA is worth.
    pub fn identity_level(&self) -> Option<IdentityLevel> {
        let (_, policies) = self.parsed.tbs_certificate().get_extension::<CertificatePolicies>().ok()??;
        let oids = policies.0.iter().map(|policy| policy.policy_identifier.to_string());
        oids.filter_map(|oid| IdentityLevel::from_policy_oid(&oid)).max()
    }

    /// From when to when it is valid.
    pub(super) fn validity(&self) -> (SystemTime, SystemTime) {
        let validity = self.parsed.tbs_certificate().validity();
        (validity.not_before.to_system_time(), validity.not_after.to_system_time())
    }

    /// Checks that it was valid at a time.
    ///
    /// # Errors
    /// [`Kind::Integrity`] with the limit that it is beyond of.
    pub(crate) fn check_valid_at(&self, time: SystemTime) -> Result<()> {
        let validity = self.parsed.tbs_certificate().validity();
        let (begins, ends) = self.validity();
        if time < begins {
            return Err(unfit(format!("it begins at {}", validity.not_before)));
        }
        if time > ends {
            return Err(unfit(format!("it ended at {}", validity.not_after)));
        }
        Ok(())
    }

    /// Checks that it is for signing.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is for something else.
    pub(super) fn check_usage(&self) -> Result<()> {
        let tbs = self.parsed.tbs_certificate();
        let unknown = |_| unfit("what it is for cannot be read");
        if let Some((_, usage)) = tbs.get_extension::<KeyUsage>().map_err(unknown)?
            && !usage.digital_signature()
            && !usage.non_repudiation()
        {
            return Err(unfit("its key is not for signatures (keyUsage)"));
        }
        if let Some((_, purposes)) = tbs.get_extension::<ExtendedKeyUsage>().map_err(unknown)?
            && !purposes.0.iter().any(|purpose| PURPOSES.contains(purpose))
        {
            return Err(unfit("it is neither for e-mail nor for documents (extendedKeyUsage)"));
        }
        Ok(())
    }

    /// Whether a message means this certificate.
    pub(super) fn is_meant_by(&self, id: &SignerIdentifier) -> bool {
        let tbs = self.parsed.tbs_certificate();
        match id {
            SignerIdentifier::IssuerAndSerialNumber(name) => {
                name.issuer == *tbs.issuer() && name.serial_number == *tbs.serial_number()
            }
            SignerIdentifier::SubjectKeyIdentifier(id) => {
                let own = tbs.get_extension::<SubjectKeyIdentifier>();
                own.is_ok_and(|own| own.is_some_and(|(_, own)| own == *id))
            }
        }
    }
}

fn unfit(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Integrity, "the signer's certificate is not good for this signature", why)
}
