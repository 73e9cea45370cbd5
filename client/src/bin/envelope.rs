//! `envelope`: seal files, and open them through a custodian.

use std::process::ExitCode;

fn main() -> ExitCode {
    custodian_client::cli::envelope()
}
