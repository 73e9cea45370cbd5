//! Unwrapping and signing through the custodian.

use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    refusal::Refusal,
    sign::DigestToSign,
    tlog::Receipt,
    v1::{self, Claims, custody_service_client::CustodyServiceClient},
};

use super::{Remote, log::read_receipt};
use crate::{
    error::{Error, Kind, Result},
    unwrapper::{KeyName, Unwrapper},
};

/// What fails in here, to a person. The command line puts the envelope's name in its place.
pub(super) const WHAT: &str = "cannot open the envelope";

/// Whether a receipt is wanted with the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiptWanted {
    /// It is; the answer comes once a signed checkpoint covers the record.
    Yes,
    /// It is not.
    No,
}

/// A file key, and where the log says so.
pub struct Recorded {
    /// The key.
    pub file_key: FileKey,
    /// The number of the record.
    pub sequence: u64,
    /// The receipt, if it was wanted and came along. If it did not come, [`Remote::receipt`] gets it, or tells why not.
    pub receipt: Option<Receipt>,
}

impl Remote {
    /// Unwraps one file key, and tells which record says so.
    ///
    /// # Errors
    /// As [`Unwrapper::unwrap`].
    pub fn unwrap_recorded(
        &self,
        wrapped: &WrappedKey,
        claims: &Claims,
        receipt: ReceiptWanted,
    ) -> Result<Recorded> {
        let request = request(wrapped, claims, receipt);
        let mut answer = self
            .call(WHAT, async |service| CustodyServiceClient::new(service).unwrap(request.clone()).await)?;
        let file_key = file_key(&mut answer)?;
        let receipt = match answer.receipt.as_str() {
            "" => None,
            text => Some(read_receipt(WHAT, text, answer.sequence)?),
        };
        Ok(Recorded { file_key, sequence: answer.sequence, receipt })
    }
}

/// The request, which is the same by itself and in a batch: an approval of one is good for the other.
pub(super) fn request(wrapped: &WrappedKey, claims: &Claims, receipt: ReceiptWanted) -> v1::UnwrapRequest {
    v1::UnwrapRequest {
        key: wrapped.key_id().resource_name(),
        wrapping: v1::KeyWrapping::from(wrapped.wrapping()).into(),
        wrapped_key: wrapped.ciphertext().to_vec(),
        claims: Some(claims.clone()),
        with_receipt: receipt == ReceiptWanted::Yes,
    }
}

/// Law 4 holds at this end too.
pub(super) fn file_key(answer: &mut v1::UnwrapResponse) -> Result<FileKey> {
    FileKey::take(&mut answer.file_key).ok_or_else(|| {
        let why = format!("the custodian's answer is no file key (request {})", answer.request_id);
        Error::new(Kind::Integrity, WHAT, why).hint("tell the administrators the request id")
    })
}

impl Remote {
    /// Has a digest signed by a key in the token.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn sign(&self, digest: &DigestToSign, claims: &Claims) -> Result<v1::SignResponse> {
        let request = v1::SignRequest {
            key: digest.key_id().resource_name(),
            algorithm: v1::SignatureAlgorithm::from(digest.algorithm()).into(),
            digest: digest.digest().to_vec(),
            claims: Some(claims.clone()),
        };
        let ask = async |service| CustodyServiceClient::new(service).sign(request.clone()).await;
        Ok(self.call("cannot sign", ask)?)
    }
}

impl Unwrapper for Remote {
    fn unwrap(&self, wrapped: &WrappedKey, claims: &Claims) -> Result<FileKey> {
        Ok(self.unwrap_recorded(wrapped, claims, ReceiptWanted::No)?.file_key)
    }

