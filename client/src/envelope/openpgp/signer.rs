//! Who signed: the certificates (RFC 9580 §10.1) of people whose signatures count, and whether a signature is one of theirs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use custodian_proto::key::KeyId;

use super::{
    armor,
    certificate::{Certificate, next_packet},
    packet::{Head, PUBLIC_KEY},
    public_key::PublicKey,
    signature::{Checked, Signature, hash_name, kind},
    signatures::{Seen, Signatures, What, why_odd},
};
use crate::{
    error::{Error, Kind, Result},
    signed::Choice,
};

/// Largest file with certificates, in bytes.
const MAX_LEN: usize = 16 * 1024 * 1024;
/// How far the signer's clock may be ahead of ours, in seconds.
const CLOCK_TOLERANCE: u64 = 300;
/// How many keys an error names.
const TOLD: usize = 3;
/// RFC 9580 §5.2.4: what a user id begins with where it is hashed, and the length behind that.
const HASHED_USER_ID: u8 = 0xb4;
const HASHED_USER_ID_LEN: usize = 5;

/// Certificates.
#[derive(Default)]
pub struct Keyring(Vec<Certificate>);

/// Somebody whose signature is right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signer {
    /// The first user id that the certificate vouches for: whatever its owner wrote there.
    pub name: String,
    /// E-mail addresses in such user ids.
    pub emails: Vec<String>,
    /// Fingerprint of the certificate, which is its primary key's.
    pub certificate: Vec<u8>,
    /// Fingerprint of the key that signed.
    pub key: Vec<u8>,
    /// Its id as X.509 knows it (RFC 7093 method 1).
    pub key_id: Option<KeyId>,
    /// How it was signed, in text.
    pub algorithm: String,
    /// When, as the signer says: seconds since 1970.
    pub signed: u32,
    /// Whether the signature says to whom what it is of was encrypted.
    pub addressed: Addressed,
}

/// Whether a signature says for whom it is (RFC 9580 §5.2.3.36).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressed {
    /// For who has the key that opened the message.
    ToThisKey,
    /// It does not say: one who was meant could have sent it on to somebody else, in the signer's name.
    NotSaid,
    /// It is of a file that stands by itself.
    ToNobody,
}

/// What a signature stands in.
#[derive(Clone, Copy)]
pub enum Around<'k> {
    /// A message that was opened with a key of these names.
    Encryption(&'k [Vec<u8>]),
    /// Nothing: a file of its own.
    Nothing,
}

/// When a signature and its key must have been good.
#[derive(Clone, Copy)]
pub struct When {
    /// Today.
    pub now: SystemTime,
    /// Whether to believe the signer when the signature was made, and not ask for today.
    pub expired: Choice,
}

/// What came of a signature.
pub(super) enum Verdict {
    /// It is right.
    Right(Signer),
    /// A known key should have made it, and did not: not of this content.
    Wrong(Error),
    /// A known key made it, which may not, or not any more, or for somebody else.
    Unfit(Error),
    /// Nobody has a certificate of that key.
    Unknown(String),
    /// Nothing can be made of it.
    Odd(String),
}

/// Whether these are OpenPGP certificates, binary or armoured.
pub fn is_certificate(bytes: &[u8]) -> bool {
    armor::is_block(bytes, armor::CERTIFICATE)
        || matches!(Head::parse(bytes), Ok((head, used))
            if head.tag == PUBLIC_KEY && matches!(bytes.get(used), Some(3..=6)))
}

