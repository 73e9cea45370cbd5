//! The messages of RFC 3161, the Time-Stamp Protocol: what a requester asks, what an authority answers, and what it signs.

use std::time::Duration;

use der::{
    Any, DateTime, Decode, Encode, Sequence, Tag, Tagged,
    asn1::{BitString, GeneralizedTime, Int, ObjectIdentifier, OctetString},
};
use spki::AlgorithmIdentifierOwned;

use crate::sign::Hash;

/// id-ct-TSTInfo, §2.4.2.
pub const ID_CT_TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");

/// id-kp-timeStamping, §2.3: the one purpose of an authority's certificate.
pub const ID_KP_TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");

/// id-aa-signatureTimeStampToken, appendix A: the unsigned attribute with a signature's timestamp.
pub const ID_AA_SIGNATURE_TIME_STAMP_TOKEN: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.14");

/// The policy of a custodian that was not given another: it issues by its own clock, under a key in its token, and records
/// each. [`crate::identity::ARC`], 3 for timestamps, and 1.
pub const USUAL_POLICY: &str =
    "1.2.840.113556.1.8000.2554.43576.23831.8521.17637.39966.10363675.12816695.3.1";

/// The media types of §3.4.
pub const QUERY_TYPE: &str = "application/timestamp-query";
/// See [`QUERY_TYPE`].
pub const REPLY_TYPE: &str = "application/timestamp-reply";

/// Longest request, in bytes. Ours have about 70.
pub const MAX_QUERY_LEN: usize = 4 * 1024;

/// Longest answer, in bytes: a token with several certificates.
pub const MAX_REPLY_LEN: usize = 64 * 1024;

/// The only version there is.
const V1: u8 = 1;

/// `MessageImprint`, §2.4.1: what is timestamped.
#[derive(Clone, PartialEq, Eq, Debug, Sequence)]
pub struct MessageImprint {
    hash_algorithm: AlgorithmIdentifierOwned,
    hashed_message: OctetString,
}

impl MessageImprint {
    /// Of this digest.
    ///
    /// # Errors
    /// Never: a digest is short.
    pub fn new(hash: Hash, digest: &[u8]) -> der::Result<Self> {
        let hash_algorithm = AlgorithmIdentifierOwned { oid: hash.oid(), parameters: None };
        Ok(Self { hash_algorithm, hashed_message: OctetString::new(digest)? })
    }

    /// The hash, whose parameters may be absent or NULL (RFC 5754 §2). `None`: one that is not known here, or too weak.
    pub fn hash(&self) -> Option<Hash> {
        let AlgorithmIdentifierOwned { oid, parameters } = &self.hash_algorithm;
        let plain = parameters.as_ref().is_none_or(Any::is_null);
        Hash::ALL.into_iter().find(|hash| plain && hash.oid() == *oid)
    }

    /// The digest.
    pub fn digest(&self) -> &[u8] {
        self.hashed_message.as_bytes()
    }

    /// Whether this is the same digest by the same hash, however its parameters are written.
    pub fn is_of(&self, hash: Hash, digest: &[u8]) -> bool {
        self.hash() == Some(hash) && self.digest() == digest
    }
}

/// `TimeStampReq`, §2.4.1.
#[derive(Clone, PartialEq, Eq, Debug, Sequence)]
pub struct TimeStampReq {
    version: u8,
    /// What is to be timestamped.
    pub message_imprint: MessageImprint,
    /// Under which policy.
    #[asn1(optional = "true")]
    pub req_policy: Option<ObjectIdentifier>,
    /// Comes back in the answer.
    #[asn1(optional = "true")]
    pub nonce: Option<Int>,
    /// Whether the answer is to have the authority's certificate.
    #[asn1(default = "no")]
    pub cert_req: bool,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    extensions: Option<Vec<Any>>,
}

fn no() -> bool {
    false
}

/// A positive number, big-endian.
fn number(bytes: &[u8]) -> der::Result<Int> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = bytes.get(zeros..).unwrap_or_default();
    // DER: as short as can be, and the first bit is the sign.
    match bytes.first() {
        Some(first) if *first < 0x80 => Int::new(bytes),
        _ => Int::new(&[&[0], bytes].concat()),
    }
}

impl TimeStampReq {
    /// A request with the certificate, and with this number that nobody used before: at least 8 bytes, big-endian.
    ///
    /// # Errors
    /// If the number is too long.
    pub fn new(message_imprint: MessageImprint, nonce: &[u8]) -> der::Result<Self> {
        Ok(Self {
            version: V1,
            message_imprint,
            req_policy: None,
            nonce: Some(number(nonce)?),
            cert_req: true,
            extensions: None,
        })
    }

