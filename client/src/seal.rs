//! Seal: paths in, one envelope out. Offline.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use cap_std::fs::OpenOptions;

use crate::{
    envelope::{Format, MAX_RECIPIENTS, Recipient, Source, Written, cms, mtd, sealed},
    error::{Error, Kind, Result},
    output::{self, IfMissing, Staging},
    progress::Progress,
    sources,
};

/// The envelope's name until it is complete.
const STAGED_NAME: &str = "envelope";

/// What to seal, to whom, and how.
pub struct SealJob {
    /// X.509 certificates of the recipients' wrapping keys, DER. At least one.
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
    let recipients = recipients(&job.recipients)?;
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
        SealTo::File(path) => to_file(job.format, path, &sources, &recipients, progress)?,
        SealTo::Stdout => to_stdout(job.format, &sources, &recipients, progress)?,
    };
    Ok(SealReport { entries: sources.len() as u64, content_bytes, envelope_bytes })
}

/// Each key once, in the order given.
fn recipients(certificates: &[Vec<u8>]) -> Result<Vec<Recipient>> {
    if certificates.is_empty() {
        return Err(Error::new(Kind::Usage, "cannot seal", "no recipient was given")
            .hint("name the certificate of a wrapping key with --to"));
    }
    if certificates.len() > MAX_RECIPIENTS {
        return Err(Error::new(
            Kind::Usage,
            "cannot seal",
            format!("{} recipients are more than {MAX_RECIPIENTS}", certificates.len()),
        ));
    }
    let mut recipients = Vec::<Recipient>::new();
    for certificate in certificates {
        let recipient = Recipient::from_certificate(certificate, SystemTime::now())?;
        if recipients.iter().all(|known| known.key_id() != recipient.key_id()) {
            recipients.push(recipient);
        }
    }
    Ok(recipients)
}

fn check_free(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::new(Kind::Local, format!("cannot write {}", path.display()), "it exists already")
            .hint("existing files are not overwritten: move it away, or choose another name"));
    }
    Ok(())
}

fn to_file(
    format: Format,
    path: &Path,
    sources: &[Source],
    recipients: &[Recipient],
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
    let written = match format {
        Format::Mtd => mtd::seal(sources, recipients, &file, progress)?,
        Format::Sealed => sealed::seal(sources, recipients, sealed::Output::File(&file), progress)?,
        Format::Cms => cms::seal(sources, recipients, &mut &file, progress)?,
    };
    // Its sources may be deleted as soon as it is there.
    file.sync_all().map_err(cannot_write)?;
    staging.commit_file(STAGED_NAME, name)?;
    Ok(written)
}

fn to_stdout(
    format: Format,
    sources: &[Source],
    recipients: &[Recipient],
    progress: &dyn Progress,
) -> Result<Written> {
    match format {
        Format::Mtd => {
            // A header is completed when its content is known, so the output must be seekable until the end.
            let mut spool = output::spool()?;
            let written = mtd::seal(sources, recipients, &spool, progress)?;
            output::copy_to_stdout(&mut spool)?;
            Ok(written)
        }
        Format::Sealed => {
            let stdout = &mut io::stdout().lock();
            sealed::seal(sources, recipients, sealed::Output::Stream(stdout), progress)
        }
        Format::Cms => cms::seal(sources, recipients, &mut io::stdout().lock(), progress),
    }
}
