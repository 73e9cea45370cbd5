//! A message as far as it can be read without a key: EnvelopedData (RFC 5652 §6.1) and AuthEnvelopedData (RFC 5083 §2.1).

use der::{Decode, asn1::ObjectIdentifier};
use x509_cert::attr::Attribute;

use super::{
    algorithm::{Algorithm, Cipher},
    ber::{
        self, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, Octets, Reader, SEQUENCE, SET, context_constructed,
        no_cms,
    },
    gcm,
    recipients::Recipients,
};
use crate::{
    envelope::{SenderMark, damaged, unsupported},
    error::Result,
};

pub(super) const ID_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
pub(super) const ID_ENVELOPED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.3");
pub(super) const ID_AUTH_ENVELOPED_DATA: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.23");
/// RFC 5652 §11.1
const ID_CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");

/// Longest number, object identifier or algorithm identifier, in bytes.
const MAX_SMALL: u64 = 1024;
/// Longest authenticated attributes, in bytes.
const MAX_ATTRIBUTES: u64 = 64 * 1024;

/// A message that was read to its end, without its content.
pub(super) struct Header<'f> {
    pub(super) recipients: Recipients,
    pub(super) algorithm: Algorithm,
    /// The encrypted content.
    pub(super) content: Content<'f>,
    /// `None`: an EnvelopedData, which is not authenticated.
    pub(super) authentication: Option<Authentication>,
}

/// Where the encrypted content is.
pub(super) struct Content<'f> {
    /// Before its first run.
    pub(super) octets: Octets<'f>,
    /// Bytes of it.
    pub(super) len: u64,
}

/// What makes an AuthEnvelopedData authentic.
pub(super) struct Authentication {
    /// What is authenticated besides the content: the authenticated attributes in DER, or nothing (RFC 5083 §2.2).
    pub(super) additional: Vec<u8>,
    pub(super) tag: Vec<u8>,
    /// Who must have signed the message.
    pub(super) sender: Option<SenderMark>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Enveloped,
    AuthEnveloped,
}

impl<'f> Header<'f> {
    /// Reads a message, which ends where the reader ends.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it is no such message, or cut off; [`crate::Kind::Local`] if it is one that cannot be
    /// opened here.
    pub(super) fn read(mut reader: Reader<'f>) -> Result<Self> {
        reader.enter(SEQUENCE)?;
        let kind = match object_identifier(&mut reader)? {
            ID_ENVELOPED_DATA => Kind::Enveloped,
            ID_AUTH_ENVELOPED_DATA => Kind::AuthEnveloped,
            other => {
                return Err(unsupported(format!(
                    "it is a CMS message of type {other}, which is not encrypted to anybody"
                )));
            }
        };
        reader.enter(context_constructed(0))?;
        reader.enter(SEQUENCE)?;
        check_version(&mut reader, kind)?;
        // Certificates and revocation lists for recipients whose keys are agreed on.
        skip_if(&mut reader, 0)?;
        let recipients = Recipients::read(&mut reader)?;

        reader.enter(SEQUENCE)?;
        let content_type = object_identifier(&mut reader)?;
        if content_type != ID_DATA {
            return Err(unsupported(format!("its content is not plain data, but of type {content_type}")));
        }
        let algorithm = Algorithm::parse(&reader.element(&mut { MAX_SMALL })?)?;
        if reader.next_tag()?.is_none() {
            return Err(unsupported("its content is not in it, but somewhere else"));
        }
        let octets = reader.octets(0)?;
        let mut content = Content { octets: octets.clone(), len: 0 };
        let mut octets = octets;
        while let Some(run) = octets.next_run()? {
            content.len += run.len;
        }
        let mut reader = octets.behind();
        reader.leave()?;

        let authentication = match kind {
            Kind::Enveloped => {
                skip_if(&mut reader, 1)?;
                None
            }
            Kind::AuthEnveloped => Some(Authentication::read(&mut reader, &algorithm)?),
        };
        reader.leave()?;
        reader.leave()?;
        reader.leave()?;
        reader.finish()?;
        let header = Self { recipients, algorithm, content, authentication };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        let len = self.content.len;
        match (&self.algorithm.cipher, &self.authentication) {
            (Cipher::Gcm { .. }, None) => Err(unsupported("it uses AES-256-GCM without a place for the tag")),
            (Cipher::Cbc { .. }, Some(_)) => {
                Err(unsupported("it claims to be authenticated, but AES-256-CBC does not authenticate"))
            }
            (Cipher::Gcm { .. }, _) if len > gcm::MAX_LEN => {
                Err(damaged("its content is longer than AES-GCM can encrypt"))
            }
            (Cipher::Cbc { .. }, _) if len == 0 || !len.is_multiple_of(16) => {
                Err(damaged("its content is cut off: it is not a multiple of 16 bytes"))
            }
            _ => Ok(()),
        }
    }
}