    /// Reads and checks a request: everything that an authority must know of it.
    ///
    /// # Errors
    /// The failure to answer with.
    pub fn read(query: &[u8]) -> Result<(Self, Hash), Rejection> {
        if query.len() > MAX_QUERY_LEN {
            return Err(Rejection::BadDataFormat);
        }
        let request = Self::from_der(query).map_err(|_| Rejection::BadDataFormat)?;
        if request.version != V1 {
            return Err(Rejection::BadRequest);
        }
        let hash = request.message_imprint.hash().ok_or(Rejection::BadAlg)?;
        if request.message_imprint.digest().len() != hash.size() {
            return Err(Rejection::BadDataFormat);
        }
        if request.extensions.is_some() {
            return Err(Rejection::UnacceptedExtension);
        }
        Ok((request, hash))
    }
}

/// `PKIFailureInfo`, §2.4.2, as far as we use it: the number of the bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rejection {
    /// A hash that is not known, or too weak.
    BadAlg = 0,
    /// Another version of the protocol.
    BadRequest = 2,
    /// No request, or a digest of another length than its hash has.
    BadDataFormat = 5,
    /// Another policy than the authority's.
    UnacceptedPolicy = 15,
    /// An extension: none is known.
    UnacceptedExtension = 16,
}

impl Rejection {
    const ALL: [Self; 5] = [
        Self::BadAlg,
        Self::BadRequest,
        Self::BadDataFormat,
        Self::UnacceptedPolicy,
        Self::UnacceptedExtension,
    ];

    /// As the standard names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadAlg => "badAlg",
            Self::BadRequest => "badRequest",
            Self::BadDataFormat => "badDataFormat",
            Self::UnacceptedPolicy => "unacceptedPolicy",
            Self::UnacceptedExtension => "unacceptedExtension",
        }
    }

    /// What is wrong, for a person.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::BadAlg => "the digest must be by SHA-256, SHA-384 or SHA-512",
            Self::BadRequest => "the request is of another version than 1",
            Self::BadDataFormat => "this is no TimeStampReq in DER, or its digest is not as long as its hash",
            Self::UnacceptedPolicy => "timestamps are not issued under that policy",
            Self::UnacceptedExtension => "no extension of requests is known",
        }
    }
}

/// `PKIStatusInfo`, §2.4.2.
#[derive(Clone, PartialEq, Eq, Debug, Sequence)]
struct PkiStatusInfo {
    status: u8,
    #[asn1(optional = "true")]
    status_string: Option<Vec<String>>,
    #[asn1(optional = "true")]
    fail_info: Option<BitString>,
}

/// `TimeStampResp`, §2.4.2.
#[derive(Clone, PartialEq, Eq, Debug, Sequence)]
pub struct TimeStampResp {
    status: PkiStatusInfo,
    #[asn1(optional = "true")]
    token: Option<Any>,
}

/// `PKIStatus`: granted, granted with changes, rejection.
const GRANTED: u8 = 0;
const GRANTED_WITH_MODS: u8 = 1;
const REJECTED: u8 = 2;

impl TimeStampResp {
    /// The answer with this token, a `ContentInfo` in DER.
    ///
    /// # Errors
    /// If it is no DER.
    pub fn granted(token: &[u8]) -> der::Result<Self> {
        let status = PkiStatusInfo { status: GRANTED, status_string: None, fail_info: None };
        Ok(Self { status, token: Some(Any::from_der(token)?) })
    }

    /// The answer that says why there is none.
    ///
    /// # Errors
    /// Never.
    pub fn rejected(rejection: Rejection) -> der::Result<Self> {
        let bit = rejection as u8;
        let mut bits = vec![0; usize::from(bit / 8) + 1];
        if let Some(last) = bits.last_mut() {
            *last = 0x80 >> (bit % 8);
        }
        let status = PkiStatusInfo {
            status: REJECTED,
            status_string: Some(vec![rejection.meaning().to_owned()]),
            fail_info: Some(BitString::new(7 - bit % 8, bits)?),
        };
        Ok(Self { status, token: None })
    }

    /// The token in DER; or why there is none, for a person.
    ///
    /// # Errors
    /// What the authority says.
    pub fn token(&self) -> Result<Vec<u8>, String> {
        match (self.status.status, &self.token) {
            (GRANTED | GRANTED_WITH_MODS, Some(token)) => token.to_der().map_err(|error| error.to_string()),
            (GRANTED | GRANTED_WITH_MODS, None) => Err("it says that it is granted, and is not there".into()),
            (status, _) => Err(self.failure(status)),
        }
    }

