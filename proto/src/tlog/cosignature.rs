//! C2SP tlog-cosignature: what a witness signs about a checkpoint, by Ed25519 (`cosignature/v1`).
//!
//! It says that, at that time, this was the largest tree that the witness had seen of that log, and that it begins with
//! all those that it had seen before.

use std::{collections::BTreeSet, fmt, str::FromStr};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{
    Flaw, malformed,
    note::{DASH, check_name, signature, split},
};

/// The type of these signatures in verifier keys and key ids.
const KIND: u8 = 0x04;

/// Bytes of the time in front of the signature.
const TIME_LEN: usize = 8;

/// The public key of a witness, and its name: `NAME+ID+KEY`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CosignerKey {
    name: String,
    key: [u8; 32],
}

/// That a witness has signed a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cosignature {
    /// The witness's name.
    pub name: String,
    /// When, by the witness's clock: seconds since 1970.
    pub time: u64,
    /// The line as it stands in the note, with its newline.
    pub line: String,
}

impl CosignerKey {
    /// The witness of that name with that Ed25519 key.
    ///
    /// # Errors
    /// If `name` is empty, or has spaces, control characters or `+` in it.
    pub fn new(name: &str, key: [u8; 32]) -> Result<Self, Flaw> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), key })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether both are the same key, whatever they are called.
    pub fn is_of(&self, other: &Self) -> bool {
        self.key == other.key
    }

    /// The id that stands in front of this key's signatures.
    pub fn id(&self) -> [u8; 4] {
        let hash = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', KIND])
            .chain_update(self.key)
            .finalize();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// The line for a note, of a signature over [`message`].
    pub fn line(&self, time: u64, signature: &[u8; 64]) -> String {
        let signature = [self.id().as_slice(), &time.to_be_bytes(), signature].concat();
        format!("{DASH}{} {}\n", self.name, STANDARD.encode(signature))
    }

    /// This key's cosignature in a note: the newest one that is right. `None` if there is none.
    ///
    /// # Errors
    /// If it is no note.
    pub fn cosigned(&self, note: &str) -> Result<Option<Cosignature>, Flaw> {
        let (text, lines) = split(note)?;
        let mut newest: Option<Cosignature> = None;
        for line in lines.lines() {
            let (name, signature) = signature(line)?;
            if name != self.name {
                continue;
            }
            let Some(time) = signature.strip_prefix(&self.id()).and_then(|it| self.time_of(text, it)) else {
                continue;
            };
            if newest.as_ref().is_none_or(|newest| newest.time < time) {
                newest = Some(Cosignature { name: self.name.clone(), time, line: format!("{line}\n") });
            }
        }
        Ok(newest)
    }

    fn time_of(&self, text: &str, signature: &[u8]) -> Option<u64> {
        let (time, signature) = signature.split_first_chunk::<TIME_LEN>()?;
        let time = u64::from_be_bytes(*time);
        i64::try_from(time).ok()?;
        let key = UnparsedPublicKey::new(&ED25519, &self.key);
        key.verify(message(time, text).as_bytes(), signature).ok()?;
        Some(time)
    }
}

/// What a witness signs: of a note's text, with the newline at its end.
pub fn message(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// The cosignatures of a note by these witnesses, one for each key. A key that was given under two names counts once.
///
/// # Errors
/// If it is no note.
pub fn cosignatures(note: &str, witnesses: &[CosignerKey]) -> Result<Vec<Cosignature>, Flaw> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for witness in witnesses {
        if let Some(cosignature) = witness.cosigned(note)?
            && seen.insert(witness.key)
        {
            found.push(cosignature);
        }
    }
    Ok(found)
}

/// The note with these signature lines added.
///
/// # Errors
/// If it is no note.
pub fn with_cosignatures(note: &str, lines: &[&str]) -> Result<String, Flaw> {
    split(note)?;
    Ok(lines.iter().fold(note.to_owned(), |note, line| note + line))
}

/// `NAME+ID+KEY`.
impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[KIND], self.key.as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), STANDARD.encode(key))
    }
}

