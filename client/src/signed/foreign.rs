//! A signature over another type of content than plain data: a time-stamping authority's (RFC 3161 §2.4.2).

use cms::signed_data::SignerInfo;
use der::{Encode, asn1::ObjectIdentifier};
use sha1::{Digest, Sha1};

use super::{
    SignerCertificate,
    attributes::{Attributes, sha1_of_certificate},
    read::unreadable,
    scheme::{self, Scheme},
};
use crate::error::{Error, Kind, Result};

/// Verifies a signature over this content, which must be of this type. Its certificate is among those that came with it, or
/// among `more`, and named in what is signed (RFC 5035, RFC 5816). Whose it is comes after.
///
/// # Errors
/// [`Kind::Integrity`] if it is wrong or contradicts itself; [`Kind::Local`] for algorithms that are not known here.
pub(crate) fn verify_content(
    signer: &SignerInfo,
    content_type: ObjectIdentifier,
    content: &[u8],
    certificates: &[Vec<u8>],
    more: &[Vec<u8>],
) -> Result<SignerCertificate> {
    let unknown = |what: &str, oid| {
        Error::new(Kind::Local, "cannot verify the signature", format!("{what} {oid} is not known here"))
    };
    let hash =
        scheme::hash_from(&signer.digest_alg).ok_or_else(|| unknown("the hash", signer.digest_alg.oid))?;
    let scheme = Scheme::read(&signer.signature_algorithm, hash)
        .ok_or_else(|| unknown("the algorithm", signer.signature_algorithm.oid))?;
    let signed = signer.signed_attrs.as_ref().ok_or_else(|| unreadable("it has no signed attributes"))?;
    let attributes = Attributes::read(signed)?;
    if attributes.content_type != content_type {
        return Err(unreadable("it is for another type of content than there is"));
    }
    let mut found = None;
    for der in certificates.iter().chain(more) {
        let certificate = SignerCertificate::from_der(der)?;
        if certificate.is_meant_by(&signer.sid) {
            found = Some(certificate);
            break;
        }
    }
    let certificate = found.ok_or_else(|| unreadable("the certificate of its key is not there"))?;
    let named = match attributes.certificates.first() {
        Some((hash, id)) => hash.of(certificate.der()) == *id,
        // As it was before RFC 5816. It only picks a certificate; nothing that is signed hangs on SHA-1.
        None => match sha1_of_certificate(signed)? {
            Some(id) => Sha1::digest(certificate.der()).as_slice() == id,
            None => return Err(unreadable("it does not name its certificate (RFC 3161 §2.4.2)")),
        },
    };
    if !named {
        return Err(unreadable("it names another certificate than the one that is there"));
    }
    let message = signed.to_der().map_err(unreadable)?;
    if !scheme.verify(certificate.public_key(), &message, signer.signature.as_bytes()) {
        return Err(unreadable("its signature is wrong: it was changed, or made with another key"));
    }
    if hash.of(content) != attributes.digest {
        return Err(unreadable("its content is not what was signed"));
    }
    Ok(certificate)
}
