//! `sealed`: all of an archive is encrypted as one, names included, in chunks that can be opened in any order and by all
//! cores. `docs/formats/sealed.md` is the specification.
//!
//! Reading order: [`container`] is the ZIP around it; [`cobblestone`] is the encryption, C2SP's chunked-encryption;
//! [`plaintext`] reads what is encrypted at any place; [`seal`] writes an envelope; [`read_header`] reads one as far as
//! that goes without a key; then [`Sealed::open`] takes the file key, and [`Opened`] yields authenticated content.

mod cobblestone;
mod container;
mod open;
mod plaintext;
mod seal;
mod stream;

use aws_lc_rs::digest::{SHA256, digest};
use custodian_proto::key::{FileKey, WrappedKey};

pub(super) use self::container::is_sealed;
use self::{cobblestone::InputKey, container::Container, plaintext::Plaintext};
pub use self::{
    open::Opened,
    seal::{Output, seal},
};
use super::{
    SenderMark,
    carried::Unsigned,
    cipher_key::{CipherKey, Purpose},
    read_at::ReadAt,
    unsupported,
};
use crate::{error::Result, extract::Limits};

/// The second entry.
const SEALED_DATA: &str = "SEALED.DATA";

/// Keeps this use of chunked-encryption apart from every other, and one version of the format from the next.
const CONTEXT_LABEL: &[u8] = b"custodian sealed/1\0";

/// What the encryption is bound to, besides its key: the format, and this very CIPHER.KEY.
fn context(cipher_key: &[u8]) -> Vec<u8> {
    [CONTEXT_LABEL, digest(&SHA256, cipher_key).as_ref()].concat()
}

/// An envelope whose header was read and checked.
pub struct Sealed<'f> {
    source: &'f dyn ReadAt,
    container: Container,
    cipher_key: CipherKey,
}

/// Reads all that can be read without a key of an envelope of `len` bytes, and checks it. A signature that it carries is not
/// verified here.
///
/// # Errors
/// [`crate::Kind::Integrity`] for what contradicts itself; [`crate::Kind::Local`] for what is unknown here or cannot be read.
pub fn read_header(source: &dyn ReadAt, len: u64) -> Result<Sealed<'_>> {
    let (unsigned, _) = Unsigned::of_zip(source, len)?;
    let container = Container::read(&unsigned, unsigned.len())?;
    let cipher_key = CipherKey::parse(&container.cipher_key, Purpose::SealedInputKey)?;
    Ok(Sealed { source, container, cipher_key })
}

impl<'f> Sealed<'f> {
    /// The file key, wrapped: once for each recipient that a custodian can serve.
    pub fn wrapped_keys(&self) -> &[WrappedKey] {
        self.cipher_key.wrapped_keys()
    }

    /// Who must have signed it.
    pub fn sender_mark(&self) -> Option<SenderMark> {
        self.cipher_key.sender_mark()
    }

    /// Opens it: decrypts the list of entries, and nothing else yet.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if the file key is not the right one, the envelope was changed, or its entries contradict
    /// each other or have unsafe names; [`crate::Kind::Local`] if they exceed a limit or something in them is unknown here.
    pub fn open(self, file_key: &FileKey, limits: &Limits) -> Result<Opened<'f>> {
        let secret = self.cipher_key.open(file_key)?;
        let input_key = InputKey::from_bytes(&secret)
            .ok_or_else(|| unsupported("the content of CIPHER.KEY is no input key of 32 bytes"))?;
        let context = context(&self.container.cipher_key);
        let plaintext = Plaintext::open(self.source, self.container.data, &input_key, &context)?;
        Opened::new(plaintext, limits)
    }
}
