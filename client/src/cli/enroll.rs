//! `envelope enroll`: the first contact of a workstation.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    connection::Connection,
    message::note,
    output::Style,
    text::printable,
    view::{DeviceView, id_of},
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    password::PasswordSource,
    remote::{self, Enrolled},
    settings,
};

/// Make a key for this workstation and have the custodian certify it, with a one-time code from an administrator
#[derive(Debug, clap::Args)]
pub(super) struct EnrollArgs {
    /// File with the one-time code, - for standard input. [default: asked for on the terminal]
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
    /// Folder for device.key, device.crt, ca.crt and client.toml. [default: ~/.config/custodian]
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
    #[command(flatten)]
    style: Style,
}

#[derive(Serialize)]
struct EnrolledView<'a> {
    device: DeviceView,
    key: &'a PathBuf,
    cert: &'a PathBuf,
    ca: &'a PathBuf,
    settings: Option<&'a PathBuf>,
}

impl EnrollArgs {
    /// Enrols.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let settings = connection.settings()?;
        let folder = match &self.out_dir {
            Some(folder) => folder.clone(),
            None => settings::user_config_dir().ok_or_else(|| {
                Error::new(Kind::Usage, "cannot enrol this workstation", "there is no home folder")
                    .hint("give --out-dir")
            })?,
        };
        // Said before the code is asked for: without these two it would be asked for in vain.
        settings.address()?;
        settings.ca()?;
        let code = PasswordSource::of(self.code_file.as_deref()).read("one-time code")?;
        let enrolled = remote::enroll(&settings, &code, &folder, interrupt)?;
        self.tell(&enrolled)
    }

    fn tell(&self, enrolled: &Enrolled) -> Result<()> {
        let Enrolled { device, key, cert, ca, settings } = enrolled;
        let view =
            EnrolledView { device: DeviceView::from(device), key, cert, ca, settings: settings.as_ref() };
        self.style.one(
            &view,
            &[
                ("device", device.name.clone()),
                ("state", view.device.state.to_owned()),
                ("key SHA-256", device.spki_sha256.clone()),
                ("key", key.display().to_string()),
                ("certificate", cert.display().to_string()),
                ("custodian's CA", ca.display().to_string()),
                ("settings", settings.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
            ],
        )?;
        note("\nNext, ask an administrator to compare the key's SHA-256 and run:");
        note(&format!("  custodianctl device activate {}", printable(id_of(&device.name))));
        let found_by_itself = settings.is_some() && self.out_dir.is_none();
        if !found_by_itself {
            note("and tell the tools where the files are:");
            note(&format!("  export CUSTODIAN_CA={}", shell_word(&ca.to_string_lossy())));
            note(&format!("  export CUSTODIAN_CERT={}", shell_word(&cert.to_string_lossy())));
            note(&format!("  export CUSTODIAN_KEY={}", shell_word(&key.to_string_lossy())));
        }
        Ok(())
    }
}

/// So that a line can be copied into a shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", printable(text).replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell_are_quoted_only_when_they_must_be() {
        assert_eq!(shell_word("/home/anna/device.key"), "/home/anna/device.key");
        assert_eq!(shell_word("/a b/$(c)'d"), r"'/a b/$(c)'\''d'");
    }
}
