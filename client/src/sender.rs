//! The sender of an envelope: who signed it, looked at before anybody is asked for its key.

use std::time::SystemTime;

use crate::{
    envelope::{Format, ReadAt, SenderMark, carried::Unsigned, cms},
    error::{Error, Kind, Result},
    input::Envelope,
    progress::Progress,
    signed::{Accept, Signature, SignedData, Standing, hash_of},
    timestamp::{Attached, TrustedAuthorities},
    verify::Sender,
};

/// What an envelope's own signature turned out to be.
pub(crate) struct Checked(Option<Found>);

struct Found {
    signature: Signature,
    standing: Standing,
    timestamp: Attached,
    /// Whether the message has nothing in it that the signature does not protect.
    nothing_else: Result<()>,
}

impl Checked {
    /// Verifies the signature that an envelope carries: the whole envelope is read once for that. Without a signature, it
    /// must be acceptable without one.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the signature is wrong or missing, or its signer is not accepted; [`Kind::Local`] if the envelope
    /// cannot be read; [`Kind::Interrupted`].
    pub(crate) fn new(
        envelope: &Envelope,
        accept: &Accept,
        trusted: &TrustedAuthorities,
        progress: &dyn Progress,
    ) -> Result<Self> {
        match Self::carried(envelope, accept, trusted, progress)? {
            Some(checked) => Ok(checked),
            // What is inside is looked at when the key came, and before anything gets its name.
            None if envelope.format()? == Format::OpenPgp => {
                accept.check_openpgp_ahead().map(|()| Self(None))
            }
            None => accept.check_unsigned().map(|()| Self(None)),
        }
    }

    /// Verifies the signature that an envelope carries; `None` if it carries none.
    ///
    /// # Errors
    /// Those of [`Checked::new`], but for a missing signature.
    pub(crate) fn carried(
        envelope: &Envelope,
        accept: &Accept,
        trusted: &TrustedAuthorities,
        progress: &dyn Progress,
    ) -> Result<Option<Self>> {
        let rules = (accept, trusted);
        let found = match envelope.format()? {
            Format::Mtd | Format::Sealed => {
                let (unsigned, signature) = Unsigned::of_zip(envelope.source(), envelope.len())?;
                match signature {
                    Some(der) => {
                        let signed = SignedData::read(&der.as_slice(), der.len() as u64)?;
                        if !signed.is_detached() {
                            return Err(Error::new(
                                Kind::Integrity,
                                "the signature is wrong",
                                "it is of something else",
                            ));
                        }
                        let found = Found::new(&signed, &unsigned, unsigned.len(), rules, progress)?;
                        found.nothing_else.clone()?;
                        Some(found)
                    }
                    None => None,
                }
            }
            Format::Cms => {
                let message = cms::Message::new(envelope.file()?, envelope.len())?;
                let signature = message.signature();
                signature
                    .map(|(signed, content, len)| Found::new(signed, content, len, rules, progress))
                    .transpose()?
            }
            // Its signature is inside, where the file key is needed to see it.
            Format::OpenPgp => None,
        };
        Ok(found.map(|found| Self(Some(found))))
    }

    /// Checks that the signature is of whom the envelope says that it is.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the signature was taken away, or somebody else's is in its place.
    pub(crate) fn confirm(&self, mark: Option<SenderMark>) -> Result<()> {
        let exchanged = |why| Error::new(Kind::Integrity, "the signature is not the sender's", why);
        let Some(mark) = mark else { return Ok(()) };
        let found = self.0.as_ref().ok_or_else(|| {
            exchanged("it was signed, and its signature was taken away")
                .hint("ask the sender for a fresh copy")
        })?;
        if SenderMark::of_certificate(found.signature.certificate().der()) != mark {
            return Err(exchanged("it was signed by somebody else, whose signature was taken away")
                .hint("ask the sender for a fresh copy"));
        }
        found.nothing_else.clone()
    }

    /// Who signed.
    pub(crate) fn sender(&self) -> Option<Sender> {
        let found = self.0.as_ref()?;
        // What is signed is the whole envelope, with all its recipients.
        Some(Sender { addressed: Some(true), ..Sender::of(&found.signature, found.standing) })
    }

    /// When that was, if an authority says so.
    pub(crate) fn timestamp(&self) -> Attached {
        self.0.as_ref().map_or(Attached::Nothing, |found| found.timestamp.clone())
    }
}

impl Found {
    fn new(
        signed: &SignedData,
        content: &dyn ReadAt,
        len: u64,
        (accept, trusted): (&Accept, &TrustedAuthorities),
        progress: &dyn Progress,
    ) -> Result<Self> {
        let now = SystemTime::now();
        let signature = Signature::verify(signed, now, |hash| hash_of(content, len, hash, progress))?;
        let timestamp = Attached::of(&signature, trusted, now)?;
        let standing = accept.check_stamped(&signature, timestamp.at(), now)?;
        let nothing_else = Signature::check_nothing_else(signed);
        Ok(Self { signature, standing, timestamp, nothing_else })
    }
}
