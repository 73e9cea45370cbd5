//! CIPHER.KEY: a small secret in a DER-encoded CMS `AuthEnvelopedData` (RFC 5083), encrypted with AES-256-GCM (RFC 5084)
//! under the file key, and the file key wrapped for each recipient by RSAES-OAEP (RFC 4055).
//!
//! What the secret is for is authenticated with it, so that the CIPHER.KEY of one format never passes for one of another.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use cms::{
    authenveloped_data::{AuthAttributes, AuthEnvelopedData},
    content_info::{CmsVersion, ContentInfo},
    enveloped_data::{
        EncryptedContentInfo, KeyTransRecipientInfo, RecipientIdentifier, RecipientInfo, RecipientInfos,
    },
};
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    limits::FILE_KEY_LEN,
};
use der::{
    Any, Decode, Encode, EncodeValue, Sequence, Tagged,
    asn1::{ObjectIdentifier, OctetString, SetOfVec},
};
use spki::AlgorithmIdentifierOwned;
use x509_cert::{attr::Attribute, ext::pkix::SubjectKeyIdentifier};
use zeroize::Zeroizing;

use crate::{
    envelope::{MAX_RECIPIENTS, Recipient, SenderMark, damaged, oaep, unsupported},
    error::{Error, Kind, Result},
};

const ID_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ID_AUTH_ENVELOPED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.23");
const ID_AES256_GCM: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.46");

/// RFC 5652 §11.1
const ID_CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
/// RFC 2634 §2.9
const ID_CONTENT_HINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.4");

const TAG_LEN: usize = 16;

/// What the secret is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// The password of an MTD archive. These have no authenticated attributes.
    MtdPassword,
    /// The input key of a `sealed` envelope.
    SealedInputKey,
}

impl Purpose {
    /// What the content hints say.
    fn description(self) -> Option<&'static str> {
        match self {
            Self::MtdPassword => None,
            Self::SealedInputKey => Some("sealed/1 input key"),
        }
    }

    /// The authenticated attributes: the content's type, the hint what it is, and who signs the envelope.
    fn attributes(self, sender: Option<SenderMark>) -> der::Result<Option<AuthAttributes>> {
        if self.description().is_none() && sender.is_none() {
            return Ok(None);
        }
        let mut attributes = vec![attribute(ID_CONTENT_TYPE, &ID_DATA)?];
        if let Some(description) = self.description() {
            let hints = ContentHints { description: description.to_owned(), content_type: ID_DATA };
            attributes.push(attribute(ID_CONTENT_HINTS, &hints)?);
        }
        attributes.extend(sender.map(SenderMark::attribute).transpose()?);
        AuthAttributes::try_from(attributes).map(Some)
    }
}

/// RFC 2634 §2.9; we always describe.
#[derive(Sequence)]
struct ContentHints {
    description: String,
    content_type: ObjectIdentifier,
}

fn attribute(oid: ObjectIdentifier, value: &(impl EncodeValue + Tagged)) -> der::Result<Attribute> {
    Ok(Attribute { oid, values: SetOfVec::try_from(vec![Any::encode_from(value)?])? })
}

/// What GCM authenticates besides the content: the attributes in DER (RFC 5083 §2.1).
fn additional_data(attributes: Option<&AuthAttributes>) -> der::Result<Vec<u8>> {
    attributes.map_or(Ok(Vec::new()), Encode::to_der)
}

/// RFC 5084 §3.2.
#[derive(Sequence)]
struct GcmParameters {
    nonce: OctetString,
    #[asn1(default = "default_tag_len")]
    tag_len: u8,
}

fn default_tag_len() -> u8 {
    12
}

/// A CIPHER.KEY that was read but not opened.
pub(super) struct CipherKey {
    wrapped: Vec<WrappedKey>,
    nonce: [u8; NONCE_LEN],
    /// What is authenticated besides the secret.
    additional: Vec<u8>,
    /// The encrypted secret, followed by its tag.
    sealed: Vec<u8>,
    sender: Option<SenderMark>,
}

