//! Whose OpenPGP signatures count: those of the OpenPGP certificates among the accepted ones.

use std::time::SystemTime;

use super::{Accept, Choice, accept::refused};
use crate::{
    envelope::openpgp::{Around, Keyring, Signatures, When},
    error::Result,
    verify::Sender,
};

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
        let signer = rules.keyring.check(signatures, around, when)?;
        Ok(Some(Sender::of_openpgp(&signer)))
    }
}
