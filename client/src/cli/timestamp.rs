//! `envelope timestamp`, and the flags that name time-stamping authorities.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use custodian_proto::sign::Hash;

use super::{
    connection::Connection,
    inspect::local_input,
    message::note,
    progress::{Bar, Talk},
    signer::SignatureFormat,
};
use crate::{
    error::{Error, Kind, Result},
    extract::Input,
    input::Envelope,
    interrupt::Interrupt,
    output::failed,
    progress::Progress,
    remote::Remote,
    settings::Settings,
    sign::{check_free, write_new},
    signed::hash_of,
    timestamp::{Authority, HttpAuthority, Others, Stamped, Token, TrustedAuthorities, ask},
};

/// What a timestamp in a file of its own is called, after the file that it is of.
const SUFFIX: &str = ".tsr";

/// Longest file with a timestamp, in bytes.
const MAX_FILE_LEN: u64 = 1024 * 1024;

/// Have it said by a time-stamping authority that a file was there now (RFC 3161): the custodian, or any other. The file stays
/// here; its SHA-256 goes there
#[derive(Debug, clap::Args)]
pub(super) struct TimestampArgs {
    /// The file; - for standard input
    file: PathBuf,
    /// The timestamp; - for standard output. [default: FILE.tsr, beside the file]
    #[arg(long, short, value_name = "OUT")]
    output: Option<PathBuf>,
    #[command(flatten)]
    authority: AuthorityArgs,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    talk: Talk,
}

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub(super) struct AuthorityArgs {
    /// Another authority than the custodian: its URL, http or https
    #[arg(long, value_name = "URL")]
    tsa: Option<String>,
    /// CAs that may vouch for that server, with https [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "tsa")]
    tls_ca: Option<PathBuf>,
}

impl AuthorityArgs {
    /// Another authority than the custodian, if one is named.
    pub(super) fn named(&self) -> Result<Option<HttpAuthority>> {
        self.tsa.as_deref().map(|url| HttpAuthority::new(url, self.tls_ca.as_deref())).transpose()
    }
}

/// Whether a signature is timestamped, and by whom.
#[derive(Debug, clap::Args)]
pub(super) struct StampArgs {
    /// Have it said by a time-stamping authority when it was signed: the custodian, or that of --tsa
    #[arg(long)]
    timestamp: bool,
    #[command(flatten)]
    authority: AuthorityArgs,
}

impl StampArgs {
    /// Whether a timestamp is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        self.timestamp || self.authority.tsa.is_some()
    }

    /// Checks that signatures of this format have a place for a timestamp, if one is wanted.
    pub(super) fn check_place(&self, format: SignatureFormat, hint: &str) -> Result<()> {
        if self.is_wanted() && format == SignatureFormat::OpenPgp {
            let why = "OpenPGP signatures have no place for a timestamp";
            return Err(Error::new(Kind::Usage, "cannot timestamp", why).hint(hint));
        }
        Ok(())
    }

    /// Who says when it was signed: the custodian over this connection, if no other is named.
    pub(super) fn authority(
        &self,
        custodian: impl FnOnce() -> Result<Remote>,
    ) -> Result<Option<Box<dyn Authority>>> {
        match self.authority.named()? {
            Some(other) => Ok(Some(Box::new(other))),
            None if self.timestamp => Ok(Some(Box::new(custodian()?))),
            None => Ok(None),
        }
    }
}

/// Whose timestamps count.
#[derive(Debug, clap::Args)]
pub(super) struct TrustArgs {
    /// Certificates of time-stamping authorities, or of their CAs, whose timestamps count. May be repeated [default: the
    /// custodian's CA, of --ca or the settings]
    #[arg(long, value_name = "FILE")]
    tsa_ca: Vec<PathBuf>,
    /// Revocation lists of those CAs. May be repeated
    #[arg(long, value_name = "FILE", requires = "tsa_ca")]
    tsa_crl: Vec<PathBuf>,
}

impl TrustArgs {
    /// Whose timestamps count; nobody's, if nobody said.
    pub(super) fn load(&self, settings: &Settings) -> Result<TrustedAuthorities> {
        if self.tsa_ca.is_empty() {
            let usual: Vec<_> = settings.ca.iter().cloned().collect();
            // A sender may well have asked another authority: that is no reason to refuse what is good without.
            return Ok(TrustedAuthorities::load(&usual, &[])?.and_others(Others::Ignore));
        }
        TrustedAuthorities::load(&self.tsa_ca, &self.tsa_crl)
    }
}

