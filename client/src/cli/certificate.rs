//! `envelope certificate` and `custodianctl certificate`.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use custodian_proto::{email::Email, v1};
use der::pem::{LineEnding, encode_string};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    connection::Connection,
    device::{Form, write_list},
    extract::reason,
    identity::level_name,
    message::note,
    output::{Style, print},
    view::{id_of, user_name},
    when::{local, rfc3339},
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    password::PasswordSource,
    remote::{Certified, Remote, certify},
};

/// What a person does with certificates of their own and of others.
#[derive(Debug, Subcommand)]
pub(super) enum OwnCertificateCommand {
    /// Make a key on this workstation and get a certificate for it
    Request(RequestArgs),
    /// List your certificates
    Ls {
        #[command(flatten)]
        style: Style,
        #[command(flatten)]
        connection: Connection,
    },
    /// End one of your certificates for good
    Revoke {
        #[command(flatten)]
        args: RevokeArgs,
        #[command(flatten)]
        connection: Connection,
    },
    /// Print the certificate to encrypt to of whoever has an address (PEM), for other programs
    Find {
        /// alice@example.org
        email: Email,
        #[command(flatten)]
        connection: Connection,
    },
}

/// Make a key on this workstation and get a certificate for it
#[derive(Debug, clap::Args)]
pub(super) struct RequestArgs {
    /// What the key is for. Never for both
    #[arg(long = "use", value_enum, value_name = "USE")]
    usage: Use,
    /// Your address: fails if the custodian's record says another
    #[arg(long, value_name = "ADDRESS")]
    email: Option<Email>,
    /// Folder for USE.key and USE.crt; made if it is missing
    #[arg(long, short, value_name = "DIR")]
    out_dir: PathBuf,
    /// File with a passphrase for the key, - for standard input. [default: asked for on the terminal]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Leave the key without a passphrase: whoever reads the file has it
    #[arg(long, conflicts_with = "passphrase_file")]
    no_passphrase: bool,
    #[command(flatten)]
    style: Style,
    #[command(flatten)]
    connection: Connection,
}

/// What a key is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Use {
    /// Signing (ECDSA P-256)
    Sign,
    /// Being encrypted to (RSA-3072)
    Encrypt,
}

/// End a certificate for good
#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// Its serial number or the beginning of it
    id: String,
    /// Why; recorded
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// What kind of reason; others learn it from the revocation list
    #[arg(long, value_enum, default_value_t = Why::Cessation)]
    why: Why,
    #[command(flatten)]
    style: Style,
}

/// What kind of reason (RFC 5280 §5.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Why {
    /// It is not needed any more
    Cessation,
    /// Somebody else may have the key
    KeyCompromise,
    /// What it says of the person is not true any more
    AffiliationChanged,
    /// Another takes its place
    Superseded,
}

/// What administrators do with everybody's.
#[derive(Debug, Subcommand)]
pub(super) enum CertificateCommand {
    /// List them: all for an administrator, else your own
    Ls {
        /// Only those of this user: anna or users/anna
        #[arg(long, value_name = "ID")]
        of: Option<String>,
        #[command(flatten)]
        style: Style,
    },
    /// Show one
    Show {
        /// Its serial number or the beginning of it
        id: String,
        /// Print it, and its issuer, in PEM
        #[arg(long)]
        pem: bool,
        #[command(flatten)]
        style: Style,
    },
    /// End one for good
    Revoke(RevokeArgs),
    /// Write the revocation list of the people's CA, for others who take people's certificates
    Crl {
        /// Where to; replaced if it is there; - for standard output
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
        /// In PEM instead of DER
        #[arg(long)]
        pem: bool,
        /// In how many days it calls for the next one, at most 90
        #[arg(long, value_name = "N", default_value_t = 7)]
        days: u32,
    },
    /// Print the certificate of the people's CA (PEM)
    Ca,
}

