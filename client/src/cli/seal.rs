//! `envelope seal`: offline, but for addresses of people.

use std::{
    cell::OnceCell,
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::Duration,
};

use custodian_proto::email::Email;
use jiff::{SignedDuration, Timestamp};

use super::{
    connection::Connection,
    message::note,
    progress::{Bar, Talk},
    signer::{AnySigner, SignatureFormat, SignerArgs, With},
    timestamp::StampArgs,
    when::parse_duration,
};
use crate::{
    envelope::{self, cms::Protection},
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    person::{Directory, Found, Freshness, OnChange, Pins, recipient},
    remote::{self, Remote},
    seal::{SealJob, SealTo, Symlinks, seal, seal_signed, seal_signed_openpgp},
    sign::check_free,
    signed::Signing,
};

/// Seal files and folders into an envelope that only the owners of the given keys can open
#[derive(Debug, clap::Args)]
pub(super) struct SealArgs {
    /// Certificate of a wrapping key (X.509 in PEM or DER; OpenPGP for that format): whoever has that key can open the envelope.
    /// Or the e-mail address of a person: the custodian is asked for the certificate, which is remembered. May be repeated
    #[arg(long, value_name = "CERT|ADDRESS", required = true)]
    to: Vec<PathBuf>,
    /// If an address has another certificate than it had, take it from now on
    #[arg(long)]
    accept_new_certificate: bool,
    /// How long a remembered certificate is good while the custodian cannot be reached
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "7d")]
    remembered_for: Duration,
    /// Format of the envelope
    #[arg(long, value_enum, default_value_t = Format::Mtd)]
    format: Format,
    /// The envelope; - for standard output. [default: PATH.mtd, PATH.sealed, PATH.p7m or PATH.gpg in the current folder, if there is one PATH]
    #[arg(long, short, value_name = "OUT")]
    output: Option<PathBuf>,
    /// With --format cms: AES-256-CBC, for programs that cannot read AES-GCM. Its content can be changed on the way, and nobody
    /// can see that
    #[arg(long)]
    legacy: bool,
    /// Keep symbolic links as links; otherwise they are refused
    #[arg(long)]
    keep_symlinks: bool,
    /// Sign the envelope with this key: a file in PEM or PKCS #12, with its certificates; a PKCS #11 URI, for a smart card (RFC
    /// 7512); or custodian:LABEL. With --format openpgp a file with an OpenPGP secret key, as gpg --export-secret-keys writes it, or
    /// custodian:LABEL of a key for ECDSA
    #[arg(long, value_name = "KEY")]
    sign_with: Option<With>,
    #[command(flatten)]
    signer: SignerArgs,
    #[command(flatten)]
    stamp: StampArgs,
    #[command(flatten)]
    talk: Talk,
    /// Name of the file that standard input becomes in the envelope. [default: stdin]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Files and folders to seal; - for standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

/// What standard input is called in an envelope if nobody says it better.
const STDIN_NAME: &str = "stdin";

/// Formats that can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Format {
    /// A ZIP that 7z opens with a password that openssl decrypts
    Mtd,
    /// Names, sizes and times are secret, too; the fastest to open
    Sealed,
    /// One file, as in S/MIME: openssl cms opens it
    Cms,
    /// One file, for the world of GnuPG
    #[value(name = "openpgp")]
    OpenPgp,
}

impl Format {
    fn of_signatures(self) -> SignatureFormat {
        match self {
            Self::Mtd | Self::Sealed | Self::Cms => SignatureFormat::Cms,
            Self::OpenPgp => SignatureFormat::OpenPgp,
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Mtd => ".mtd",
            Self::Sealed => ".sealed",
            Self::Cms => ".p7m",
            Self::OpenPgp => ".gpg",
        }
    }
}

impl From<Format> for envelope::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Mtd => Self::Mtd,
            Format::Sealed => Self::Sealed,
            Format::Cms => Self::Cms,
            Format::OpenPgp => Self::OpenPgp,
        }
    }
}