impl FromStr for CosignerKey {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        let no_key =
            || malformed("a witness's key reads NAME+ID+KEY, on one line, of type 4 (Ed25519 cosignatures)");
        let (name, rest) = text.trim_ascii_end().split_once('+').ok_or_else(no_key)?;
        let (id, key) = rest.split_once('+').ok_or_else(no_key)?;
        let key = STANDARD.decode(key).map_err(|_| no_key())?;
        let key = match key.split_first() {
            Some((&KIND, key)) => Self::new(name, key.try_into().map_err(|_| no_key())?)?,
            _ => return Err(no_key()),
        };
        if hex::encode(key.id()) != id.to_ascii_lowercase() {
            return Err(malformed(
                "the id in the witness's key is not that of its key: was it copied in full?",
            ));
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::{super::VerifierKey, *};

    /// A checkpoint of a Certificate Transparency log and its witnesses, as they signed it (May 2026).
    const CHECKPOINT: &str = "arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

\u{2014} arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
\u{2014} arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
\u{2014} transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
\u{2014} witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
\u{2014} remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
\u{2014} witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
";

    const LOG: &str =
        "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f";

    const WITNESSES: [&str; 4] = [
        "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
        "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
        "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
    ];

    fn witnesses() -> Vec<CosignerKey> {
        WITNESSES.map(|key| key.parse().unwrap()).to_vec()
    }

    #[test]
    fn cosignatures_of_other_peoples_witnesses_verify() {
        for (text, key) in WITNESSES.iter().zip(witnesses()) {
            assert_eq!(key.to_string(), *text);
        }
        LOG.parse::<VerifierKey>().unwrap().open(CHECKPOINT).unwrap();
        let found = cosignatures(CHECKPOINT, &witnesses()).unwrap();
        assert_eq!(found.len(), 4);
        assert!(found.iter().all(|found| found.time == 0x6a12_2120 && CHECKPOINT.contains(&found.line)));
    }

    #[test]
    fn a_changed_checkpoint_time_or_signature_is_not_cosigned() {
        let other = CHECKPOINT.replace("1432088532", "1432088533");
        assert!(cosignatures(&other, &witnesses()).unwrap().is_empty());
        let [remora, stagemole, ..] = &witnesses()[..] else { panic!() };
        let line = remora.cosigned(CHECKPOINT).unwrap().unwrap().line;
        for (from, to) in [("2net5wAAAABqEiEg", "2net5wAAAABqEiEh"), ("PlfF", "PlfE"), ("2net", "2nes")] {
            let changed = CHECKPOINT.replace(&line, &line.replace(from, to));
            assert_ne!(changed, CHECKPOINT);
            assert_eq!(remora.cosigned(&changed).unwrap(), None, "{to}");
            assert!(stagemole.cosigned(&changed).unwrap().is_some());
        }
    }

    #[test]
    fn one_key_counts_once_whatever_its_names() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
        let [one, two] = ["one.example", "two.example"].map(|name| CosignerKey::new(name, public).unwrap());
        let text = "log.example\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";
        let sign = |key: &CosignerKey, time| {
            key.line(time, pair.sign(message(time, text).as_bytes()).as_ref().try_into().unwrap())
        };
        let lines = [sign(&one, 7), sign(&two, 8), sign(&one, 9), sign(&one, 3)];
        let note = format!("{text}\n{}", lines.concat());
        assert_eq!(one.cosigned(&note).unwrap().unwrap().time, 9, "the newest counts");
        assert_eq!(cosignatures(&note, &[one.clone(), two.clone()]).unwrap().len(), 1);
        let again = with_cosignatures(&note, &[&sign(&two, 10)]).unwrap();
        assert_eq!(two.cosigned(&again).unwrap().unwrap().time, 10);
    }

    #[test]
    fn what_is_no_witness_key_is_refused() {
        for wrong in
            [LOG, "", "a+b", "a+b+c", &WITNESSES[0].replace("da77ade7", "da77ade8"), &WITNESSES[0][..60]]
        {
            assert!(matches!(wrong.parse::<CosignerKey>(), Err(Flaw::Malformed(_))), "{wrong}");
        }
    }
}
