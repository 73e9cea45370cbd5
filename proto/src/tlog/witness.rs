//! C2SP tlog-witness: what is sent to a witness, and what it answers.

use std::{fmt, str::FromStr};

use super::{Flaw, Hash, checkpoint::decimal, malformed, note::MAX_NOTE_LEN};

/// Where beneath its address a witness takes checkpoints.
pub const ADD_CHECKPOINT: &str = "add-checkpoint";

/// The type of an answer that tells the size of the tree that the witness cosigned last.
pub const SIZE_TYPE: &str = "text/x.tlog.size";

/// The longest request, in bytes.
pub const MAX_REQUEST_LEN: usize = MAX_NOTE_LEN + 4_096;

/// "The client MUST NOT send more than 63 consistency proof lines."
const MAX_PROOF: usize = 63;

/// A checkpoint for a witness, and the proof that it begins with the tree that the witness cosigned last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddCheckpoint {
    /// Entries of the tree that the witness cosigned last.
    pub old: u64,
    /// RFC 6962 §2.1.2.
    pub proof: Vec<Hash>,
    /// The signed note.
    pub checkpoint: String,
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for AddCheckpoint {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        if text.len() > MAX_REQUEST_LEN {
            return Err(malformed(format!("it is longer than {MAX_REQUEST_LEN} bytes")));
        }
        let (head, checkpoint) = text.split_once("\n\n").ok_or_else(|| malformed("it ends too early"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old = decimal(old.ok_or_else(|| malformed("it does not begin with the old size"))?)?;
        let proof = lines
            .map(|line| Hash::from_base64(line).ok_or_else(|| malformed("a line of its proof is no hash")));
        let proof = proof.collect::<Result<Vec<_>, _>>()?;
        if proof.len() > MAX_PROOF {
            return Err(malformed("its proof is longer than any proof"));
        }
        Ok(Self { old, proof, checkpoint: checkpoint.to_owned() })
    }
}

/// A size as a witness tells it: decimal digits and a newline.
///
/// # Errors
/// If it is none.
pub fn size(text: &str) -> Result<u64, Flaw> {
    decimal(text.strip_suffix('\n').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    const EXAMPLE: &str = "old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
";

    #[test]
    fn the_specifications_example_reads_and_writes() {
        let request: AddCheckpoint = EXAMPLE.parse().unwrap();
        assert_eq!((request.old, request.proof.len()), (20_852_014, 4));
        assert!(request.checkpoint.starts_with("example.com/behind-the-sofa\n20852163\n"));
        assert_eq!(request.to_string(), EXAMPLE);
        let first = AddCheckpoint { old: 0, proof: Vec::new(), ..request };
        assert_eq!(first.to_string().parse(), Ok(first));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let line = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n";
        for (from, to) in [
            ("old 20852014", "old 020852014"),
            ("old 20852014", "20852014"),
            ("PlRN", "PlR"),
            ("\n\n", "\n"),
            (line, &line.repeat(61)),
        ] {
            assert!(EXAMPLE.replace(from, to).parse::<AddCheckpoint>().is_err(), "{to:.40}");
        }
        assert!("x".repeat(MAX_REQUEST_LEN + 1).parse::<AddCheckpoint>().is_err());
        assert_eq!(size("17\n"), Ok(17));
        assert!(size("17 \n").is_err() && size("").is_err());
    }
}
