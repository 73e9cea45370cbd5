//! Whether a certificate is a person's, and good to encrypt to (RFC 8550). Chain and revocation are [`crate::chain`]'s.

use std::time::SystemTime;

use custodian_proto::{email::Email, identity::IdentityLevel, key::KeyId};
use der::{Decode, asn1::ObjectIdentifier};
use jiff::Timestamp;
use x509_cert::{
    Certificate,
    ext::pkix::{
        BasicConstraints, CertificatePolicies, ExtendedKeyUsage, KeyUsage, SubjectAltName, name::GeneralName,
    },
};

use crate::chain::{Chain, EndedLists};

/// id-kp-emailProtection, RFC 5280 §4.2.1.12.
const EMAIL_PROTECTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.4");

/// A certificate that says whose key it is.
pub struct PersonCertificate {
    der: Vec<u8>,
    parsed: Certificate,
}

/// Why a certificate is not good to encrypt to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotGood(String);

impl PersonCertificate {
    /// Reads a certificate, DER.
    ///
    /// # Errors
    /// It is none.
    pub fn read(der: &[u8]) -> Result<Self, NotGood> {
        let parsed =
            Certificate::from_der(der).map_err(|why| NotGood(format!("it cannot be read ({why})")))?;
        Ok(Self { der: der.to_vec(), parsed })
    }

    /// In DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The id of its key, computed from the key itself.
    pub fn key_id(&self) -> KeyId {
        let key = self.parsed.tbs_certificate().subject_public_key_info();
        KeyId::of_public_key(key.subject_public_key.raw_bytes())
    }

    /// Its serial number, hex.
    pub fn serial(&self) -> String {
        hex::encode(self.parsed.tbs_certificate().serial_number().as_bytes())
    }

    /// Its identity level. It is worth what its CA is worth.
    pub fn level(&self) -> Option<IdentityLevel> {
        let (_, policies) = self.parsed.tbs_certificate().get_extension::<CertificatePolicies>().ok()??;
        let oids = policies.0.iter().map(|policy| policy.policy_identifier.to_string());
        oids.filter_map(|oid| IdentityLevel::from_policy_oid(&oid)).max()
    }

    /// Checks that `issuer` vouches now for a key that is encrypted to and is that of whoever has this address, and that
    /// none of `lists` has it. All in DER. A list that ended tells nothing of what was revoked since: it is refused, unless it
    /// has the certificate.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn check(
        &self,
        email: &Email,
        issuer: &[u8],
        lists: &[Vec<u8>],
        now: SystemTime,
    ) -> Result<(), NotGood> {
        self.check_purpose()?;
        if !self.is_of(email) {
            return Err(NotGood(format!("it is not for {email}")));
        }
        self.check_chain(issuer, lists, now)
    }

    /// Whether the address is among its alternative names. The subject's own name does not count (RFC 8550 §3).
    fn is_of(&self, email: &Email) -> bool {
        let Ok(Some((_, names))) = self.parsed.tbs_certificate().get_extension::<SubjectAltName>() else {
            return false;
        };
        names.0.iter().any(|name| match name {
            GeneralName::Rfc822Name(name) => name.as_str().parse::<Email>().is_ok_and(|name| name == *email),
            _ => false,
        })
    }

    fn check_purpose(&self) -> Result<(), NotGood> {
        let tbs = self.parsed.tbs_certificate();
        let unreadable = |what: &str| NotGood(format!("its {what} cannot be read"));
        let usage = tbs.get_extension::<KeyUsage>().map_err(|_| unreadable("key usage"))?;
        if !usage.is_some_and(|(_, usage)| usage.key_encipherment()) {
            return Err(NotGood(
                "its key is not for encrypting to (keyUsage lacks keyEncipherment)".to_owned(),
            ));
        }
        let purposes = tbs.get_extension::<ExtendedKeyUsage>().map_err(|_| unreadable("purposes"))?;
        if !purposes.is_some_and(|(_, purposes)| purposes.0.contains(&EMAIL_PROTECTION)) {
            return Err(NotGood("it is not for e-mail (extendedKeyUsage lacks emailProtection)".to_owned()));
        }
        Ok(())
    }

    fn check_chain(&self, issuer: &[u8], lists: &[Vec<u8>], now: SystemTime) -> Result<(), NotGood> {
        check_ca(issuer)?;
        let authorities = [issuer.to_vec()];
        let chain = Chain { leaf: &self.der, others: &[], authorities: &authorities, lists };
        // What a list has, it has, however old it is.
        let checked =
            chain.check(now, EndedLists::LookInto).and_then(|()| chain.check(now, EndedLists::Refuse));
        checked.map_err(not_vouched_for)
    }
}

/// `rustls-webpki` asks nothing of a trust anchor.
fn check_ca(issuer: &[u8]) -> Result<(), NotGood> {
    let bad = || NotGood("its issuer is no CA".to_owned());
    let issuer = Certificate::from_der(issuer).map_err(|_| bad())?;
    let tbs = issuer.tbs_certificate();
    let constraints = tbs.get_extension::<BasicConstraints>().map_err(|_| bad())?;
    let usage = tbs.get_extension::<KeyUsage>().map_err(|_| bad())?;
    let signs = usage.is_some_and(|(_, usage)| usage.key_cert_sign() && usage.crl_sign());
    if signs && constraints.is_some_and(|(_, constraints)| constraints.ca) { Ok(()) } else { Err(bad()) }
}

fn not_vouched_for(why: webpki::Error) -> NotGood {
    use webpki::Error as E;
    NotGood(match why {
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => {
            "the custodian's CA for people did not issue it".to_owned()
        }
        E::CertRevoked => "it was revoked".to_owned(),
        E::UnknownRevocationStatus => "the revocation list is not that of its issuer".to_owned(),
        E::CrlExpired { next_update, .. } => format!(
            "its CA's revocation list ended at {}, and nobody knows what was revoked since",
            Timestamp::from_second(i64::try_from(next_update.as_secs()).unwrap_or(i64::MAX))
                .map_or_else(|_| "a time that is none".to_owned(), |time| time.to_string())
        ),
        E::CertExpired { .. } => "it has ended".to_owned(),
        E::CertNotValidYet { .. } => "it has not begun: is the clock right?".to_owned(),
        other => other.to_string(),
    })
}
