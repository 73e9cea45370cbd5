//! C2SP signed-note: a text, and lines with signatures of it by named keys.

use std::{fmt, str::FromStr};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{Flaw, malformed};

/// The longest note that is read, in bytes: room for many signatures, post-quantum ones among them.
pub const MAX_NOTE_LEN: usize = 128 * 1024;

/// What a signature line begins with: an em dash and a space.
pub(super) const DASH: &str = "\u{2014} ";

/// The names that signature types have in verifier keys and key ids.
mod kind {
    pub(super) const ED25519: u8 = 0x01;
    pub(super) const ECDSA: u8 = 0x02;
}

/// The SubjectPublicKeyInfo of an Ed25519 key is this, and then the key: RFC 8410 §4.
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key that signs notes, and its name: `NAME+ID+KEY`, as other tools write it, too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifierKey {
    name: String,
    key: PublicKey,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum PublicKey {
    /// RFC 8032.
    Ed25519([u8; 32]),
    /// On P-256, over SHA-256; the SubjectPublicKeyInfo in DER.
    Ecdsa(Vec<u8>),
}

impl VerifierKey {
    /// An ECDSA key on P-256, by its SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// If `name` is empty, or has spaces, control characters or `+` in it.
    pub fn ecdsa_p256(name: &str, spki: &[u8]) -> Result<Self, Flaw> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), key: PublicKey::Ecdsa(spki.to_vec()) })
    }

    /// An Ed25519 key, or an ECDSA key on P-256, by its SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// If `name` is empty, or has spaces, control characters or `+` in it.
    pub fn of_spki(name: &str, spki: &[u8]) -> Result<Self, Flaw> {
        match spki.strip_prefix(&ED25519_SPKI).and_then(|key| key.try_into().ok()) {
            None => Self::ecdsa_p256(name, spki),
            Some(key) => {
                check_name(name)?;
                Ok(Self { name: name.to_owned(), key: PublicKey::Ed25519(key) })
            }
        }
    }

    /// The name: by convention the log's origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> Vec<u8> {
        match &self.key {
            PublicKey::Ecdsa(spki) => spki.clone(),
            PublicKey::Ed25519(key) => [ED25519_SPKI.as_slice(), key].concat(),
        }
    }

    /// The id that stands in front of this key's signatures.
    pub fn id(&self) -> [u8; 4] {
        let hash = match &self.key {
            PublicKey::Ed25519(key) => Sha256::new()
                .chain_update(&self.name)
                .chain_update([b'\n', kind::ED25519])
                .chain_update(key)
                .finalize(),
            // "the key ID for these signatures is the truncated SHA-256 hash of the DER encoded public key".
            PublicKey::Ecdsa(spki) => Sha256::digest(spki),
        };
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// The note of `text` with the one signature of this key: DER for ECDSA, 64 bytes for Ed25519.
    pub fn note(&self, text: &str, signature: &[u8]) -> String {
        let signature = [self.id().as_slice(), signature].concat();
        format!("{text}\n{DASH}{} {}\n", self.name, STANDARD.encode(signature))
    }

    /// The text of a note that this key has signed. Signatures of other keys are passed over.
    ///
    /// # Errors
    /// If it is no note, or the signature is missing or wrong.
    pub fn open<'n>(&self, note: &'n str) -> Result<&'n str, Flaw> {
        let (text, signatures) = split(note)?;
        let mut signed = false;
        for line in signatures.lines() {
            let (name, signature) = signature(line)?;
            if name != self.name {
                continue;
            }
            if let Some(signature) = signature.strip_prefix(&self.id()) {
                if !self.has_signed(text.as_bytes(), signature) {
                    return Err(Flaw::WrongSignature(self.name.clone()));
                }
                signed = true;
            }
        }
        if signed { Ok(text) } else { Err(Flaw::NotSigned(self.name.clone())) }
    }

    fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            PublicKey::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(text, signature),
            PublicKey::Ecdsa(spki) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, spki).verify(text, signature)
            }
        }
        .is_ok()
    }
}

/// `NAME+ID+KEY`.
impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = match &self.key {
            PublicKey::Ed25519(key) => [&[kind::ED25519], key.as_slice()].concat(),
            PublicKey::Ecdsa(spki) => [&[kind::ECDSA], spki.as_slice()].concat(),
        };
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), STANDARD.encode(key))
    }
}

impl FromStr for VerifierKey {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        let no_key = || malformed("a log key reads NAME+ID+KEY, on one line");
        let (name, rest) = text.trim_ascii_end().split_once('+').ok_or_else(no_key)?;
        let (id, key) = rest.split_once('+').ok_or_else(no_key)?;
        check_name(name)?;
        let key = STANDARD.decode(key).map_err(|_| no_key())?;
        let key = match key.split_first() {
            Some((&kind::ED25519, key)) => PublicKey::Ed25519(key.try_into().map_err(|_| no_key())?),
            Some((&kind::ECDSA, spki)) => PublicKey::Ecdsa(spki.to_vec()),
            Some((kind, _)) => return Err(malformed(format!("log keys of type {kind} are not known here"))),
            None => return Err(no_key()),
        };
        let key = Self { name: name.to_owned(), key };
        if hex::encode(key.id()) != id.to_ascii_lowercase() {
            return Err(malformed("the id in the log key is not that of its key: was it copied in full?"));
        }
        Ok(key)
    }
}

pub(super) fn check_name(name: &str) -> Result<(), Flaw> {
    let unfit = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.contains(unfit) {
        return Err(malformed(format!("{name:?} is no name of a log: no spaces, no +, not empty")));
    }
    Ok(())
}

