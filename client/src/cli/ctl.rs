//! `custodianctl`: the tool of administrators and auditors.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use super::{
    EXIT_CODES,
    approval::ApprovalCommand,
    audit::AuditCommand,
    budget::BudgetCommand,
    certificate::CertificateCommand,
    connection::Connection,
    device::DeviceCommand,
    envelope::completions,
    key::KeyCommand,
    login::{LoginHereArgs, LogoutArgs, WhoamiArgs},
    message::{finish, no_core_dumps},
    policy::PolicyCommand,
    status::StatusArgs,
    token::TokenCommand,
    totp::TotpCommand,
    user::UserCommand,
};
use crate::{error::Result, interrupt::Interrupt};

/// Operate a custodian: devices, users, keys, tokens, and the log of every attempt
#[derive(Debug, Parser)]
#[command(name = "custodianctl", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Custodianctl {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The workstations that may connect
    #[command(subcommand)]
    Device(DeviceCommand),
    /// The people who may sign in
    #[command(subcommand)]
    User(UserCommand),
    /// The wrapping keys in the token
    #[command(subcommand)]
    Key(KeyCommand),
    /// The tokens that hold the keys
    #[command(subcommand)]
    Token(TokenCommand),
    /// What the organisation asks for beyond device, login and role
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// How much may be unwrapped within an hour and a day
    #[command(subcommand)]
    Budget(BudgetCommand),
    /// The certificates of people
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// What waits for the approval of others
    #[command(subcommand)]
    Approval(ApprovalCommand),
    /// The log of every attempt
    #[command(subcommand)]
    Audit(AuditCommand),
    Status(StatusArgs),
    /// Sign in, so that later commands do not ask for the password
    Login(LoginHereArgs),
    /// Get a second factor, and show it
    #[command(subcommand)]
    Totp(TotpCommand),
    Logout(LogoutArgs),
    Whoami(WhoamiArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Runs `custodianctl` with the arguments of this process.
pub fn custodianctl() -> ExitCode {
    let tool = Custodianctl::parse();
    finish(no_core_dumps().and_then(|()| run(tool)))
}

fn run(Custodianctl { connection, command }: Custodianctl) -> Result<()> {
    let interrupt = &Interrupt::listen()?;
    match command {
        Command::Device(command) => command.run(&connection, interrupt),
        Command::User(command) => command.run(&connection, interrupt),
        Command::Key(command) => command.run(&connection, interrupt),
        Command::Token(command) => command.run(&connection, interrupt),
        Command::Policy(command) => command.run(&connection, interrupt),
        Command::Budget(command) => command.run(&connection, interrupt),
        Command::Certificate(command) => command.run(&connection, interrupt),
        Command::Approval(command) => command.run(&connection, interrupt),
        Command::Audit(command) => command.run(&connection, interrupt),
        Command::Status(args) => args.run(&connection, interrupt),
        Command::Login(args) => args.run(&connection, interrupt),
        Command::Totp(command) => command.run(&connection, interrupt),
        Command::Logout(args) => args.run(&connection, interrupt),
        Command::Whoami(args) => args.run(&connection, interrupt),
        Command::Completions { shell } => completions::<Custodianctl>(shell),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Custodianctl::command().debug_assert();
    }
}
