//! Signatures of what a message holds (RFC 9580 §10.3): announced before it, and there behind it; or all of it before. They
//! are collected while the content passes, and verified when all of it is known to be authentic.

use std::io;

use aws_lc_rs::digest::Context;

use super::{
    armor,
    certificate::next_packet,
    packet::{Head, SIGNATURE, carry, cut_off, may_be_skipped},
    signature::{Signature, hash_name, kind, salted},
    signer::Keyring,
};
use crate::{
    envelope::{ReadAt, each_piece, unsupported},
    error::{Error, Kind, Result},
    progress::Progress,
};

/// Most signatures that are looked at: each hashes all of the content.
const MAX: usize = 32;
/// Longest file with a signature, in bytes.
const MAX_DETACHED_LEN: usize = 1024 * 1024;

/// The signatures of a message, none of them verified.
#[derive(Default)]
pub struct Signatures(pub(super) Vec<Seen>);

/// One signature that was seen.
pub(super) struct Seen {
    /// Fingerprints and short names of the key that made it, as it says.
    pub(super) names: Vec<Vec<u8>>,
    pub(super) what: What,
}

/// What was seen of a signature.
pub(super) enum What {
    /// All of it, with the hash of the content if anybody whose key is known may have made it.
    Whole(Box<Signature>, Option<Context>),
    /// Something that nothing can be made of: why.
    Odd(String),
}

impl Signatures {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How the first names the key that made it: fingerprint or id, as GnuPG shows them.
    pub fn first_key(&self) -> Option<String> {
        self.0.first().map(Seen::key)
    }

    /// When the first was made, as it says: seconds since 1970.
    pub fn first_created(&self) -> Option<u32> {
        self.0.first().and_then(|seen| match &seen.what {
            What::Whole(signature, _) => signature.created_if_told(),
            What::Odd(_) => None,
        })
    }
}

impl Seen {
    /// The longest name of its key.
    pub(super) fn key(&self) -> String {
        let name = self.names.iter().max_by_key(|name| name.len());
        name.map_or_else(|| "a key that it does not name".to_owned(), hex::encode_upper)
    }
}

/// Collects them.
pub(super) struct Collector<'k> {
    keyring: Option<&'k Keyring>,
    /// Announced, and not seen yet. The last is the first to be seen (RFC 9580 §5.4).
    announced: Vec<Announced>,
    /// Seen whole before the content, which is still to be hashed.
    ahead: Vec<(Signature, Option<Hashing>)>,
    seen: Vec<Seen>,
}

/// A one-pass signature packet, and the hash of the content.
struct Announced {
    kind: u8,
    hash: u8,
    algorithm: u8,
    key: Vec<u8>,
    salt: Vec<u8>,
    hashing: Option<Hashing>,
}

impl<'k> Collector<'k> {
    /// Whoever is not in the key ring cannot be verified, and costs nothing.
    pub(super) fn new(keyring: Option<&'k Keyring>) -> Self {
        Self { keyring, announced: Vec::new(), ahead: Vec::new(), seen: Vec::new() }
    }

    /// Takes the content of a one-pass signature packet (RFC 9580 §5.4).
    pub(super) fn announce(&mut self, packet: &[u8]) -> io::Result<()> {
        self.check_count()?;
        match Announced::parse(packet) {
            Some(mut announced) => {
                if self.is_known(std::slice::from_ref(&announced.key)) {
                    announced.hashing = salted(announced.hash, &announced.salt)
                        .and_then(|hash| Hashing::new(announced.kind, hash));
                }
                self.announced.push(announced);
            }
            None => self.odd(Vec::new(), "it is announced in a way that is not known here"),
        }
        Ok(())
    }

    /// Takes the content of a signature packet that stands before what it is of.
    pub(super) fn ahead(&mut self, packet: &[u8]) -> io::Result<()> {
        self.check_count()?;
        match Signature::parse(packet) {
            Ok(Some(signature)) => {
                let hashing = match self.is_known(&signature.issuers) {
                    true => signature.begin().and_then(|hash| Hashing::new(signature.kind, hash)),
                    false => None,
                };
                self.ahead.push((signature, hashing));
            }
            _ => self.odd(Vec::new(), UNREADABLE),
        }
        Ok(())
    }

