//! Verify: who signed a file, and to whom it is encrypted if it is an envelope. Offline.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use custodian_proto::{identity::IdentityLevel, key::KeyId};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    error::{Error, Kind, Result},
    extract::Input,
    input::Envelope,
    inspect::{self, Inspection, as_text_if_any},
    progress::Progress,
    sender::Checked,
    signed::{Accept, Signature, SignedData, Standing, hash_of, read_signature},
    timestamp::{Attached, Stamped, TrustedAuthorities},
};

/// What a signature in a file of its own is called, after the file that it is of.
pub const SIGNATURE_SUFFIX: &str = ".p7s";

/// What to verify.
pub struct VerifyJob {
    /// The file.
    pub file: Input,
    /// Its signature; `None`: in it, if it is an envelope that carries one, else beside it, with [`SIGNATURE_SUFFIX`].
    pub signature: Option<PathBuf>,
    /// Whose signatures count.
    pub accept: Accept,
}

/// What was found. The signature is right, and its signer is accepted, or nobody said who is.
#[derive(Debug, Serialize)]
pub struct Verification {
    /// To whom the file is encrypted, if it is an envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Inspection>,
    /// Who signed.
    pub signer: Sender,
    /// When an authority says that the signature was there, if one whose word counts does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Stamped>,
    /// Why the signature's timestamp counts nothing, if it has one that does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_does_not_count: Option<String>,
}

/// Who signed, when, and why that counts.
#[derive(Clone, Debug, Serialize)]
pub struct Sender {
    /// Whom the certificate names (RFC 4514).
    pub subject: String,
    /// The certificate's e-mail addresses.
    pub emails: Vec<String>,
    /// Id of the signing key.
    #[serde(serialize_with = "as_text")]
    pub key_id: KeyId,
    /// Who issued the certificate.
    pub issuer: String,
    /// The certificate's serial number, hex.
    pub serial: String,
    /// How it was signed.
    pub algorithm: String,
    /// When the signer says that it was. Nobody else vouches for that.
    pub signed: Option<String>,
    /// How well it was checked who the signer is; `None` if the certificate does not say, or nobody said whom to believe.
    #[serde(serialize_with = "as_text_if_any")]
    pub identity_level: Option<IdentityLevel>,
    /// `pinned`, `vouched for`, or `unknown`: nobody said who is accepted.
    pub standing: &'static str,
}

/// Verifies a file of any length, in constant memory. A timestamp of its signature counts nothing.
///
/// # Errors
/// As [`verify_stamped`].
pub fn verify(job: &VerifyJob, progress: &dyn Progress) -> Result<Verification> {
    verify_stamped(job, &TrustedAuthorities::default(), progress)
}

/// Verifies a file of any length, in constant memory. `trusted`: whose timestamps count.
///
/// # Errors
/// [`Kind::Integrity`] if the signature is wrong, or its signer is not accepted; [`Kind::Local`] if there is none, or
/// something cannot be read; [`Kind::Interrupted`].
pub fn verify_stamped(
    job: &VerifyJob,
    trusted: &TrustedAuthorities,
    progress: &dyn Progress,
) -> Result<Verification> {
    let file = Envelope::open(&job.file, progress)?;
    if job.signature.is_none()
        && let Some(found) = carried(job, &file, trusted, progress)?
    {
        return Ok(found);
    }
    let path = signature_file(job)?;
    let bytes = read_signature(&path)?;
    let signed = SignedData::read(&bytes.as_slice(), bytes.len() as u64)?;
    if !signed.is_detached() {
        return Err(Error::new(
            Kind::Local,
            "cannot verify the signature",
            "it is around something else, not of this file",
        ));
    }
    progress.total(file.len());
    let now = SystemTime::now();
    let signature =
        Signature::verify(&signed, now, |hash| hash_of(file.file()?, file.len(), hash, progress))?;
    let timestamp = Attached::of(&signature, trusted, now)?;
    let standing = job.accept.check_stamped(&signature, timestamp.at(), now)?;
    // Any file can be signed. One that only begins like an envelope is none.
    let envelope = file.format().and_then(|_| inspect::inspect(&job.file)).ok();
    Ok(Verification::new(envelope, Sender::of(&signature, standing), timestamp))
}

/// Verifies the signature that an envelope carries; `None` if it carries none.
fn carried(
    job: &VerifyJob,
    file: &Envelope,
    trusted: &TrustedAuthorities,
    progress: &dyn Progress,
) -> Result<Option<Verification>> {
    if file.format().is_err() {
        return Ok(None);
    }
    let named = |error| file.named(error);
    // Whoever is accepted without a signature has none to verify.
    let Some(checked) = Checked::carried(file, &job.accept, trusted, progress).map_err(named)? else {
        return Ok(None);
    };
    let envelope = inspect::inspect(&job.file)?;
    checked.confirm(envelope.sender_mark).map_err(named)?;
    Ok(checked.sender().map(|signer| Verification::new(Some(envelope), signer, checked.timestamp())))
}

fn signature_file(job: &VerifyJob) -> Result<PathBuf> {
    let missing = |why: &str| {
        Error::new(Kind::Local, "there is no signature to verify", why).hint("name it: --signature FILE.p7s")
    };
    match (&job.signature, &job.file) {
        (Some(path), _) => Ok(path.clone()),
        (None, Input::Stdin) => Err(missing("standard input has none beside it")),
        (None, Input::Web(..)) => Err(missing("what is on the network has none beside it")),
        (None, Input::File(path)) => {
            let beside = beside(path);
            if beside.exists() {
                Ok(beside)
            } else {
                Err(missing(&format!("{} does not exist", beside.display())))
            }
        }
    }
}

/// The file with the signature of a file, if nobody says otherwise.
pub fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(SIGNATURE_SUFFIX);
    name.into()
}

impl Verification {
    fn new(envelope: Option<Inspection>, signer: Sender, timestamp: Attached) -> Self {
        let (timestamp, timestamp_does_not_count) = match timestamp {
            Attached::Nothing => (None, None),
            Attached::DoesNotCount(why) => (None, Some(why)),
            Attached::Counts(stamped) => (Some(stamped), None),
        };
        Self { envelope, signer, timestamp, timestamp_does_not_count }
    }
}

impl Sender {
    /// What is told of a signature, and of why it counts.
    pub(crate) fn of(signature: &Signature, standing: Standing) -> Self {
        let certificate = signature.certificate();
        let signed = signature.claimed_time().and_then(|time| Timestamp::try_from(time).ok());
        let (standing_text, believed) = match standing {
            Standing::Pinned => ("pinned", true),
            Standing::VouchedFor => ("vouched for", true),
            Standing::Unknown => ("unknown", false),
        };
        Self {
            subject: certificate.subject(),
            emails: certificate.emails(),
            key_id: certificate.key_id(),
            issuer: certificate.issuer(),
            serial: certificate.serial(),
            algorithm: signature.algorithm(),
            signed: signed.map(|time| time.to_string()),
            identity_level: certificate.identity_level().filter(|_| believed),
            standing: standing_text,
        }
    }
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
