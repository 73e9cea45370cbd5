//! A new SignedData (RFC 5652 §5): detached, as a file of its own, or around what is signed, written as it comes.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use aws_lc_rs::digest::Context;
use cms::{
    cert::IssuerAndSerialNumber,
    content_info::CmsVersion,
    signed_data::{SignerIdentifier, SignerInfo},
};
use der::{
    Decode, Encode,
    asn1::{ObjectIdentifier, OctetString},
};
use x509_cert::Certificate;

use super::{
    Hash, Signing,
    algorithm::implementation,
    attributes::{self, ID_DATA},
    scheme,
};
use crate::{
    envelope::cms::ber::{INTEGER, OCTET_STRING, SEQUENCE, SET, context_constructed, element, write_head},
    error::{Error, Kind, Result},
    timestamp,
};

pub(super) const ID_SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

/// RFC 5652 §5.1: content of type `id-data`, X.509 certificates, signers named by issuer and serial number.
pub(super) const VERSION: u8 = 1;

/// Signs content that is somewhere else, and makes a whole message of the signature, in DER. `digest` is the content's, by
/// [`Algorithm::hash`](super::Algorithm::hash) of the signer.
///
/// # Errors
/// Those of the signer, and of the authority; [`Kind::Local`] if the signer's certificates cannot be used.
pub fn sign_detached(signing: Signing<'_>, digest: &[u8], time: SystemTime) -> Result<Vec<u8>> {
    let tail = tail(signing, digest, time)?;
    let content = element(SEQUENCE, &ID_DATA.to_der().map_err(cannot_sign)?);
    let hash = hash_set(signing.signer.algorithm().hash())?;
    let data = element(SEQUENCE, &[element(INTEGER, &[VERSION]), hash, content, tail].concat());
    let kind = ID_SIGNED_DATA.to_der().map_err(cannot_sign)?;
    Ok(element(SEQUENCE, &[kind, element(context_constructed(0), &data)].concat()))
}

fn hash_set(hash: Hash) -> Result<Vec<u8>> {
    Ok(element(SET, &scheme::hash_identifier(hash).to_der().map_err(cannot_sign)?))
}

/// What stands behind the content: the certificates and the one signature, with its timestamp.
fn tail(Signing { signer, authority }: Signing<'_>, digest: &[u8], time: SystemTime) -> Result<Vec<u8>> {
    let certificates = signer.certificates();
    let attributes = attributes::write(ID_DATA, digest, time, certificates).map_err(cannot_sign)?;
    let signature = signer.sign(&attributes.to_der().map_err(cannot_sign)?)?;
    let leaf = certificates.first().ok_or_else(|| cannot_sign("the signer has no certificate"))?;
    let leaf = Certificate::from_der(leaf).map_err(cannot_sign)?;
    let unsigned_attrs =
        authority.map(|authority| timestamp::attributes(&signature, authority)).transpose()?;
    let info = SignerInfo {
        version: CmsVersion::V1,
        sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
            issuer: leaf.tbs_certificate().issuer().clone(),
            serial_number: leaf.tbs_certificate().serial_number().clone(),
        }),
        digest_alg: scheme::hash_identifier(signer.algorithm().hash()),
        signed_attrs: Some(attributes),
        signature_algorithm: scheme::identifier(signer.algorithm()).map_err(cannot_sign)?,
        signature: OctetString::new(signature).map_err(cannot_sign)?,
        unsigned_attrs,
    };
    // DER has sets in order.
    let mut sorted: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
    sorted.sort_unstable();
    let certificates = element(context_constructed(0), &sorted.concat());
    Ok([certificates, element(SET, &info.to_der().map_err(cannot_sign)?)].concat())
}

/// Bytes of content in one piece.
const PIECE: usize = 1024 * 1024;
/// An element of indefinite length: its second byte, and its end.
const INDEFINITE: u8 = 0x80;
const END: [u8; 2] = [0, 0];

/// Writes a message around what is signed, while that is written: BER with indefinite lengths, the content in octet strings
/// of 1 MiB, the signature behind it.
pub struct Enclosing<'a> {
    out: &'a mut dyn Write,
    signing: Signing<'a>,
    hash: Context,
    piece: Vec<u8>,
    written: u64,
}

impl<'a> Enclosing<'a> {
    /// Starts a message.
    ///
    /// # Errors
    /// [`Kind::Local`] if the output cannot be written.
    pub fn start(out: &'a mut dyn Write, signing: Signing<'a>) -> Result<Self> {
        let hash = signing.signer.algorithm().hash();
        let mut this = Self {
            out,
            signing,
            hash: Context::new(implementation(hash)),
            piece: Vec::with_capacity(PIECE),
            written: 0,
        };
        let [sequence, explicit] = [[SEQUENCE, INDEFINITE], [context_constructed(0), INDEFINITE]];
        let octets = [OCTET_STRING | 0x20, INDEFINITE];
        let [signed_data, data] = [ID_SIGNED_DATA, ID_DATA].map(|oid| oid.to_der().map_err(cannot_sign));
        let parts: [&[u8]; 9] = [
            &sequence,
            &signed_data?,
            &explicit,
            &sequence,
            &element(INTEGER, &[VERSION]),
            &hash_set(hash)?,
            &sequence,
            &data?,
            &[explicit, octets].concat(),
        ];
        this.put(&parts.concat()).map_err(|why| crate::output::failed("cannot write the envelope", &why))?;
        Ok(this)
    }

    /// Signs, and ends the message. Returns how long it is, in bytes.
    ///
    /// # Errors
    /// Those of the signer, and of the authority; [`Kind::Local`] if the output cannot be written.
    pub fn finish(mut self, time: SystemTime) -> Result<u64> {
        let cannot_write = |why: io::Error| crate::output::failed("cannot write the envelope", &why);
        self.flush_piece().map_err(cannot_write)?;
        let digest = self.hash.clone().finish();
        let tail = tail(self.signing, digest.as_ref(), time)?;
        // The octet string, the element around it and the content's; at last the message's own three.
        self.put(&[&END.repeat(3), tail.as_slice(), &END.repeat(3)].concat()).map_err(cannot_write)?;
        self.out.flush().map_err(cannot_write)?;
        Ok(self.written)
    }

    fn flush_piece(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        let mut head = Vec::new();
        write_head(&mut head, OCTET_STRING, piece.len() as u64);
        self.hash.update(&piece);
        self.put(&head)?;
        self.put(&piece)?;
        self.piece = piece;
        self.piece.clear();
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

impl Write for Enclosing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.flush_piece()?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend(&bytes[..taken]);
        Ok(taken)
    }

    /// Nothing: how the content is cut does not depend on it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn cannot_sign(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "cannot sign", why)
}