impl Keyring {
    /// Reads certificates: one or several, binary or armoured, as `gpg --export` writes them.
    ///
    /// # Errors
    /// [`Kind::Local`] with the reason.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let cannot = |why: &dyn std::fmt::Display| {
            Error::new(Kind::Local, "cannot use the signer's certificate", why)
                .hint("give an OpenPGP certificate, as gpg --export writes it")
        };
        if bytes.len() > MAX_LEN {
            return Err(cannot(&"it is larger than 16 MiB"));
        }
        let named = |error: Error| cannot(&error.why);
        let binary = armor::decode_certificate(bytes).map_err(named)?;
        let mut certificates = Vec::new();
        for one in each(&binary).map_err(named)? {
            certificates.push(Certificate::parse(one).map_err(named)?);
        }
        if certificates.is_empty() {
            return Err(cannot(&"it is empty"));
        }
        Ok(Self(certificates))
    }

    /// With those of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key with one of these names is in it.
    pub(super) fn may_have(&self, names: &[Vec<u8>]) -> bool {
        self.called(names).next().is_some()
    }

    /// The keys with one of these names. A subkey comes with what its certificate says of it.
    fn called<'k>(&'k self, names: &'k [Vec<u8>]) -> impl Iterator<Item = (&'k Certificate, Part<'k>)> {
        let keys = self.0.iter().flat_map(|certificate| {
            let subkeys = certificate.subkeys.iter().map(|(key, said)| Part::Subkey(key, said));
            std::iter::once(Part::Primary(&certificate.primary))
                .chain(subkeys)
                .map(move |part| (certificate, part))
        });
        keys.filter(|(_, part)| names.iter().any(|name| part.key().is_called(name)))
    }

    /// Who in it made one of these signatures, which must be there. None of a known key may be wrong.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if one is wrong, or nobody in it made one, or whoever did may not.
    pub fn check(&self, signatures: &Signatures, around: Around<'_>, when: When) -> Result<Signer> {
        let (mut right, mut unfit, mut strangers) = (None, None, Vec::new());
        for verdict in self.verify_all(signatures, around, when) {
            match verdict {
                Verdict::Wrong(error) => return Err(error),
                Verdict::Right(signer) => right = right.or(Some(signer)),
                Verdict::Unfit(error) => unfit = unfit.or(Some(error)),
                Verdict::Unknown(who) | Verdict::Odd(who) => strangers.push(who),
            }
        }
        right.ok_or_else(|| unfit.unwrap_or_else(|| not_accepted(&strangers)))
    }

    /// Verifies each signature.
    pub(super) fn verify_all(
        &self,
        signatures: &Signatures,
        around: Around<'_>,
        when: When,
    ) -> impl Iterator<Item = Verdict> {
        signatures.0.iter().map(move |seen| self.verify(seen, around, when))
    }

    fn verify(&self, seen: &Seen, around: Around<'_>, when: When) -> Verdict {
        let (signature, hash) = match &seen.what {
            What::Odd(why) => return Verdict::Odd(format!("{} ({why})", seen.key())),
            What::Whole(signature, hash) => (signature, hash),
        };
        let mut candidates = self.called(&seen.names).peekable();
        if candidates.peek().is_none() {
            return Verdict::Unknown(seen.key());
        }
        let Some(hash) = hash else {
            return Verdict::Odd(format!("{} ({})", seen.key(), why_odd(signature)));
        };
        let mut wrong = None;
        for (certificate, part) in candidates {
            match signature.checked_over(part.key(), hash.clone()) {
                Checked::Good => {
                    return match judge(certificate, part, signature, around, when) {
                        Ok(signer) => Verdict::Right(signer),
                        Err(error) => Verdict::Unfit(error),
                    };
                }
                Checked::Bad => wrong = Some("what is here is not what was signed"),
                Checked::Unknown => wrong = wrong.or(Some("it does not fit to the key that it names")),
            }
        }
        Verdict::Wrong(Error::new(
            Kind::Integrity,
            "the signature is wrong",
            wrong.unwrap_or("it cannot be verified"),
        ))
    }
}

/// A key of a certificate.
#[derive(Clone, Copy)]
enum Part<'k> {
    Primary(&'k PublicKey),
    Subkey(&'k PublicKey, &'k [Signature]),
}

impl<'k> Part<'k> {
    fn key(self) -> &'k PublicKey {
        match self {
            Self::Primary(key) | Self::Subkey(key, _) => key,
        }
    }
}

/// The packets of each certificate.
fn each(bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut starts = Vec::new();
    let mut rest = bytes;
    loop {
        let at = bytes.len() - rest.len();
        match next_packet(&mut rest)? {
            Some((PUBLIC_KEY, _)) => starts.push(at),
            Some(_) if starts.is_empty() => starts.push(at),
            Some(_) => {}
            None => break,
        }
    }
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    Ok(starts.iter().zip(ends).filter_map(|(start, end)| bytes.get(*start..end)).collect())
}

/// Whether the key may sign, and was good when it did; and whether the signature is for who opened it.
fn judge(
    certificate: &Certificate,
    part: Part<'_>,
    signature: &Signature,
    around: Around<'_>,
    when: When,
) -> Result<Signer> {
    let wrong = |why: &str| Error::new(Kind::Integrity, "the signature is wrong", why);
    let now = seconds(when.now);
    let signed = signature.created_if_told().ok_or_else(|| wrong("it does not say when it was made"))?;
    let claimed = u64::from(signed);
    if claimed > now + CLOCK_TOLERANCE {
        return Err(wrong("it says that it was made in the future").hint("check the clock"));
    }
    let at = match when.expired {
        Choice::Refuse => now.max(claimed),
        Choice::Allow => claimed,
    };
    if !signature.holds_at(at) {
        return Err(wrong("it expired, or has something critical in it that is not known here"));
    }
    let primary = certificate.said_of_primary(now).map_err(|error| unfit(&error.why))?;
    check_alive(&certificate.primary, primary, claimed, at)?;
    let says = match part {
        Part::Primary(_) => primary,
        Part::Subkey(key, signatures) => {
            let binding = certificate.binding_of(key, signatures, now).map_err(|why| unfit(&why))?;
            check_alive(key, binding, claimed, at)?;
            check_adopted(certificate, key, binding, now)?;
            binding
        }
    };
    if !says.allows_signing() {
        return Err(unfit("its key is not for signing documents"));
    }
    let key = part.key();
    let names: Vec<String> = certificate.said_of_names(now).filter_map(|(name, _)| user_id(name)).collect();
    let fingerprint = hex::encode_upper(&certificate.primary.fingerprint);
    Ok(Signer {
        name: names.first().cloned().unwrap_or_else(|| format!("OpenPGP certificate {fingerprint}")),
        emails: names.iter().filter_map(|name| email(name)).collect(),
        certificate: certificate.primary.fingerprint.clone(),
        key: key.fingerprint.clone(),
        key_id: key.id(),
        algorithm: format!("{} with {}", key.algorithm_name(), hash_name(signature.hash)),
        signed,
        addressed: addressed(signature, around)?,
    })
}

