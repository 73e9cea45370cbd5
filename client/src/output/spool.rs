//! A temporary file without a name: whatever happens to us, nobody finds it later.

use std::{
    fs::File,
    io::{self, Seek, Write},
};

use super::failed;
use crate::error::Result;

/// A new one, where the system keeps temporary files (`TMPDIR`).
///
/// # Errors
/// [`crate::Kind::Local`].
pub(crate) fn spool() -> Result<File> {
    tempfile::tempfile()
        .map_err(|why| failed("cannot make a temporary file", &why).hint("set TMPDIR to another folder"))
}

/// Copies all of it to standard output.
///
/// # Errors
/// [`crate::Kind::Local`].
pub(crate) fn copy_to_stdout(spool: &mut File) -> Result<()> {
    spool.rewind().map_err(|why| failed("cannot read a temporary file", &why))?;
    let mut stdout = io::stdout().lock();
    let copied = io::copy(spool, &mut stdout).and_then(|_| stdout.flush());
    copied.map_err(|why| failed("cannot write to standard output", &why))
}
