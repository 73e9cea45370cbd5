//! Whose OpenPGP signatures count: those of the OpenPGP certificates among the accepted ones.

use std::time::SystemTime;

use super::{Accept, Choice, accept::refused};
use crate::{
    envelope::openpgp::{Around, Keyring, Signatures, Verdict, When},
    error::{Error, Result},
    verify::Sender,
};

/// How many keys an error names.
const TOLD: usize = 3;

impl Accept {
    /// The OpenPGP certificates whose signatures count; `None` if nobody said who is accepted.
    pub(crate) fn keyring(&self) -> Option<&Keyring> {
        match self {
            Self::Anything => None,
            Self::Only(rules) => Some(&rules.keyring),
        }
    }

    /// Checks, before anybody is asked for a key, that an OpenPGP message can be accepted at all: who signed it shows inside only.
    ///
    /// # Errors
    /// [`Kind::Integrity`](crate::Kind::Integrity) if none can.
    pub(crate) fn check_openpgp_ahead(&self) -> Result<()> {
        match self {
            Self::Only(rules) if rules.keyring.is_empty() && rules.unsigned == Choice::Refuse => Err(refused(
                "who signed an OpenPGP message is told inside of it, and none of those who are accepted has an OpenPGP certificate",
            )
            .hint("name the sender's OpenPGP certificate: --accept-from FILE; or, if you know where it comes from, give --accept-unsigned")),
            _ => Ok(()),
        }
    }

    /// Checks who signed content that is authentic. `None`: nobody, and that is accepted. Where nobody said who is accepted,
    /// nothing is verified: the certificate is not in the message.
    ///
    /// # Errors
    /// [`Kind::Integrity`](crate::Kind::Integrity) if a signature is wrong, is missing, or its signer is not accepted.
    pub(crate) fn check_openpgp(
        &self,
        signatures: &Signatures,
        around: Around<'_>,
        now: SystemTime,
    ) -> Result<Option<Sender>> {
        let rules = match self {
            Self::Anything => return Ok(Sender::not_verified(signatures)),
            Self::Only(rules) => rules,
        };
        if signatures.is_empty() {
            return self.check_unsigned().map(|()| None);
        }
        let when = When { now, expired: rules.expired };
        let (mut right, mut unfit, mut strangers) = (None, None, Vec::new());
        for verdict in rules.keyring.verify_all(signatures, around, when) {
            match verdict {
                Verdict::Wrong(error) => return Err(error),
                Verdict::Right(signer) => right = right.or(Some(signer)),
                Verdict::Unfit(error) => unfit = unfit.or(Some(error)),
                Verdict::Unknown(who) | Verdict::Odd(who) => strangers.push(who),
            }
        }
        match (right, unfit) {
            (Some(signer), _) => Ok(Some(Sender::of_openpgp(&signer))),
            (None, Some(error)) => Err(error),
            (None, None) => Err(not_accepted(&strangers)),
        }
    }
}

fn not_accepted(strangers: &[String]) -> Error {
    let mut who: Vec<&str> = strangers.iter().take(TOLD).map(String::as_str).collect();
    if strangers.len() > TOLD {
        who.push("and more");
    }
    refused(format!("it was signed by the OpenPGP key {}, which is not accepted", who.join(", ")))
        .hint("if that is right, name the file with the signer's OpenPGP certificate: --accept-from FILE")
}