impl OwnCertificateCommand {
    pub(super) fn run(self, interrupt: &Interrupt) -> Result<()> {
        match self {
            Self::Request(args) => args.run(interrupt),
            Self::Ls { style, connection } => {
                let user = user_name(connection.settings()?.user()?);
                list(style, &connection.connect(interrupt)?.certificates(Some(&user))?)
            }
            Self::Revoke { args, connection } => args.run(&connection.connect(interrupt)?),
            Self::Find { email, connection } => {
                let found =
                    connection.connect(interrupt)?.find_certificates(&email, v1::CertificateUse::Encrypt)?;
                let newest = found.certificates.first().ok_or_else(|| {
                    Error::new(
                        Kind::Refused,
                        format!("cannot find {email}"),
                        "this address has no certificate to encrypt to",
                    )
                    .hint("its owner gets one with: envelope certificate request --use encrypt")
                })?;
                print(&pem(&newest.certificate)?).map(drop)
            }
        }
    }
}

impl RequestArgs {
    fn run(self, interrupt: &Interrupt) -> Result<()> {
        let usage = match self.usage {
            Use::Sign => v1::CertificateUse::Sign,
            Use::Encrypt => v1::CertificateUse::Encrypt,
        };
        let source = PasswordSource::of(self.passphrase_file.as_deref());
        if source == PasswordSource::Stdin && self.connection.settings()?.password() == PasswordSource::Stdin
        {
            let why = "standard input cannot be both password and passphrase";
            return Err(Error::new(Kind::Usage, "cannot get a certificate", why)
                .hint("log in first: envelope login --password-file -"));
        }
        let passphrase = match self.no_passphrase {
            true => None,
            false => Some(source.read_new("passphrase for the new key")?),
        };
        let remote = self.connection.connect(interrupt)?;
        let made = certify(&remote, usage, self.email.as_ref(), &self.out_dir, passphrase.as_ref())?;
        let Certified { certificate, key, cert } = made;
        let view = RequestedView { certificate: (&certificate).into(), key: &key, cert: &cert };
        let mut lines = lines(&certificate);
        lines.push(("key", key.display().to_string()));
        lines.push(("file", cert.display().to_string()));
        self.style.one(&view, &lines)
    }
}

impl RevokeArgs {
    fn run(&self, remote: &Remote) -> Result<()> {
        let why = match self.why {
            Why::Cessation => v1::RevocationReason::Cessation,
            Why::KeyCompromise => v1::RevocationReason::KeyCompromise,
            Why::AffiliationChanged => v1::RevocationReason::AffiliationChanged,
            Why::Superseded => v1::RevocationReason::Superseded,
        };
        let name = which(remote, &self.id)?;
        tell(self.style, &remote.revoke_certificate(&name, why, &self.reason)?)
    }
}

impl CertificateCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let remote = connection.connect(interrupt)?;
        match self {
            Self::Ls { of, style } => {
                list(style, &remote.certificates(of.as_deref().map(user_name).as_deref())?)
            }
            Self::Show { id, pem: false, style } => tell(style, &remote.certificate(&which(&remote, &id)?)?),
            Self::Show { id, pem: true, .. } => {
                let shown = remote.certificate(&which(&remote, &id)?)?;
                print(&[pem(&shown.certificate)?, pem(&shown.issuer)?].concat()).map(drop)
            }
            Self::Revoke(args) => args.run(&remote),
            Self::Crl { out, pem, days } => {
                let list = remote.people_revocation_list(Some(days))?;
                write_list(&out, &list.crl, if pem { Form::Pem } else { Form::Der })?;
                let next = local(list.next_update_time.as_ref());
                note(&format!("revocation list {}, the next one is due {next}", list.number));
                Ok(())
            }
            Self::Ca => print(&pem(&remote.people_revocation_list(None)?.issuer)?).map(drop),
        }
    }
}

