//! Sign: a file in, its detached signature out.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use cap_std::fs::OpenOptions;

use crate::{
    envelope::openpgp,
    error::{Error, Kind, Result},
    extract::Input,
    input::Envelope,
    output::{self, IfMissing, Staging},
    progress::Progress,
    signed::{Signing, hash_of, sign_detached},
};

/// The signature's name until it is complete.
const STAGED_NAME: &str = "signature";

/// What to sign, and where its signature goes.
pub struct SignJob {
    /// The file.
    pub file: Input,
    /// Where the signature goes.
    pub output: SignTo,
}

/// Where a signature goes.
pub enum SignTo {
    /// A file that must not exist yet.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// Signs a file of any length as CMS, in constant memory. Returns how many bytes were signed.
///
/// # Errors
/// [`Kind::Local`] if it cannot be read, or the output exists or cannot be written; [`Kind::Interrupted`]; and whatever keeps
/// the signer from signing, or the authority from answering. No signature is left then.
pub fn sign(job: &SignJob, signing: Signing<'_>, progress: &dyn Progress) -> Result<u64> {
    sign_with(job, progress, |file| {
        let digest = hash_of(file.file()?, file.len(), signing.signer.algorithm().hash(), progress)?;
        sign_detached(signing, &digest, SystemTime::now())
    })
}

/// Signs a file of any length as OpenPGP, in constant memory. Returns how many bytes were signed.
///
/// # Errors
/// As [`sign`].
pub fn sign_openpgp(job: &SignJob, key: &openpgp::SigningKey, progress: &dyn Progress) -> Result<u64> {
    sign_with(job, progress, |file| openpgp::sign_detached(key, file.file()?, file.len(), progress))
}

fn sign_with(
    job: &SignJob,
    progress: &dyn Progress,
    signature: impl FnOnce(&Envelope) -> Result<Vec<u8>>,
) -> Result<u64> {
    if let SignTo::File(path) = &job.output {
        check_free(path)?;
    }
    let file = Envelope::open(&job.file, progress)?;
    let signature = signature(&file)?;
    match &job.output {
        SignTo::File(path) => write_new(path, &signature)?,
        SignTo::Stdout => {
            let mut stdout = std::io::stdout().lock();
            let written = stdout.write_all(&signature).and_then(|()| stdout.flush());
            written.map_err(|why| output::failed("cannot write to standard output", &why))?;
        }
    }
    Ok(file.len())
}

/// Checks that a file does not exist yet.
///
/// # Errors
/// [`Kind::Local`] if it does.
pub(crate) fn check_free(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::new(Kind::Local, format!("cannot write {}", path.display()), "it exists already")
            .hint("existing files are not overwritten: move it away, or choose another name with -o"));
    }
    Ok(())
}

/// Writes a file that must not exist yet, all of it or nothing.
///
/// # Errors
/// [`Kind::Local`] if it exists or cannot be written.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let cannot_write = |why| output::failed(format!("cannot write {}", path.display()), &why);
    let name = path.file_name().ok_or_else(|| {
        Error::new(Kind::Usage, format!("cannot write {}", path.display()), "it does not end in a file name")
    })?;
    let staging = Staging::new(path.parent().unwrap_or(Path::new("")), IfMissing::Fail)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut file = staging.dir().open_with(STAGED_NAME, &options).map_err(cannot_write)?.into_std();
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(cannot_write)?;
    staging.commit_file(STAGED_NAME, name)
}
