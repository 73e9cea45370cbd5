//! A signer whose key is in the custodian's token.

use custodian_proto::{
    key::KeyId,
    refusal::Refusal,
    sign::{DigestToSign, SignatureAlgorithm},
    v1::{self, Claims},
};

use super::{Remote, WhichKey};
use crate::{
    envelope::openpgp::SigningKey,
    error::{Error, Kind, Result},
    signed::{Algorithm, Hash, Signer},
};

/// What the log says that signatures are for.
const FORMAT: &str = "signature";
/// The same of signatures in OpenPGP messages.
const OPENPGP: &str = "openpgp";

/// A signing key in the custodian, with its certificates.
pub struct RemoteSigner {
    remote: Remote,
    key: KeyId,
    algorithm: Algorithm,
    certificates: Vec<Vec<u8>>,
}

impl RemoteSigner {
    /// Finds the key that a person means: of a label, the newest version that is active.
    ///
    /// # Errors
    /// There is none, several fit, or it was made for something else; and those of any call.
    pub fn open(remote: Remote, which: &WhichKey) -> Result<Self> {
        let found = remote.key_to_seal_to(which)?;
        let algorithm = match found.r#use() {
            v1::KeyUse::Sign => Algorithm::RsaPss(Hash::Sha256),
            v1::KeyUse::SignEcdsa => Algorithm::EcdsaP256,
            _ => return Err(wrong_use(&found)),
        };
        let key = id(&found)?;
        // The root is left out: whoever verifies has it.
        Ok(Self { remote, key, algorithm, certificates: vec![found.certificate] })
    }
}

/// Finds the key that a person means, to sign OpenPGP messages with.
///
/// # Errors
/// As of [`RemoteSigner::open`]; and it is an RSA key, which signs in another way than OpenPGP.
pub fn openpgp_signer(remote: Remote, which: &WhichKey) -> Result<SigningKey> {
    let found = remote.key_to_seal_to(which)?;
    match found.r#use() {
        v1::KeyUse::SignEcdsa => {}
        v1::KeyUse::Sign => {
            let why = "OpenPGP signs with RSA in PKCS #1 v1.5 only, and keys in the custodian sign with RSA-PSS only";
            return Err(Error::new(Kind::Usage, cannot_sign_with(&found), why).hint(
                "give a key that signs with ECDSA: custodianctl key create LABEL --use sign-ecdsa; or choose another --format",
            ));
        }
        _ => return Err(wrong_use(&found)),
    }
    let fingerprint = found.openpgp_fingerprint.as_slice().try_into().map_err(|_| {
        let why = "the custodian is older than this program: it makes no OpenPGP certificates of such keys";
        Error::new(Kind::Unreachable, cannot_sign_with(&found), why).hint("have the custodian updated")
    })?;
    let key = id(&found)?;
    let sign =
        move |digest: &[u8]| signature(&remote, key, SignatureAlgorithm::EcdsaP256, digest.to_vec(), OPENPGP);
    Ok(SigningKey::elsewhere(fingerprint, Box::new(sign)))
}

fn id(found: &v1::Key) -> Result<KeyId> {
    KeyId::from_resource_name(&found.name)
        .map_err(|error| Error::new(Kind::Unreachable, "cannot sign", error))
}

fn cannot_sign_with(found: &v1::Key) -> String {
    format!("cannot sign with {} ({})", found.label, found.name)
}

fn wrong_use(found: &v1::Key) -> Error {
    let refusal = Refusal::WrongKeyUse;
    Error::new(Kind::Refused, cannot_sign_with(found), refusal).hint(refusal.hint())
}

fn signature(
    remote: &Remote,
    key: KeyId,
    algorithm: SignatureAlgorithm,
    digest: Vec<u8>,
    format: &str,
) -> Result<Vec<u8>> {
    let digest = DigestToSign::new(key, algorithm, digest)
        .ok_or_else(|| Error::new(Kind::Local, "cannot sign", "the digest has the wrong length"))?;
    let claims = Claims { format: format.to_owned(), ..Claims::default() };
    Ok(remote.sign(&digest, &claims)?.signature)
}

impl Signer for RemoteSigner {
    fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let algorithm = match self.algorithm {
            Algorithm::RsaPss(hash) => SignatureAlgorithm::RsaPss(hash),
            _ => SignatureAlgorithm::EcdsaP256,
        };
        signature(&self.remote, self.key, algorithm, self.algorithm.hash().of(message), FORMAT)
    }
}
