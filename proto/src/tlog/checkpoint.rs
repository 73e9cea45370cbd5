//! C2SP tlog-checkpoint: what a log of some size is, signed.

use std::str::FromStr;

use super::{Flaw, Hash, VerifierKey, malformed};

/// A log of some size: its name, and the root of its tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Entries in the tree.
    pub size: u64,
    /// The root of the tree.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, self.root)
    }

    /// The checkpoint of a note that `key` has signed for the log of its own name.
    ///
    /// # Errors
    /// If it is no checkpoint, or its signature is missing or wrong.
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, Flaw> {
        let checkpoint: Self = key.open(note)?.parse()?;
        if checkpoint.origin != key.name() {
            let (found, expected) = (checkpoint.origin, key.name().to_owned());
            return Err(Flaw::OtherLog { found, expected });
        }
        Ok(checkpoint)
    }
}

/// Reads the text of a checkpoint, signed or not. Extension lines are passed over.
impl FromStr for Checkpoint {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        let mut lines = text.lines();
        let mut line = |what| lines.next().filter(|line| !line.is_empty()).ok_or_else(|| missing(what));
        let origin = line("name")?.to_owned();
        let size = decimal(line("size")?)?;
        let root = line("root")?;
        let root =
            Hash::from_base64(root).ok_or_else(|| malformed("the root in the checkpoint is no hash"))?;
        Ok(Self { origin, size, root })
    }
}

fn missing(what: &str) -> Flaw {
    malformed(format!("the checkpoint has no {what}"))
}

/// A number as C2SP writes it: ASCII digits without zeros in front.
pub(super) fn decimal(text: &str) -> Result<u64, Flaw> {
    let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
    number.ok_or_else(|| malformed(format!("{text:?} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification, without its signature (whose key is not published).
    const EXAMPLE: &str =
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    #[test]
    fn the_specifications_example_reads_and_writes() {
        let checkpoint: Checkpoint = EXAMPLE.parse().unwrap();
        assert_eq!(
            (checkpoint.origin.as_str(), checkpoint.size),
            ("example.com/behind-the-sofa", 20_852_163)
        );
        assert_eq!(checkpoint.text(), EXAMPLE);
        let extended: Checkpoint = format!("{EXAMPLE}more\n").parse().unwrap();
        assert_eq!(extended, checkpoint);
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        for (from, to) in [
            ("20852163", "020852163"),
            ("20852163", "+20852163"),
            ("20852163", "-1"),
            ("20852163", "99999999999999999999"),
            ("CsUY", "CsU"),
            ("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n", ""),
            ("example.com/behind-the-sofa", ""),
        ] {
            assert!(EXAMPLE.replace(from, to).parse::<Checkpoint>().is_err(), "{to}");
        }
    }

    #[test]
    fn a_checkpoint_of_another_log_is_refused_even_if_its_key_signed_it() {
        // Rekor's key is called otherwise than its log.
        let key: VerifierKey = "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc=".parse().unwrap();
        let note = "Rekor\n798034\nf+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=\n\n\u{2014} rekor.sigstore.dev wNI9ajBEAiARInWIWyCdyG27CO6LPnPekyw20qO0YJfoaPaowGp/XgIgc+qEHS3+GKVClgqq20uDLet7MCoTURUCRdxwWBHHufk=\n";
        assert!(
            matches!(Checkpoint::open(note, &key), Err(Flaw::OtherLog { found, .. }) if found == "Rekor")
        );
    }
}
