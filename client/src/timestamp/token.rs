//! A TimeStampToken (RFC 3161 §2.4.2): a SignedData over a TSTInfo.

use std::time::{Duration, SystemTime};

use cms::{
    cert::CertificateChoices,
    content_info::ContentInfo,
    signed_data::{SignedData, SignerInfo},
};
use custodian_proto::{
    sign::Hash,
    tsp::{ID_CT_TST_INFO, ID_KP_TIME_STAMPING, MAX_REPLY_LEN, TimeStampResp, TstInfo},
};
use der::{Decode, Encode, asn1::OctetString};
use jiff::Timestamp;
use serde::Serialize;
use x509_cert::ext::pkix::ExtendedKeyUsage;

use super::TrustedAuthorities;
use crate::{
    error::{Error, Kind, Result},
    signed::{self, SignerCertificate},
};

/// A timestamp as it was found. What it says is believed only after [`Token::verify`].
pub struct Token {
    der: Vec<u8>,
    info: TstInfo,
    time: SystemTime,
    /// The TSTInfo as it was signed.
    content: Vec<u8>,
    signer: SignerInfo,
    /// In DER, in the order of the message.
    certificates: Vec<Vec<u8>>,
    /// Revocation lists that it brings along, DER.
    lists: Vec<Vec<u8>>,
}

/// A timestamp that is right, and of an authority that is trusted.
#[derive(Clone, Debug, Serialize)]
pub struct Stamped {
    /// When it was issued (RFC 3339).
    pub time: String,
    /// How far that may be off, in milliseconds; `None`: it does not say.
    pub accuracy_ms: Option<u64>,
    /// Whom the authority's certificate names.
    pub authority: String,
    /// Its number, hex.
    pub serial: String,
    /// The policy that it was issued under.
    pub policy: String,
    /// The same time, for comparing.
    #[serde(skip)]
    pub at: SystemTime,
}

impl Token {
    /// Reads an authority's answer (`TimeStampResp`), or a token alone, in DER.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the answer says that there is no timestamp; [`Kind::Integrity`] if it cannot be read.
    pub fn of_answer(der: &[u8]) -> Result<Self> {
        if der.len() > MAX_REPLY_LEN {
            return Err(not_good(format!("it is longer than {MAX_REPLY_LEN} bytes")));
        }
        if ContentInfo::from_der(der).is_ok() {
            return Self::read(der);
        }
        let answer =
            TimeStampResp::from_der(der).map_err(|why| not_good(format!("it cannot be read ({why})")))?;
        let token = answer
            .token()
            .map_err(|why| Error::new(Kind::Refused, "the authority issued no timestamp", why))?;
        Self::read(&token)
    }

    /// Reads a token in DER.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is none.
    pub fn read(der: &[u8]) -> Result<Self> {
        let unreadable = |why: der::Error| not_good(format!("it cannot be read ({why})"));
        if der.len() > MAX_REPLY_LEN {
            return Err(not_good(format!("it is longer than {MAX_REPLY_LEN} bytes")));
        }
        let message = ContentInfo::from_der(der).map_err(unreadable)?;
        let signed: SignedData = message.content.decode_as().map_err(unreadable)?;
        if signed.encap_content_info.econtent_type != ID_CT_TST_INFO {
            return Err(not_good("it is a signature of something else than a time"));
        }
        let content = signed.encap_content_info.econtent.ok_or_else(|| not_good("it says nothing"))?;
        let content = content.decode_as::<OctetString>().map_err(unreadable)?.as_bytes().to_vec();
        let info = TstInfo::read(&content).map_err(not_good)?;
        let time = info.time().ok_or_else(|| not_good("it tells no time"))?;
        let mut signers = signed.signer_infos.0.into_vec();
        let (Some(signer), None) = (signers.pop(), signers.pop()) else {
            // RFC 3161 §2.4.2
            return Err(not_good("it must have the signature of the authority and no other"));
        };
        let mut certificates = Vec::new();
        for choice in signed.certificates.iter().flat_map(|set| set.0.iter()) {
            if let CertificateChoices::Certificate(certificate) = choice {
                certificates.push(certificate.to_der().map_err(unreadable)?);
            }
        }
        let lists = signed.crls.iter().flat_map(|lists| lists.0.iter());
        let lists = lists.map(Encode::to_der).collect::<der::Result<_>>().map_err(unreadable)?;
        let time = SystemTime::UNIX_EPOCH + time;
        Ok(Self { der: der.to_vec(), info, time, content, signer, certificates, lists })
    }

