//! Making a token, for trying things out: `custodian init-token`, in a process of its own (law 6).

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{StartError, pin, pkcs11};

/// A token to be made. Says where the PINs are, never what they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitToken {
    /// The PKCS#11 module, as an absolute path.
    pub module: PathBuf,
    /// The label; no other token of the module may have it.
    pub label: String,
    /// The file with the security officer's PIN.
    pub so_pin_file: PathBuf,
    /// The file with the user PIN.
    pub pin_file: PathBuf,
}

impl InitToken {
    /// Initialises the first slot whose token is not initialised yet, and sets the user PIN. Loads the module into this
    /// process: [`init_token`] does it in a child.
    ///
    /// # Errors
    /// If a PIN file or the module is of no use, the label is taken, or no slot is free.
    pub fn run(&self) -> Result<(), StartError> {
        let so_pin = pin::read_file(&self.so_pin_file)?;
        let pin = pin::read_file(&self.pin_file)?;
        pkcs11::init_token(&self.module, &self.label, &so_pin, &pin)
    }

    /// The command line that does it.
    fn args(&self) -> [OsString; 9] {
        [
            "init-token".into(),
            "--module".into(),
            self.module.clone().into(),
            "--label".into(),
            self.label.clone().into(),
            "--so-pin-file".into(),
            self.so_pin_file.clone().into(),
            "--pin-file".into(),
            self.pin_file.clone().into(),
        ]
    }
}

/// Makes a token in a child process: runs `program init-token …`, with `environment` beyond our own.
///
/// # Errors
/// As [`InitToken::run`], or if the program cannot be run.
pub async fn init_token(
    program: &Path,
    request: &InitToken,
    environment: &BTreeMap<String, String>,
) -> Result<(), StartError> {
    let mut command = Command::new(program);
    command.args(request.args()).envs(environment).stdin(Stdio::null()).stdout(Stdio::null());
    let program = program.display().to_string();
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .map_err(|error| StartError::Worker(format!("{program} init-token was not run: {error}")))?
        .map_err(|error| StartError::Worker(format!("cannot run {program} init-token: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim().trim_start_matches("error: ");
    Err(StartError::Token(if text.is_empty() {
        format!("{program} init-token failed without a word ({})", output.status)
    } else {
        text.to_owned()
    }))
}
