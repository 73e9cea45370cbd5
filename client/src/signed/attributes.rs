//! What is signed besides the content: RFC 5652 §11 and RFC 5035.

use std::time::SystemTime;

use der::{
    Any, Decode, Encode, EncodeValue, Sequence, Tagged,
    asn1::{ObjectIdentifier, OctetString, SetOfVec},
};
use spki::AlgorithmIdentifierOwned;
use x509_cert::{attr::Attribute, time::Time};

use super::{Hash, read::unreadable, scheme};
use crate::error::Result;

pub(super) const ID_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
/// RFC 5652 §11.1
const ID_CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
/// RFC 5652 §11.2
const ID_MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
/// RFC 5652 §11.3
const ID_SIGNING_TIME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.5");
/// RFC 5035 §3
const ID_SIGNING_CERTIFICATE_V2: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");

/// RFC 5035 §3.
#[derive(Sequence)]
struct SigningCertificateV2 {
    certs: Vec<EssCertIdV2>,
    #[asn1(optional = "true")]
    policies: Option<Any>,
}

/// RFC 5035 §4.
#[derive(Sequence)]
struct EssCertIdV2 {
    /// Left out: SHA-256.
    #[asn1(optional = "true")]
    hash_algorithm: Option<AlgorithmIdentifierOwned>,
    cert_hash: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<Any>,
}

/// RFC 5035 §5.4.1
const ID_SIGNING_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.12");

/// RFC 5035 §5.4.1: the attribute as it was before, with SHA-1.
#[derive(Sequence)]
struct SigningCertificate {
    certs: Vec<EssCertId>,
    #[asn1(optional = "true")]
    policies: Option<Any>,
}

#[derive(Sequence)]
struct EssCertId {
    cert_hash: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<Any>,
}

/// The SHA-1 of the certificate that they name in the old way.
///
/// # Errors
/// [`crate::Kind::Integrity`] if it cannot be read, or is there twice.
pub(super) fn sha1_of_certificate(attributes: &SetOfVec<Attribute>) -> Result<Option<Vec<u8>>> {
    let Some(value) = value_of(attributes, ID_SIGNING_CERTIFICATE)? else { return Ok(None) };
    let named: SigningCertificate = value.decode_as().map_err(unreadable)?;
    Ok(named.certs.first().map(|id| id.cert_hash.as_bytes().to_vec()))
}

/// Writes the signed attributes: as a `SET OF` in DER, which is what is signed (RFC 5652 §5.4).
///
/// All certificates of the message are named, not only the signer's: so none of them can be exchanged.
pub(super) fn write(
    content_type: ObjectIdentifier,
    digest: &[u8],
    time: SystemTime,
    certificates: &[Vec<u8>],
) -> der::Result<SetOfVec<Attribute>> {
    let certs = certificates.iter().map(|der| {
        let cert_hash = OctetString::new(Hash::Sha256.of(der))?;
        Ok(EssCertIdV2 { hash_algorithm: None, cert_hash, issuer_serial: None })
    });
    let certificates = SigningCertificateV2 { certs: certs.collect::<der::Result<_>>()?, policies: None };
    SetOfVec::try_from(vec![
        attribute(ID_CONTENT_TYPE, &content_type)?,
        attribute(ID_MESSAGE_DIGEST, &OctetString::new(digest)?)?,
        Attribute { oid: ID_SIGNING_TIME, values: one(Any::from_der(&Time::try_from(time)?.to_der()?)?)? },
        attribute(ID_SIGNING_CERTIFICATE_V2, &certificates)?,
    ])
}

fn attribute(oid: ObjectIdentifier, value: &(impl EncodeValue + Tagged)) -> der::Result<Attribute> {
    Ok(Attribute { oid, values: one(Any::encode_from(value)?)? })
}

fn one(value: Any) -> der::Result<SetOfVec<Any>> {
    SetOfVec::try_from(vec![value])
}

/// What a signer signed.
pub(super) struct Attributes {
    pub(super) content_type: ObjectIdentifier,
    pub(super) digest: Vec<u8>,
    /// When the signer says that it was.
    pub(super) time: Option<SystemTime>,
    /// Hashes of certificates, the signer's first. Empty if they are not told.
    pub(super) certificates: Vec<(Hash, Vec<u8>)>,
}

impl Attributes {
    /// Reads them.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if one that must be there is not, or one is there twice or with several values.
    pub(super) fn read(attributes: &SetOfVec<Attribute>) -> Result<Self> {
        let found = |oid| value_of(attributes, oid);
        let missing = || unreadable("it has no content type, or no message digest");
        let content_type = found(ID_CONTENT_TYPE)?.ok_or_else(missing)?;
        let digest = found(ID_MESSAGE_DIGEST)?.ok_or_else(missing)?;
        let time = found(ID_SIGNING_TIME)?.map(|time| Time::from_der(&time.to_der()?));
        let time = time.transpose().map_err(unreadable)?;
        let certificates = match found(ID_SIGNING_CERTIFICATE_V2)? {
            Some(value) => value.decode_as::<SigningCertificateV2>().map_err(unreadable)?.certs,
            None => Vec::new(),
        };
        let named = |id: EssCertIdV2| {
            let hash = id
                .hash_algorithm
                .as_ref()
                .map_or(Some(Hash::Sha256), scheme::hash_from)
                .ok_or_else(|| unreadable("it names its certificate by a hash that is not known here"))?;
            Ok((hash, id.cert_hash.as_bytes().to_vec()))
        };
        Ok(Self {
            content_type: content_type.decode_as().map_err(unreadable)?,
            digest: digest.decode_as::<OctetString>().map_err(unreadable)?.as_bytes().to_vec(),
            time: time.map(|time| time.to_system_time()),
            certificates: certificates.into_iter().map(named).collect::<Result<_>>()?,
        })
    }
}

/// The one value of an attribute.
fn value_of(attributes: &SetOfVec<Attribute>, oid: ObjectIdentifier) -> Result<Option<&Any>> {
    let mut found = attributes.iter().filter(|attribute| attribute.oid == oid);
    let (Some(attribute), more) = (found.next(), found.next()) else { return Ok(None) };
    match (attribute.values.as_slice(), more) {
        ([value], None) => Ok(Some(value)),
        _ => Err(unreadable(format!("its attribute {oid} is there more than once"))),
    }
}
