//! OpenPGP (RFC 9580, and what GnuPG writes): one file in a message that is encrypted to one or more certificates.
//! `docs/formats/openpgp.md` tells what of it is read and written.
//!
//! Reading order: [`seal`] writes an envelope; [`Message`] is one in binary, whatever it came in; [`Message::read_header`]
//! reads it as far as that goes without a key; then [`Sealed::open`] takes the file key, and [`Opened`] yields content.
//!
//! In here: `packet` and `armor` are what everything is in; `recipients` and `header` what stands before the content;
//! `mdc` (over `cfb`) and `aead` the two ways it is protected; `content` what is inside, with its `signatures`; `certificate`
//! (over `public_key` and `signature`) whom to seal to; `signer` who signed, and `sign` (over `secret_key`, `locked`, `s2k`
//! and `ocb`) how we do.

mod aead;
mod armor;
mod certificate;
mod cfb;
mod content;
mod header;
mod locked;
mod mdc;
mod ocb;
mod open;
mod packet;
mod parts;
mod public_key;
mod recipients;
mod s2k;
mod seal;
mod secret_key;
mod sign;
#[cfg(test)]
mod sign_tests;
mod signature;
mod signatures;
mod signer;

use std::fs::File;

use custodian_proto::key::{FileKey, KeyId, WrappedKey};

pub use self::{
    armor::certificate as armored_certificate,
    certificate::Recipient,
    content::Content,
    open::Opened,
    seal::seal,
    secret_key::{EcdsaSigner, SigningKey, is_secret_key},
    sign::sign_detached,
    signatures::{Signatures, detached, is_signature},
    signer::{Addressed, Around, Keyring, Signer, When, is_certificate},
};
use self::{
    header::{Header, Protection},
    packet::{GNUPG_AEAD, Head, MARKER, PKESK, PROTECTED, SKESK, UNPROTECTED},
};
use crate::{envelope::binary::Binary, error::Result, progress::Progress, unwrapper::KeyName};

/// Whether a file that starts like this is an encrypted OpenPGP message, binary or armoured.
pub(super) fn is_openpgp(start: &[u8]) -> bool {
    if armor::is_message(start) {
        return true;
    }
    let Ok((head, used)) = Head::parse(start) else { return false };
    let content = start.get(used..).unwrap_or_default();
    match head.tag {
        PKESK => matches!(content.first(), Some(2 | 3 | 6)),
        SKESK => matches!(content.first(), Some(4..=6)),
        MARKER => content.starts_with(b"PGP"),
        PROTECTED | GNUPG_AEAD => matches!(content.first(), Some(1 | 2)),
        UNPROTECTED => true,
        _ => false,
    }
}

/// A message in binary.
pub struct Message<'f>(Binary<'f>);

impl<'f> Message<'f> {
    /// Takes a file of `len` bytes. Armour is decoded into a temporary file.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the armour is damaged; [`Kind::Local`] if it cannot be read.
    pub fn new(file: &'f File, len: u64) -> Result<Self> {
        let decode =
            |start: &[u8]| armor::is_message(start).then(|| armor::decode_message(file, len)).transpose();
        Binary::of(file, len, decode).map(Self)
    }

    /// Reads all that can be read without a key, and checks it.
    ///
    /// # Errors
    /// [`Kind::Integrity`] for what contradicts itself or is cut off; [`Kind::Local`] for what is unknown here, too much, or
    /// cannot be read; [`Kind::Interrupted`].
    pub fn read_header(&self, progress: &dyn Progress) -> Result<Sealed<'_>> {
        Ok(Sealed { header: Header::read(self.0.file(), self.0.len(), progress)? })
    }
}

/// A message whose header was read and checked.
pub struct Sealed<'f> {
    header: Header<'f>,
}

impl<'f> Sealed<'f> {
    /// How it names the RSA keys it is encrypted to. May be empty.
    pub fn names(&self) -> Vec<KeyName> {
        self.header.recipients.names()
    }

    /// The file key, wrapped for those of [`Sealed::names`] that are these wrapping keys.
    pub fn wrapped_keys(&self, found: &[Option<KeyId>]) -> Vec<WrappedKey> {
        self.header.recipients.wrapped_keys(found)
    }

    /// Each of [`Sealed::names`] with its RSA ciphertext.
    pub fn served(&self) -> impl Iterator<Item = (&KeyName, &[u8])> {
        self.header.recipients.served()
    }

    /// The other recipients: who, and why no custodian can serve them.
    pub fn other_recipients(&self) -> &[String] {
        &self.header.recipients.others
    }

    /// How the content is encrypted, in text.
    pub fn encryption(&self) -> &'static str {
        match self.header.protection {
            Protection::Mdc => "AES-CFB with SHA-1 (MDC)",
            Protection::Aead(_) => "AES-256-GCM",
        }
    }

    /// Bytes of the encrypted content. The content itself is a little shorter, or much longer if it was compressed.
    pub fn content_len(&self) -> u64 {
        self.header.len
    }

    /// Checks that it can be opened, before anybody is asked for its key.
    ///
    /// # Errors
    /// [`Kind::Local`] with the reason.
    pub fn check(&self) -> Result<()> {
        self.header.recipients.check()
    }

    /// Takes the file key. Nothing is decrypted yet.
    pub fn open(self, file_key: FileKey) -> Opened<'f> {
        Opened::new(self.header, file_key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::progress::Silent;

    #[test]
    fn messages_are_told_by_how_they_start() {
        let hex = |text: &str| hex::decode(text).expect("hex");
        assert!(is_openpgp(&hex("85010c03deadbeefdeadbeef01")));
        assert!(is_openpgp(&hex("c1c04c03deadbeefdeadbeef01")));
        assert!(is_openpgp(&hex("8c0d040703024f")));
        assert!(is_openpgp(b"-----BEGIN PGP MESSAGE-----\n"));
        for other in
            [&b""[..], b"\x85", b"PK\x03\x04", b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"\x99\x01\x0d\x04"]
        {
            assert!(!is_openpgp(other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn law_11_arbitrary_messages_never_panic(
            more in prop::collection::vec(any::<u8>(), 0..300),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = hex::decode("c10e03deadbeefdeadbeef010010ffffd260010203").expect("hex");
            bytes.extend(more);
            flips.iter().for_each(|(at, bits)| *at.get_mut(&mut bytes) ^= bits);
            let bytes = bytes.as_slice();
            Header::read(&bytes, bytes.len() as u64, &Silent).map(drop).ok();
        }
    }
}