    fn failure(&self, status: u8) -> String {
        let said = self.status.status_string.as_deref().unwrap_or_default().join("; ");
        let bits = self.status.fail_info.as_ref().map(BitString::raw_bytes).unwrap_or_default();
        let is_set =
            |bit: u8| bits.get(usize::from(bit / 8)).is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0);
        let named = Rejection::ALL.into_iter().filter(|rejection| is_set(*rejection as u8));
        let others = [(14, "timeNotAvailable"), (17, "addInfoNotAvailable"), (25, "systemFailure")];
        let others = others.into_iter().filter(|(bit, _)| is_set(*bit)).map(|(_, name)| name);
        let names: Vec<_> = named.map(Rejection::name).chain(others).collect();
        let what = if status == REJECTED { "rejected".to_owned() } else { format!("status {status}") };
        [what, names.join(", "), said]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(": ")
    }
}

/// `Accuracy`, §2.4.2: how far the time may be off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Sequence)]
pub struct Accuracy {
    #[asn1(optional = "true")]
    seconds: Option<u32>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    millis: Option<u16>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    micros: Option<u16>,
}

impl Accuracy {
    /// To this duration, in whole milliseconds.
    pub fn of(duration: Duration) -> Self {
        let seconds = u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        let millis = u16::try_from(duration.subsec_millis()).unwrap_or_default();
        Self {
            seconds: (seconds > 0).then_some(seconds),
            millis: (millis > 0).then_some(millis),
            micros: None,
        }
    }

    /// How much that is.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or_default().into())
            + Duration::from_millis(self.millis.unwrap_or_default().into())
            + Duration::from_micros(self.micros.unwrap_or_default().into())
    }
}

/// `TSTInfo`, §2.4.2: what an authority signs.
#[derive(Clone, PartialEq, Eq, Debug, Sequence)]
pub struct TstInfo {
    version: u8,
    /// Under which policy it was issued.
    pub policy: ObjectIdentifier,
    /// What was timestamped.
    pub message_imprint: MessageImprint,
    /// Its number. An authority never uses one twice.
    pub serial_number: Int,
    gen_time: Any,
    /// How far the time may be off.
    #[asn1(optional = "true")]
    pub accuracy: Option<Accuracy>,
    #[asn1(default = "no")]
    ordering: bool,
    /// The request's.
    #[asn1(optional = "true")]
    pub nonce: Option<Int>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    tsa: Option<Any>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    extensions: Option<Vec<Any>>,
}

impl TstInfo {
    /// What is signed about this request at this time since 1970, cut to whole seconds. `serial`: 16 bytes, big-endian.
    ///
    /// # Errors
    /// If the time is beyond the year 9999.
    pub fn answering(
        request: &TimeStampReq,
        policy: ObjectIdentifier,
        serial: [u8; 16],
        time: Duration,
        accuracy: Accuracy,
    ) -> der::Result<Self> {
        let time = GeneralizedTime::from_date_time(DateTime::from_unix_duration(Duration::from_secs(
            time.as_secs(),
        ))?);
        Ok(Self {
            version: V1,
            policy,
            message_imprint: request.message_imprint.clone(),
            serial_number: number(&serial)?,
            gen_time: Any::encode_from(&time)?,
            accuracy: Some(accuracy),
            ordering: false,
            nonce: request.nonce.clone(),
            tsa: None,
            extensions: None,
        })
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let info = Self::from_der(der).map_err(|error| format!("it has no TSTInfo ({error})"))?;
        if info.version != V1 {
            return Err(format!("its version is {}, and not 1", info.version));
        }
        if info.time().is_none() {
            return Err("its genTime is no time".to_owned());
        }
        // Extensions could be critical (RFC 5280 §4.2), and none is known.
        if info.extensions.is_some() {
            return Err("it has extensions, of which none is known".to_owned());
        }
        Ok(info)
    }

    /// When it was issued, since 1970.
    pub fn time(&self) -> Option<Duration> {
        if self.gen_time.tag() != Tag::GeneralizedTime {
            return None;
        }
        generalized_time(self.gen_time.value())
    }
}