/// Seals.
pub(super) fn run(args: &SealArgs, interrupt: &Interrupt) -> Result<()> {
    let read = |path: &PathBuf| match args.format {
        Format::OpenPgp => openpgp_certificate(path),
        Format::Mtd | Format::Sealed | Format::Cms => certificate(path),
    };
    let custodian = Custodian { args, interrupt, remote: OnceCell::new() };
    let recipients = args.to.iter().map(|to| match address(to) {
        Some(email) => custodian.certificate_of(&email),
        None => read(to),
    });
    let recipients = recipients.collect::<Result<_>>()?;
    let (paths, stdin) = inputs(args)?;
    let output = output(args.output.as_deref(), &paths, args.name.as_deref(), args.format)?;
    let symlinks = if args.keep_symlinks { Symlinks::Keep } else { Symlinks::Refuse };
    let protection = if args.legacy { Protection::Legacy } else { Protection::Authenticated };
    let format = args.format.into();
    let job = SealJob { recipients, paths, stdin, format, output, symlinks, protection };

    if args.stamp.is_wanted() && args.sign_with.is_none() {
        return Err(Error::new(
            Kind::Usage,
            "cannot timestamp",
            "a timestamp is of a signature, and nobody signs",
        )
        .hint("give --sign-with KEY, too; or have the envelope timestamped: envelope timestamp FILE"));
    }
    let hint = "choose another --format; or have the envelope timestamped: envelope timestamp FILE";
    args.stamp.check_place(args.format.of_signatures(), hint)?;
    if let SealTo::File(path) = &job.output {
        // Before anybody types a PIN.
        check_free(path)?;
    }
    let connect = || args.connection.connect(interrupt);
    let signer = args.sign_with.as_ref();
    let signer = signer.map(|with| args.signer.open(args.format.of_signatures(), with, connect, interrupt));
    let signer = signer.transpose()?;
    let authority = args.stamp.authority(connect)?;
    let bar = Bar::start(args.talk, interrupt);
    let report = match &signer {
        Some(AnySigner::Cms(signer)) => {
            let signing = Signing { signer: signer.as_ref(), authority: authority.as_deref() };
            seal_signed(&job, signing, &bar)
        }
        Some(AnySigner::OpenPgp(key)) => seal_signed_openpgp(&job, key, &bar),
        None => seal(&job, &bar),
    };
    let report = report.inspect_err(|_| bar.clear())?;
    bar.finish("sealed", report.entries, report.content_bytes);
    if args.legacy {
        // Not even --quiet keeps this back.
        note(LEGACY);
        if signer.is_some() {
            note(LEGACY_SIGNED);
        }
    }
    Ok(())
}

/// What is said of an envelope that is weaker than others.
const LEGACY: &str = "warning: --legacy sealed it with AES-256-CBC, which is not authenticated: it keeps the content secret, but \
    whoever has it on the way can change what comes out, and nobody can see that. Send it a way that you trust, or leave \
    --legacy out for readers that know AES-GCM (openssl 3, envelope extract)";

/// What is said besides if it is signed.
const LEGACY_SIGNED: &str = "warning: whoever has it on the way can also take the signature away, and nothing in a --legacy envelope says that \
    there was one: only a recipient who opens nothing unsigned (--accept-from, or [accept] in the settings) finds that out";

/// The address that this is, unless there is a file of that name.
fn address(to: &Path) -> Option<Email> {
    let email = to.to_str()?.parse().ok()?;
    (!to.exists()).then_some(email)
}

/// The custodian, connected to when the first address is looked up.
struct Custodian<'a> {
    args: &'a SealArgs,
    interrupt: &'a Interrupt,
    remote: OnceCell<Remote>,
}

impl Custodian<'_> {
    fn certificate_of(&self, email: &Email) -> Result<Vec<u8>> {
        if self.args.format == Format::OpenPgp {
            let why = "people's certificates are X.509, which OpenPGP does not know";
            return Err(Error::new(Kind::Usage, format!("cannot seal to {email}"), why)
                .hint("choose another --format"));
        }
        let on_change = if self.args.accept_new_certificate { OnChange::Accept } else { OnChange::Refuse };
        let fresh = SignedDuration::try_from(self.args.remembered_for).unwrap_or(SignedDuration::MAX);
        let pins = Pins::of_user()?;
        let found = recipient(email, self, &pins, on_change, Freshness(fresh), Timestamp::now())?;
        found.remarks.iter().for_each(|remark| note(remark));
        Ok(found.certificate)
    }
}