    /// The first key that is active; else the first that is there. What is wrapped with PKCS #1 v1.5 in CMS comes last, and
    /// counts only if the key was made for that. What refuses us here will refuse to unwrap as well, and then the record names
    /// the file.
    fn choose(&self, wrapped: &[WrappedKey]) -> Result<usize> {
        let (last, mut left): (Vec<_>, Vec<_>) =
            wrapped.iter().enumerate().partition(|(_, one)| one.wrapping() == KeyWrapping::Pkcs1);
        left.extend(last);
        let mut unfit = None;
        loop {
            let keys: Vec<_> = left.iter().map(|(_, one)| one.key_id()).collect();
            let Some(chosen) = self.choose_key(&keys)? else {
                return Err(unfit.unwrap_or_else(|| self.no_common_key(&keys)));
            };
            let (index, one) = left.remove(chosen);
            if one.wrapping() != KeyWrapping::Pkcs1 {
                return Ok(index);
            }
            match self.check_pkcs1(one.key_id()) {
                Ok(()) => return Ok(index),
                Err(error) if error.kind == Kind::Refused && !self.missed_person() => {
                    unfit = unfit.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
        let keys = self.keys()?;
        let found = |name: &KeyName| {
            let key = keys.iter().find(|key| {
                name.is_of(&key.openpgp_fingerprint) || name.is_of_certificate(&key.certificate)
            })?;
            KeyId::from_resource_name(&key.name).ok()
        };
        Ok(names.iter().map(found).collect())
    }

    fn openpgp_fingerprints(&self, key: KeyId) -> Result<Vec<Vec<u8>>> {
        let key = self.find_key(&key, WHAT).map_err(|failure| failure.error)?;
        let known = [key.openpgp_certificate_fingerprint, key.openpgp_fingerprint];
        Ok(known.into_iter().filter(|fingerprint| !fingerprint.is_empty()).collect())
    }
}

impl Remote {
    /// Checks that a key was made for PKCS #1 v1.5 in CMS messages. One that was not would reject what it is asked, and that
    /// would be charged.
    fn check_pkcs1(&self, key: KeyId) -> Result<()> {
        let found = self.find_key(&key, WHAT).map_err(|failure| failure.error)?;
        if found.r#use() == v1::KeyUse::Pkcs1 {
            return Ok(());
        }
        let why = format!(
            "it is sealed with RSA PKCS #1 v1.5 to the key {} ({key}), which was not made for that ({})",
            found.label,
            Refusal::WrongKeyUse.code()
        );
        Err(Error::new(Kind::Refused, WHAT, why).hint(
            "have it sealed with OAEP (openssl cms -encrypt -keyopt rsa_padding_mode:oaep), or to a key that was made for this \
             (custodianctl key create LABEL --use pkcs1)",
        ))
    }

    /// Which of the keys that an envelope is sealed to is asked for: see [`Unwrapper::choose`]. `None`: the custodian has none of
    /// them.
    ///
    /// # Errors
    /// Those of any call that say nothing about these keys.
    pub fn choose_key(&self, keys: &[KeyId]) -> Result<Option<usize>> {
        let mut suspended = None;
        for (index, key) in keys.iter().enumerate() {
            match self.find_key(key, WHAT) {
                Ok(key) if key.state() == v1::KeyState::Active => return Ok(Some(index)),
                Ok(_) => suspended = suspended.or(Some(index)),
                Err(failure) if is_absent(failure.refusal) => {}
                // What is said for want of a person is not about the key.
                Err(failure) if failure.refusal.is_some() && !self.missed_person() => return Ok(Some(index)),
                Err(failure) => return Err(failure.error),
            }
        }
        Ok(suspended)
    }

    fn no_common_key(&self, keys: &[KeyId]) -> Error {
        let sealed_to: Vec<String> = keys.iter().map(KeyId::to_string).collect();
        let served = match self.keys() {
            Ok(keys) => keys,
            Err(error) => return error,
        };
        let served: Vec<String> = served
            .iter()
            .map(|key| format!("{} ({})", key.name.trim_start_matches("keys/"), key.label))
            .collect();
        let list = |ids: Vec<String>| if ids.is_empty() { "no key".to_owned() } else { ids.join(", ") };
        let why = format!(
            "it is sealed to {}, but the custodian has {} ({})",
            list(sealed_to),
            list(served),
            Refusal::KeyUnknown.code()
        );
        Error::new(Kind::Refused, WHAT, why)
            .hint("ask whoever sealed it to seal it to a key of this custodian, or use the custodian it is meant for")
    }
}

fn is_absent(refusal: Option<Refusal>) -> bool {
    matches!(refusal, Some(Refusal::KeyUnknown | Refusal::NotFound))
}
