//! What is signed, and where signatures are: in files of any length.

use std::{fs, path::Path};

use aws_lc_rs::digest::Context;

use super::{Hash, algorithm::implementation, pem, read::MAX_LEN};
use crate::{
    envelope::{ReadAt, each_piece, openpgp::is_signature},
    error::{Error, Kind, Result},
    progress::Progress,
};

/// The hash of `len` bytes, in constant memory.
///
/// # Errors
/// Those of the source; [`Kind::Interrupted`].
pub fn hash_of(source: &dyn ReadAt, len: u64, hash: Hash, progress: &dyn Progress) -> Result<Vec<u8>> {
    let mut context = Context::new(implementation(hash));
    each_piece(source, len, progress, |piece| context.update(piece))?;
    Ok(context.finish().as_ref().to_vec())
}

/// Reads a signature that is in a file of its own: DER, BER or PEM, or an OpenPGP one as it is.
///
/// # Errors
/// [`Kind::Local`] if it cannot be read, or is too long for a signature.
pub fn read_signature(file: &Path) -> Result<Vec<u8>> {
    let cannot = |why: &dyn std::fmt::Display| {
        Error::new(Kind::Local, format!("cannot read the signature {}", file.display()), why)
    };
    let len = fs::metadata(file).map_err(|why| cannot(&why))?.len();
    // In PEM it is a third longer.
    if len > MAX_LEN * 3 / 2 {
        return Err(cannot(&"it is too long for a signature"));
    }
    let bytes = fs::read(file).map_err(|why| cannot(&why))?;
    if is_signature(&bytes) {
        // Its armour is another thing than PEM.
        return Ok(bytes);
    }
    pem::decode(bytes, &["CMS", "PKCS7"]).map_err(|why| cannot(&why))
}
