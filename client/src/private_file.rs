//! Files with private keys: nobody but their owner may read them.

use std::{
    fmt::Display,
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Largest file, in bytes.
const MAX_LEN: u64 = 1024 * 1024;

/// Reads such a file. `cannot` says what it was for.
///
/// # Errors
/// Made by `cannot`: it cannot be read, others can read it, or it is too long.
pub(crate) fn read(path: &Path, cannot: &dyn Fn(&dyn Display) -> Error) -> Result<Zeroizing<Vec<u8>>> {
    let found = fs::metadata(path).map_err(|why| cannot(&why))?;
    if found.permissions().mode() & 0o077 != 0 {
        return Err(
            cannot(&"other users of this machine can read it").hint(format!("chmod 600 {}", path.display()))
        );
    }
    if found.len() > MAX_LEN {
        return Err(cannot(&format!("it is longer than {MAX_LEN} bytes")));
    }
    let file = File::open(path).map_err(|why| cannot(&why))?;
    // The whole length at once: no copy of a key stays behind in a buffer that was too small.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default() + 1));
    file.take(MAX_LEN).read_to_end(&mut bytes).map_err(|why| cannot(&why))?;
    Ok(bytes)
}