/// The certificate that a person means: a whole serial number, or the beginning of one.
fn which(remote: &Remote, id: &str) -> Result<String> {
    let id = id.strip_prefix("certificates/").unwrap_or(id).to_ascii_lowercase();
    if id.len() == 32 {
        return Ok(format!("certificates/{id}"));
    }
    let what = format!("cannot find the certificate {id:?}");
    let all = remote.certificates(None)?;
    let begins = |one: &&v1::Certificate| !id.is_empty() && id_of(&one.name).starts_with(&id);
    let found: Vec<_> = all.iter().filter(begins).collect();
    match found.as_slice() {
        [one] => Ok(one.name.clone()),
        [] => {
            Err(Error::new(Kind::Refused, what, "there is none that begins so")
                .hint("list them: certificate ls"))
        }
        _ => Err(Error::new(Kind::Usage, what, "several begin so").hint("give more of it")),
    }
}

/// A certificate.
#[derive(Serialize)]
struct CertificateView {
    name: String,
    user: String,
    r#use: &'static str,
    email: String,
    level: &'static str,
    state: &'static str,
    issue_time: Option<String>,
    expire_time: Option<String>,
    revoke_time: Option<String>,
    reason: String,
}

/// A new certificate and where it is.
#[derive(Serialize)]
struct RequestedView<'a> {
    certificate: CertificateView,
    key: &'a Path,
    cert: &'a Path,
}

/// A certificate with its JSON beside it.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    view: CertificateView,
    #[serde(skip)]
    certificate: &'a v1::Certificate,
}

impl From<&v1::Certificate> for CertificateView {
    fn from(one: &v1::Certificate) -> Self {
        Self {
            name: one.name.clone(),
            user: one.user.clone(),
            r#use: use_name(one.r#use()),
            email: one.email.clone(),
            level: level_name(one.level()),
            state: state(one),
            issue_time: rfc3339(one.issue_time.as_ref()),
            expire_time: rfc3339(one.expire_time.as_ref()),
            revoke_time: rfc3339(one.revoke_time.as_ref()),
            reason: one.reason.clone(),
        }
    }
}

fn list(style: Style, certificates: &[v1::Certificate]) -> Result<()> {
    let listed: Vec<_> =
        certificates.iter().map(|certificate| Listed { view: certificate.into(), certificate }).collect();
    style.many(&listed, &["SERIAL", "USER", "USE", "E-MAIL", "LEVEL", "STATE", "ENDS"], |listed| {
        let one = listed.certificate;
        vec![
            id_of(&one.name).to_owned(),
            id_of(&one.user).to_owned(),
            use_name(one.r#use()).to_owned(),
            one.email.clone(),
            level_name(one.level()).to_owned(),
            state(one).to_owned(),
            local(one.expire_time.as_ref()),
        ]
    })
}

fn tell(style: Style, certificate: &v1::Certificate) -> Result<()> {
    style.one(&CertificateView::from(certificate), &lines(certificate))
}

fn lines(one: &v1::Certificate) -> Vec<(&'static str, String)> {
    vec![
        ("certificate", one.name.clone()),
        ("user", one.user.clone()),
        ("use", use_name(one.r#use()).to_owned()),
        ("e-mail", one.email.clone()),
        ("level", level_name(one.level()).to_owned()),
        ("state", state(one).to_owned()),
        ("issued", local(one.issue_time.as_ref())),
        ("ends", local(one.expire_time.as_ref())),
        ("revoked", local(one.revoke_time.as_ref())),
        ("reason", one.reason.clone()),
    ]
}

fn use_name(usage: v1::CertificateUse) -> &'static str {
    match usage {
        v1::CertificateUse::Sign => "sign",
        v1::CertificateUse::Encrypt => "encrypt",
        v1::CertificateUse::Unspecified => "unknown",
    }
}

fn state(one: &v1::Certificate) -> &'static str {
    let ended = one.expire_time.as_ref().is_some_and(|end| end.seconds <= Timestamp::now().as_second());
    match (&one.revoke_time, ended) {
        (Some(_), _) => "revoked",
        (None, true) => "ended",
        (None, false) => "good",
    }
}

fn pem(der: &[u8]) -> Result<String> {
    encode_string("CERTIFICATE", LineEnding::LF, der)
        .map_err(|why| Error::new(Kind::Local, "cannot print the certificate", why))
}
