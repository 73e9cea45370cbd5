//! Whether a signature is right: RFC 5652 §5.6. Whose it is and whether that person counts comes after
//! ([`Accept`](super::Accept)).

use std::time::{Duration, SystemTime};

use cms::{content_info::CmsVersion, signed_data::SignerIdentifier};
use custodian_proto::tsp::ID_AA_SIGNATURE_TIME_STAMP_TOKEN;
use der::Encode;
use x509_cert::attr::Attributes as UnsignedAttributes;

use super::{
    Hash, SignerCertificate,
    attributes::{Attributes, ID_DATA},
    read::{SignedData, unreadable},
    scheme::{self, Scheme},
    write::VERSION,
};
use crate::error::{Error, Kind, Result};

/// How far the signer's clock may be ahead of ours.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// A signature that is right: whoever has the private key of the certificate signed this content.
pub struct Signature {
    certificate: SignerCertificate,
    /// The other certificates of the message, DER.
    others: Vec<Vec<u8>>,
    scheme: Scheme,
    claimed_time: Option<SystemTime>,
    value: Vec<u8>,
    unsigned: Option<UnsignedAttributes>,
}

impl Signature {
    /// Verifies it. `content_hash` hashes the content.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the content is another one, the signature is wrong, or the message contradicts itself;
    /// [`Kind::Local`] for algorithms that are not known here; and those of `content_hash`.
    pub fn verify(
        signed: &SignedData,
        now: SystemTime,
        content_hash: impl FnOnce(Hash) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let signer = &signed.signer;
        // RFC 5652 §5.3: the version tells how the signer is named.
        let version = match signer.sid {
            SignerIdentifier::IssuerAndSerialNumber(_) => CmsVersion::V1,
            SignerIdentifier::SubjectKeyIdentifier(_) => CmsVersion::V3,
        };
        if signer.version != version {
            return Err(unreadable("its version does not fit to how it names its signer"));
        }
        let unknown = |what: &str, oid| {
            Error::new(Kind::Local, "cannot verify the signature", format!("{what} {oid} is not known here"))
        };
        let hash = scheme::hash_from(&signer.digest_alg)
            .ok_or_else(|| unknown("the hash", signer.digest_alg.oid))?;
        let scheme = Scheme::read(&signer.signature_algorithm, hash)
            .ok_or_else(|| unknown("the algorithm", signer.signature_algorithm.oid))?;
        let signed_attributes = signer
            .signed_attrs
            .as_ref()
            .ok_or_else(|| unreadable("it has no signed attributes").hint("sign without -noattr"))?;
        let attributes = Attributes::read(signed_attributes)?;
        if attributes.content_type != signed.content_type || signed.content_type != ID_DATA {
            return Err(unreadable("it is for another type of content than plain data"));
        }

        let (certificate, others) = signer_certificate(signed)?;
        check_named(&attributes, &certificate)?;
        let message = signed_attributes.to_der().map_err(unreadable)?;
        if !scheme.verify(certificate.public_key(), &message, signer.signature.as_bytes()) {
            return Err(wrong(
                "it was not made with the key of the certificate that it names, or was changed",
            ));
        }
        if attributes.time.is_some_and(|time| time > now + CLOCK_TOLERANCE) {
            return Err(wrong("it says that it was made in the future").hint("check the clock"));
        }
        if content_hash(hash)? != attributes.digest {
            return Err(wrong("what is here is not what was signed"));
        }
        Ok(Self {
            certificate,
            others,
            scheme,
            claimed_time: attributes.time,
            value: signer.signature.as_bytes().to_vec(),
            unsigned: signer.unsigned_attrs.clone(),
        })
    }

    /// Checks that a message has nothing in it that its signature does not protect, but for a timestamp. So no bit of it can
    /// be changed, and of a timestamp none that tells whose it is, when, and of what.
    ///
    /// # Errors
    /// [`Kind::Integrity`] with what is too much.
    pub fn check_nothing_else(signed: &SignedData) -> Result<()> {
        let too_much = |what: &str| Err(unreadable(format!("it has {what}, which nothing protects")));
        let signer = &signed.signer;
        if signed.has_lists {
            return too_much("revocation lists");
        }
        // A timestamp protects itself, and is of this very signature: `timestamp::Attached` sees to that.
        let timestamp = |attributes: &UnsignedAttributes| matches!(attributes.as_slice(), [only] if only.oid == ID_AA_SIGNATURE_TIME_STAMP_TOKEN);
        if !signer.unsigned_attrs.as_ref().is_none_or(timestamp) {
            return too_much("unsigned attributes");
        }
        if signed.version != VERSION || signed.hashes.as_slice() != [signer.digest_alg.clone()] {
            return too_much("a form that we do not write");
        }
        let attributes = signer.signed_attrs.as_ref().map(Attributes::read).transpose()?;
        let named = attributes.map(|attributes| attributes.certificates).unwrap_or_default();
        let mut named: Vec<_> =
            named.into_iter().filter(|(hash, _)| *hash == Hash::Sha256).map(|(_, id)| id).collect();
        let mut there: Vec<_> = signed.certificates.iter().map(|der| Hash::Sha256.of(der)).collect();
        named.sort_unstable();
        there.sort_unstable();
        if named == there { Ok(()) } else { too_much("other certificates than it names") }
    }

    /// The signer's certificate.
    pub fn certificate(&self) -> &SignerCertificate {
        &self.certificate
    }

    pub(super) fn others(&self) -> &[Vec<u8>] {
        &self.others
    }

    /// How it was made, in text.
    pub fn algorithm(&self) -> String {
        self.scheme.to_string()
    }

    /// When the signer says that it was made. Nobody else vouches for that.
    pub fn claimed_time(&self) -> Option<SystemTime> {
        self.claimed_time
    }

    /// The signature itself: what a timestamp is of (RFC 3161 appendix A).
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// What was added to it later, such as a timestamp. Nothing here is verified.
    pub fn unsigned_attributes(&self) -> Option<&UnsignedAttributes> {
        self.unsigned.as_ref()
    }
}

fn signer_certificate(signed: &SignedData) -> Result<(SignerCertificate, Vec<Vec<u8>>)> {
    let mut found = None;
    let mut others = Vec::new();
    for der in &signed.certificates {
        match SignerCertificate::from_der(der)? {
            certificate if found.is_none() && certificate.is_meant_by(&signed.signer.sid) => {
                found = Some(certificate);
            }
            _ => others.push(der.clone()),
        }
    }
    let missing = || {
        unreadable("the signer's certificate is not in it")
            .hint("have it signed with the certificate (openssl: without -nocerts)")
    };
    Ok((found.ok_or_else(missing)?, others))
}

/// RFC 5035 §3: the first certificate that is named must be the signer's. `openssl` names none unless it is told to.
fn check_named(attributes: &Attributes, certificate: &SignerCertificate) -> Result<()> {
    match attributes.certificates.first() {
        Some((hash, id)) if hash.of(certificate.der()) != *id => {
            Err(wrong("it names another certificate than the one that comes with it"))
        }
        _ => Ok(()),
    }
}

fn wrong(why: &str) -> Error {
    Error::new(Kind::Integrity, "the signature is wrong", why)
}