/// For whom the signature is.
fn addressed(signature: &Signature, around: Around<'_>) -> Result<Addressed> {
    let not_for = |why: String| Error::new(Kind::Integrity, "the signature is for somebody else", why);
    match (signature.intended(), around) {
        ([], Around::Nothing) => Ok(Addressed::ToNobody),
        ([], Around::Encryption(_)) => Ok(Addressed::NotSaid),
        // RFC 9580 §5.2.3.36: it counts in an encrypted message only.
        (_, Around::Nothing) => {
            Err(not_for("it says that what it is of is in an encrypted message".to_owned()))
        }
        (intended, Around::Encryption(names)) if intended.iter().any(|one| names.contains(one)) => {
            Ok(Addressed::ToThisKey)
        }
        (intended, Around::Encryption(_)) => {
            let intended: Vec<_> = intended.iter().take(TOLD).map(hex::encode_upper).collect();
            Err(not_for(format!(
                "its signer encrypted it to {}, which is not the key that opened it: somebody sent it on",
                intended.join(", ")
            ))
            .hint("ask the signer whether it is meant for you"))
        }
    }
}

/// Checks that a key was there when it signed, and is not expired.
pub(super) fn check_alive(key: &PublicKey, said: &Signature, signed: u64, at: u64) -> Result<()> {
    if u64::from(key.created) > signed {
        return Err(unfit("its key was made later than the signature"));
    }
    let Some(end) = said.key_end(key.created) else { return Ok(()) };
    if end <= signed {
        return Err(unfit("its key had expired when it signed"));
    }
    if end <= at {
        return Err(unfit("its key is expired").hint(
            "ask its owner for the current certificate; or, if it ended on purpose and what it signed before is to stay good, set \
             expired = \"allow\" in [accept]: that believes the signer when it was",
        ));
    }
    Ok(())
}

/// Checks that a subkey says itself at this time that it belongs to this primary key: else anybody could adopt another's key,
/// and pass for who signed with it (RFC 9580 §5.2.1.9).
pub(super) fn check_adopted(
    certificate: &Certificate,
    subkey: &PublicKey,
    binding: &Signature,
    now: u64,
) -> Result<()> {
    let data = certificate.hashed_with(subkey);
    let own = |one: &Signature| {
        one.kind == kind::PRIMARY_KEY_BINDING && one.holds_at(now) && one.verifies(subkey, &data)
    };
    if binding.embedded().any(|one| own(&one)) {
        return Ok(());
    }
    Err(unfit("its subkey did not sign that it belongs to the certificate"))
}

/// A user id in what signatures hash of it; `None` if that is something else, such as a picture.
fn user_id(hashed: &[u8]) -> Option<String> {
    let (head, text) = hashed.split_at_checked(HASHED_USER_ID_LEN)?;
    (head.first() == Some(&HASHED_USER_ID)).then(|| String::from_utf8_lossy(text).into_owned())
}

/// The address in `Anna <anna@example.org>`, or the whole if that is one.
fn email(user_id: &str) -> Option<String> {
    let bracketed =
        user_id.strip_suffix('>').and_then(|start| start.rsplit_once('<')).map(|(_, email)| email);
    let email = bracketed.unwrap_or(user_id);
    let sound =
        email.contains('@') && !email.contains(|char: char| char.is_whitespace() || char.is_control());
    sound.then(|| email.to_owned())
}

fn not_accepted(strangers: &[String]) -> Error {
    let mut who: Vec<&str> = strangers.iter().take(TOLD).map(String::as_str).collect();
    if strangers.len() > TOLD {
        who.push("and more");
    }
    let why = format!("it was signed by the OpenPGP key {}, which is not accepted", who.join(", "));
    Error::new(Kind::Integrity, "the sender is not accepted", why)
        .hint("if that is right, name the file with the signer's OpenPGP certificate: --accept-from FILE")
}

fn unfit(why: &str) -> Error {
    Error::new(Kind::Integrity, "the signer's certificate is not good for this signature", why)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).as_ref().map(Duration::as_secs).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_user_ids() {
        for (name, expected) in [
            ("Anna <anna@example.org>", Some("anna@example.org")),
            ("anna@example.org", Some("anna@example.org")),
            ("Anna <x> <anna@example.org>", Some("anna@example.org")),
            ("Anna", None),
            ("Anna (a@b) Smith", None),
            ("<anna@example.org> and more", None),
        ] {
            assert_eq!(email(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for bytes in [&b""[..], b"hello", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n", &[0x99, 1, 0]] {
            assert!(Keyring::read(bytes).is_err(), "{bytes:?}");
        }
        assert!(!is_certificate(b"-----BEGIN CERTIFICATE-----") && !is_certificate(&[0x30, 0x82]));
    }
}
