//! The people's CA. It has a key of its own in the token: a certificate of a person must never pass for one of a device, and
//! whoever trusts the one CA need not trust the other.

use std::sync::Arc;

use custodian_proto::key::{KeyId, KeyWrapping};
use der::{Decode, Encode, asn1::ObjectIdentifier};
use jiff::Timestamp;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, string::Ia5String};
use x509_cert::{
    Certificate,
    ext::pkix::{CertificatePolicies, certpolicy::PolicyInformation},
};

use super::{DeviceCa, PkiError, Validity, issue, parameters, smime_capabilities};
use crate::{
    authority::{CertificateUse, Person, RevokedCertificate, Serial},
    token::Token,
};

/// id-ce-certificatePolicies, RFC 5280 §4.2.1.4.
const CERTIFICATE_POLICIES: &[u64] = &[2, 5, 29, 32];

/// The CA that certifies people's keys. It works as the device CA does, with another key.
#[derive(Clone)]
pub struct PeopleCa(DeviceCa);

impl PeopleCa {
    /// Makes a CA: an EC P-256 key in the token and a certificate for it that it signs itself. Beneath it there are
    /// certificates for e-mail only (RFC 5280 §4.2.1.12), whatever it may be made to sign.
    ///
    /// # Errors
    /// If the token does not generate or sign.
    pub async fn create(token: Arc<dyn Token>, organisation: &str, years: u32) -> Result<Self, PkiError> {
        let for_mail = vec![ExtendedKeyUsagePurpose::EmailProtection];
        DeviceCa::made(token, "people", organisation, years, for_mail).await.map(Self)
    }

    /// Takes up a CA made earlier.
    ///
    /// # Errors
    /// If this is no CA certificate, or the token does not serve its key.
    pub async fn open(token: Arc<dyn Token>, certificate: Vec<u8>) -> Result<Self, PkiError> {
        DeviceCa::open(token, certificate).await.map(Self)
    }

    /// A CA whose key is not looked for: the token with it may come later.
    ///
    /// # Errors
    /// If this is no CA certificate.
    pub fn of_certificate(token: Arc<dyn Token>, certificate: Vec<u8>) -> Result<Self, PkiError> {
        DeviceCa::of_certificate(token, certificate).map(Self)
    }

    /// The CA's certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        self.0.certificate()
    }

    /// The CA's key in the token.
    pub fn key(&self) -> KeyId {
        self.0.key()
    }

    /// Certifies a person's key (RFC 8550): who it is and how well that was checked are what was recorded.
    ///
    /// # Errors
    /// If the key is none we know, or the token does not sign.
    pub async fn issue(
        &self,
        person: &Person,
        usage: CertificateUse,
        spki: &[u8],
        validity: Validity,
    ) -> Result<Vec<u8>, PkiError> {
        let mut params = parameters(issue::key_id(spki)?, person.user.as_str(), validity)?;
        let email = Ia5String::try_from(person.email.as_str())
            .map_err(|error| PkiError::Invalid(format!("the e-mail address {}: {error}", person.email)))?;
        params.subject_alt_names = vec![SanType::Rfc822Name(email)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
        params.custom_extensions = vec![policies(person)?];
        match usage {
            CertificateUse::Sign => {
                params.key_usages =
                    vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
            }
            CertificateUse::Encrypt => {
                params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
                params.custom_extensions.push(smime_capabilities(KeyWrapping::OaepSha256)?);
            }
        }
        issue::signed(&self.0, spki, params).await
    }

    /// The revocation list: as [`DeviceCa::revocation_list`].
    ///
    /// # Errors
    /// If a certificate does not parse, or the token does not sign.
    pub async fn revocation_list(
        &self,
        number: u64,
        revoked: Vec<RevokedCertificate>,
        this_update: Timestamp,
        next_update: Timestamp,
    ) -> Result<Vec<u8>, PkiError> {
        self.0.revocation_list(number, revoked, this_update, next_update).await
    }
}

/// Serial number and key of a certificate that such a CA issued.
///
/// # Errors
/// If it does not parse, or has a serial number of another length than ours have.
pub fn serial_and_key(certificate: &[u8]) -> Result<(Serial, KeyId), PkiError> {
    let parsed = Certificate::from_der(certificate)
        .map_err(|error| PkiError::Invalid(format!("this is no certificate: {error}")))?;
    let tbs = parsed.tbs_certificate();
    let serial = tbs.serial_number().as_bytes().try_into().map(Serial);
    let serial = serial.map_err(|_| PkiError::Invalid("its serial number is none of ours".to_owned()))?;
    let key = tbs.subject_public_key_info().subject_public_key.raw_bytes();
    Ok((serial, KeyId::of_public_key(key)))
}

/// The identity level, and no more: each level is a policy of its own.
fn policies(person: &Person) -> Result<CustomExtension, PkiError> {
    let bad = |error: &dyn std::fmt::Display| {
        PkiError::Invalid(format!("the identity level does not encode: {error}"))
    };
    let level = ObjectIdentifier::new(person.level.policy_oid()).map_err(|error| bad(&error))?;
    let policies =
        CertificatePolicies(vec![PolicyInformation { policy_identifier: level, policy_qualifiers: None }]);
    let der = policies.to_der().map_err(|error| bad(&error))?;
    Ok(CustomExtension::from_oid_content(CERTIFICATE_POLICIES, der))
}

#[cfg(test)]
#[path = "people_tests.rs"]
mod tests;
