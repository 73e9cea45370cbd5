//! A signer whose key is in the custodian's token.

use custodian_proto::{
    key::KeyId,
    refusal::Refusal,
    sign::{DigestToSign, SignatureAlgorithm},
    v1::{self, Claims},
};

use super::{Remote, WhichKey};
use crate::{
    error::{Error, Kind, Result},
    signed::{Algorithm, Hash, Signer},
};

/// What the log says that signatures are for.
const FORMAT: &str = "signature";

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
            _ => {
                let refusal = Refusal::WrongKeyUse;
                let what = format!("cannot sign with {} ({})", found.label, found.name);
                return Err(Error::new(Kind::Refused, what, refusal).hint(refusal.hint()));
            }
        };
        let key = KeyId::from_resource_name(&found.name)
            .map_err(|error| Error::new(Kind::Unreachable, "cannot sign", error))?;
        // The root is left out: whoever verifies has it.
        Ok(Self { remote, key, algorithm, certificates: vec![found.certificate] })
    }
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
        let digest = DigestToSign::new(self.key, algorithm, self.algorithm.hash().of(message))
            .ok_or_else(|| Error::new(Kind::Local, "cannot sign", "the digest has the wrong length"))?;
        let claims = Claims { format: FORMAT.to_owned(), ..Claims::default() };
        Ok(self.remote.sign(&digest, &claims)?.signature)
    }
}
