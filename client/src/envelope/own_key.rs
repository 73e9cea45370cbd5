//! A person's own RSA key on this workstation: opens what is sealed to that person's certificate, without a custodian.

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rsa::{OaepPrivateDecryptingKey, PrivateDecryptingKey as RsaKey},
};
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    v1::Claims,
};
use der::Decode;
use spki::SubjectPublicKeyInfoRef;
use zeroize::Zeroizing;

use super::oaep;
use crate::{
    error::{Error, Kind, Result},
    unwrapper::{KeyName, Unwrapper},
};

const WHAT: &str = "cannot open the envelope";

/// An RSA key in this process's memory. What is sealed with OAEP it opens; PKCS #1 v1.5 it does not try.
///
/// Law 10 is about the `rsa` crate's private operations, whose time depends on the key. aws-lc's do not, and no stranger
/// can ask this key anything: whoever runs the program has it.
pub struct OwnKey {
    id: KeyId,
    key: OaepPrivateDecryptingKey,
}

impl OwnKey {
    /// Takes a private key: PKCS #8, DER.
    ///
    /// # Errors
    /// In text: it is no RSA key of 2048 to 8192 bits.
    pub fn new(pkcs8: &[u8]) -> std::result::Result<Self, String> {
        let unfit = |_| "it is no RSA key of 2048 bits or more".to_owned();
        let key = RsaKey::from_pkcs8(pkcs8).map_err(|why| why.to_string())?;
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(unfit)?;
        let public = SubjectPublicKeyInfoRef::from_der(public.as_ref()).map_err(|why| why.to_string())?;
        let id = KeyId::of_public_key(public.subject_public_key.raw_bytes());
        Ok(Self { id, key: OaepPrivateDecryptingKey::new(key).map_err(unfit)? })
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    fn open(&self, wrapped: &WrappedKey) -> Option<FileKey> {
        let algorithm = oaep::implementation(wrapped.wrapping())?;
        if wrapped.key_id() != self.id {
            return None;
        }
        let mut room = Zeroizing::new(vec![0; self.key.min_output_size()]);
        let opened = self.key.decrypt(algorithm, wrapped.ciphertext(), &mut room, None).ok()?;
        FileKey::take(opened)
    }
}

impl Unwrapper for OwnKey {
    fn unwrap(&self, wrapped: &WrappedKey, _: &Claims) -> Result<FileKey> {
        self.open(wrapped).ok_or_else(|| {
            Error::new(Kind::Integrity, WHAT, "its wrapped key is damaged, or was not made for this key")
        })
    }

    /// The first that opens: where an envelope names certificates, every one of them may be this key's.
    fn choose(&self, wrapped: &[WrappedKey]) -> Result<usize> {
        let of_ours: Vec<usize> = (0..wrapped.len()).filter(|at| wrapped[*at].key_id() == self.id).collect();
        if !of_ours.is_empty() && of_ours.iter().all(|at| wrapped[*at].wrapping().is_pkcs1()) {
            let why = "it is sealed with RSA PKCS #1 v1.5, which your own key does not do";
            return Err(Error::new(Kind::Local, WHAT, why)
                .hint("have it sealed with OAEP: openssl cms -encrypt -keyopt rsa_padding_mode:oaep"));
        }
        let opens = of_ours.iter().find(|at| self.open(&wrapped[**at]).is_some()).or(of_ours.first());
        opens.copied().ok_or_else(|| {
            let ids: Vec<String> = wrapped.iter().map(|one| one.key_id().to_string()).collect();
            let why = format!("it is sealed to {}, and this key is {}", ids.join(", "), self.id);
            Error::new(Kind::Refused, WHAT, why)
                .hint("give the key that it is sealed to; without --own-key the custodian is asked")
        })
    }

    /// What is named by a certificate may be ours: the key knows no certificates.
    fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
        let ours = |name: &KeyName| matches!(name, KeyName::Certificate(_)).then_some(self.id);
        Ok(names.iter().map(ours).collect())
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::Pkcs8V1Der,
        rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey},
    };
    use custodian_proto::key::KeyWrapping;

    use super::*;

    fn wrapped(to: &RsaKey, id: KeyId, plaintext: &[u8]) -> WrappedKey {
        let key = OaepPublicEncryptingKey::new(to.public_key()).unwrap();
        let mut ciphertext = vec![0; key.ciphertext_size()];
        key.encrypt(&OAEP_SHA256_MGF1SHA256, plaintext, &mut ciphertext, None).unwrap();
        WrappedKey::new(id, KeyWrapping::OaepSha256, ciphertext).unwrap()
    }

    #[test]
    fn a_key_opens_what_is_its_own_and_nothing_else() {
        let [mine, other] = [(); 2].map(|()| RsaKey::generate(KeySize::Rsa2048).unwrap());
        let own = |key: &RsaKey| {
            let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
            OwnKey::new(der.as_ref()).unwrap()
        };
        let (own, others) = (own(&mine), own(&other));
        let good = wrapped(&mine, own.id(), &[7; 32]);
        let foreign = wrapped(&other, others.id(), &[7; 32]);
        let mistaken = wrapped(&other, own.id(), &[7; 32]);
        let short = wrapped(&mine, own.id(), &[7; 16]);
        let claims = Claims::default();
        assert_eq!(own.unwrap(&good, &claims).unwrap().expose(), &[7; 32]);
        for bad in [&foreign, &mistaken, &short] {
            assert_eq!(own.unwrap(bad, &claims).err().unwrap().kind, Kind::Integrity);
        }
        assert_eq!(own.choose(&[foreign.clone(), mistaken.clone(), good]).unwrap(), 2);
        assert_eq!(own.choose(&[foreign.clone(), mistaken]).unwrap(), 1);
        assert_eq!(own.choose(&[foreign]).unwrap_err().kind, Kind::Refused);
        assert!(OwnKey::new(b"junk").is_err());
    }
}
