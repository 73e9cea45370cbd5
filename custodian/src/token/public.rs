//! Public keys, as the token gives their parts: SubjectPublicKeyInfo and the id that follows from it.

use const_oid::db::{
    rfc5912::{ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1},
    rfc8410::ID_ED_25519,
};
use custodian_proto::{key::KeyId, limits::MODULUS_BITS};
use der::{
    Decode, Encode, Sequence,
    asn1::{AnyRef, BitStringRef, ObjectIdentifier, OctetStringRef, PrintableStringRef, UintRef},
};
use spki::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::KeyKind;

/// A public key and what follows from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PublicKey {
    pub(super) id: KeyId,
    pub(super) kind: KeyKind,
    /// SubjectPublicKeyInfo, DER.
    pub(super) spki: Vec<u8>,
}

/// RFC 8017 §A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

impl PublicKey {
    /// From CKA_MODULUS and CKA_PUBLIC_EXPONENT, big-endian. `Err` says what is wrong with the key.
    pub(super) fn rsa(modulus: &[u8], public_exponent: &[u8]) -> Result<Self, String> {
        let bad = |error: der::Error| format!("its public key makes no sense: {error}");
        let key = RsaPublicKey {
            modulus: UintRef::new(modulus).map_err(bad)?,
            public_exponent: UintRef::new(public_exponent).map_err(bad)?,
        };
        let leading = modulus.iter().take_while(|byte| **byte == 0).count();
        let first = modulus.get(leading).copied().unwrap_or(0);
        let modulus_bits = u32::try_from((modulus.len() - leading) * 8).unwrap_or(u32::MAX);
        if !MODULUS_BITS.contains(&modulus_bits) || first < 0x80 {
            return Err(format!("it is not of 2048, 3072 or 4096 bits but of about {modulus_bits}"));
        }
        let subject_public_key = key.to_der().map_err(bad)?;
        let spki = spki(RSA_ENCRYPTION, Some(AnyRef::NULL), &subject_public_key).map_err(bad)?;
        let kind = KeyKind::RsaUnwrap { modulus_bits };
        Ok(Self { id: KeyId::of_public_key(&subject_public_key), kind, spki })
    }

    /// From CKA_EC_PARAMS and CKA_EC_POINT. `Err` says what is wrong with the key.
    pub(super) fn p256(params: &[u8], point: &[u8]) -> Result<Self, String> {
        if ObjectIdentifier::from_der(params) != Ok(SECP_256_R_1) {
            return Err("it is not on the curve P-256".to_owned());
        }
        let point = unwrapped(point);
        if point.len() != 65 || point[0] != 0x04 {
            return Err("its public key is no uncompressed point of P-256".to_owned());
        }
        let spki = spki(ID_EC_PUBLIC_KEY, Some(AnyRef::from(&SECP_256_R_1)), point)
            .map_err(|error| format!("its public key makes no sense: {error}"))?;
        Ok(Self { id: KeyId::of_public_key(point), kind: KeyKind::EcdsaP256Sign, spki })
    }

    /// From CKA_EC_PARAMS and CKA_EC_POINT of a key on an Edwards curve. `Err` says what is wrong with the key.
    pub(super) fn ed25519(params: &[u8], point: &[u8]) -> Result<Self, String> {
        let by_oid = ObjectIdentifier::from_der(params) == Ok(ID_ED_25519);
        if !by_oid && params != edwards25519().map_err(|error| error.to_string())? {
            return Err("it is not on the curve edwards25519".to_owned());
        }
        let key = unwrapped(point);
        if key.len() != 32 {
            return Err("its public key is none of Ed25519".to_owned());
        }
        let spki = spki(ID_ED_25519, None, key)
            .map_err(|error| format!("its public key makes no sense: {error}"))?;
        Ok(Self { id: KeyId::of_public_key(key), kind: KeyKind::Ed25519Sign, spki })
    }
}

/// CKA_EC_PARAMS of Ed25519: the curve's name (PKCS#11 v3.0 §2.3.5), which more modules take than its OID.
pub(super) fn edwards25519() -> der::Result<Vec<u8>> {
    PrintableStringRef::new("edwards25519")?.to_der()
}

/// PKCS#11 wants a point in an OCTET STRING, but not every module knows.
fn unwrapped(point: &[u8]) -> &[u8] {
    match <&OctetStringRef>::from_der(point) {
        Ok(octets) => octets.as_bytes(),
        Err(_) => point,
    }
}

fn spki(oid: ObjectIdentifier, parameters: Option<AnyRef<'_>>, key: &[u8]) -> der::Result<Vec<u8>> {
    SubjectPublicKeyInfo {
        algorithm: AlgorithmIdentifier { oid, parameters },
        subject_public_key: BitStringRef::from_bytes(key)?,
    }
    .to_der()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::{AsDer, PublicKeyX509Der},
        rsa::{KeySize, PrivateDecryptingKey},
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
    };

    use super::*;

    #[test]
    fn rsa_keys_get_the_same_spki_as_elsewhere() {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap().public_key();
        let theirs = AsDer::<PublicKeyX509Der<'_>>::as_der(&key).unwrap();
        let info = spki::SubjectPublicKeyInfoRef::try_from(theirs.as_ref()).unwrap();
        let parts = RsaPublicKey::from_der(info.subject_public_key.raw_bytes()).unwrap();
        // Some modules give the modulus with a leading zero.
        let mut modulus = vec![0];
        modulus.extend_from_slice(parts.modulus.as_bytes());
        let ours = PublicKey::rsa(&modulus, parts.public_exponent.as_bytes()).unwrap();
        assert_eq!(ours.spki, theirs.as_ref());
        assert_eq!(ours.kind, KeyKind::RsaUnwrap { modulus_bits: 2048 });
    }

    #[test]
    fn p256_keys_get_the_same_spki_as_elsewhere() {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let theirs = AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap();
        let params = SECP_256_R_1.to_der().unwrap();
        let point = key.public_key().as_ref();
        let wrapped = OctetStringRef::new(point).unwrap().to_der().unwrap();
        assert_eq!(PublicKey::p256(&params, point).unwrap().spki, theirs.as_ref());
        assert_eq!(PublicKey::p256(&params, &wrapped).unwrap().spki, theirs.as_ref());
    }

    #[test]
    fn ed25519_keys_get_the_same_spki_as_elsewhere_however_a_module_names_the_curve() {
        let key = Ed25519KeyPair::generate().unwrap();
        let theirs = AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap();
        let point = key.public_key().as_ref();
        let wrapped = OctetStringRef::new(point).unwrap().to_der().unwrap();
        for params in [edwards25519().unwrap(), ID_ED_25519.to_der().unwrap()] {
            for point in [point, &wrapped] {
                assert_eq!(PublicKey::ed25519(&params, point).unwrap().spki, theirs.as_ref());
            }
        }
        assert!(PublicKey::ed25519(&SECP_256_R_1.to_der().unwrap(), point).is_err());
        assert!(PublicKey::ed25519(&ID_ED_25519.to_der().unwrap(), &point[1..]).is_err());
    }

    #[test]
    fn odd_sizes_are_refused() {
        assert!(PublicKey::rsa(&[0xff; 128], &[1, 0, 1]).is_err());
        assert!(PublicKey::rsa(&[0x7f; 256], &[1, 0, 1]).is_err());
        assert!(PublicKey::rsa(&[0xff; 257], &[1, 0, 1]).is_err());
        assert!(PublicKey::rsa(&[], &[]).is_err());
    }
}