/// Encrypts a secret under a new file key and wraps that for the recipients. The file key does not survive.
///
/// # Errors
/// [`Kind::Local`] if the cryptographic library refuses.
pub(super) fn seal(
    recipients: &[Recipient],
    purpose: Purpose,
    sender: Option<SenderMark>,
    secret: &[u8],
) -> Result<Vec<u8>> {
    let mut key = Zeroizing::new([0; FILE_KEY_LEN]);
    let mut nonce = [0; NONCE_LEN];
    let random = rand::fill(key.as_mut_slice()).and_then(|()| rand::fill(&mut nonce));
    random.map_err(|_| cannot_seal("the system gives no random numbers"))?;
    let file_key = FileKey::new(*key);

    let attributes = purpose.attributes(sender).map_err(cannot_seal)?;
    let additional = additional_data(attributes.as_ref()).map_err(cannot_seal)?;
    let mut sealed = Zeroizing::new(secret.to_vec());
    let tag = gcm(&file_key)
        .and_then(|gcm| {
            gcm.seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&additional),
                sealed.as_mut_slice(),
            )
            .ok()
        })
        .ok_or_else(|| cannot_seal("AES-256-GCM is not available"))?;
    let wrapped = recipients.iter().map(|recipient| recipient.wrap(&file_key)).collect::<Result<Vec<_>>>()?;
    encode(&wrapped, attributes, &nonce, &sealed, tag.as_ref()).map_err(cannot_seal)
}

impl CipherKey {
    /// Reads a CIPHER.KEY that must be for this purpose.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is no DER; [`Kind::Local`] if it is some other CMS message, is for something else, or has
    /// no recipient that a custodian can serve.
    pub(super) fn parse(der: &[u8], purpose: Purpose) -> Result<Self> {
        let no_cms = |why: der::Error| damaged(format!("CIPHER.KEY is no CMS message ({why})"));
        let info = ContentInfo::from_der(der).map_err(no_cms)?;
        if info.content_type != ID_AUTH_ENVELOPED_DATA {
            return Err(unsupported("CIPHER.KEY is not an AuthEnvelopedData"));
        }
        let data: AuthEnvelopedData = info.content.decode_as().map_err(no_cms)?;
        let attributes = data.auth_attrs.iter().flat_map(|attributes| attributes.iter());
        let sender = SenderMark::find(attributes).map_err(cannot_read)?;
        if data.auth_attrs != purpose.attributes(sender).map_err(cannot_read)? {
            return Err(unsupported(match purpose {
                Purpose::MtdPassword => "CIPHER.KEY has authenticated attributes",
                Purpose::SealedInputKey => {
                    "the attributes of CIPHER.KEY do not say that it is for such an envelope"
                }
            }));
        }
        let count = data.recip_infos.0.len();
        if count > MAX_RECIPIENTS {
            return Err(unsupported(format!("it has {count} recipients, more than {MAX_RECIPIENTS}")));
        }
        let additional = additional_data(data.auth_attrs.as_ref()).map_err(cannot_read)?;
        let content = data.auth_encrypted_content_info;
        if content.content_enc_alg.oid != ID_AES256_GCM {
            return Err(unsupported("CIPHER.KEY is not encrypted with AES-256-GCM"));
        }
        let parameters: GcmParameters = content
            .content_enc_alg
            .parameters
            .as_ref()
            .ok_or_else(|| damaged("CIPHER.KEY has no nonce"))?
            .decode_as()
            .map_err(no_cms)?;
        let nonce = parameters.nonce.as_bytes().try_into();
        let (Ok(nonce), TAG_LEN) = (nonce, parameters.tag_len.into()) else {
            return Err(unsupported("CIPHER.KEY does not use a nonce of 12 bytes and a tag of 16"));
        };
        let ciphertext = content.encrypted_content.ok_or_else(|| damaged("CIPHER.KEY has no content"))?;
        let sealed = [ciphertext.as_bytes(), data.mac.as_bytes()].concat();
        let wrapped: Vec<_> = data.recip_infos.0.iter().filter_map(wrapped_key).collect();
        if wrapped.is_empty() {
            return Err(unsupported(
                "none of its recipients is an RSA-OAEP key named by a 20-byte key identifier",
            ));
        }
        Ok(Self { wrapped, nonce, additional, sealed, sender })
    }