    /// Takes content.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let announced = self.announced.iter_mut().filter_map(|one| one.hashing.as_mut());
        let ahead = self.ahead.iter_mut().filter_map(|(_, hashing)| hashing.as_mut());
        announced.chain(ahead).for_each(|hashing| hashing.update(bytes));
    }

    /// Takes the content of a signature packet that stands behind what it is of.
    pub(super) fn behind(&mut self, packet: &[u8]) -> io::Result<()> {
        self.check_count()?;
        let announced = self.announced.pop();
        let Ok(Some(signature)) = Signature::parse(packet) else {
            self.odd(announced.map(|one| one.key).into_iter().collect(), UNREADABLE);
            return Ok(());
        };
        let names = signature.issuers.clone();
        match announced {
            None => self.odd(names, "nothing announces it"),
            Some(announced) if !announced.fits(&signature) => {
                self.odd(names, "it is another one than was announced");
            }
            Some(announced) => {
                let names = if names.is_empty() { vec![announced.key] } else { names };
                let hash = announced.hashing.map(Hashing::finish);
                self.seen.push(Seen { names, what: What::Whole(Box::new(signature), hash) });
            }
        }
        Ok(())
    }

    /// All that there were.
    pub(super) fn finish(mut self) -> Signatures {
        for (signature, hashing) in std::mem::take(&mut self.ahead) {
            let names = signature.issuers.clone();
            let what = What::Whole(Box::new(signature), hashing.map(Hashing::finish));
            self.seen.push(Seen { names, what });
        }
        for announced in std::mem::take(&mut self.announced) {
            self.odd(vec![announced.key], "it is announced, and is not there");
        }
        Signatures(self.seen)
    }

    fn odd(&mut self, names: Vec<Vec<u8>>, why: &str) {
        self.seen.push(Seen { names, what: What::Odd(why.to_owned()) });
    }

    fn is_known(&self, names: &[Vec<u8>]) -> bool {
        self.keyring.is_some_and(|keyring| keyring.may_have(names))
    }

    fn check_count(&self) -> io::Result<()> {
        // One that is announced is counted again when it comes.
        if self.announced.len() + self.ahead.len() + self.seen.len() > MAX {
            return Err(carry(unsupported(format!("it has more than {MAX} signatures"))));
        }
        Ok(())
    }
}

const UNREADABLE: &str = "it cannot be read, or is of a version that is not known here";

impl Announced {
    /// `None` if it makes no sense, or is of a version that is not known here.
    fn parse(packet: &[u8]) -> Option<Self> {
        let ([version, kind, hash, algorithm], rest) = packet.split_first_chunk::<4>()?;
        let (salt, key) = match version {
            3 => (&[][..], rest.get(..8)?),
            6 => {
                let (len, rest) = rest.split_first()?;
                let (salt, rest) = rest.split_at_checked(usize::from(*len))?;
                (salt, rest.get(..32)?)
            }
            _ => return None,
        };
        Some(Self {
            kind: *kind,
            hash: *hash,
            algorithm: *algorithm,
            key: key.to_vec(),
            salt: salt.to_vec(),
            hashing: None,
        })
    }

    /// Whether this is the one that was announced.
    fn fits(&self, signature: &Signature) -> bool {
        // Of version 4 the end of a fingerprint is the short name, of version 6 the beginning.
        let is_it = |name: &Vec<u8>| name.ends_with(&self.key) || name.starts_with(&self.key);
        if !signature.issuers.is_empty() && !signature.issuers.iter().any(is_it) {
            return false;
        }
        (self.kind, self.hash, self.algorithm) == (signature.kind, signature.hash, signature.algorithm())
            && self.salt == signature.salt
    }
}

/// The hash of content as a signature is of it.
enum Hashing {
    Binary(Context),
    /// Lines end with CR and LF (RFC 9580 §5.2.1.2), whatever they end with here.
    Text(Context, Last),
}

/// What came last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    CarriageReturn,
    Other,
}

impl Hashing {
    /// `None` for signatures that are not of documents.
    fn new(kind: u8, hash: Context) -> Option<Self> {
        match kind {
            kind::BINARY => Some(Self::Binary(hash)),
            kind::TEXT => Some(Self::Text(hash, Last::Other)),
            _ => None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        let (hash, last) = match self {
            Self::Binary(hash) => return hash.update(bytes),
            Self::Text(hash, last) => (hash, last),
        };
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, end) = line.strip_suffix(b"\n").map_or((line, &b""[..]), |text| (text, b"\n"));
            hash.update(text);
            *last = match text.last() {
                Some(b'\r') => Last::CarriageReturn,
                Some(_) => Last::Other,
                None => *last,
            };
            if !end.is_empty() {
                hash.update(if *last == Last::CarriageReturn { b"\n" } else { b"\r\n" });
                *last = Last::Other;
            }
        }
    }

    fn finish(self) -> Context {
        match self {
            Self::Binary(hash) | Self::Text(hash, _) => hash,
        }
    }
}

