//! Certificates. The device CA's key is in the token: every certificate is signed by the worker process.

mod capabilities;
mod crl;
pub mod csr;
pub mod foreign;
mod issue;
pub mod openpgp;
pub mod peer;
pub mod people;
mod signer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use custodian_proto::{
    key::{KeyId, KeyWrapping},
    tsp::ID_KP_TIME_STAMPING,
};
use der::Encode;
use jiff::{SignedDuration, Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyIdMethod, KeyUsagePurpose, SerialNumber,
};

use crate::{
    authority::DeviceId,
    token::{KeyKind, KeyTemplate, Token, TokenError, TokenKey},
};

/// How long the token may take to generate the CA's key.
const GENERATE_LIMIT: Duration = Duration::from_secs(30);

/// How long the token may take to tell its keys, or to sign once.
const TOKEN_LIMIT: Duration = Duration::from_secs(10);

/// extKeyUsage, RFC 5280 §4.2.1.12.
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];

/// Certificates begin this much before they are made: other machines' clocks are late.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// The CA that enrols devices. It also certifies the server's key and the wrapping keys.
#[derive(Clone)]
pub struct DeviceCa {
    certificate: Vec<u8>,
    key: KeyId,
    token: Arc<dyn Token>,
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// The first second.
    pub not_before: Timestamp,
    /// The last second. A certificate never outlives its CA's: then it ends with that one.
    pub not_after: Timestamp,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// The token did not sign or generate.
    #[error("the token did not make the certificate: {0}")]
    Token(#[from] TokenError),
    /// What was given does not make a certificate. Says what.
    #[error("{0}")]
    Invalid(String),
}

impl Validity {
    /// From now, a little less than now in fact, for so many days.
    ///
    /// # Errors
    /// If that is beyond the year 9999.
    pub fn days(days: u32) -> Result<Self, PkiError> {
        Self::until(i64::from(days).days())
    }

    /// From now for so many years.
    ///
    /// # Errors
    /// If that is beyond the year 9999.
    pub fn years(years: u32) -> Result<Self, PkiError> {
        Self::until(i64::from(years).years())
    }

    fn until(span: jiff::Span) -> Result<Self, PkiError> {
        let now = Timestamp::now();
        let end = now.to_zoned(TimeZone::UTC).checked_add(span).map_err(|error| {
            PkiError::Invalid(format!("a certificate cannot be valid that long: {error}"))
        })?;
        Ok(Self { not_before: now - CLOCK_SKEW, not_after: end.timestamp() })
    }
}

impl DeviceCa {
    /// Makes a CA: an EC P-256 key in the token and a certificate for it that it signs itself.
    ///
    /// # Errors
    /// If the token does not generate or sign.
    pub async fn create(token: Arc<dyn Token>, organisation: &str, years: u32) -> Result<Self, PkiError> {
        Self::made(token, "device", organisation, years, Vec::new()).await
    }

