//! `totp`, of both tools: the second factor.

use std::io::{self, IsTerminal};

use clap::Subcommand;
use custodian_proto::secret::Secret;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    connection::Connection,
    message::note,
    output::{Style, print},
};
use crate::{error::Result, interrupt::Interrupt};

// Of `custodianctl`, whose connection flags stand before the noun.
#[derive(Debug, Subcommand)]
pub(super) enum TotpCommand {
    Enroll(EnrollFactorArgs),
    Verify(VerifyFactorArgs),
}

impl TotpCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        match self {
            Self::Enroll(args) => args.run(connection, interrupt),
            Self::Verify(args) => args.run(connection, interrupt),
        }
    }
}

/// Get a second factor, or another one: shows what the app scans, asks for a first code, and prints the recovery codes
#[derive(Debug, clap::Args)]
pub(super) struct EnrollFactorArgs {
    #[command(flatten)]
    style: Style,
}

/// Show the second factor now: later commands of this session have it
#[derive(Debug, clap::Args)]
pub(super) struct VerifyFactorArgs {}

#[derive(Serialize)]
struct UriView<'a> {
    uri: &'a str,
}

#[derive(Serialize)]
struct CodesView<'a> {
    recovery_codes: Vec<&'a str>,
}

impl EnrollFactorArgs {
    /// Enrols.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let (style, remote) = (self.style, connection.connect(interrupt)?);
        let uri = remote.enroll_factor()?;
        if style.is_for_people() && io::stdout().is_terminal() {
            draw(&uri)?;
        }
        if style.next(&UriView { uri: uri.expose() }, |view| view.uri.to_owned())?.is_break() {
            return Ok(());
        }
        let codes = remote.confirm_factor()?;
        note(
            "\nThe second factor is in force. Each of these recovery codes stands in for one code of the app,",
        );
        note("once, on the day on which it is lost. Print them, and keep them away from this machine:");
        let view = CodesView { recovery_codes: codes.iter().map(Secret::expose).collect() };
        if style.is_for_people() {
            let lines = Zeroizing::new(view.recovery_codes.join("\n") + "\n");
            return print(&lines).map(drop);
        }
        style.next(&view, |_| String::new()).map(drop)
    }
}

impl VerifyFactorArgs {
    /// Shows it.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        connection.connect(interrupt)?.step_up()?;
        note("this session has shown the second factor");
        Ok(())
    }
}

/// The URI as an authenticator app's camera reads it.
fn draw(uri: &Secret) -> Result<()> {
    // A URI that does not fit can still be typed.
    let Ok(code) = QrCode::with_error_correction_level(uri.expose(), EcLevel::L) else { return Ok(()) };
    // Dark on light, whatever the terminal's colours: light modules are drawn.
    let picture = code.render::<Dense1x2>().dark_color(Dense1x2::Dark).light_color(Dense1x2::Light).build();
    let picture = Zeroizing::new(picture + "\n");
    print(&picture).map(drop)
}