    /// In DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What it says, believed or not.
    pub fn info(&self) -> &TstInfo {
        &self.info
    }

    /// The hash that it is of.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if that hash is not known here.
    pub fn hash(&self) -> Result<Hash> {
        let hash = self.info.message_imprint.hash();
        hash.ok_or_else(|| not_good("it is of a digest by a hash that is not known here, or too weak"))
    }

    /// Checks that it is of this digest.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if not.
    pub fn check_digest(&self, hash: Hash, digest: &[u8]) -> Result<()> {
        if self.info.message_imprint.is_of(hash, digest) {
            return Ok(());
        }
        Err(not_good("what is here is not what was timestamped (another digest)"))
    }

    /// Whether it brings certificates along.
    pub(super) fn has_certificates(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// Verifies its signature, by a certificate for timestamps and nothing else, which is in it or among `more`. Whose that is
    /// comes after.
    ///
    /// # Errors
    /// [`Kind::Integrity`] with what is wrong.
    pub(super) fn check(&self, more: &[Vec<u8>]) -> Result<SignerCertificate> {
        let certificate =
            signed::verify_content(&self.signer, ID_CT_TST_INFO, &self.content, &self.certificates, more)
                .map_err(|error| Error { what: NOT_GOOD.to_owned(), ..error })?;
        check_purpose(&certificate)?;
        Ok(certificate)
    }

    /// Verifies its signature, and that one of these authorities made it: with a certificate for timestamps and nothing else,
    /// that was valid then. `now` is today's time: a timestamp is never of a time to come.
    ///
    /// # Errors
    /// [`Kind::Integrity`] with what is wrong.
    pub fn verify(&self, trusted: &TrustedAuthorities, now: SystemTime) -> Result<Stamped> {
        let certificate = self.check(trusted.authorities())?;
        if self.time > now + CLOCK_TOLERANCE {
            return Err(not_good("it is of a time to come").hint("check the clock of this machine"));
        }
        trusted.check(&certificate, &self.certificates, &self.lists, self.time)?;
        let time = Timestamp::try_from(self.time).map_err(|why| not_good(why.to_string()))?;
        Ok(Stamped {
            time: time.to_string(),
            accuracy_ms: self
                .info
                .accuracy
                .map(|accuracy| u64::try_from(accuracy.duration().as_millis()).unwrap_or(u64::MAX)),
            authority: certificate.subject(),
            serial: hex::encode(self.info.serial_number.as_bytes()),
            policy: self.info.policy.to_string(),
            at: self.time,
        })
    }
}

/// How far an authority's clock may be ahead of ours.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// RFC 3161 §2.3: exactly one purpose, and critical.
fn check_purpose(certificate: &SignerCertificate) -> Result<()> {
    match certificate.parsed().tbs_certificate().get_extension::<ExtendedKeyUsage>() {
        Ok(Some((true, purposes))) if purposes.0 == [ID_KP_TIME_STAMPING] => Ok(()),
        Ok(Some((_, purposes))) if purposes.0.contains(&ID_KP_TIME_STAMPING) => Err(not_good(
            "its certificate is not for timestamps alone: extendedKeyUsage must be critical, and id-kp-timeStamping only",
        )),
        _ => {
            Err(not_good("its certificate is not for timestamps (extendedKeyUsage lacks id-kp-timeStamping)"))
        }
    }
}

const NOT_GOOD: &str = "the timestamp is not good";

/// The timestamp contradicts itself, is of something else, or nobody vouches for it.
pub(super) fn not_good(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Integrity, NOT_GOOD, why)
}
