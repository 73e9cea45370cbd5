//! `envelope`: the workstation's tool.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::{Shell, generate};

use super::{
    EXIT_CODES, SETTINGS,
    certificate::OwnCertificateCommand,
    connection::Connection,
    enroll::EnrollArgs,
    extract::{self, ExtractArgs},
    inspect::{self, InspectArgs},
    log::VerifyReceiptArgs,
    login::{LoginArgs, LogoutArgs, WhoamiArgs},
    message::{finish, no_core_dumps},
    output::print,
    renew::RenewArgs,
    seal::{self, SealArgs},
    sign::{self, SignArgs},
    timestamp::TimestampArgs,
    totp::{EnrollFactorArgs, VerifyFactorArgs},
    user::PasswdArgs,
    verify::{self, VerifyArgs},
};
use crate::{error::Result, interrupt::Interrupt};

/// Seal files into envelopes, and open them through a custodian
#[derive(Debug, Parser)]
#[command(name = "envelope", version, after_help = format!("{SETTINGS}\n\n{EXIT_CODES}"), arg_required_else_help = true)]
struct Envelope {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Seal(Box<SealArgs>),
    Inspect(InspectArgs),
    Extract(Box<ExtractArgs>),
    Sign(Box<SignArgs>),
    Timestamp(Box<TimestampArgs>),
    Verify(Box<VerifyArgs>),
    VerifyReceipt(VerifyReceiptArgs),
    /// Sign in, so that later commands do not ask for the password
    Login(Networked<LoginArgs>),
    /// Change your password
    Passwd(Networked<PasswdArgs>),
    /// Get a second factor, and show it
    #[command(subcommand)]
    Totp(TotpCommand),
    /// End the session
    Logout(Networked<LogoutArgs>),
    /// Show who the custodian believes you to be
    Whoami(Networked<WhoamiArgs>),
    /// Make a key for this workstation and have the custodian certify it
    Enroll(Networked<EnrollArgs>),
    /// Get a new key and certificate for this workstation, over the present one
    Renew(Networked<RenewArgs>),
    /// Your own keys and certificates, and those of others
    #[command(subcommand)]
    Certificate(Box<OwnCertificateCommand>),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum TotpCommand {
    /// Get one, or another: shows what the app scans, asks for a first code, and prints the recovery codes
    Enroll(Networked<EnrollFactorArgs>),
    /// Show it now: later commands of this session have it
    Verify(Networked<VerifyFactorArgs>),
}

// A command with the flags to reach a custodian. (Clap would show a doc comment as help.)
#[derive(Debug, clap::Args)]
struct Networked<Args: clap::Args> {
    #[command(flatten)]
    args: Args,
    #[command(flatten)]
    connection: Connection,
}

/// Runs `envelope` with the arguments of this process.
pub fn envelope() -> ExitCode {
    let command = Envelope::parse().command;
    finish(no_core_dumps().and_then(|()| run(command)))
}

fn run(command: Command) -> Result<()> {
    let interrupt = &Interrupt::listen()?;
    match command {
        Command::Seal(args) => seal::run(&args, interrupt),
        Command::Inspect(args) => inspect::run(&args),
        Command::Extract(args) => extract::run(&args, interrupt),
        Command::Sign(args) => sign::run(&args, interrupt),
        Command::Timestamp(args) => args.run(interrupt),
        Command::Verify(args) => verify::run(&args, interrupt),
        Command::VerifyReceipt(args) => args.run(),
        Command::Login(Networked { args, connection }) => args.run(&connection, interrupt),
        Command::Passwd(Networked { args, connection }) => args.run(&connection, interrupt),
        Command::Totp(TotpCommand::Enroll(Networked { args, connection })) => {
            args.run(&connection, interrupt)
        }
        Command::Totp(TotpCommand::Verify(Networked { args, connection })) => {
            args.run(&connection, interrupt)
        }
        Command::Logout(Networked { args, connection }) => args.run(&connection, interrupt),
        Command::Whoami(Networked { args, connection }) => args.run(&connection, interrupt),
        Command::Enroll(Networked { args, connection }) => args.run(&connection, interrupt),
        Command::Renew(Networked { args, connection }) => args.run(&connection, interrupt),
        Command::Certificate(command) => command.run(interrupt),
        Command::Completions { shell } => completions::<Envelope>(shell),
    }
}

/// Prints a completion script.
pub(super) fn completions<Tool: CommandFactory>(shell: Shell) -> Result<()> {
    let mut command = Tool::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Envelope::command().debug_assert();
    }
}
