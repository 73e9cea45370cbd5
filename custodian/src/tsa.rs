//! The time-stamping authority's tokens (RFC 3161): what is signed, and the message around it. The key is in the token.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use cms::{
    cert::{CertificateChoices, IssuerAndSerialNumber},
    content_info::{CmsVersion, ContentInfo},
    signed_data::{
        CertificateSet, EncapsulatedContentInfo, SignedAttributes, SignedData, SignerIdentifier, SignerInfo,
        SignerInfos,
    },
};
use const_oid::db::{
    rfc5911::{ID_CONTENT_TYPE, ID_MESSAGE_DIGEST, ID_SIGNED_DATA},
    rfc5912::{ECDSA_WITH_SHA_256, ID_SHA_256},
};
use custodian_proto::tsp::{Accuracy, ID_CT_TST_INFO, Rejection, TimeStampReq, TimeStampResp, TstInfo};
use der::{
    Any, Decode, Encode, EncodeValue, Sequence, Tagged,
    asn1::{ObjectIdentifier, OctetString, SetOfVec},
};
use spki::AlgorithmIdentifierOwned;
use x509_cert::{Certificate, attr::Attribute, ext::pkix::name::GeneralName, serial_number::SerialNumber};

/// id-aa-signingCertificateV2, RFC 5035 §3.
const ID_SIGNING_CERTIFICATE_V2: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");

/// What an authority goes by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TsaRules {
    /// The label of its key. The newest version signs.
    pub label: String,
    /// The policy under which it issues.
    pub policy: ObjectIdentifier,
    /// How far its clock may be off.
    pub accuracy: Duration,
}

impl TsaRules {
    /// Refuses a request for another policy.
    ///
    /// # Errors
    /// [`Rejection::UnacceptedPolicy`]
    pub fn accept(&self, request: &TimeStampReq) -> Result<(), Rejection> {
        match request.req_policy {
            Some(policy) if policy != self.policy => Err(Rejection::UnacceptedPolicy),
            _ => Ok(()),
        }
    }
}

/// A token that lacks its signature.
pub struct Draft {
    info: Vec<u8>,
    attributes: SignedAttributes,
    signer: IssuerAndSerialNumber,
    /// What goes along, if the request wants it: the key's certificate and its issuer's.
    certificates: Option<CertificateSet>,
}

/// RFC 5035 §4, with SHA-256: the default, which is left out.
#[derive(Sequence)]
struct EssCertIdV2 {
    cert_hash: OctetString,
    issuer_serial: IssuerSerial,
}

/// RFC 5035 §4.
#[derive(Sequence)]
struct IssuerSerial {
    issuer: Vec<GeneralName>,
    serial_number: SerialNumber,
}

/// RFC 5035 §3.
#[derive(Sequence)]
struct SigningCertificateV2 {
    certs: Vec<EssCertIdV2>,
}

impl Draft {
    /// The token that answers this request at this time since 1970. `chain`: the key's certificate first, DER.
    ///
    /// # Errors
    /// If a certificate cannot be read, or the time is beyond the year 9999.
    pub fn new(
        request: &TimeStampReq,
        rules: &TsaRules,
        serial: [u8; 16],
        time: Duration,
        chain: &[&[u8]],
    ) -> der::Result<Self> {
        let info = TstInfo::answering(request, rules.policy, serial, time, Accuracy::of(rules.accuracy))?;
        let info = info.to_der()?;
        let parsed = chain.iter().map(|der| Certificate::from_der(der)).collect::<der::Result<Vec<_>>>()?;
        let (Some(own), Some(own_der)) = (parsed.first(), chain.first()) else {
            return Err(der::ErrorKind::Failed.into());
        };
        let tbs = own.tbs_certificate();
        let signer = IssuerAndSerialNumber {
            issuer: tbs.issuer().clone(),
            serial_number: tbs.serial_number().clone(),
        };
        // RFC 5816 §2.2.1: it names the certificate, so that no other of the same key takes its place.
        let named = SigningCertificateV2 {
            certs: vec![EssCertIdV2 {
                cert_hash: OctetString::new(digest(&SHA256, own_der).as_ref())?,
                issuer_serial: IssuerSerial {
                    issuer: vec![GeneralName::DirectoryName(tbs.issuer().clone())],
                    serial_number: tbs.serial_number().clone(),
                },
            }],
        };
        let attributes = SetOfVec::try_from(vec![
            attribute(ID_CONTENT_TYPE, &ID_CT_TST_INFO)?,
            attribute(ID_MESSAGE_DIGEST, &OctetString::new(digest(&SHA256, &info).as_ref())?)?,
            attribute(ID_SIGNING_CERTIFICATE_V2, &named)?,
        ])?;
        let certificates = parsed.into_iter().map(CertificateChoices::Certificate).collect::<Vec<_>>();
        let certificates = if request.cert_req { Some(certificates.try_into()?) } else { None };
        Ok(Self { info, attributes, signer, certificates })
    }

    /// The SHA-256 of what is to be signed: the attributes (RFC 5652 §5.4).
    ///
    /// # Errors
    /// Never.
    pub fn digest(&self) -> der::Result<Vec<u8>> {
        Ok(digest(&SHA256, &self.attributes.to_der()?).as_ref().to_vec())
    }

    /// The whole answer, with this signature: ECDSA on P-256, in DER.
    ///
    /// # Errors
    /// Never.
    pub fn finish(self, signature: Vec<u8>) -> der::Result<Vec<u8>> {
        let sha256 = AlgorithmIdentifierOwned { oid: ID_SHA_256, parameters: None };
        let signer = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(self.signer),
            digest_alg: sha256.clone(),
            signed_attrs: Some(self.attributes),
            signature_algorithm: AlgorithmIdentifierOwned { oid: ECDSA_WITH_SHA_256, parameters: None },
            signature: OctetString::new(signature)?,
            unsigned_attrs: None,
        };
        let signed = SignedData {
            // RFC 5652 §5.1: the content is no plain data.
            version: CmsVersion::V3,
            digest_algorithms: SetOfVec::try_from(vec![sha256])?,
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: ID_CT_TST_INFO,
                econtent: Some(Any::encode_from(&OctetString::new(self.info)?)?),
            },
            certificates: self.certificates,
            crls: None,
            signer_infos: SignerInfos::try_from(vec![signer])?,
        };
        let token = ContentInfo { content_type: ID_SIGNED_DATA, content: Any::encode_from(&signed)? };
        TimeStampResp::granted(&token.to_der()?)?.to_der()
    }
}

fn attribute(oid: ObjectIdentifier, value: &(impl EncodeValue + Tagged)) -> der::Result<Attribute> {
    Ok(Attribute { oid, values: SetOfVec::try_from(vec![Any::encode_from(value)?])? })
}
