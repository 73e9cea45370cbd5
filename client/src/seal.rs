//! Seal: paths in, one envelope out. Offline.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use cap_std::fs::OpenOptions;

use crate::{
    envelope::{
        Format, MAX_RECIPIENTS, Recipient, SenderMark, Source, Written, carried, cms, mtd, openpgp, sealed,
    },
    error::{Error, Kind, Result},
    output::{self, IfMissing, Staging},
    progress::Progress,
    sign::check_free,
    signed::{Enclosing, Signing},
    sources,
};

/// The envelope's name until it is complete.
const STAGED_NAME: &str = "envelope";

/// What to seal, to whom, and how.
pub struct SealJob {
    /// Certificates of the recipients' wrapping keys: X.509 in DER, but for OpenPGP OpenPGP certificates. At least one.
    pub recipients: Vec<Vec<u8>>,
    /// Files and folders. A folder is taken with all that is in it, under its own name.
    pub paths: Vec<PathBuf>,
    /// Standard input too, as a file of this name.
    pub stdin: Option<String>,
    /// The envelope's format.
    pub format: Format,
    /// Where the envelope goes.
    pub output: SealTo,
    /// What to do with symbolic links.
    pub symlinks: Symlinks,
    /// How a CMS envelope protects its content. Of other formats no weaker form is written.
    pub protection: cms::Protection,
}

/// Where an envelope goes.
pub enum SealTo {
    /// A file that must not exist yet.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// What to do with a symbolic link among the files to seal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Symlinks {
    /// Stop and name it.
    Refuse,
    /// Keep it as a link.
    Keep,
}

/// What was sealed.
#[derive(Clone, Debug, Default)]
pub struct SealReport {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of file content.
    pub content_bytes: u64,
    /// Bytes of the envelope.
    pub envelope_bytes: u64,
}

/// Seals.
///
/// # Errors
/// [`Kind::Local`] for certificates that cannot be sealed to, files that cannot be read or extracted again, and output that
/// exists or cannot be written; [`Kind::Usage`] if there is nothing to do; [`Kind::Interrupted`]. No envelope is left then.
pub fn seal(job: &SealJob, progress: &dyn Progress) -> Result<SealReport> {
    seal_as(job, None, None, progress)
}

/// Seals, and signs the envelope.
///
/// # Errors
/// Those of [`seal`], of the signer, and of whoever vouches for the time; [`Kind::Usage`] for OpenPGP, which is signed with OpenPGP
/// keys only.
pub fn seal_signed(job: &SealJob, signing: Signing<'_>, progress: &dyn Progress) -> Result<SealReport> {
    if job.format == Format::OpenPgp {
        let why = "OpenPGP envelopes are signed with an OpenPGP key";
        return Err(Error::new(Kind::Usage, "cannot sign", why)
            .hint("give what gpg --export-secret-keys writes, or choose another --format"));
    }
    seal_as(job, Some(signing), None, progress)
}

/// Seals as OpenPGP, and signs what is inside.
///
/// # Errors
/// Those of [`seal`]; [`Kind::Usage`] for other formats.
pub fn seal_signed_openpgp(
    job: &SealJob,
    signer: &openpgp::SigningKey,
    progress: &dyn Progress,
) -> Result<SealReport> {
    if job.format != Format::OpenPgp {
        let why = "OpenPGP keys sign OpenPGP envelopes only";
        return Err(Error::new(Kind::Usage, "cannot sign", why).hint("give --format openpgp"));
    }
    seal_as(job, None, Some(signer), progress)
}

fn seal_as(
    job: &SealJob,
    signing: Option<Signing<'_>>,
    openpgp_signer: Option<&openpgp::SigningKey>,
    progress: &dyn Progress,
) -> Result<SealReport> {
    let recipients = Recipients::of(job, openpgp_signer)?;
    if job.paths.is_empty() && job.stdin.is_none() {
        return Err(Error::new(Kind::Usage, "cannot seal", "no file or folder was given"));
    }
    if let SealTo::File(path) = &job.output {
        check_free(path)?;
    }
    let sources = sources::list(&job.paths, job.stdin.as_deref(), job.symlinks)?;
    if job.stdin.is_none() {
        progress.total(sources.iter().map(|source| source.known_size()).sum());
    }
    let Written { content_bytes, envelope_bytes } = match &job.output {
        SealTo::File(path) => to_file(path, &sources, &recipients, signing, progress)?,
        SealTo::Stdout => to_stdout(&sources, &recipients, signing, progress)?,
    };
    Ok(SealReport { entries: sources.len() as u64, content_bytes, envelope_bytes })
}

/// To whom, and so in which format. OpenPGP signs inside of it.
enum Recipients<'s> {
    Mtd(Vec<Recipient>),
    Sealed(Vec<Recipient>),
    Cms(Vec<Recipient>, cms::Protection),
    OpenPgp(Vec<openpgp::Recipient>, Option<&'s openpgp::SigningKey>),
}

