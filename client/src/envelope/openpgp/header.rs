//! A message as far as it can be read without a key (RFC 9580 §10.3).

use super::{
    aead::Parameters,
    packet::{
        self, COMPRESSED, FileBody, GNUPG_AEAD, LITERAL, ONE_PASS_SIGNATURE, PKESK, PROTECTED, SIGNATURE,
        SKESK, UNPROTECTED, cut_off, uncarry,
    },
    recipients::{self, Recipients, Version},
};
use crate::{
    envelope::{ReadAt, damaged, unsupported},
    error::Result,
    progress::Progress,
};
use std::io::Read;

/// Packets before the content that are no recipients.
const MAX_SKIPPED: usize = 1_000;

/// A message that was read to its end, without its content.
pub(super) struct Header<'f> {
    pub(super) recipients: Recipients,
    pub(super) protection: Protection,
    /// What is encrypted.
    pub(super) content: FileBody<'f>,
    /// Bytes of it.
    pub(super) len: u64,
}

/// How the content is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protection {
    /// AES-CFB with a hash. Which AES, the wrapped key says.
    Mdc,
    /// AES-256-GCM in chunks.
    Aead(Parameters),
}

impl<'f> Header<'f> {
    /// Reads a message, which ends where the file of `len` bytes ends.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it is no such message, or cut off; [`crate::Kind::Local`] if it is one that cannot be
    /// opened here; [`crate::Kind::Interrupted`].
    pub(super) fn read(source: &'f dyn ReadAt, len: u64, progress: &dyn Progress) -> Result<Self> {
        let mut recipients = Recipients::default();
        let (mut at, mut skipped) = (0, 0);
        loop {
            let (head, body) = FileBody::open(source, at, len)?;
            match head.tag {
                PKESK => {
                    let (packet, behind) = body.small(recipients::MAX_LEN)?;
                    recipients.add(&packet)?;
                    at = behind;
                }
                SKESK => {
                    (_, at) = body.small(recipients::MAX_LEN)?;
                    recipients.add_password()?;
                }
                PROTECTED => return Self::with_content(recipients, body, len, progress),
                UNPROTECTED => {
                    return Err(unsupported(
                        "its content is not protected from changes: such messages were made before 2003, and are not opened",
                    ));
                }
                GNUPG_AEAD => {
                    return Err(unsupported(
                        "its content is encrypted in GnuPG's own way (a packet of type 20), which is in no standard",
                    )
                    .hint("have it encrypted with gpg --rfc4880, or to the certificate that custodianctl key cert --openpgp prints"));
                }
                LITERAL | COMPRESSED | ONE_PASS_SIGNATURE | SIGNATURE => {
                    return Err(unsupported("it is an OpenPGP message that is not encrypted")
                        .hint("open it with gpg"));
                }
                tag if packet::may_be_skipped(tag) && skipped < MAX_SKIPPED => {
                    (_, at) = body.small(recipients::MAX_LEN)?;
                    skipped += 1;
                }
                tag => return Err(packet::unexpected(tag)),
            }
        }
    }

    fn with_content(
        mut recipients: Recipients,
        mut body: FileBody<'f>,
        file_len: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut version = [0];
        body.read_exact(&mut version).map_err(uncarry)?;
        let (protection, version) = match version {
            [1] => (Protection::Mdc, Version::V1),
            [2] => {
                let mut parameters = [0; Parameters::LEN];
                body.read_exact(&mut parameters).map_err(uncarry)?;
                (Protection::Aead(Parameters::parse(&parameters)?), Version::V2)
            }
            [other] => {
                return Err(unsupported(format!(
                    "its content is protected in a way of version {other}, not 1 or 2"
                )));
            }
        };
        recipients.keep(version);
        let (len, behind) = body.clone().measure(progress)?;
        if len == 0 {
            return Err(cut_off());
        }
        if behind != file_len {
            return Err(damaged("something stands behind its end"));
        }
        Ok(Self { recipients, protection, content: body, len })
    }
}
