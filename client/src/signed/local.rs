//! A signer whose key is in a file.

use std::path::Path;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
        KeyPair, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
    },
};
use custodian_proto::secret::Secret;
use der::Decode;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{
    Algorithm, Hash, Signer, SignerCertificate, pbes2, pem,
    pkcs12::{self, Contents, EncryptedPrivateKey},
    scheme,
};
use crate::{
    envelope::openpgp::is_secret_key,
    error::{Error, Kind, Result},
    private_file,
};

/// A private key in this process's memory, with its certificates. aws-lc's private operations take the same time whatever
/// the key.
pub struct LocalSigner {
    key: Key,
    algorithm: Algorithm,
    certificates: Vec<Vec<u8>>,
}

enum Key {
    Rsa(Box<RsaKeyPair>, Hash),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl LocalSigner {
    /// Reads a private key and its certificates from a file: PEM, also with the key encrypted (PBES2), or PKCS #12. The
    /// certificates come from `certificates` instead, if that is given. `password` is asked if there is need for it.
    ///
    /// # Errors
    /// [`Kind::Local`] if a file cannot be read or used, other users can read the key, the password is wrong, or none of the
    /// certificates is the key's; and those of `password`.
    pub fn open(
        file: &Path,
        certificates: Option<&Path>,
        password: &dyn Fn() -> Result<Secret>,
    ) -> Result<Self> {
        let cannot = |why: &dyn std::fmt::Display| cannot_use(file, why);
        let bytes = private_file::read(file, &cannot)?;
        if is_secret_key(&bytes) {
            return Err(cannot(&"it is an OpenPGP key, which signs OpenPGP only")
                .hint("give --format openpgp, or a key in PEM or PKCS #12"));
        }
        let certificates = certificates.map(crate::remote::certificates).transpose()?;
        Self::read(&bytes, file, certificates, password)
    }

    /// As [`LocalSigner::open`], of what a file of this name holds.
    ///
    /// # Errors
    /// As [`LocalSigner::open`].
    pub fn read(
        bytes: &[u8],
        file: &Path,
        certificates: Option<Vec<Vec<u8>>>,
        password: &dyn Fn() -> Result<Secret>,
    ) -> Result<Self> {
        let cannot = |why: &dyn std::fmt::Display| cannot_use(file, why);
        let Contents { key, certificates: own } = if is_pem(bytes) {
            from_pem(bytes, file, password)?
        } else {
            pkcs12::open(bytes, password()?.expose()).map_err(|why| cannot(&why))?
        };
        let chain = certificates.unwrap_or(own);
        if chain.is_empty() {
            return Err(cannot(&"its certificate is not in the same file")
                .hint("name the file with the certificate and its chain: --sign-cert FILE"));
        }
        Self::new(&key, chain).map_err(|why| cannot(&why))
    }

    /// Takes a private key (PKCS #8, or the older forms for RSA and EC) and certificates, all in DER. The key's own
    /// certificate may stand anywhere among them.
    ///
    /// # Errors
    /// In text: the key cannot sign, or none of the certificates is its own.
    pub fn new(key: &[u8], mut certificates: Vec<Vec<u8>>) -> std::result::Result<Self, String> {
        for index in 0..certificates.len() {
            let certificate = SignerCertificate::from_der(&certificates[index]).map_err(|error| error.why)?;
            let public = certificate.public_key();
            let Some(algorithm) = scheme::algorithm_of(public) else { continue };
            let Some(found) = Key::read(key, algorithm) else { continue };
            if public.subject_public_key.as_bytes() == Some(found.public_key()) {
                certificate.check_usage().map_err(|error| error.why)?;
                certificates[..=index].rotate_right(1);
                return Ok(Self { key: found, algorithm, certificates });
            }
        }
        Err("none of the certificates is that of the key, or it is neither RSA, ECDSA P-256 or P-384, nor Ed25519"
            .to_owned())
    }
}

impl Key {
    /// Reads a key of this kind; `None` if it is of another.
    fn read(der: &[u8], algorithm: Algorithm) -> Option<Self> {
        let ecdsa = |kind| {
            EcdsaKeyPair::from_pkcs8(kind, der)
                .or_else(|_| EcdsaKeyPair::from_private_key_der(kind, der))
                .ok()
        };
        match algorithm {
            Algorithm::RsaPss(hash) => RsaKeyPair::from_pkcs8(der)
                .or_else(|_| RsaKeyPair::from_der(der))
                .ok()
                .map(|key| Self::Rsa(Box::new(key), hash)),
            Algorithm::EcdsaP256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Self::Ecdsa),
            Algorithm::EcdsaP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING).map(Self::Ecdsa),
            Algorithm::Ed25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(Self::Ed25519),
        }
    }

    fn public_key(&self) -> &[u8] {
        match self {
            Self::Rsa(key, _) => key.public_key().as_ref(),
            Self::Ecdsa(key) => key.public_key().as_ref(),
            Self::Ed25519(key) => key.public_key().as_ref(),
        }
    }
}

impl Signer for LocalSigner {
    fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let failed = |_| Error::new(Kind::Local, "cannot sign", "the cryptographic library refuses");
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key, hash) => {
                let padding = match hash {
                    Hash::Sha256 => &RSA_PSS_SHA256,
                    Hash::Sha384 => &RSA_PSS_SHA384,
                    Hash::Sha512 => &RSA_PSS_SHA512,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            Key::Ecdsa(key) => Ok(key.sign(&random, message).map_err(failed)?.as_ref().to_vec()),
            Key::Ed25519(key) => Ok(key.try_sign(message).map_err(failed)?.as_ref().to_vec()),
        }
    }
}

fn is_pem(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"-----BEGIN ";
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

fn from_pem(bytes: &[u8], file: &Path, password: &dyn Fn() -> Result<Secret>) -> Result<Contents> {
    const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
    let cannot = |why: &dyn std::fmt::Display| cannot_use(file, why);
    let certificates = CertificateDer::pem_slice_iter(bytes)
        .map(|found| found.map(|der| der.to_vec()).map_err(|why| cannot(&why)))
        .collect::<Result<_>>()?;
    let text = std::str::from_utf8(bytes).map_err(|why| cannot(&why))?;
    let key = if text.contains(&format!("-----BEGIN {ENCRYPTED}-----")) {
        let der = pem::decode(bytes.to_vec(), &[ENCRYPTED]).map_err(|why| cannot(&why))?;
        let encrypted = EncryptedPrivateKey::from_der(&der).map_err(|why| cannot(&why))?;
        let password = password()?;
        pbes2::decrypt(&encrypted.algorithm, encrypted.data.as_bytes(), password.expose().as_bytes())
            .map_err(|why| cannot(&why))?
    } else {
        let key = PrivateKeyDer::from_pem_slice(bytes)
            .map_err(|why| cannot(&why).hint("it must hold a private key, in PEM or PKCS #12"))?;
        Zeroizing::new(key.secret_der().to_vec())
    };
    Ok(Contents { key, certificates })
}

fn cannot_use(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Local, format!("cannot sign with the key {}", path.display()), why)
}
