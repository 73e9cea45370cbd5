//! The flags with which a command reaches a custodian.

use std::{path::PathBuf, time::Duration};

use custodian_proto::approval::Glass;

use super::{message::note, when::parse_duration};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    password::PasswordSource,
    remote::{Patience, Remote},
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
    /// If others must approve this first: wait for them, at most this long, and go on. [default: until the request expires]
    #[arg(
        long, global = true, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = parse_duration,
        help_heading = "Approval"
    )]
    wait: Option<Option<Duration>>,
    /// Ask others to let this get past rules of the policy that are marked so. Stands out in the log
    // Not global: `custodianctl audit ls --break-glass` is a filter.
    #[arg(long, help_heading = "Approval")]
    break_glass: bool,
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
            accept: None,
        })
    }

    /// Connects with them.
    pub(super) fn connect(&self, interrupt: &Interrupt) -> Result<Remote> {
        let settings = self.settings()?;
        if (settings.password(), settings.second_factor()) == (PasswordSource::Stdin, PasswordSource::Stdin) {
            let why = "standard input cannot be both password and code";
            return Err(Error::new(Kind::Usage, "cannot sign in", why).hint("give one of them in a file"));
        }
        Ok(self.equip(Remote::connect(&settings, interrupt)?))
    }

    /// A connection that is as patient as these flags say.
    pub(super) fn equip(&self, remote: Remote) -> Remote {
        let remote = remote.with_glass(if self.break_glass { Glass::Broken } else { Glass::Whole });
        match self.wait {
            Some(longest) => remote.with_patience(Patience { longest, tell: note }),
            None => remote,
        }
    }

    /// The same flags, with another password file if one is given.
    pub(super) fn with_password_file(&self, password_file: Option<PathBuf>) -> Self {
        let flags = self.clone();
        Self { password_file: password_file.or(flags.password_file), ..flags }
    }
}
