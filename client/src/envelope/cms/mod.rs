//! CMS: one file in an `AuthEnvelopedData`, or in an `EnvelopedData` of somebody else. The format of S/MIME and of `openssl
//! cms`. `docs/formats/cms.md` tells what of it is read and written.
//!
//! Reading order: [`seal`] writes an envelope; [`Message`] is one in binary, whatever it came in; [`Message::read_header`]
//! reads it as far as that goes without a key; then [`Sealed::open`] takes the file key, and [`Opened`] yields content.

mod algorithm;
pub(crate) mod ber;
mod cbc;
mod enclosed;
mod gcm;
mod header;
mod legacy;
mod open;
mod pieces;
mod recipients;
mod seal;
mod text;

use std::fs::File;

use custodian_proto::key::{FileKey, KeyId, KeyWrapping, WrappedKey};

use self::{algorithm::Cipher, ber::Reader, enclosed::Enclosed, header::Header, text::Text};
pub use self::{
    open::Opened,
    seal::{Protection, seal},
};
use crate::{
    envelope::{ReadAt, SenderMark, binary::Binary, unsupported},
    error::Result,
    signed::SignedData,
    unwrapper::KeyName,
};

/// Whether a file that starts like this is a CMS message, binary or text.
pub(super) fn is_cms(start: &[u8]) -> bool {
    is_binary(start) || Text::detect(start).is_some()
}

/// A `ContentInfo` begins with the OID of its content: all those of CMS are in one of two places.
fn is_binary(start: &[u8]) -> bool {
    const PKCS7: [u8; 10] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];
    const SMIME: [u8; 12] = [0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01];
    let content = match start {
        [0x30, first @ 0x81..=0x88, more @ ..] => more.get(usize::from(first & 0x7f)..).unwrap_or_default(),
        [0x30, _, more @ ..] => more,
        _ => return false,
    };
    content.starts_with(&PKCS7) || content.starts_with(&SMIME)
}

/// A message in binary.
pub struct Message<'f>(Form<'f>);

enum Form<'f> {
    Plain(Binary<'f>),
    /// Signed as a whole.
    Enclosed(Box<Enclosed<'f>>),
}

impl<'f> Message<'f> {
    /// Takes a file of `len` bytes. Text is decoded into a temporary file. If it is signed as a whole, the message is what is
    /// inside; the signature is not verified here.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the text is damaged; [`Kind::Local`] if it is something else, or cannot be read.
    pub fn new(file: &'f File, len: u64) -> Result<Self> {
        let decode = |start: &[u8]| Text::detect(start).map(|text| text.decode(file, len)).transpose();
        let binary = Binary::of(file, len, decode)?;
        if enclosed::is_signed(&binary) {
            return Enclosed::read(binary).map(|enclosed| Self(Form::Enclosed(Box::new(enclosed))));
        }
        Ok(Self(Form::Plain(binary)))
    }

    /// Reads all that can be read without a key, and checks it.
    ///
    /// # Errors
    /// [`Kind::Integrity`] for what contradicts itself or is cut off; [`Kind::Local`] for what is unknown here, too much, or
    /// cannot be read.
    pub fn read_header(&self) -> Result<Sealed<'_>> {
        let (source, len) = match &self.0 {
            Form::Plain(binary) => (binary.file() as &dyn ReadAt, binary.len()),
            Form::Enclosed(enclosed) => enclosed.message(),
        };
        Ok(Sealed { source, header: Header::read(Reader::new(source, len))? })
    }

    /// The signature around the message, with what is signed and how long that is; `None` if it is not signed as a whole.
    pub(crate) fn signature(&self) -> Option<(&SignedData, &dyn ReadAt, u64)> {
        match &self.0 {
            Form::Plain(_) => None,
            Form::Enclosed(enclosed) => {
                let (content, len) = enclosed.content();
                Some((&enclosed.signed, content, len))
            }
        }
    }
}

/// A message whose header was read and checked.
pub struct Sealed<'f> {
    source: &'f dyn ReadAt,
    header: Header<'f>,
}

/// What a person says about messages without authentication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unauthenticated {
    /// They are not opened.
    Refuse,
    /// They are opened: what comes out may not be what was sealed.
    Allow,
}

impl<'f> Sealed<'f> {
    /// The file key, wrapped: once for each recipient that a custodian can serve. May be empty.
    pub fn wrapped_keys(&self) -> &[WrappedKey] {
        &self.header.recipients.served
    }

