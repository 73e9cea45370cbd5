//! Verify: who signed a file, and to whom it is encrypted if it is an envelope. Offline.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use custodian_proto::{identity::IdentityLevel, key::KeyId};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    envelope::{
        Format,
        openpgp::{self, Addressed, Around, Signatures},
    },
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

/// What `gpg --detach-sign` calls them.
const OPENPGP_SUFFIXES: [&str; 2] = [".sig", ".asc"];

/// What to verify.
pub struct VerifyJob {
    /// The file.
    pub file: Input,
    /// Its signature; `None`: in it, if it is an envelope that carries one, else beside it: FILE.p7s, FILE.sig or FILE.asc.
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
    /// Whom the certificate names: as in RFC 4514, or the OpenPGP user id.
    pub subject: String,
    /// The certificate's e-mail addresses.
    pub emails: Vec<String>,
    /// Id of the signing key; `None` if it is not known, because nothing was verified.
    #[serde(serialize_with = "as_text_if_any")]
    pub key_id: Option<KeyId>,
    /// Who issued the certificate; `None` for OpenPGP.
    pub issuer: Option<String>,
    /// The certificate's serial number, hex; `None` for OpenPGP.
    pub serial: Option<String>,
    /// Of an OpenPGP signature: the fingerprint of the certificate, or what the signature says of its key if it is not verified.
    pub openpgp_key: Option<String>,
    /// Whether what is signed says to whom it is encrypted: if not, one of them could have sent it on in the signer's name.
    /// `None` for a file that is signed as it is, and for what is not verified.
    pub addressed: Option<bool>,
    /// How it was signed.
    pub algorithm: String,
    /// When the signer says that it was. Nobody else vouches for that.
    pub signed: Option<String>,
    /// How well it was checked who the signer is; `None` if the certificate does not say, or nobody said whom to believe.
    #[serde(serialize_with = "as_text_if_any")]
    pub identity_level: Option<IdentityLevel>,
    /// `pinned`, `vouched for`, or `unknown`: nobody said who is accepted. `not verified`: nobody gave the OpenPGP certificate.
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
    let path = signature_file(job, &file)?;
    let bytes = read_signature(&path)?;
    if openpgp::is_signature(&bytes) {
        return verify_openpgp(job, &file, &bytes, progress);
    }
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

/// Verifies a file with an OpenPGP signature of its own.
fn verify_openpgp(
    job: &VerifyJob,
    file: &Envelope,
    signature: &[u8],
    progress: &dyn Progress,
) -> Result<Verification> {
    progress.total(file.len());
    let keyring = job.accept.keyring();
    let signatures = openpgp::detached(signature, file.file()?, file.len(), keyring, progress)?;
    let sender = job.accept.check_openpgp(&signatures, Around::Nothing, SystemTime::now())?;
    let signer = sender.filter(|sender| sender.key_id.is_some()).ok_or_else(|| {
        let key = signatures.first_key().unwrap_or_default();
        let why = format!("it is of the OpenPGP key {key}, whose certificate is needed to verify it");
        Error::new(Kind::Local, "cannot verify the signature", why)
            .hint("name the file with the signer's certificate: --accept-from FILE")
    })?;
    let envelope = file.format().and_then(|_| inspect::inspect(&job.file)).ok();
    Ok(Verification::new(envelope, signer, Attached::Nothing))
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

fn signature_file(job: &VerifyJob, file: &Envelope) -> Result<PathBuf> {
    let missing = |why: &str| {
        Error::new(Kind::Local, "there is no signature to verify", why).hint("name it: --signature FILE")
    };
    match (&job.signature, &job.file) {
        (Some(path), _) => Ok(path.clone()),
        (None, Input::Stdin) => Err(missing("standard input has none beside it")),
        (None, Input::Web(..)) => Err(missing("what is on the network has none beside it")),
        (None, Input::File(path)) => {
            let suffixes = [SIGNATURE_SUFFIX].into_iter().chain(OPENPGP_SUFFIXES);
            let found = suffixes.map(|suffix| with_suffix(path, suffix)).filter(|file| file.exists());
            match found.collect::<Vec<_>>().as_slice() {
                [one] => Ok(one.clone()),
                [one, another, ..] => {
                    let why = format!("{} and {} both are there", one.display(), another.display());
                    Err(Error::new(Kind::Usage, "it is not clear which signature to verify", why)
                        .hint("name it: --signature FILE"))
                }
                [] if file.format().is_ok_and(|format| format == Format::OpenPgp) => Err(missing(
                    "who signed an OpenPGP message is told inside of it, where only its key shows it",
                )
                .hint("envelope extract FILE --accept-from CERT verifies it, before anything is written")),
                [] => {
                    let (cms, openpgp) = (beside(path), beside_openpgp(path));
                    Err(missing(&format!("neither {} nor {} exists", cms.display(), openpgp.display())))
                }
            }
        }
    }
}

/// The file with the signature of a file, if nobody says otherwise.
pub fn beside(file: &Path) -> PathBuf {
    with_suffix(file, SIGNATURE_SUFFIX)
}

/// The same of an OpenPGP signature.
pub fn beside_openpgp(file: &Path) -> PathBuf {
    with_suffix(file, OPENPGP_SUFFIXES[0])
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
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
            key_id: Some(certificate.key_id()),
            issuer: Some(certificate.issuer()),
            serial: Some(certificate.serial()),
            openpgp_key: None,
            addressed: None,
            algorithm: signature.algorithm(),
            signed: signed.map(|time| time.to_string()),
            identity_level: certificate.identity_level().filter(|_| believed),
            standing: standing_text,
        }
    }

    /// What is told of somebody whose OpenPGP signature is right and whose certificate is pinned.
    pub(crate) fn of_openpgp(signer: &openpgp::Signer) -> Self {
        Self {
            subject: signer.name.clone(),
            emails: signer.emails.clone(),
            key_id: signer.key_id,
            issuer: None,
            serial: None,
            openpgp_key: Some(hex::encode_upper(&signer.certificate)),
            addressed: match signer.addressed {
                Addressed::ToThisKey => Some(true),
                Addressed::NotSaid => Some(false),
                Addressed::ToNobody => None,
            },
            algorithm: signer.algorithm.clone(),
            signed: rfc3339(signer.signed),
            identity_level: None,
            standing: "pinned",
        }
    }

    /// What is told of OpenPGP signatures that nobody can verify, because their certificates are somewhere else.
    pub(crate) fn not_verified(signatures: &Signatures) -> Option<Self> {
        let key = signatures.first_key()?;
        Some(Self {
            subject: format!("OpenPGP key {key}"),
            emails: Vec::new(),
            key_id: None,
            issuer: None,
            serial: None,
            openpgp_key: Some(key),
            addressed: None,
            algorithm: "OpenPGP".to_owned(),
            signed: signatures.first_created().and_then(rfc3339),
            identity_level: None,
            standing: "not verified",
        })
    }
}

fn rfc3339(seconds: u32) -> Option<String> {
    Timestamp::from_second(seconds.into()).ok().map(|time| time.to_string())
}
