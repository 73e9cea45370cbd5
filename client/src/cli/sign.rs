//! `envelope sign`.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use super::{
    connection::Connection,
    inspect::local_input,
    progress::{Bar, Talk},
    signer::{SignerArgs, With},
    timestamp::StampArgs,
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    sign::{SignJob, SignTo, check_free, sign},
    signed::Signing,
    verify::beside,
};

/// Sign a file: writes the signature into a file of its own (CMS, detached), which `openssl cms -verify` reads, too
#[derive(Debug, clap::Args)]
pub(super) struct SignArgs {
    /// The file; - for standard input
    file: PathBuf,
    /// The key: a file in PEM, or PKCS #12, with its certificates; a PKCS #11 URI, for a smart card (RFC 7512); or
    /// custodian:LABEL, for a signing key in the custodian
    #[arg(long, value_name = "KEY")]
    with: With,
    #[command(flatten)]
    signer: SignerArgs,
    #[command(flatten)]
    stamp: StampArgs,
    #[command(flatten)]
    connection: Connection,
    /// The signature; - for standard output. [default: FILE.p7s, beside the file]
    #[arg(long, short, value_name = "OUT")]
    output: Option<PathBuf>,
    #[command(flatten)]
    talk: Talk,
}

/// Signs.
pub(super) fn run(args: &SignArgs, interrupt: &Interrupt) -> Result<()> {
    let job = SignJob { file: local_input(&args.file), output: output(args)? };
    if let SignTo::File(path) = &job.output {
        // Before anybody types a PIN.
        check_free(path)?;
    }
    let signer = args.signer.open(&args.with, || args.connection.connect(interrupt), interrupt)?;
    let authority = args.stamp.authority(|| args.connection.connect(interrupt))?;
    let signing = Signing { signer: signer.as_ref(), authority: authority.as_deref() };
    let bar = Bar::start(args.talk, interrupt);
    let bytes = sign(&job, signing, &bar).inspect_err(|_| bar.clear())?;
    bar.finish("signed", 1, bytes);
    Ok(())
}

fn output(args: &SignArgs) -> Result<SignTo> {
    let usage = |why: &str, hint: &str| Error::new(Kind::Usage, "cannot sign", why).hint(hint);
    let stdin = args.file == Path::new("-");
    match &args.output {
        Some(out) if out == Path::new("-") && io::stdout().is_terminal() => {
            Err(usage("a signature is no text for a terminal", "redirect it, or give -o FILE"))
        }
        Some(out) if out == Path::new("-") => Ok(SignTo::Stdout),
        Some(out) => Ok(SignTo::File(out.clone())),
        None if stdin => Err(usage("standard input has no name", "give -o FILE")),
        None => Ok(SignTo::File(beside(&args.file))),
    }
}