    /// The file key, wrapped: once for each recipient that a custodian can serve.
    pub(super) fn wrapped_keys(&self) -> &[WrappedKey] {
        &self.wrapped
    }

    /// Who must have signed the envelope.
    pub(super) fn sender_mark(&self) -> Option<SenderMark> {
        self.sender
    }

    /// Decrypts the secret.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if this is not the file key, or CIPHER.KEY was changed.
    pub(super) fn open(self, file_key: &FileKey) -> Result<Zeroizing<Vec<u8>>> {
        let mut sealed = Zeroizing::new(self.sealed);
        let wrong = || damaged("CIPHER.KEY does not open with the file key that was unwrapped from it");
        let secret = gcm(file_key)
            .and_then(|gcm| {
                let nonce = Nonce::assume_unique_for_key(self.nonce);
                gcm.open_in_place(nonce, Aad::from(&self.additional), sealed.as_mut_slice())
                    .ok()
                    .map(|secret| secret.to_vec())
            })
            .ok_or_else(wrong)?;
        Ok(Zeroizing::new(secret))
    }
}

fn gcm(file_key: &FileKey) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, file_key.expose()).ok().map(LessSafeKey::new)
}

fn encode(
    wrapped: &[WrappedKey],
    attributes: Option<AuthAttributes>,
    nonce: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
) -> der::Result<Vec<u8>> {
    let recipients = wrapped.iter().map(recipient_info).collect::<der::Result<Vec<_>>>()?;
    let parameters = GcmParameters {
        nonce: OctetString::new(nonce)?,
        tag_len: u8::try_from(tag.len()).unwrap_or(u8::MAX),
    };
    let data = AuthEnvelopedData {
        // RFC 5083 §2.1: always 0.
        version: CmsVersion::V0,
        originator_info: None,
        recip_infos: RecipientInfos::try_from(recipients)?,
        auth_encrypted_content_info: EncryptedContentInfo {
            content_type: ID_DATA,
            content_enc_alg: AlgorithmIdentifierOwned {
                oid: ID_AES256_GCM,
                parameters: Some(Any::encode_from(&parameters)?),
            },
            encrypted_content: Some(OctetString::new(ciphertext)?),
        },
        auth_attrs: attributes,
        mac: OctetString::new(tag)?,
        unauth_attrs: None,
    };
    ContentInfo { content_type: ID_AUTH_ENVELOPED_DATA, content: Any::encode_from(&data)? }.to_der()
}

fn recipient_info(wrapped: &WrappedKey) -> der::Result<RecipientInfo> {
    Ok(RecipientInfo::Ktri(KeyTransRecipientInfo {
        // RFC 5652 §6.2.1: 2 for a recipient named by its key identifier.
        version: CmsVersion::V2,
        rid: RecipientIdentifier::SubjectKeyIdentifier(SubjectKeyIdentifier(OctetString::new(
            wrapped.key_id().as_bytes().as_slice(),
        )?)),
        key_enc_alg: oaep::to_algorithm(wrapped.wrapping())?,
        enc_key: OctetString::new(wrapped.ciphertext())?,
    }))
}

/// What a custodian can unwrap; `None` for other kinds of recipients.
fn wrapped_key(info: &RecipientInfo) -> Option<WrappedKey> {
    let RecipientInfo::Ktri(info) = info else { return None };
    let RecipientIdentifier::SubjectKeyIdentifier(id) = &info.rid else { return None };
    let key_id = KeyId::from_bytes(id.0.as_bytes())?;
    WrappedKey::new(key_id, oaep::from_algorithm(&info.key_enc_alg)?, info.enc_key.as_bytes().to_vec())
}

fn cannot_read(why: der::Error) -> Error {
    unsupported(format!("CIPHER.KEY cannot be checked ({why})"))
}

fn cannot_seal(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "cannot seal", why)
}