    /// How it names the keys of further recipients: by their certificates.
    pub fn names(&self) -> Vec<KeyName> {
        self.header.recipients.named.iter().map(|(name, ..)| name.clone()).collect()
    }

    /// The file key, wrapped for those of [`Sealed::names`] that are these wrapping keys.
    pub fn wrapped_keys_of(&self, found: &[Option<KeyId>]) -> Vec<WrappedKey> {
        let named = self.header.recipients.named.iter().zip(found);
        named
            .filter_map(|((_, wrapping, ciphertext), id)| {
                WrappedKey::new((*id)?, *wrapping, ciphertext.clone())
            })
            .collect()
    }

    /// Each of [`Sealed::names`] with how the file key is wrapped for it.
    pub fn named(&self) -> impl Iterator<Item = (&KeyName, KeyWrapping, &[u8])> {
        self.header
            .recipients
            .named
            .iter()
            .map(|(name, wrapping, wrapped)| (name, *wrapping, wrapped.as_slice()))
    }

    /// The other recipients: who, and why no custodian can serve them.
    pub fn other_recipients(&self) -> &[String] {
        &self.header.recipients.others
    }

    /// Who must have signed it.
    pub fn sender_mark(&self) -> Option<SenderMark> {
        self.header.authentication.as_ref().and_then(|authentication| authentication.sender)
    }

    /// How the content is encrypted, in text.
    pub fn encryption(&self) -> String {
        self.header.algorithm.name()
    }

    /// Whether content that was changed on the way is found out.
    pub fn is_authenticated(&self) -> bool {
        self.header.authentication.is_some()
    }

    /// Bytes of the encrypted content. With AES-GCM these are the bytes of the content; AES-CBC adds 1 to 16.
    pub fn content_len(&self) -> u64 {
        self.header.content.len
    }

    /// Checks that it can be opened, before anybody is asked for its key.
    ///
    /// # Errors
    /// [`Kind::Local`] with the reason.
    pub fn check(&self, unauthenticated: Unauthenticated) -> Result<()> {
        match (&self.header.algorithm.cipher, unauthenticated) {
            (Cipher::Unknown(name), _) => {
                return Err(unsupported(format!(
                    "its content is encrypted with {name}; only AES-256 can be served"
                ))
                .hint("have it sealed with AES-256-GCM"));
            }
            (Cipher::Cbc { .. }, Unauthenticated::Refuse) => {
                return Err(unsupported(
                    "its content is encrypted with AES-256-CBC, which is not authenticated: somebody could have changed it on the way, and nobody would see it",
                )
                .hint("have it sealed with AES-256-GCM; or, if you know that it came a safe way, give --allow-unauthenticated"));
            }
            _ => {}
        }
        if self.wrapped_keys().is_empty() && self.header.recipients.named.is_empty() {
            Err(self.header.recipients.unserved())
        } else {
            Ok(())
        }
    }

    /// Takes the file key. Nothing is decrypted yet.
    ///
    /// # Errors
    /// [`Kind::Local`] if the cryptographic library refuses.
    pub fn open(self, file_key: FileKey) -> Result<Opened<'f>> {
        Opened::new(self.source, self.header, file_key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_told_by_how_they_start() {
        let hex = |text: &str| hex::decode(text).expect("hex");
        assert!(is_cms(&hex("308006092a864886f70d010703a080")));
        assert!(is_cms(&hex("308203e8060b2a864886f70d0109100117a0")));
        assert!(is_cms(b"-----BEGIN CMS-----\nMII"));
        assert!(is_cms(b"MIME-Version: 1.0\r\n"));
        for other in [&b""[..], b"0", b"\x30\x88", b"-----BEGIN CERTIFICATE-----", b"PK\x03\x04", b"a: b"] {
            assert!(!is_cms(other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn law_11_arbitrary_messages_never_panic(
            more in prop::collection::vec(any::<u8>(), 0..300),
            auth: bool,
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let oid = if auth { "060b2a864886f70d0109100117" } else { "06092a864886f70d010703" };
            let mut bytes = hex::decode(format!("3080{oid}a0803080020100318030800201028014")).expect("hex");
            bytes.extend(more);
            flips.iter().for_each(|(at, bits)| *at.get_mut(&mut bytes) ^= bits);
            let bytes = bytes.as_slice();
            Header::read(Reader::new(&bytes, bytes.len() as u64)).map(drop).ok();
        }
    }
}
