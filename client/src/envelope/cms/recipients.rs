//! RecipientInfos (RFC 5652 §6.2): whom a message is encrypted to, and which of them a custodian can serve.

use cms::{
    content_info::CmsVersion,
    enveloped_data::{KeyTransRecipientInfo, RecipientIdentifier, RecipientInfo, RecipientInfos},
};
use custodian_proto::{
    key::{KeyId, KeyWrapping, WrappedKey},
    limits::MAX_WRAPPED_KEY_LEN,
};
use der::{
    Decode, Encode,
    asn1::{ObjectIdentifier, OctetString},
};
use x509_cert::ext::pkix::SubjectKeyIdentifier;

use super::ber::{Reader, SEQUENCE, SET, context_constructed};
use crate::{
    envelope::{MAX_RECIPIENTS, oaep, unsupported},
    error::{Error, Result},
    unwrapper::KeyName,
};

/// PKCS #1 v1.5.
const ID_RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Longest description of one recipient, in bytes. RSA-4096 and a long name take 2 KiB.
const MAX_LEN: u64 = 16 * 1024;
/// How many recipients an error names.
const TOLD: usize = 3;

/// Whom a message is encrypted to.
#[derive(Default)]
pub(super) struct Recipients {
    /// The file key, wrapped for those that a custodian can serve.
    pub(super) served: Vec<WrappedKey>,
    /// The same, for those whose keys are named by their certificates.
    pub(super) named: Vec<(KeyName, KeyWrapping, Vec<u8>)>,
    /// The others: who, and why not.
    pub(super) others: Vec<String>,
}

impl Recipients {
    /// Reads them.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if they are no RecipientInfos; [`crate::Kind::Local`] if they are too many.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut recipients = Self::default();
        reader.enter(SET)?;
        while let Some(tag) = reader.next_tag()? {
            if recipients.count() == MAX_RECIPIENTS {
                return Err(unsupported(format!("it has more than {MAX_RECIPIENTS} recipients")));
            }
            if tag != SEQUENCE {
                reader.skip()?;
                recipients.others.push(other_kind(tag).to_owned());
                continue;
            }
            match RecipientInfo::from_der(&reader.element(&mut { MAX_LEN })?) {
                Ok(RecipientInfo::Ktri(info)) => match wrapped_key(&info) {
                    Ok(Wrapped::To(wrapped)) => recipients.served.push(wrapped),
                    Ok(Wrapped::Named(name, wrapping, ciphertext)) => {
                        recipients.named.push((name, wrapping, ciphertext));
                    }
                    Err(why) => recipients.others.push(why),
                },
                _ => recipients.others.push("a recipient that cannot be read".to_owned()),
            }
        }
        reader.leave()?;
        Ok(recipients)
    }

    fn count(&self) -> usize {
        self.served.len() + self.named.len() + self.others.len()
    }

    /// Why nobody can be asked for the file key.
    pub(super) fn unserved(&self) -> Error {
        if self.others.is_empty() {
            return unsupported("it is encrypted to nobody");
        }
        let mut who = self.others.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
        if self.others.len() > TOLD {
            who.push_str(&format!("; and {} more", self.others.len() - TOLD));
        }
        unsupported(format!("no custodian serves its recipients: {who}")).hint(
            "have it sealed by envelope seal, or by openssl cms -encrypt -aes-256-gcm -keyopt rsa_padding_mode:oaep",
        )
    }
}

/// RecipientInfos in DER.
pub(super) fn write(wrapped: &[WrappedKey]) -> der::Result<Vec<u8>> {
    let infos = wrapped.iter().map(recipient_info).collect::<der::Result<Vec<_>>>()?;
    RecipientInfos::try_from(infos)?.to_der()
}

fn recipient_info(wrapped: &WrappedKey) -> der::Result<RecipientInfo> {
    let id = OctetString::new(wrapped.key_id().as_bytes().as_slice())?;
    Ok(RecipientInfo::Ktri(KeyTransRecipientInfo {
        // RFC 5652 §6.2.1: 2 for a recipient named by its key identifier.
        version: CmsVersion::V2,
        rid: RecipientIdentifier::SubjectKeyIdentifier(SubjectKeyIdentifier(id)),
        key_enc_alg: oaep::to_algorithm(wrapped.wrapping())?,
        enc_key: OctetString::new(wrapped.ciphertext())?,
    }))
}

/// A file key, wrapped to a key or to one that is known by its certificate.
enum Wrapped {
    To(WrappedKey),
    Named(KeyName, KeyWrapping, Vec<u8>),
}

/// What a custodian can unwrap, or who it is and why not.
fn wrapped_key(info: &KeyTransRecipientInfo) -> std::result::Result<Wrapped, String> {
    let (who, name) = match (&info.rid, info.version) {
        (RecipientIdentifier::SubjectKeyIdentifier(id), CmsVersion::V2) => {
            (format!("keys/{}", hex::encode(id.0.as_bytes())), Err(KeyId::from_bytes(id.0.as_bytes())))
        }
        (RecipientIdentifier::IssuerAndSerialNumber(name), CmsVersion::V0) => {
            let name = KeyName::Certificate(name.clone());
            (name.to_string(), Ok(name))
        }
        _ => return Err("a recipient whose version is wrong".to_owned()),
    };
    let wrapping = match info.key_enc_alg.oid {
        // Served by keys that were made for it; the custodian knows which.
        ID_RSA_ENCRYPTION => Some(KeyWrapping::Pkcs1),
        _ => oaep::from_algorithm(&info.key_enc_alg),
    };
    let wrapping =
        wrapping.ok_or_else(|| format!("{who} by a kind of key transport that is not known here"))?;
    let ciphertext = info.enc_key.as_bytes().to_vec();
    let len = ciphertext.len();
    if len == 0 || len > MAX_WRAPPED_KEY_LEN {
        return Err(format!("{who} by a wrapped key of {len} bytes"));
    }
    match name {
        Ok(name) => Ok(Wrapped::Named(name, wrapping, ciphertext)),
        Err(key_id) => key_id
            .and_then(|id| WrappedKey::new(id, wrapping, ciphertext))
            .map(Wrapped::To)
            .ok_or_else(|| format!("{who}, not named by a 20-byte key identifier")),
    }
}

/// RFC 5652 §6.2.
fn other_kind(tag: u8) -> &'static str {
    const KEY_AGREEMENT: u8 = context_constructed(1);
    const SHARED_KEY: u8 = context_constructed(2);
    const PASSWORD: u8 = context_constructed(3);
    match tag {
        KEY_AGREEMENT => "somebody by key agreement",
        SHARED_KEY => "whoever has a certain symmetric key",
        PASSWORD => "whoever knows a password",
        _ => "a recipient of a kind that is not known here",
    }
}