/// The text, with the newline at its end, and the signature lines.
pub(super) fn split(note: &str) -> Result<(&str, &str), Flaw> {
    if note.len() > MAX_NOTE_LEN {
        return Err(malformed(format!("it is longer than {MAX_NOTE_LEN} bytes")));
    }
    if note.contains(|c: char| c.is_ascii_control() && c != '\n') {
        return Err(malformed("there are control characters in it"));
    }
    let blank = note.rfind("\n\n").ok_or_else(|| malformed("it has no signatures"))?;
    let (text, signatures) = (&note[..=blank], &note[blank + 2..]);
    if signatures.is_empty() || !signatures.ends_with('\n') {
        return Err(malformed("its signatures do not end with a line"));
    }
    Ok((text, signatures))
}

/// Key name, and key id with signature.
pub(super) fn signature(line: &str) -> Result<(&str, Vec<u8>), Flaw> {
    let wrong = || malformed("a signature line is no signature line");
    let (name, signature) =
        line.strip_prefix(DASH).and_then(|line| line.split_once(' ')).ok_or_else(wrong)?;
    check_name(name)?;
    let signature = STANDARD.decode(signature).map_err(|_| wrong())?;
    if signature.len() < 5 { Err(wrong()) } else { Ok((name, signature)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From transparency-dev/formats, `note_verifier_test.go`: Rekor and the Pixel log sign with ECDSA.
    const REKOR: &str = "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc=";
    const REKOR_NOTE: &str = "Rekor\n798034\nf+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=\n\n\u{2014} rekor.sigstore.dev wNI9ajBEAiARInWIWyCdyG27CO6LPnPekyw20qO0YJfoaPaowGp/XgIgc+qEHS3+GKVClgqq20uDLet7MCoTURUCRdxwWBHHufk=\n";
    const PIXEL: &str = "pixel6_transparency_log+91c16e30+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABN+4x0Jk1yTwvLFI9A4NDdGZcX0aiWVdWM5XJVy0M4VWD3AvyW5Q6Hs9A0mcDkpUoYgn+KKPNzFC0H3nN3q6JQ8=";
    const PIXEL_NOTE: &str = "DEFAULT\n10\nbsWRucJU5xJPHb5eBdOm6+DM+VelCZBuvtI3sHERJ9Y=\n\n\u{2014} pixel6_transparency_log kcFuMDBFAiEAhqMAP8P6qf6QxtUJhzMhbN+MbZ9dwfUHzGQJmffJHtoCIGD0cNe47dHWBoPwYdgBCepB06/+g5O1FmYjXl06owL4\n";
    /// From golang.org/x/mod/sumdb/note: Ed25519.
    const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const PETER_NOTE: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn notes_of_other_peoples_logs_open() {
        for (key, note) in [(REKOR, REKOR_NOTE), (PIXEL, PIXEL_NOTE), (PETER, PETER_NOTE)] {
            let parsed: VerifierKey = key.parse().unwrap();
            assert_eq!(parsed.to_string(), key);
            assert_eq!(VerifierKey::of_spki(parsed.name(), &parsed.spki()), Ok(parsed.clone()));
            let text = parsed.open(note).unwrap();
            assert!(note.starts_with(text) && text.ends_with('\n'));
        }
    }

    #[test]
    fn a_note_that_was_changed_or_signed_by_another_is_refused() {
        let key: VerifierKey = REKOR.parse().unwrap();
        let forged = REKOR_NOTE.replace("798034", "798035");
        assert_eq!(key.open(&forged), Err(Flaw::WrongSignature("rekor.sigstore.dev".into())));
        for other in [PIXEL, PETER, &REKOR.replace("rekor.", "bananas.")] {
            let other: VerifierKey = other.parse().unwrap();
            assert!(matches!(other.open(REKOR_NOTE), Err(Flaw::NotSigned(_))), "{other}");
        }
        // Unknown signatures beside a good one do no harm, whatever key name or id they share with it.
        let (text, good) = REKOR_NOTE.split_once("\n\n").unwrap();
        let strange = "\u{2014} witness.example AAAAAAA=\n\u{2014} rekor.sigstore.dev AAAAAAA=\n";
        assert!(key.open(&format!("{text}\n\n{strange}{good}")).is_ok());
        for wrong in [
            text,
            &format!("{text}\n\n"),
            &REKOR_NOTE.replace('\u{2014}', "-"),
            REKOR_NOTE.trim_end(),
            &REKOR_NOTE.replace("798034", "798034\t"),
            &format!("{}{REKOR_NOTE}", "x\n".repeat(MAX_NOTE_LEN / 2)),
        ] {
            assert!(matches!(key.open(wrong), Err(Flaw::Malformed(_))), "{wrong:.99}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for wrong in [
            "",
            "bananas.sigstore.dev+12344556",
            "rekor.sigstore.dev+12345678+THIS_IS_NOT_BASE64!",
            "rekor.sigstore.dev+12345678+AwEB",
            "rekor.sigstore.dev+12345678+",
            &REKOR.replace("c0d23d6a", "00000000"),
            &REKOR.replace("rekor.", "rekor "),
            &REKOR.replace("rekor.sigstore.dev", ""),
        ] {
            assert!(matches!(wrong.parse::<VerifierKey>(), Err(Flaw::Malformed(_))), "{wrong}");
        }
        assert!(format!("{REKOR}\n").parse::<VerifierKey>().is_ok());
    }
}
