//! Whom a message is encrypted to: PKESK packets (RFC 9580 §5.1), and which of them a custodian can serve.

use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    openpgp::{self, RSA},
};

use super::{
    certificate::Recipient,
    packet::{PKESK, cut_off},
};
use crate::{
    envelope::{MAX_RECIPIENTS, damaged, unsupported},
    error::Result,
    unwrapper::KeyName,
};

/// RFC 9580 §9.1: RSA, to encrypt only. Nobody makes such keys any more.
const RSA_ENCRYPT_ONLY: u8 = 2;

/// Longest of these packets, in bytes.
pub(super) const MAX_LEN: usize = 16 * 1024;
/// How many recipients an error names.
const TOLD: usize = 3;
/// Wrapped keys are as long as moduli, and those are multiples of this, in bytes. A number has no zeros in front.
const MODULUS_STEP: usize = 128;

/// Which kind of protection a message has, and so which kind of packet tells its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Version {
    /// PKESK 3 and SEIPD 1: everybody reads these.
    V1,
    /// PKESK 6 and SEIPD 2: since RFC 9580.
    V2,
}

/// Whom a message is encrypted to.
#[derive(Default)]
pub(super) struct Recipients {
    wrapped: Vec<(Version, KeyName, Vec<u8>)>,
    /// Those that no custodian can serve: who, and why not.
    pub(super) others: Vec<String>,
}

impl Recipients {
    /// Takes the content of a PKESK packet.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it is none; [`crate::Kind::Local`] if they are too many.
    pub(super) fn add(&mut self, packet: &[u8]) -> Result<()> {
        self.check_count()?;
        match parse(packet)? {
            Ok(wrapped) => self.wrapped.push(wrapped),
            Err(why) => self.others.push(why),
        }
        Ok(())
    }

    /// Takes somebody who knows a password.
    ///
    /// # Errors
    /// [`crate::Kind::Local`] if they are too many.
    pub(super) fn add_password(&mut self) -> Result<()> {
        self.check_count()?;
        self.others.push("whoever knows a password".to_owned());
        Ok(())
    }

    fn check_count(&self) -> Result<()> {
        if self.wrapped.len() + self.others.len() < MAX_RECIPIENTS {
            return Ok(());
        }
        Err(unsupported(format!("it has more than {MAX_RECIPIENTS} recipients")))
    }

    /// Leaves out those whose packets do not go with this kind of protection (RFC 9580 §10.3.2.1).
    pub(super) fn keep(&mut self, version: Version) {
        let (kept, odd) =
            std::mem::take(&mut self.wrapped).into_iter().partition(|(one, ..)| *one == version);
        self.wrapped = kept;
        let odd: Vec<_> = odd;
        let told = odd
            .iter()
            .map(|(_, name, _)| format!("key {name} by a packet of another version than the content"));
        self.others.extend(told);
    }

    /// How the message names the keys that a custodian may have.
    pub(super) fn names(&self) -> Vec<KeyName> {
        self.wrapped.iter().map(|(_, name, _)| name.clone()).collect()
    }

    /// The file key, wrapped, for those of [`Recipients::names`] that turned out to be these.
    pub(super) fn wrapped_keys(&self, found: &[Option<KeyId>]) -> Vec<WrappedKey> {
        let known =
            self.wrapped.iter().zip(found).filter_map(|((_, _, ciphertext), id)| Some((ciphertext, (*id)?)));
        known
            .filter_map(|(ciphertext, id)| WrappedKey::new(id, KeyWrapping::OpenPgp, ciphertext.clone()))
            .collect()
    }

    /// How one of [`Recipients::names`] is shown and what its wrapped key is.
    pub(super) fn served(&self) -> impl Iterator<Item = (&KeyName, &[u8])> {
        self.wrapped.iter().map(|(_, name, ciphertext)| (name, ciphertext.as_slice()))
    }

    /// Checks that somebody can be asked for the file key.
    pub(super) fn check(&self) -> Result<()> {
        if !self.wrapped.is_empty() {
            return Ok(());
        }
        if self.others.is_empty() {
            return Err(unsupported("it is encrypted to nobody"));
        }
        let mut who = self.others.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
        if self.others.len() > TOLD {
            who.push_str(&format!("; and {} more", self.others.len() - TOLD));
        }
        Err(unsupported(format!("no custodian serves its recipients: {who}"))
            .hint("have it encrypted to the certificate that custodianctl key cert --openpgp prints"))
    }
}

type Parsed = std::result::Result<(Version, KeyName, Vec<u8>), String>;