impl Directory for Custodian<'_> {
    fn find(&self, email: &Email) -> Result<Found> {
        if let Some(remote) = self.remote.get() {
            return remote.find(email);
        }
        let remote = self.args.connection.connect(self.interrupt)?;
        self.remote.get_or_init(|| remote).find(email)
    }
}

/// The paths, and the name of standard input if `-` is among them.
fn inputs(args: &SealArgs) -> Result<(Vec<PathBuf>, Option<String>)> {
    let usage = |why: &str| Error::new(Kind::Usage, "cannot seal", why);
    let (dashes, paths): (Vec<_>, Vec<_>) =
        args.paths.iter().cloned().partition(|path| path == Path::new("-"));
    match (dashes.len(), &args.name) {
        (0, None) => Ok((paths, None)),
        (0, Some(_)) => {
            Err(usage("--name is for standard input, which is not to be sealed").hint("give - as a PATH too"))
        }
        (1, name) => Ok((paths, Some(name.as_deref().unwrap_or(STDIN_NAME).to_owned()))),
        _ => Err(usage("standard input is given more than once")),
    }
}

/// Exactly one: sealing to a CA that stands behind it in the file would seal to the wrong key.
pub(super) fn certificate(path: &Path) -> Result<Vec<u8>> {
    let mut found = remote::certificates(path)?;
    match (found.pop(), found.is_empty()) {
        (Some(certificate), true) => Ok(certificate),
        _ => Err(Error::new(
            Kind::Local,
            format!("cannot seal to {}", path.display()),
            "it holds several certificates",
        )
        .hint("give each recipient's certificate in a file of its own")),
    }
}

fn openpgp_certificate(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|why| {
        Error::new(Kind::Local, format!("cannot read the certificate {}", path.display()), why)
    })
}

fn output(
    given: Option<&Path>,
    paths: &[PathBuf],
    stdin_name: Option<&str>,
    format: Format,
) -> Result<SealTo> {
    let usage = |why: &str| Error::new(Kind::Usage, "cannot seal", why);
    let beside = |name: PathBuf| {
        let mut name = name.into_os_string();
        name.push(format.extension());
        SealTo::File(name.into())
    };
    match (given, paths) {
        (Some(out), _) if out == Path::new("-") => {
            if io::stdout().is_terminal() {
                return Err(
                    usage("an envelope is no text for a terminal").hint("redirect it, or give -o FILE")
                );
            }
            Ok(SealTo::Stdout)
        }
        (Some(out), _) => Ok(SealTo::File(out.to_owned())),
        (None, [path]) => {
            let name = name_of(path).ok_or_else(|| usage("this path has no name").hint("give -o FILE"))?;
            Ok(beside(name))
        }
        (None, []) => {
            let name = stdin_name
                .and_then(|name| name_of(Path::new(name)))
                .ok_or_else(|| usage("standard input has no name").hint("give --name NAME or -o FILE"))?;
            Ok(beside(name))
        }
        (None, [..]) => Err(usage("several paths need a name for the envelope").hint("give -o FILE")),
    }
}

/// `.` and `a/..` have no name of their own: the folder they mean has one.
fn name_of(path: &Path) -> Option<PathBuf> {
    if let Some(name) = path.file_name() {
        return Some(name.into());
    }
    Some(path.canonicalize().ok()?.file_name()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_names_its_envelope_several_need_a_name() {
        let name = |paths: &[&str]| match output(
            None,
            &paths.iter().map(PathBuf::from).collect::<Vec<_>>(),
            None,
            Format::Mtd,
        ) {
            Ok(SealTo::File(path)) => Ok(path.display().to_string()),
            Ok(SealTo::Stdout) => Ok("-".into()),
            Err(error) => Err(error.kind),
        };
        assert_eq!(name(&["/data/report.pdf"]), Ok("report.pdf.mtd".into()));
        assert_eq!(name(&["folder/"]), Ok("folder.mtd".into()));
        assert_eq!(name(&["a", "b"]), Err(Kind::Usage));
        assert_eq!(name(&["/"]), Err(Kind::Usage));
    }
}