impl Authentication {
    fn read(reader: &mut Reader<'_>, algorithm: &Algorithm) -> Result<Self> {
        let (mut additional, mut sender) = (Vec::new(), None);
        if reader.next_tag()? == Some(context_constructed(1)) {
            reader.enter(context_constructed(1))?;
            let mut attributes = Vec::new();
            let mut budget = MAX_ATTRIBUTES;
            while reader.next_tag()?.is_some() {
                attributes.push(reader.element(&mut budget)?);
            }
            reader.leave()?;
            sender = check_attributes(&attributes)?;
            attributes.sort_unstable();
            // RFC 5083 §2.2: as a SET OF in DER, whatever they are in the message.
            additional = ber::element(SET, &attributes.concat());
        }
        let tag = small(reader, OCTET_STRING)?;
        if let Cipher::Gcm { tag_len, .. } = algorithm.cipher
            && tag.len() != tag_len
        {
            return Err(damaged("its tag has another length than it says"));
        }
        skip_if(reader, 2)?;
        Ok(Self { additional, tag, sender })
    }
}

/// Returns the sender's mark.
fn check_attributes(attributes: &[Vec<u8>]) -> Result<Option<SenderMark>> {
    if attributes.is_empty() {
        return Err(no_cms());
    }
    let attributes = attributes.iter().map(|der| Attribute::from_der(der).map_err(|_| no_cms()));
    let attributes = attributes.collect::<Result<Vec<_>>>()?;
    for attribute in &attributes {
        let says_data = || {
            attribute.values.len() == 1
                && attribute.values.iter().all(|value| value.decode_as() == Ok(ID_DATA))
        };
        if attribute.oid == ID_CONTENT_TYPE && !says_data() {
            return Err(damaged("its attributes and its content disagree on the type of the content"));
        }
    }
    SenderMark::find(attributes.iter()).map_err(|_| no_cms())
}

fn check_version(reader: &mut Reader<'_>, kind: Kind) -> Result<()> {
    let version = small(reader, INTEGER)?;
    match (kind, version.as_slice()) {
        (Kind::AuthEnveloped, [0]) | (Kind::Enveloped, [0..=4]) => Ok(()),
        _ => Err(unsupported("it has a version that is not known here")),
    }
}

fn object_identifier(reader: &mut Reader<'_>) -> Result<ObjectIdentifier> {
    ObjectIdentifier::from_bytes(&small(reader, OBJECT_IDENTIFIER)?).map_err(|_| no_cms())
}

/// The content of a small element of this kind.
fn small(reader: &mut Reader<'_>, tag: u8) -> Result<Vec<u8>> {
    let der = reader.element(&mut { MAX_SMALL })?;
    if der.first() != Some(&tag) {
        return Err(no_cms());
    }
    Ok(ber::content_of(&der).to_vec())
}

/// Steps over `[number]`, if that comes next.
fn skip_if(reader: &mut Reader<'_>, number: u8) -> Result<()> {
    if reader.next_tag()? == Some(context_constructed(number)) { reader.skip() } else { Ok(()) }
}