fn parse(packet: &[u8]) -> Result<Parsed> {
    let (version, rest) = packet.split_first().ok_or_else(cut_off)?;
    let (version, name, rest) = match version {
        3 => {
            let (id, rest) = rest.split_first_chunk::<8>().ok_or_else(cut_off)?;
            (Version::V1, KeyName::OpenPgpId(*id), rest)
        }
        6 => {
            let (len, rest) = rest.split_first().ok_or_else(cut_off)?;
            let (key, rest) = rest.split_at_checked(usize::from(*len)).ok_or_else(cut_off)?;
            let name = match key.split_first() {
                None => KeyName::OpenPgpId([0; 8]),
                Some((4, fingerprint)) if fingerprint.len() == 20 => {
                    KeyName::OpenPgpFingerprint(fingerprint.to_vec())
                }
                Some((6, fingerprint)) if fingerprint.len() == 32 => {
                    KeyName::OpenPgpFingerprint(fingerprint.to_vec())
                }
                Some((version, _)) => {
                    return Ok(Err(format!("a key of version {version}, which is not known here")));
                }
            };
            (Version::V2, name, rest)
        }
        version => {
            return Ok(Err(format!("a recipient by a packet of version {version}, which is not known here")));
        }
    };
    if name == KeyName::OpenPgpId([0; 8]) {
        return Ok(Err("somebody whose key is not named".to_owned()));
    }
    let (algorithm, rest) = rest.split_first().ok_or_else(cut_off)?;
    if ![RSA, RSA_ENCRYPT_ONLY].contains(algorithm) {
        return Ok(Err(format!("key {name} by {}", algorithm_name(*algorithm))));
    }
    let (bits, number) = rest.split_first_chunk::<2>().ok_or_else(cut_off)?;
    let len = number.len();
    // One number is written in one way.
    if openpgp::mpi(number) != [bits, number].concat() || len == 0 {
        return Err(damaged(format!("its key for {name} is not as long as it says")));
    }
    let mut ciphertext = vec![0; len.next_multiple_of(MODULUS_STEP) - len];
    ciphertext.extend_from_slice(number);
    if ciphertext.len() > custodian_proto::limits::MAX_WRAPPED_KEY_LEN {
        return Ok(Err(format!("key {name} by a wrapped key of {len} bytes")));
    }
    Ok(Ok((version, name, ciphertext)))
}

/// RFC 9580 §9.1.
fn algorithm_name(algorithm: u8) -> String {
    match algorithm {
        16 => "Elgamal".to_owned(),
        18 => "ECDH".to_owned(),
        25 => "X25519".to_owned(),
        26 => "X448".to_owned(),
        other => format!("algorithm {other}, which is not known here"),
    }
}

/// A PKESK packet for this recipient.
///
/// # Errors
/// [`crate::Kind::Local`] if the cryptographic library refuses.
pub(super) fn write(recipient: &Recipient, version: Version, file_key: &FileKey) -> Result<Vec<u8>> {
    let mut packet = match version {
        Version::V1 => [&[3], recipient.key_id().as_slice(), &[RSA]].concat(),
        Version::V2 => {
            let fingerprint = recipient.fingerprint();
            let len = u8::try_from(1 + fingerprint.len()).unwrap_or(u8::MAX);
            [&[6, len, recipient.version()], fingerprint, &[RSA]].concat()
        }
    };
    let wrapped = match version {
        Version::V1 => recipient.wrap(&openpgp::wrapped_by_v3(file_key)),
        Version::V2 => recipient.wrap(&openpgp::wrapped_by_v6(file_key)),
    };
    packet.extend(openpgp::mpi(&wrapped?));
    Ok(openpgp::packet(PKESK, &packet))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v3(id: u64, algorithm: u8, number: &[u8]) -> Vec<u8> {
        [&[3], &id.to_be_bytes()[..], &[algorithm], &openpgp::mpi(number)].concat()
    }

    #[test]
    fn a_number_gets_its_zeros_back() {
        for (len, padded) in
            [(256, 256), (255, 256), (250, 256), (384, 384), (383, 384), (257, 384), (512, 512)]
        {
            let mut recipients = Recipients::default();
            recipients.add(&v3(7, RSA, &vec![0x55; len])).expect("read");
            let wrapped = recipients.wrapped_keys(&[KeyId::from_bytes(&[1; 20])]);
            assert_eq!(wrapped[0].ciphertext().len(), padded);
            assert!(wrapped[0].ciphertext().ends_with(&vec![0x55; len]));
        }
    }

    #[test]
    fn who_is_not_served_is_named_with_the_reason() {
        for (packet, why) in [
            (v3(7, 18, &[1; 256]), "0000000000000007 by ECDH"),
            (v3(0, RSA, &[1; 256]), "not named"),
            (v3(7, RSA, &[1; 513]), "513 bytes"),
            (vec![2, 1, 2, 3], "version 2"),
            ([&[6, 33, 5], &[1; 32][..], &[RSA, 0, 1, 1]].concat(), "version 5"),
        ] {
            let mut recipients = Recipients::default();
            recipients.add(&packet).expect("read");
            let error = recipients.check().expect_err(why);
            assert!(error.why.contains(why), "{error}");
        }
    }

    #[test]
    fn packets_of_another_version_than_the_content_do_not_count() {
        let mut recipients = Recipients::default();
        recipients.add(&v3(7, RSA, &[1; 256])).expect("read");
        let v6 = [&[6, 21, 4], &[9; 20][..], &[RSA], &openpgp::mpi(&[1; 256])].concat();
        recipients.add(&v6).expect("read");
        recipients.keep(Version::V2);
        assert_eq!(recipients.names(), [KeyName::OpenPgpFingerprint(vec![9; 20])]);
        assert_eq!(recipients.others.len(), 1);
    }

    proptest! {
        #[test]
        fn arbitrary_packets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), version in 2u8..8) {
            let mut recipients = Recipients::default();
            recipients.add(&[&[version], &bytes[..]].concat()).ok();
            recipients.keep(Version::V1);
            recipients.check().ok();
        }
    }
}
