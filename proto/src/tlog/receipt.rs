//! C2SP tlog-proof: the proof that an entry is in the log, to be checked offline with the log's public key alone.
//!
//! Ours carry the entry itself as their extra data: without it there would be nothing to check.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Checkpoint, Flaw, Hash, VerifierKey, checkpoint::decimal, malformed, merkle, note::MAX_NOTE_LEN,
    tiles::MAX_ENTRY_LEN,
};

/// The first line.
const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// The longest receipt that is read, in bytes: an entry in base64, 64 hashes, a checkpoint.
pub const MAX_RECEIPT_LEN: usize = 2 * MAX_ENTRY_LEN + MAX_NOTE_LEN;

/// A receipt: an entry, its place in the log, and the way from there to a signed checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The entry's bytes, as the log has them.
    pub entry: Vec<u8>,
    /// Its place in the log: 0 is the first.
    pub index: u64,
    /// From the entry's sibling up to the root's child: RFC 6962 §2.1.1.
    pub proof: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: String,
}

impl Receipt {
    /// Checks that the entry is in the log that `key` signs. Returns the checkpoint that says so.
    ///
    /// # Errors
    /// If the checkpoint is not signed by `key`, or does not vouch for the entry.
    pub fn verify(&self, key: &VerifierKey) -> Result<Checkpoint, Flaw> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key)?;
        self.verify_in(&checkpoint)?;
        Ok(checkpoint)
    }

    /// Checks that the entry is in the log of this checkpoint, whose signature somebody has checked before.
    ///
    /// # Errors
    /// If it does not vouch for the entry.
    pub fn verify_in(&self, checkpoint: &Checkpoint) -> Result<(), Flaw> {
        let entry = Hash::of_entry(&self.entry);
        merkle::verify_inclusion(entry, self.index, checkpoint.size, &checkpoint.root, &self.proof)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nextra {}\nindex {}", STANDARD.encode(&self.entry), self.index)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for Receipt {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        if text.len() > MAX_RECEIPT_LEN {
            return Err(malformed(format!("it is longer than {MAX_RECEIPT_LEN} bytes")));
        }
        let cut = || malformed("it ends too early");
        let (head, checkpoint) = text.split_once("\n\n").ok_or_else(cut)?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(malformed(format!("its first line is not {HEADER}")));
        }
        let extra = lines.next().and_then(|line| line.strip_prefix("extra "));
        let entry = extra.and_then(|extra| STANDARD.decode(extra).ok());
        let entry = entry.ok_or_else(|| malformed("it has no entry in its second line"))?;
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).ok_or_else(cut)?;
        let index = decimal(index)?;
        let proof = lines
            .map(|line| Hash::from_base64(line).ok_or_else(|| malformed("a line of its proof is no hash")));
        let proof = proof.collect::<Result<Vec<_>, _>>()?;
        // A tree has no more levels than a u64 has bits.
        if proof.len() > 64 {
            return Err(malformed("its proof is longer than any proof"));
        }
        Ok(Self { entry, index, proof, checkpoint: checkpoint.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use aws_lc_rs::{
        encoding::{AsDer, PublicKeyX509Der},
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
    };

    use super::{
        super::merkle::{Node, tests::mth},
        *,
    };

    struct Log {
        pair: EcdsaKeyPair,
        key: VerifierKey,
    }

    impl Log {
        fn new(name: &str) -> Self {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
            let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
            let key = VerifierKey::ecdsa_p256(name, spki.as_ref()).unwrap();
            Self { pair, key }
        }

        fn receipt(&self, entries: &[Vec<u8>], index: usize) -> Receipt {
            let origin = self.key.name().to_owned();
            let text = Checkpoint { origin, size: entries.len() as u64, root: mth(entries) }.text();
            let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
            let mut read = |node: Node| -> Result<Hash, Infallible> {
                let start = (node.index << node.level) as usize;
                Ok(mth(&entries[start..start + (1 << node.level)]))
            };
            let (at, size) = (index as u64, entries.len() as u64);
            Receipt {
                entry: entries[index].clone(),
                index: at,
                proof: merkle::inclusion(at, size, &mut read).unwrap(),
                checkpoint: self.key.note(&text, signature.as_ref()),
            }
        }
    }

    #[test]
    fn a_receipt_proves_its_entry_and_no_other() {
        let log = Log::new("custodian.example/log");
        let entries = merkle::tests::entries(11);
        for index in 0..entries.len() {
            let receipt = log.receipt(&entries, index);
            let read: Receipt = receipt.to_string().parse().unwrap();
            assert_eq!(read, receipt);
            assert_eq!(read.verify(&log.key).unwrap().size, 11);
            for (other, entry) in entries.iter().enumerate() {
                let swapped = Receipt { entry: entry.clone(), ..read.clone() };
                assert_eq!(swapped.verify(&log.key).is_ok(), other == index);
                let moved = Receipt { index: other as u64, ..read.clone() };
                assert_eq!(moved.verify(&log.key).is_ok(), other == index);
            }
        }
    }

    #[test]
    fn a_receipt_of_another_key_or_with_a_forged_checkpoint_is_refused() {
        let log = Log::new("custodian.example/log");
        let receipt = log.receipt(&merkle::tests::entries(5), 3);
        let namesake = Log::new("custodian.example/log");
        assert!(matches!(receipt.verify(&namesake.key), Err(Flaw::NotSigned(_))));
        let forged = Receipt { checkpoint: receipt.checkpoint.replace("\n5\n", "\n6\n"), ..receipt };
        assert!(matches!(forged.verify(&log.key), Err(Flaw::WrongSignature(_))));
    }

    #[test]
    fn what_is_no_receipt_is_refused() {
        let whole = Log::new("a.example").receipt(&merkle::tests::entries(9), 4).to_string();
        for wrong in [
            String::new(),
            whole.replace("@v1", "@v2"),
            whole.replace("extra ", "extra !"),
            whole.replace("index 4", "index 04"),
            whole.replace("index 4\n", "index 4\nnot a hash\n"),
            whole.replace("\n\na.example", "\na.example"),
            whole.replace(
                "index 4\n",
                &format!("index 4\n{}", format!("{}\n", Hash::of_empty_tree()).repeat(65)),
            ),
            "x".repeat(MAX_RECEIPT_LEN + 1),
        ] {
            assert!(wrong.parse::<Receipt>().is_err(), "{wrong:.200}");
        }
    }
}
