//! `custodianctl`: operate a custodian.

use std::process::ExitCode;

fn main() -> ExitCode {
    custodian_client::cli::custodianctl()
}