/// Whether this is a signature in a file of its own, binary or armoured.
pub fn is_signature(bytes: &[u8]) -> bool {
    armor::is_block(bytes, armor::SIGNATURE)
        || matches!(Head::parse(bytes), Ok((head, used))
            if head.tag == SIGNATURE && matches!(bytes.get(used), Some(3..=6)))
}

/// Reads the signatures of a file, and hashes that for those that may be verified.
///
/// # Errors
/// [`Kind::Integrity`] if they are cut off; [`Kind::Local`] if they are something else, or the file cannot be read;
/// [`Kind::Interrupted`].
pub fn detached(
    signature: &[u8],
    content: &dyn ReadAt,
    len: u64,
    keyring: Option<&Keyring>,
    progress: &dyn Progress,
) -> Result<Signatures> {
    let unreadable = |why: &str| Error::new(Kind::Local, "the signature cannot be read", why);
    if signature.len() > MAX_DETACHED_LEN {
        return Err(unreadable("it is longer than 1 MiB"));
    }
    let named = |error: Error| Error { what: "the signature cannot be read".to_owned(), ..error };
    let binary = armor::decode_block(signature, armor::SIGNATURE).map_err(named)?;
    let mut collector = Collector::new(keyring);
    let mut rest = binary.as_slice();
    while let Some((tag, packet)) = next_packet(&mut rest).map_err(named)? {
        match tag {
            SIGNATURE => collector.ahead(packet).map_err(super::packet::uncarry)?,
            tag if may_be_skipped(tag) => {}
            _ => return Err(unreadable("there is something else than signatures in it")),
        }
    }
    if collector.ahead.is_empty() && collector.seen.is_empty() {
        return Err(named(cut_off()));
    }
    each_piece(content, len, progress, |piece| collector.update(piece))?;
    Ok(collector.finish())
}

/// What is there of a signature that is not verified, in words: with which hash, if that is the reason.
pub(super) fn why_odd(signature: &Signature) -> String {
    match signature.kind {
        kind::BINARY | kind::TEXT => {
            format!("it is made with {}, which nothing is verified with", hash_name(signature.hash))
        }
        other => format!("it is of kind {other:#04x}, not of a document"),
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use proptest::prelude::*;

    use super::*;

    fn text_hash(pieces: &[&[u8]]) -> Vec<u8> {
        let mut hashing = Hashing::new(kind::TEXT, Context::new(&SHA256)).expect("of a document");
        pieces.iter().for_each(|piece| hashing.update(piece));
        hashing.finish().finish().as_ref().to_vec()
    }

    #[test]
    fn lines_of_a_text_end_with_cr_and_lf_however_they_came() {
        let expected = digest(&SHA256, b"a\r\n\r\nb\rc\r\n\rd").as_ref().to_vec();
        for pieces in [
            &[&b"a\n\nb\rc\n\rd"[..]][..],
            &[b"a\r\n\r\nb\rc\r\n\rd"],
            &[b"a", b"\n", b"\n", b"b\r", b"c\r", b"\n", b"\r", b"d"],
            &[b"a\r", b"\n\r", b"\nb\rc", b"\r\n\rd"],
        ] {
            assert_eq!(text_hash(pieces), expected, "{pieces:?}");
        }
    }

    proptest! {
        #[test]
        fn how_a_text_is_cut_does_not_matter(bytes in "[ab\r\n]{0,40}", at in any::<prop::sample::Index>()) {
            let bytes = bytes.as_bytes();
            let (one, other) = bytes.split_at(at.index(bytes.len() + 1));
            prop_assert_eq!(text_hash(&[one, other]), text_hash(&[bytes]));
        }

        #[test]
        fn law_11_arbitrary_packets_never_panic(
            ahead in prop::collection::vec(any::<u8>(), 0..80),
            announced in prop::collection::vec(any::<u8>(), 0..60),
            behind in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut collector = Collector::new(None);
            collector.ahead(&ahead).expect("few");
            collector.announce(&announced).expect("few");
            collector.update(b"content");
            collector.behind(&behind).expect("few");
            assert!(!collector.finish().is_empty());
        }
    }
}
