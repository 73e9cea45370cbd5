//! `custodian`: args → job → exit code.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use custodian::{
    setup::{
        accept_ledger, check,
        dev::{self, DevArgs},
        init::{self, InitArgs},
        log_key, people_ca, reset_factor, reset_policy, serve,
    },
    token::{InitToken, worker},
    trouble::Trouble,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

/// The key custodian: RSA private keys stay in a PKCS#11 token, file keys leave one at a time
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// A running custodian to play with, from nothing: token, CA, sample key, devices, users
    Dev(DevArgs),
    /// Set up a custodian for production; never overwrites
    Init(Box<InitArgs>),
    /// Serve until SIGTERM; SIGHUP reads certificates and rules again
    Serve {
        #[arg(long)]
        config: PathBuf,
    },
    /// Tell whether a configuration would serve: certificates, ledger, token, keys
    Check {
        #[arg(long)]
        config: PathBuf,
    },
    /// Go on with a ledger that lost records, or whose .checkpoint file is lost; recorded in its log
    AcceptLedger {
        #[arg(long)]
        config: PathBuf,
        /// Why; recorded
        #[arg(long)]
        reason: String,
    },
    /// Put the policy that comes with the program in force again, if nobody is left who could; recorded in the log
    ResetPolicy {
        #[arg(long)]
        config: PathBuf,
        /// Why; recorded
        #[arg(long)]
        reason: String,
    },
    /// Make a CA for people's certificates in the token, for a custodian that has none; prints what to configure
    PeopleCa {
        #[arg(long)]
        config: PathBuf,
        /// The organisation; stands in the CA's name
        #[arg(long)]
        organisation: String,
        /// The certificate's file to make
        #[arg(long)]
        out: PathBuf,
    },
    /// Take a user's second factor away, if it is lost and no other administrator is left who could; recorded in the log
    ResetFactor {
        #[arg(long)]
        config: PathBuf,
        /// Whose: anna or users/anna
        #[arg(long)]
        user: String,
        /// Why; recorded
        #[arg(long)]
        reason: String,
    },
    /// Make a key for the log in the token, for a custodian that has none or needs another; prints what to configure
    LogKey {
        #[arg(long)]
        config: PathBuf,
        /// A name that clients know this custodian by; the log's name begins with it
        #[arg(long)]
        name: String,
        /// The public key's file to make
        #[arg(long)]
        out: PathBuf,
    },
    /// The child process that loads the PKCS#11 module
    #[command(hide = true)]
    Worker,
    /// The child process that initialises a token for `dev`
    #[command(hide = true)]
    InitToken {
        #[arg(long)]
        module: PathBuf,
        #[arg(long)]
        label: String,
        #[arg(long)]
        so_pin_file: PathBuf,
        #[arg(long)]
        pin_file: PathBuf,
    },
}

fn main() -> ExitCode {
    let job = Args::parse().job;
    if let Err(error) = no_core_dumps() {
        return fail(Trouble::new("cannot turn core dumps off", error));
    }
    // The child processes start no async runtime: the PKCS#11 module shares a process with as little as possible.
    let job = match job {
        Job::Worker => return worker::main(),
        Job::InitToken { module, label, so_pin_file, pin_file } => {
            let made = InitToken { module, label, so_pin_file, pin_file }.run();
            let made = made.map_err(|error| Trouble::new("cannot make a token", error));
            return made.map_or_else(fail, |()| ExitCode::SUCCESS);
        }
        job => job,
    };
    let usual = if matches!(job, Job::Dev(_)) { "warn" } else { "info" };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("CUSTODIAN_LOG").unwrap_or_else(|_| EnvFilter::new(usual)))
        // Where the time of a call goes: CUSTODIAN_LOG=custodian::api=trace,custodian::custody=trace
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    let ran = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Trouble::new("cannot start", error))
        .and_then(|runtime| runtime.block_on(run(job)));
    ran.map_or_else(fail, |()| ExitCode::SUCCESS)
}

/// File keys and passwords pass through this process. The limit alone would not do: a kernel that pipes core dumps to a
/// program does not look at it.
fn no_core_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn fail(trouble: Trouble) -> ExitCode {
    say(&trouble.to_string());
    ExitCode::FAILURE
}

async fn run(job: Job) -> Result<(), Trouble> {
    let mut progress = |step: &str| say(&format!("  {step}"));
    match job {
        Job::Dev(args) => {
            dev::dev(args, &mut progress, |address, dir| {
                print(&format!("ready {address}"));
                say(&dev::guide(address, dir));
            })
            .await
        }
        Job::Init(args) => init::init(*args, &mut progress).await.map(|next| print(&next)),
        Job::Serve { config } => {
            serve::serve(&config, None, |address| print(&format!("ready {address}"))).await
        }
        Job::Check { config } => check::check(&config).await.map(|lines| {
            lines.iter().for_each(|line| print(line));
            print("in order");
        }),
        Job::AcceptLedger { config, reason } => {
            accept_ledger::accept_ledger(&config, &reason).await.map(|next| print(&next))
        }
        Job::ResetPolicy { config, reason } => {
            reset_policy::reset_policy(&config, &reason).await.map(|next| print(&next))
        }
        Job::PeopleCa { config, organisation, out } => {
            people_ca::people_ca(&config, &organisation, &out).await.map(|next| print(&next))
        }
        Job::ResetFactor { config, user, reason } => {
            reset_factor::reset_factor(&config, &user, &reason).await.map(|next| print(&next))
        }
        Job::LogKey { config, name, out } => {
            log_key::log_key(&config, &name, &out).await.map(|next| print(&next))
        }
        Job::Worker | Job::InitToken { .. } => Ok(()),
    }
}

/// To a person. If nobody reads it, there is nobody to tell.
fn say(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}

/// To a program.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).ok();
}
