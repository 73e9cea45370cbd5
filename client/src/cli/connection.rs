//! The flags with which a command reaches a custodian.

use std::path::PathBuf;

use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    password::PasswordSource,
    remote::Remote,
    settings::Settings,
};

/// Where the custodian is, and who we are.
#[derive(Clone, Default, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// Where the custodian listens [env: CUSTODIAN_ADDR]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Certificates that may vouch for the custodian, PEM [env: CUSTODIAN_CA]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// This device's certificate, PEM [env: CUSTODIAN_CERT]
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// This device's private key, PEM [env: CUSTODIAN_KEY]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Who signs in [env: CUSTODIAN_USER]
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// File with the password, - for standard input [env: CUSTODIAN_PASSWORD_FILE]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// File with a code of the second factor, - for standard input [env: CUSTODIAN_TOTP_FILE]
    #[arg(long, value_name = "FILE")]
    totp_file: Option<PathBuf>,
}

impl Connection {
    /// These flags over environment and files.
    pub(super) fn settings(&self) -> Result<Settings> {
        let flags = self.clone();
        Settings::load(Settings {
            addr: flags.addr,
            ca: flags.ca,
            cert: flags.cert,
            key: flags.key,
            user: flags.user,
            password_file: flags.password_file,
            totp_file: flags.totp_file,
            session_dir: None,
        })
    }

    /// Connects with them.
    pub(super) fn connect(&self, interrupt: &Interrupt) -> Result<Remote> {
        let settings = self.settings()?;
        if (settings.password(), settings.second_factor()) == (PasswordSource::Stdin, PasswordSource::Stdin) {
            let why = "standard input cannot be both password and code";
            return Err(Error::new(Kind::Usage, "cannot sign in", why).hint("give one of them in a file"));
        }
        Remote::connect(&settings, interrupt)
    }

    /// The same flags, with another password file if one is given.
    pub(super) fn with_password_file(&self, password_file: Option<PathBuf>) -> Self {
        let flags = self.clone();
        Self { password_file: password_file.or(flags.password_file), ..flags }
    }
}