impl<'s> Recipients<'s> {
    /// Each key once, in the order given.
    fn of(job: &SealJob, openpgp_signer: Option<&'s openpgp::SigningKey>) -> Result<Self> {
        let certificates = job.recipients.as_slice();
        if certificates.is_empty() {
            return Err(Error::new(Kind::Usage, "cannot seal", "no recipient was given")
                .hint("name the certificate of a wrapping key with --to"));
        }
        if certificates.len() > MAX_RECIPIENTS {
            let why = format!("{} recipients are more than {MAX_RECIPIENTS}", certificates.len());
            return Err(Error::new(Kind::Usage, "cannot seal", why));
        }
        if job.protection == cms::Protection::Legacy && job.format != Format::Cms {
            return Err(Error::new(
                Kind::Usage,
                "cannot seal",
                "there is a legacy form of CMS envelopes only",
            )
            .hint("give --format cms, too, or leave --legacy out"));
        }
        let now = SystemTime::now();
        let x509 = || distinct(certificates, |der| Recipient::from_certificate(der, now), |one| one.key_id());
        Ok(match job.format {
            Format::Mtd => Self::Mtd(x509()?),
            Format::Sealed => Self::Sealed(x509()?),
            Format::Cms => Self::Cms(x509()?, job.protection),
            Format::OpenPgp => {
                let read = |bytes: &[u8]| openpgp::Recipient::from_certificate(bytes, now);
                let recipients = distinct(certificates, read, |one| one.fingerprint().to_vec())?;
                Self::OpenPgp(recipients, openpgp_signer)
            }
        })
    }
}

fn distinct<R, I: PartialEq>(
    certificates: &[Vec<u8>],
    read: impl Fn(&[u8]) -> Result<R>,
    id: impl Fn(&R) -> I,
) -> Result<Vec<R>> {
    let mut recipients = Vec::<R>::new();
    for certificate in certificates {
        let recipient = read(certificate)?;
        if recipients.iter().all(|known| id(known) != id(&recipient)) {
            recipients.push(recipient);
        }
    }
    Ok(recipients)
}

fn to_file(
    path: &Path,
    sources: &[Source],
    recipients: &Recipients<'_>,
    signing: Option<Signing<'_>>,
    progress: &dyn Progress,
) -> Result<Written> {
    let cannot_write = |why| output::failed(format!("cannot write {}", path.display()), &why);
    let name = path.file_name().ok_or_else(|| {
        Error::new(Kind::Usage, format!("cannot write {}", path.display()), "it does not end in a file name")
    })?;
    let staging = Staging::new(path.parent().unwrap_or(Path::new("")), IfMissing::Fail)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let file = staging.dir().open_with(STAGED_NAME, &options).map_err(cannot_write)?.into_std();
    let sender = signing.and_then(|signing| SenderMark::of(signing.signer));
    let written = match recipients {
        Recipients::Mtd(to) => {
            signed_archive(&file, mtd::seal(sources, to, sender, &file, progress)?, signing, progress)?
        }
        Recipients::Sealed(to) => {
            let written = sealed::seal(sources, to, sender, sealed::Output::File(&file), progress)?;
            signed_archive(&file, written, signing, progress)?
        }
        Recipients::Cms(to, how) => seal_cms(sources, to, *how, signing, &mut &file, progress)?,
        Recipients::OpenPgp(to, signer) => openpgp::seal(sources, to, *signer, &mut &file, progress)?,
    };
    // Its sources may be deleted as soon as it is there.
    file.sync_all().map_err(cannot_write)?;
    staging.commit_file(STAGED_NAME, name)?;
    Ok(written)
}

fn to_stdout(
    sources: &[Source],
    recipients: &Recipients<'_>,
    signing: Option<Signing<'_>>,
    progress: &dyn Progress,
) -> Result<Written> {
    let sender = signing.and_then(|signing| SenderMark::of(signing.signer));
    // A header of MTD is completed when its content is known, and a signature when all is: so the output must be seekable
    // until the end.
    let spooled = |write: &dyn Fn(&File) -> Result<Written>| {
        let mut spool = output::spool()?;
        let written = signed_archive(&spool, write(&spool)?, signing, progress)?;
        output::copy_to_stdout(&mut spool)?;
        Ok(written)
    };
    match recipients {
        Recipients::Mtd(to) => spooled(&|spool| mtd::seal(sources, to, sender, spool, progress)),
        Recipients::Sealed(to) if signing.is_some() => {
            spooled(&|spool| sealed::seal(sources, to, sender, sealed::Output::File(spool), progress))
        }
        Recipients::Sealed(to) => {
            let stdout = &mut io::stdout().lock();
            sealed::seal(sources, to, None, sealed::Output::Stream(stdout), progress)
        }
        Recipients::Cms(to, how) => seal_cms(sources, to, *how, signing, &mut io::stdout().lock(), progress),
        Recipients::OpenPgp(to, signer) => {
            openpgp::seal(sources, to, *signer, &mut io::stdout().lock(), progress)
        }
    }
}

/// Signs an envelope that is a ZIP, if somebody signs: the signature comes after all else.
fn signed_archive(
    file: &File,
    written: Written,
    signing: Option<Signing<'_>>,
    progress: &dyn Progress,
) -> Result<Written> {
    let Some(signing) = signing else { return Ok(written) };
    let envelope_bytes = carried::sign_zip(file, written.envelope_bytes, signing, progress)?;
    Ok(Written { envelope_bytes, ..written })
}

/// Writes a CMS message, with its signature around it if somebody signs.
fn seal_cms(
    sources: &[Source],
    recipients: &[Recipient],
    protection: cms::Protection,
    signing: Option<Signing<'_>>,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<Written> {
    let Some(signing) = signing else {
        return cms::seal(sources, recipients, protection, None, out, progress);
    };
    let mut enclosing = Enclosing::start(out, signing)?;
    let sender = SenderMark::of(signing.signer);
    let written = cms::seal(sources, recipients, protection, sender, &mut enclosing, progress)?;
    Ok(Written { envelope_bytes: enclosing.finish(SystemTime::now())?, ..written })
}
