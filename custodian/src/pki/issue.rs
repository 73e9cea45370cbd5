//! Putting certificates together: rcgen builds them, the token signs.

use std::sync::{Arc, Mutex};

use custodian_proto::key::KeyId;
use der::Decode;
use jiff::Timestamp;
use rcgen::{CertificateParams, Issuer, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateDer;
use spki::SubjectPublicKeyInfoRef;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use x509_cert::ext::pkix::BasicConstraints;

use super::{DeviceCa, PkiError, signer::TokenSigner};
use crate::token::{Token, TokenKey};

/// A certificate for the key `spki`, signed by the CA.
pub(super) async fn signed(
    ca: &DeviceCa,
    spki: &[u8],
    mut params: CertificateParams,
) -> Result<Vec<u8>, PkiError> {
    let subject = SubjectPublicKeyInfo::from_der(spki).map_err(|error| {
        PkiError::Invalid(format!("the public key cannot be certified: {error}; use EC P-256 or RSA"))
    })?;
    let parsed = parse_ca(&ca.certificate)?;
    let end = parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    let end = i64::try_from(end).ok().and_then(|end| OffsetDateTime::from_unix_timestamp(end).ok());
    params.not_after = end.map_or(params.not_after, |end| params.not_after.min(end));
    let ca_key = parsed.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes().to_vec();
    let ca_certificate = CertificateDer::from(ca.certificate.clone());
    sign(Arc::clone(&ca.token), ca.key, ca_key, move |signer| {
        let issuer = Issuer::from_ca_cert_der(&ca_certificate, signer)?;
        Ok(params.signed_by(&subject, &issuer)?.der().to_vec())
    })
    .await
}

/// A certificate for `key`, signed by `key`.
pub(super) async fn self_signed(
    token: Arc<dyn Token>,
    key: &TokenKey,
    params: CertificateParams,
) -> Result<Vec<u8>, PkiError> {
    let point = parse_spki(&key.spki)?.subject_public_key.raw_bytes().to_vec();
    sign(token, key.id, point, move |signer| Ok(params.self_signed(signer)?.der().to_vec())).await
}

/// The id of a public key.
pub(super) fn key_id(spki: &[u8]) -> Result<KeyId, PkiError> {
    Ok(KeyId::of_public_key(parse_spki(spki)?.subject_public_key.raw_bytes()))
}

/// The id of a CA certificate's key.
pub(super) fn ca_key(certificate: &[u8]) -> Result<KeyId, PkiError> {
    let certificate = parse_ca(certificate)?;
    let key = certificate.tbs_certificate().subject_public_key_info();
    Ok(KeyId::of_public_key(key.subject_public_key.raw_bytes()))
}

/// A time as rcgen wants it.
pub(super) fn date(time: Timestamp) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(time.as_second())
        .map_err(|error| PkiError::Invalid(format!("{time} is no time for a certificate: {error}")))
}

pub(super) fn parse_ca(certificate: &[u8]) -> Result<x509_cert::Certificate, PkiError> {
    let no_ca = |why: &str| {
        PkiError::Invalid(format!(
            "the device CA's certificate is none: {why}. Give the certificate that custodian init wrote, in DER"
        ))
    };
    let certificate =
        x509_cert::Certificate::from_der(certificate).map_err(|error| no_ca(&error.to_string()))?;
    match certificate.tbs_certificate().get_extension::<BasicConstraints>() {
        Ok(Some((_, constraints))) if constraints.ca => Ok(certificate),
        _ => Err(no_ca("it is not a CA's")),
    }
}

fn parse_spki(spki: &[u8]) -> Result<SubjectPublicKeyInfoRef<'_>, PkiError> {
    SubjectPublicKeyInfoRef::from_der(spki)
        .map_err(|error| PkiError::Invalid(format!("this is no public key: {error}")))
}

/// Runs `build` on a thread that may block, with a signer that asks the token.
pub(super) async fn sign(
    token: Arc<dyn Token>,
    key: KeyId,
    point: Vec<u8>,
    build: impl FnOnce(&TokenSigner) -> Result<Vec<u8>, rcgen::Error> + Send + 'static,
) -> Result<Vec<u8>, PkiError> {
    let runtime = Handle::current();
    let task = tokio::task::spawn_blocking(move || {
        let signer = TokenSigner { token, key, point, runtime, failure: Mutex::new(None) };
        build(&signer).map_err(|error| match signer.failure() {
            Some(failure) => PkiError::Token(failure),
            None => PkiError::Invalid(format!("the certificate cannot be made: {error}")),
        })
    });
    match task.await {
        Ok(signed) => signed,
        Err(error) => Err(PkiError::Invalid(format!("making the certificate was interrupted: {error}"))),
    }
}