impl TimestampArgs {
    pub(super) fn run(&self, interrupt: &Interrupt) -> Result<()> {
        let output = self.output()?;
        if let Some(path) = &output {
            check_free(path)?;
        }
        let bar = Bar::start(self.talk, interrupt);
        let hashed = digest(&local_input(&self.file), Hash::Sha256, &bar);
        bar.clear();
        let digest = hashed?;
        let (answer, token) = match self.authority.named()? {
            Some(authority) => ask(&authority, Hash::Sha256, &digest)?,
            None => ask(&self.connection.connect(interrupt)? as &dyn Authority, Hash::Sha256, &digest)?,
        };
        let told = match self.trusted()? {
            Some(trusted) => {
                let stamped = token.verify(&trusted, SystemTime::now())?;
                format!("timestamped {} by {}", stamped.time, stamped.authority)
            }
            None => "timestamped; nobody said whose timestamps count, so it was not verified: --tsa-ca FILE"
                .to_owned(),
        };
        match output {
            Some(path) => write_new(&path, &answer)?,
            None => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write_all(&answer).and_then(|()| stdout.flush());
                written.map_err(|why| failed("cannot write to standard output", &why))?;
            }
        }
        note(&told);
        Ok(())
    }

    /// Whose timestamps count. Of another authority than the custodian, only those that are named here.
    fn trusted(&self) -> Result<Option<TrustedAuthorities>> {
        if self.authority.tsa.is_some() && self.trust.tsa_ca.is_empty() {
            return Ok(None);
        }
        let trusted = self.trust.load(&self.connection.settings()?)?;
        Ok(Some(trusted).filter(|trusted| !trusted.is_empty()))
    }

    /// `None`: standard output.
    fn output(&self) -> Result<Option<PathBuf>> {
        let usage = |why: &str, hint: &str| Error::new(Kind::Usage, "cannot timestamp", why).hint(hint);
        match &self.output {
            Some(out) if out == Path::new("-") && io::stdout().is_terminal() => {
                Err(usage("a timestamp is no text for a terminal", "redirect it, or give -o FILE"))
            }
            Some(out) if out == Path::new("-") => Ok(None),
            Some(out) => Ok(Some(out.clone())),
            None if self.file == Path::new("-") => Err(usage("standard input has no name", "give -o FILE")),
            None => {
                let mut name = self.file.as_os_str().to_owned();
                name.push(SUFFIX);
                Ok(Some(name.into()))
            }
        }
    }
}

/// Verifies the timestamp of a file, which is in a file of its own. Offline.
pub(super) fn verify_file(
    file: &Input,
    timestamp: &Path,
    trusted: &TrustedAuthorities,
    progress: &dyn Progress,
) -> Result<Stamped> {
    if trusted.is_empty() {
        return Err(Error::new(
            Kind::Usage,
            "cannot verify the timestamp",
            "nobody said whose timestamps count",
        )
        .hint("name the authority's certificate, or that of its CA: --tsa-ca FILE"));
    }
    let cannot = |why: &dyn std::fmt::Display| {
        Error::new(Kind::Local, format!("cannot read the timestamp {}", timestamp.display()), why)
    };
    let len = std::fs::metadata(timestamp).map_err(|why| cannot(&why))?.len();
    if len > MAX_FILE_LEN {
        return Err(cannot(&"it is too long for a timestamp"));
    }
    let token = Token::of_answer(&std::fs::read(timestamp).map_err(|why| cannot(&why))?)?;
    let hash = token.hash()?;
    token.check_digest(hash, &digest(file, hash, progress)?)?;
    token.verify(trusted, SystemTime::now())
}

/// What is told of a timestamp, a line for each fact.
pub(super) fn stamped_facts(stamped: &Stamped) -> Vec<(&'static str, String)> {
    let accuracy = stamped.accuracy_ms.map(|ms| format!("{ms} ms"));
    vec![
        ("timestamped", stamped.time.clone()),
        ("accuracy", accuracy.unwrap_or_else(|| "not told".to_owned())),
        ("authority", stamped.authority.clone()),
        ("timestamp", format!("{}, policy {}", stamped.serial, stamped.policy)),
    ]
}

fn digest(file: &Input, hash: Hash, progress: &dyn Progress) -> Result<Vec<u8>> {
    let file = Envelope::open(file, progress)?;
    progress.total(file.len());
    hash_of(file.file()?, file.len(), hash, progress)
}
