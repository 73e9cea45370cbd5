//! A signer whose key is in a PKCS #11 token: a smart card, a security key, or anything else with such a module.
//!
//! Reading order: [`TokenSigner`] is the signer; [`Card`] a token in a loaded module; [`Key`] a key in it, with its
//! certificates; [`Aside`] the thread that all calls into the module are made on.
//!
//! **The vendor's library runs in this process.** So what it may do to us is kept small:
//! - It is loaded, and the PIN given to it, before anything is written; it is called again when only the signature is missing.
//! - If it crashes, this process ends with it. An envelope that is not complete has no name but a hidden one, and the next run
//!   sweeps it. The files that were to be sealed are only ever read.
//! - If it hangs, Ctrl-C ends the wait and cleans up: nobody here waits for it without listening to the person, too.
//! - What it signs is verified with the certificate. A wrong certificate, or a token that computes wrongly, is found out here.

mod aside;
mod card;
mod key;
mod way;

use std::path::Path;

use custodian_proto::{pkcs11::KeyUri, secret::Secret};

pub use self::card::Login;
use self::{aside::Aside, card::Card, key::Key};
use super::{Algorithm, Signer, SignerCertificate, scheme::Scheme};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    remote,
};

/// A private key in a token, with its certificates.
pub struct TokenSigner {
    aside: Aside<Card>,
    key: Key,
}

impl TokenSigner {
    /// Finds the one key that a URI names, and logs in to its token. The certificates come from `certificates`, if that is
    /// given, and else from the token. `pin` is asked once: what it gives is shown to the token.
    ///
    /// # Errors
    /// [`Kind::Local`] if the module cannot be used, no token or key fits or several do, the token refuses the PIN, or the
    /// key has no certificate or signs in no way that we use; [`Kind::Interrupted`]; and those of `pin`.
    pub fn open(
        uri: &KeyUri,
        certificates: Option<&Path>,
        pin: &dyn Fn(&Login) -> Result<Option<Secret>>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let given = certificates.map(remote::certificates).transpose()?;
        let wanted = uri.clone();
        let (aside, login) = Aside::start(interrupt, move || {
            let card = Card::open(&wanted)?;
            let login = card.login_needed();
            Ok((card, login))
        })?;
        let pin = pin(&login)?;
        let uri = uri.clone();
        let key = aside.call(move |card: &mut Card| -> Result<Key> {
            card.login(pin)?;
            let key = Key::find(card, &uri, given)?;
            if !key.pin_each_time {
                card.forget_pin();
            }
            Ok(key)
        })??;
        Ok(Self { aside, key })
    }
}

impl Signer for TokenSigner {
    fn certificates(&self) -> &[Vec<u8>] {
        &self.key.certificates
    }

    fn algorithm(&self) -> Algorithm {
        self.key.algorithm
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let (key, text) = (self.key.clone(), message.to_vec());
        let signature = self.aside.call(move |card: &mut Card| key.sign(card, &text))??;
        let leaf = self.key.certificates.first().ok_or_else(|| cannot_sign("the key has no certificate"))?;
        let leaf = SignerCertificate::from_der(leaf)?;
        if !Scheme::of(self.key.algorithm).verify(leaf.public_key(), message, &signature) {
            return Err(cannot_sign("what the token made is no signature under the key of its certificate")
                .hint(
                    "name the key's own certificate: --sign-cert FILE; if it is, the token computes wrongly",
                ));
        }
        Ok(signature)
    }
}

fn cannot_sign(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "cannot sign with the token", why)
}
