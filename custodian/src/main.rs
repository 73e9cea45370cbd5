//! The custodian.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use custodian::token::{InitToken, worker};

/// Keeps RSA private keys in a PKCS#11 token and lets file keys out one at a time.
#[derive(Parser)]
#[command(name = "custodian", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The token worker. Speaks with its custodian on standard input.
    #[command(hide = true)]
    Worker,
    /// Makes a token in the first free slot. Prints nothing.
    #[command(hide = true)]
    InitToken {
        /// The PKCS#11 module, as an absolute path.
        #[arg(long)]
        module: PathBuf,
        /// The new token's label.
        #[arg(long)]
        label: String,
        /// The file with the security officer's PIN.
        #[arg(long)]
        so_pin_file: PathBuf,
        /// The file with the user PIN.
        #[arg(long)]
        pin_file: PathBuf,
    },
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Worker => worker::main(),
        Command::InitToken { module, label, so_pin_file, pin_file } => {
            match (InitToken { module, label, so_pin_file, pin_file }).run() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    // If nobody reads it, the exit code still tells.
                    drop(writeln!(io::stderr(), "error: {error}"));
                    ExitCode::FAILURE
                }
            }
        }
    }
}
