//! A SignedData (RFC 5652 §5) as it was found: DER or BER, its content in it or somewhere else.

use cms::signed_data::SignerInfo;
use der::{Decode, asn1::ObjectIdentifier};
use spki::AlgorithmIdentifierOwned;

use super::write::ID_SIGNED_DATA;
use crate::{
    envelope::{
        ReadAt,
        cms::ber::{
            INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, Reader, Run, SEQUENCE, SET, content_of,
            context_constructed,
        },
    },
    error::{Error, Kind, Result},
};

/// Longest signature with its certificates and revocation lists, in bytes, apart from the content.
pub(super) const MAX_LEN: u64 = 1024 * 1024;
/// Longest object identifier or number, in bytes.
const MAX_SMALL: u64 = 1024;
/// Most certificates in a message.
const MAX_CERTIFICATES: usize = 32;

/// What was found.
pub struct SignedData {
    pub(super) version: u8,
    pub(super) content_type: ObjectIdentifier,
    /// Where the content is, if it is in the message.
    pub(super) content: Option<Vec<Run>>,
    /// In DER, in the order of the message.
    pub(super) certificates: Vec<Vec<u8>>,
    pub(super) signer: SignerInfo,
    /// The hashes that it says are needed.
    pub(super) hashes: Vec<AlgorithmIdentifierOwned>,
    /// Whether it brings revocation lists along.
    pub(super) has_lists: bool,
}

impl SignedData {
    /// Reads a message of `len` bytes.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is none, or is cut off; [`Kind::Local`] if it has several signers or none, or is too large.
    pub fn read(source: &dyn ReadAt, len: u64) -> Result<Self> {
        Self::parse(source, len).map_err(|error| Error { what: UNREADABLE.to_owned(), ..error })
    }

    /// Whether what it is of is somewhere else.
    pub fn is_detached(&self) -> bool {
        self.content.is_none()
    }

    /// Where in the message its content is, piece by piece; `None` if it is somewhere else.
    pub(crate) fn content_runs(&self) -> Option<&[Run]> {
        self.content.as_deref()
    }

    fn parse(source: &dyn ReadAt, len: u64) -> Result<Self> {
        let mut budget = MAX_LEN;
        let mut reader = Reader::new(source, len);
        reader.enter(SEQUENCE)?;
        if object_identifier(&mut reader)? != ID_SIGNED_DATA {
            return Err(unreadable("it is another kind of CMS message"));
        }
        reader.enter(context_constructed(0))?;
        reader.enter(SEQUENCE)?;
        let version = reader.element(&mut { MAX_SMALL })?;
        let version = match (version.first(), content_of(&version)) {
            (Some(&INTEGER), [version @ (1 | 3..=5)]) => *version,
            _ => return Err(unreadable("it has a version that is not known here")),
        };
        let hashes =
            Vec::<AlgorithmIdentifierOwned>::from_der(&as_sequence(reader.element(&mut budget)?, SET)?)
                .map_err(unreadable)?;

        reader.enter(SEQUENCE)?;
        let content_type = object_identifier(&mut reader)?;
        let mut content = None;
        if reader.next_tag()? == Some(context_constructed(0)) {
            reader.enter(context_constructed(0))?;
            if !matches!(reader.next_tag()?, Some(tag) if tag & !0x20 == OCTET_STRING) {
                return Err(unreadable("its content is no octet string"));
            }
            let mut octets = reader.octet_string()?;
            let mut runs = Vec::new();
            while let Some(run) = octets.next_run()? {
                runs.push(run);
            }
            content = Some(runs);
            reader = octets.behind();
            reader.leave()?;
        }
        reader.leave()?;

        let mut certificates = Vec::new();
        if reader.next_tag()? == Some(context_constructed(0)) {
            reader.enter(context_constructed(0))?;
            while reader.next_tag()?.is_some() {
                certificates.push(reader.element(&mut budget)?);
            }
            reader.leave()?;
        }
        if certificates.len() > MAX_CERTIFICATES {
            return Err(unreadable(format!("it has more than {MAX_CERTIFICATES} certificates")));
        }
        // Revocation lists that the signer brings along: his word about himself. Ours come from the settings.
        let has_lists = reader.next_tag()? == Some(context_constructed(1));
        if has_lists {
            reader.skip()?;
        }
        reader.enter(SET)?;
        if reader.next_tag()?.is_none() {
            return Err(unreadable("nobody signed it"));
        }
        let signer = SignerInfo::from_der(&reader.element(&mut budget)?).map_err(unreadable)?;
        if reader.next_tag()?.is_some() {
            return Err(Error::new(
                Kind::Local,
                UNREADABLE,
                "several signed it together, which is not read here",
            )
            .hint("have each of them sign by itself"));
        }
        reader.leave()?;
        reader.leave()?;
        reader.leave()?;
        reader.leave()?;
        reader.finish()?;
        Ok(Self { version, content_type, content, certificates, signer, hashes, has_lists })
    }
}

fn object_identifier(reader: &mut Reader<'_>) -> Result<ObjectIdentifier> {
    let der = reader.element(&mut { MAX_SMALL })?;
    if der.first() != Some(&OBJECT_IDENTIFIER) {
        return Err(unreadable("it has something else in the place of a type"));
    }
    ObjectIdentifier::from_bytes(content_of(&der)).map_err(unreadable)
}

/// An element with another tag, as a sequence.
fn as_sequence(mut der: Vec<u8>, tag: u8) -> Result<Vec<u8>> {
    match der.first_mut() {
        Some(first) if *first == tag => *first = SEQUENCE,
        _ => return Err(unreadable("it names no hash")),
    }
    Ok(der)
}

const UNREADABLE: &str = "the signature cannot be read";

/// The signature contradicts itself, is cut off, or was changed.
pub(super) fn unreadable(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Integrity, UNREADABLE, why)
}