/// `YYYYMMDDhhmmss[.s…]Z`, §2.4.2: other than in certificates, with fractions of a second.
fn generalized_time(text: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (whole, fraction) = match text.split_once('.') {
        None => (text, ""),
        Some((whole, fraction)) if !fraction.is_empty() && !fraction.ends_with('0') => (whole, fraction),
        Some(_) => return None,
    };
    if whole.len() != 14 || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| whole.get(from..to)?.parse::<u8>().ok();
    let year = whole.get(..4)?.parse().ok()?;
    let time =
        DateTime::new(year, number(4, 6)?, number(6, 8)?, number(8, 10)?, number(10, 12)?, number(12, 14)?);
    let nanos: u32 = fraction
        .bytes()
        .chain(*b"000000000")
        .take(9)
        .try_fold(0u32, |nanos, digit| nanos.checked_mul(10)?.checked_add(u32::from(digit - b'0')))?;
    Some(time.ok()?.unix_duration() + Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> TimeStampReq {
        TimeStampReq::new(MessageImprint::new(Hash::Sha256, &[0xab; 32]).unwrap(), &[0, 0x80, 7]).unwrap()
    }

    #[test]
    fn requests_read_back_and_bad_ones_are_rejected_by_name() {
        let good = request();
        let der = good.to_der().unwrap();
        assert_eq!(TimeStampReq::read(&der).unwrap(), (good.clone(), Hash::Sha256));
        for len in 0..der.len() {
            assert_eq!(TimeStampReq::read(&der[..len]).unwrap_err(), Rejection::BadDataFormat);
        }
        let read = |request: TimeStampReq| TimeStampReq::read(&request.to_der().unwrap()).unwrap_err();
        let sha1 =
            AlgorithmIdentifierOwned { oid: ObjectIdentifier::new_unwrap("1.3.14.3.2.26"), parameters: None };
        let imprint = |hash_algorithm, digest: &[u8]| MessageImprint {
            hash_algorithm,
            hashed_message: OctetString::new(digest).unwrap(),
        };
        let sha256 = good.message_imprint.hash_algorithm.clone();
        let with = |message_imprint| TimeStampReq { message_imprint, ..good.clone() };
        assert_eq!(read(with(imprint(sha1, &[1; 20]))), Rejection::BadAlg);
        assert_eq!(read(with(imprint(sha256, &[1; 31]))), Rejection::BadDataFormat);
        assert_eq!(read(TimeStampReq { version: 2, ..good.clone() }), Rejection::BadRequest);
        let extensions = Some(vec![Any::null()]);
        assert_eq!(read(TimeStampReq { extensions, ..good.clone() }), Rejection::UnacceptedExtension);
        assert_eq!(TimeStampReq::read(&[0x30; MAX_QUERY_LEN + 1]).unwrap_err(), Rejection::BadDataFormat);
    }

    #[test]
    fn answers_read_back() {
        let policy = ObjectIdentifier::new_unwrap("1.2.3.4");
        let time = Duration::new(1_700_000_000, 999_999_999);
        let accuracy = Accuracy::of(Duration::from_millis(1_500));
        let info = TstInfo::answering(&request(), policy, [0xff; 16], time, accuracy).unwrap();
        let read = TstInfo::read(&info.to_der().unwrap()).unwrap();
        assert_eq!(read, info);
        assert_eq!(read.time(), Some(Duration::from_secs(1_700_000_000)));
        assert_eq!(read.accuracy.unwrap().duration(), Duration::from_millis(1_500));
        assert_eq!(read.nonce, request().nonce);
        let granted = TimeStampResp::granted(&info.to_der().unwrap()).unwrap().to_der().unwrap();
        assert_eq!(TimeStampResp::from_der(&granted).unwrap().token().unwrap(), info.to_der().unwrap());
        for rejection in Rejection::ALL {
            let der = TimeStampResp::rejected(rejection).unwrap().to_der().unwrap();
            let said = TimeStampResp::from_der(&der).unwrap().token().unwrap_err();
            assert_eq!(said, format!("rejected: {}: {}", rejection.name(), rejection.meaning()));
        }
    }

    #[test]
    fn the_usual_policy_is_in_our_arc() {
        assert_eq!(USUAL_POLICY, format!("{}.3.1", crate::identity::ARC));
        assert_eq!(ObjectIdentifier::new(USUAL_POLICY).unwrap().to_string(), USUAL_POLICY);
    }

    #[test]
    fn times_may_have_fractions() {
        let at = |text: &str| generalized_time(text.as_bytes());
        assert_eq!(at("19700101000001Z"), Some(Duration::from_secs(1)));
        assert_eq!(at("19700101000001.25Z"), Some(Duration::from_millis(1_250)));
        assert_eq!(at("19700101000000.123456789123Z"), Some(Duration::from_nanos(123_456_789)));
        for bad in ["", "Z", "19700101000001", "19700101000001.Z", "19700101000001.50Z", "19701301000001Z"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
