//! The PIN, read by the worker: from a file, a systemd credential or the terminal. Never argv, never the environment.

use std::{
    env,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use custodian_proto::secret::Secret;
use zeroize::Zeroizing;

use super::{PinSource, StartError};

/// Longest PIN file, in bytes.
const MAX_PIN_FILE: usize = 1_024;

/// Mode bits that a PIN file must not have: anything for others, writing for the group.
const TOO_OPEN: u32 = 0o027;

/// Reads the PIN.
pub(super) fn read(source: &PinSource, token: &str) -> Result<Secret, StartError> {
    match source {
        PinSource::File(path) => read_file(path),
        PinSource::Credential(name) => read_credential(name),
        PinSource::Prompt => prompt(token),
    }
}

/// Reads a PIN from a file that others cannot read.
pub(super) fn read_file(path: &Path) -> Result<Secret, StartError> {
    let shown = path.display();
    let unreadable = |error: io::Error| {
        StartError::Token(format!(
            "cannot read the PIN file {shown}: {error}. Create it with the PIN as its only line and mode 0400, \
             owned by the user that runs the custodian"
        ))
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    if mode & TOO_OPEN != 0 {
        return Err(StartError::Token(format!(
            "the PIN file {shown} has mode {:04o}: others can get at it. Change the PIN, then: chmod 0400 {shown}",
            mode & 0o7777
        )));
    }
    // With room for all of it, so that no copy is left behind by a growing buffer.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PIN_FILE + 1));
    Read::by_ref(&mut file).take(MAX_PIN_FILE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(pin) if !pin.is_empty() && pin.len() < MAX_PIN_FILE && !pin.contains('\n') => {
            Ok(Secret::new(pin.to_owned()))
        }
        _ => Err(StartError::Token(format!(
            "the PIN file {shown} does not hold a PIN: write the PIN as its only line"
        ))),
    }
}

fn read_credential(name: &str) -> Result<Secret, StartError> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(StartError::Token(format!(
            "{name:?} is no name of a systemd credential: it must not contain '/' or start with '.'"
        )));
    }
    let Some(directory) = env::var_os("CREDENTIALS_DIRECTORY") else {
        return Err(StartError::Token(format!(
            "there is no systemd credential {name:?}: CREDENTIALS_DIRECTORY is not set. Start the custodian as a \
             service with LoadCredential={name}:… or LoadCredentialEncrypted={name}:…"
        )));
    };
    read_file(&Path::new(&directory).join(name))
}

fn prompt(token: &str) -> Result<Secret, StartError> {
    let pin = rpassword::prompt_password(format!("PIN of the token {token:?}: ")).map_err(|error| {
        StartError::Token(format!(
            "cannot ask for the PIN on the terminal: {error}. Without a terminal, give a PIN file or a systemd \
             credential"
        ))
    })?;
    Ok(Secret::new(pin))
}