    /// Makes a CA for certificates of this kind, only for these purposes if any are given.
    async fn made(
        token: Arc<dyn Token>,
        kind: &str,
        organisation: &str,
        years: u32,
        purposes: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<Self, PkiError> {
        let validity = Validity::years(years)?;
        let name = format!("{organisation} {kind} CA");
        let template = KeyTemplate { label: name.clone(), kind: KeyKind::EcdsaP256Sign };
        let key = token.generate(template, Instant::now() + GENERATE_LIMIT).await?;

        let mut params = parameters(key.id, &name, validity)?;
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = purposes;
        let certificate = issue::self_signed(Arc::clone(&token), &key, params).await?;
        Ok(Self { certificate, key: key.id, token })
    }

    /// Takes up a CA made earlier.
    ///
    /// # Errors
    /// If this is no CA certificate, or the token does not serve its key.
    pub async fn open(token: Arc<dyn Token>, certificate: Vec<u8>) -> Result<Self, PkiError> {
        let key = issue::ca_key(&certificate)?;
        let survey = token.survey(Instant::now() + TOKEN_LIMIT).await?;
        if survey.keys.iter().any(|one| one.id == key && one.kind == KeyKind::EcdsaP256Sign) {
            return Ok(Self { certificate, key, token });
        }
        let unserved = match survey.unserved.as_slice() {
            [] => String::new(),
            reasons => format!(" Not served: {}.", reasons.join("; ")),
        };
        Err(PkiError::Invalid(format!(
            "the token {:?} serves no signing key {key}, the device CA's.{unserved} Check that the configuration names the \
             token in which the CA was made",
            survey.label
        )))
    }

    /// A CA whose key is not looked for: the token with it may come later.
    ///
    /// # Errors
    /// If this is no CA certificate.
    pub fn of_certificate(token: Arc<dyn Token>, certificate: Vec<u8>) -> Result<Self, PkiError> {
        let key = issue::ca_key(&certificate)?;
        Ok(Self { certificate, key, token })
    }

    /// The CA's certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The CA's key in the token.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// Certifies a workstation's key, for TLS client authentication.
    ///
    /// # Errors
    /// If the key is none we know, or the token does not sign.
    pub async fn issue_device(
        &self,
        id: &DeviceId,
        spki: &[u8],
        validity: Validity,
    ) -> Result<Vec<u8>, PkiError> {
        let mut params = parameters(issue::key_id(spki)?, id.as_str(), validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue::signed(self, spki, params).await
    }

    /// Certifies the server's key, for TLS. Names are DNS names or IP addresses; the first becomes the common name.
    ///
    /// # Errors
    /// If there is no name or one that is neither, or the token does not sign.
    pub async fn issue_server(
        &self,
        names: &[String],
        spki: &[u8],
        validity: Validity,
    ) -> Result<Vec<u8>, PkiError> {
        let Some(first) = names.first() else {
            return Err(PkiError::Invalid(
                "a server certificate needs a name: give the DNS names or IP addresses that clients connect to"
                    .to_owned(),
            ));
        };
        let alternatives = CertificateParams::new(names).map_err(|error| {
            PkiError::Invalid(format!("{names:?} are not all DNS names or IP addresses: {error}"))
        })?;
        let mut params = parameters(issue::key_id(spki)?, first, validity)?;
        params.subject_alt_names = alternatives.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        issue::signed(self, spki, params).await
    }

    /// Certifies a wrapping key: what people seal files to. Its SubjectKeyIdentifier is the [`KeyId`], and S/MIME
    /// capabilities (RFC 4262) say how to wrap.
    ///
    /// # Errors
    /// If this is no wrapping key, or the token does not sign.
    pub async fn certify_wrapping_key(
        &self,
        key: &TokenKey,
        label: &str,
        validity: Validity,
    ) -> Result<Vec<u8>, PkiError> {
        let Some(wrapping) = key.wrapping else {
            return Err(PkiError::Invalid(format!(
                "the key {} unwraps nothing: it is a signing key",
                key.id
            )));
        };
        let mut params = parameters(key.id, label, validity)?;
        if wrapping == KeyWrapping::OpenPgp {
            // Nobody can seal to this one: senders use the OpenPGP certificate, which follows from it.
            params.key_usages = vec![KeyUsagePurpose::DataEncipherment];
        } else {
            params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
            params.custom_extensions = vec![smime_capabilities(wrapping)?];
        }
        issue::signed(self, &key.spki, params).await
    }

    /// Certifies a signing key: for signatures that cannot be denied later (contentCommitment, once nonRepudiation), and not
    /// for keys.
    ///
    /// # Errors
    /// If the key unwraps, or the token does not sign.
    pub async fn certify_signing_key(
        &self,
        key: &TokenKey,
        label: &str,
        validity: Validity,
    ) -> Result<Vec<u8>, PkiError> {
        if key.kind.unwraps() {
            return Err(PkiError::Invalid(format!("the key {} signs nothing: it is a wrapping key", key.id)));
        }
        let mut params = parameters(key.id, label, validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
        issue::signed(self, &key.spki, params).await
    }

    /// Certifies the key of a time-stamping authority. RFC 3161 §2.3: it has one purpose, and says so in a critical extension.
    ///
    /// # Errors
    /// If the key unwraps, or the token does not sign.
    pub async fn certify_timestamp_key(
        &self,
        key: &TokenKey,
        label: &str,
        validity: Validity,
    ) -> Result<Vec<u8>, PkiError> {
        if key.kind.unwraps() {
            return Err(PkiError::Invalid(format!("the key {} signs nothing: it is a wrapping key", key.id)));
        }
        let purposes = vec![ID_KP_TIME_STAMPING].to_der();
        let purposes = purposes.map_err(|error| PkiError::Invalid(error.to_string()))?;
        // rcgen's own is not critical.
        let mut purposes = CustomExtension::from_oid_content(EXTENDED_KEY_USAGE, purposes);
        purposes.set_criticality(true);
        let mut params = parameters(key.id, label, validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.custom_extensions = vec![purposes];
        issue::signed(self, &key.spki, params).await
    }
}

/// What all our certificates have: names, times, a random serial number, both key identifiers.
fn parameters(
    subject_key: KeyId,
    common_name: &str,
    validity: Validity,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.not_before = issue::date(validity.not_before)?;
    params.not_after = issue::date(validity.not_after)?;
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // Explicitly: without basic constraints rcgen leaves the SubjectKeyIdentifier out.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_identifier_method = KeyIdMethod::PreSpecified(subject_key.as_bytes().to_vec());
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 16 bytes, 126 of the bits random; positive, and always of that length.
fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut serial = [0; 16];
    rand::fill(&mut serial)
        .map_err(|_| PkiError::Invalid("the system gives no random numbers".to_owned()))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

fn smime_capabilities(wrapping: KeyWrapping) -> Result<CustomExtension, PkiError> {
    let der = capabilities::der(wrapping)
        .map_err(|error| PkiError::Invalid(format!("the S/MIME capabilities do not encode: {error}")))?;
    Ok(CustomExtension::from_oid_content(capabilities::EXTENSION, der))
}

#[cfg(test)]
mod tests;
