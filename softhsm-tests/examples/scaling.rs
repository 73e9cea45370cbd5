//! How many unwraps a second, what ends first, and what to buy: prints the tables of `docs/scaling.md`.
//!
//!     cargo run --release -p softhsm-tests --example scaling -- [--rsa 2200] [--fsync 150] [--hsm 1000] …
//!
//! Every input of the first table can be given: your machine's figures in the place of those that were measured on ours.

use std::{env, process::ExitCode};

use softhsm_tests::scaling::{Inputs, tables};

fn main() -> ExitCode {
    let mut inputs = Inputs::default();
    let mut arguments = env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok()).filter(|value| *value >= 0.0);
        let known = flag.strip_prefix("--").zip(value).is_some_and(|(name, value)| inputs.set(name, value));
        if !known {
            let names: Vec<_> = inputs.all().iter().map(|input| format!("--{} NUMBER", input.name)).collect();
            eprintln!("{flag}: give one of {}", names.join(", "));
            return ExitCode::from(2);
        }
    }
    println!("{}", tables(&inputs).join("\n"));
    ExitCode::SUCCESS
}
