//! An EnvelopedData with AES-256-CBC (RFC 5652 §6, RFC 3565), for programs that cannot read anything better. Only on
//! request: nobody can see whether such a message was changed on the way.
//!
//! Each block needs the one before, so one thread encrypts: there is nothing for the others to do.

use custodian_proto::key::FileKey;

use super::{
    algorithm::{Algorithm, IV_LEN},
    ber::{self, OCTET_STRING},
    cbc::{BLOCK_LEN, Cbc},
    gcm::PIECE,
    header::ID_ENVELOPED_DATA,
    seal::{Out, Parts, cannot_seal, not_one_file, random},
};
use crate::{
    envelope::{Body, Input, Source, Written},
    error::Result,
    progress::{self, Progress},
    stdin::Stdin,
};

/// RFC 5652 §6.1: 2, because recipients are named by their key identifiers.
const VERSION: u8 = 2;

/// Writes a message. `recipients` are its RecipientInfos in DER.
pub(super) fn seal(
    source: &Source,
    recipients: &[u8],
    file_key: &FileKey,
    mut out: Out<'_>,
    progress: &dyn Progress,
) -> Result<Written> {
    let mut iv = [0; IV_LEN];
    random(&mut iv)?;
    let algorithm = Algorithm::cbc(&iv).map_err(cannot_seal)?;
    let parts =
        Parts::new((ID_ENVELOPED_DATA, VERSION), recipients, &algorithm, None).map_err(cannot_seal)?;
    let mut chain = Chain { cbc: Cbc::new(file_key), before: iv };
    match &source.body {
        Body::File(path, size) => {
            let input = Input::open(path, *size)?;
            let frame = parts.frame(Some(padded_len(*size)));
            out.write(&frame.head)?;
            let mut position = 0;
            let mut last = Last::No;
            while last == Last::No {
                progress::check(progress)?;
                let len = PIECE.min(*size - position);
                let mut piece = vec![0; usize::try_from(len).unwrap_or_default()];
                input.read_at(position, &mut piece)?;
                position += len;
                // A full piece has another one behind it, if only for the padding.
                last = if len < PIECE { Last::Yes } else { Last::No };
                out.write(chain.encrypt(&mut piece, last))?;
                progress.advance(len);
            }
            input.check_unchanged()?;
            out.finish(&frame, &[], *size)
        }
        Body::Stdin => {
            let frame = parts.frame(None);
            out.write(&frame.head)?;
            let mut stdin = Stdin::new(progress);
            let mut content_bytes = 0;
            let mut last = Last::No;
            while last == Last::No {
                let mut piece = stdin.read_chunk(PIECE)?;
                let len = piece.len() as u64;
                content_bytes += len;
                last = if len < PIECE { Last::Yes } else { Last::No };
                let sealed = chain.encrypt(&mut piece, last);
                let mut head = Vec::new();
                ber::write_head(&mut head, OCTET_STRING, sealed.len() as u64);
                out.write(&head)?;
                out.write(sealed)?;
                progress.advance(len);
            }
            out.finish(&frame, &[], content_bytes)
        }
        Body::Folder | Body::Link(_) => Err(not_one_file()),
    }
}

/// Whether the content ends with a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

struct Chain {
    cbc: Cbc,
    before: [u8; BLOCK_LEN],
}

impl Chain {
    /// Encrypts the next piece; the last one gets its padding (RFC 5652 §6.3).
    fn encrypt<'p>(&mut self, piece: &'p mut Vec<u8>, last: Last) -> &'p [u8] {
        if last == Last::Yes {
            let padding = BLOCK_LEN - piece.len() % BLOCK_LEN;
            piece.resize(piece.len() + padding, padding as u8);
        }
        self.before = self.cbc.encrypt(self.before, piece);
        piece
    }
}

/// How long content of this length is when it is encrypted.
fn padded_len(len: u64) -> u64 {
    (len / BLOCK_LEN as u64 + 1) * BLOCK_LEN as u64
}
