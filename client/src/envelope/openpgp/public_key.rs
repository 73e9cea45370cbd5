//! Public keys (RFC 9580 §5.5.2), of versions 4 and 6.

use custodian_proto::{
    key::KeyId,
    openpgp::{RSA, fingerprint_v4, hashed_v4},
};
use der::{Encode, Sequence, asn1::UintRef};
use sha2::{Digest, Sha256};

use super::packet::cut_off;
use crate::{
    envelope::{damaged, unsupported},
    error::Result,
};

const RSA_ENCRYPT_ONLY: u8 = 2;
const RSA_SIGN_ONLY: u8 = 3;
pub(super) const ECDSA: u8 = 19;
pub(super) const EDDSA_LEGACY: u8 = 22;
pub(super) const ED25519: u8 = 27;
const ED25519_LEN: usize = 32;

/// RFC 9580 §9.2: object identifiers of curves.
pub(super) const P_256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(super) const P_384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
pub(super) const P_521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519_LEGACY: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];

/// A public key.
#[derive(Clone)]
pub(super) struct PublicKey {
    pub(super) version: u8,
    /// Seconds since 1970.
    pub(super) created: u32,
    pub(super) algorithm: u8,
    pub(super) material: Material,
    pub(super) fingerprint: Vec<u8>,
    /// As signatures hash it.
    pub(super) hashed: Vec<u8>,
}

/// The key itself.
#[derive(Clone)]
pub(super) enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    Ecdsa {
        curve: Vec<u8>,
        point: Vec<u8>,
    },
    Ed25519(Vec<u8>),
    /// Neither encrypted to nor verified with.
    Other,
}

impl PublicKey {
    /// Reads the content of a public-key packet.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it makes no sense; [`crate::Kind::Local`] if its version is not known here.
    pub(super) fn parse(packet: &[u8]) -> Result<Self> {
        let (head, rest) = packet.split_first_chunk::<6>().ok_or_else(cut_off)?;
        let [version, created @ .., algorithm] = *head;
        let created = u32::from_be_bytes(created);
        let (material, fingerprint, hashed) = match version {
            4 => (rest, fingerprint_v4(packet).to_vec(), hashed_v4(packet)),
            6 => {
                let (len, material) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
                if u32::from_be_bytes(*len) as usize != material.len() {
                    return Err(damaged("a key in the certificate is not as long as it says"));
                }
                let hashed =
                    [&[0x9b], &u32::try_from(packet.len()).unwrap_or(u32::MAX).to_be_bytes()[..], packet]
                        .concat();
                (material, Sha256::digest(&hashed).to_vec(), hashed)
            }
            other => {
                return Err(unsupported(format!("a key in the certificate has version {other}, not 4 or 6")));
            }
        };
        let (material, _) = Material::parse(algorithm, material)?;
        Ok(Self { version, created, algorithm, material, fingerprint, hashed })
    }

    /// Splits the content of a secret-key packet: what the public-key packet would have, and what follows that.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it makes no sense; [`crate::Kind::Local`] if the key is of a kind that does not sign here.
    pub(super) fn split(packet: &[u8]) -> Result<(&[u8], &[u8])> {
        let (head, rest) = packet.split_first_chunk::<6>().ok_or_else(cut_off)?;
        let [version, .., algorithm] = *head;
        let public_len = match version {
            6 => {
                let (len, _) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
                4 + u32::from_be_bytes(*len) as usize
            }
            _ => match Material::parse(algorithm, rest)? {
                (Material::Other, _) => {
                    return Err(unsupported(format!("algorithm {algorithm} does not sign")));
                }
                (_, secret) => rest.len() - secret.len(),
            },
        };
        packet.split_at_checked(6 + public_len).ok_or_else(cut_off)
    }

    /// Its id as X.509 knows it (RFC 7093 method 1), so that one list pins keys of both worlds; `None` if it is of no kind
    /// that is known here.
    pub(super) fn id(&self) -> Option<KeyId> {
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                let key = RsaPublicKey {
                    modulus: UintRef::new(modulus).ok()?,
                    public_exponent: UintRef::new(exponent).ok()?,
                };
                Some(KeyId::of_public_key(&key.to_der().ok()?))
            }
            Material::Ecdsa { point, .. } | Material::Ed25519(point) => Some(KeyId::of_public_key(point)),
            Material::Other => None,
        }
    }

    /// Its algorithm, in text.
    pub(super) fn algorithm_name(&self) -> String {
        match &self.material {
            Material::Rsa { .. } => "RSA".to_owned(),
            Material::Ecdsa { curve, .. } => match curve.as_slice() {
                P_256 => "ECDSA P-256".to_owned(),
                P_384 => "ECDSA P-384".to_owned(),
                P_521 => "ECDSA P-521".to_owned(),
                _ => "ECDSA".to_owned(),
            },
            Material::Ed25519(_) => "Ed25519".to_owned(),
            Material::Other => format!("algorithm {}", self.algorithm),
        }
    }

    /// Whether this is one of its names: the fingerprint, or the short name.
    pub(super) fn is_called(&self, name: &[u8]) -> bool {
        match name.len() {
            8 => name == self.key_id(),
            _ => name == self.fingerprint,
        }
    }

    /// Its short name.
    pub(super) fn key_id(&self) -> [u8; 8] {
        key_id(self.version, &self.fingerprint)
    }
}

/// The short name of a key: of version 4 the end, of version 6 the beginning of its fingerprint.
pub(super) fn key_id(version: u8, fingerprint: &[u8]) -> [u8; 8] {
    let id = match version {
        4 => fingerprint.last_chunk(),
        _ => fingerprint.first_chunk(),
    };
    id.copied().unwrap_or_default()
}

/// RFC 8017 §A.1.1.
#[derive(Sequence)]
pub(super) struct RsaPublicKey<'a> {
    pub(super) modulus: UintRef<'a>,
    pub(super) public_exponent: UintRef<'a>,
}

impl Material {
    /// Reads it, and tells what follows. What is not known here reaches to the end.
    fn parse(algorithm: u8, bytes: &[u8]) -> Result<(Self, &[u8])> {
        let mut rest = bytes;
        let material = match algorithm {
            RSA | RSA_ENCRYPT_ONLY | RSA_SIGN_ONLY => {
                Self::Rsa { modulus: take_mpi(&mut rest)?.to_vec(), exponent: take_mpi(&mut rest)?.to_vec() }
            }
            ECDSA => {
                Self::Ecdsa { curve: take_oid(&mut rest)?.to_vec(), point: take_mpi(&mut rest)?.to_vec() }
            }
            EDDSA_LEGACY => match (take_oid(&mut rest)?, take_mpi(&mut rest)?) {
                // The 0x40 says that it is in the curve's own form.
                (ED25519_LEGACY, [0x40, point @ ..]) => Self::Ed25519(point.to_vec()),
                _ => Self::Other,
            },
            ED25519 => {
                let (point, secret) = rest.split_at_checked(ED25519_LEN).ok_or_else(cut_off)?;
                rest = secret;
                Self::Ed25519(point.to_vec())
            }
            _ => Self::Other,
        };
        Ok((material, rest))
    }
}

/// The next number.
pub(super) fn take_mpi<'b>(bytes: &mut &'b [u8]) -> Result<&'b [u8]> {
    let (bits, rest) = bytes.split_first_chunk::<2>().ok_or_else(cut_off)?;
    let len = usize::from(u16::from_be_bytes(*bits)).div_ceil(8);
    let (number, rest) = rest.split_at_checked(len).ok_or_else(cut_off)?;
    *bytes = rest;
    Ok(number)
}

fn take_oid<'b>(bytes: &mut &'b [u8]) -> Result<&'b [u8]> {
    let (len, rest) = bytes.split_first().ok_or_else(cut_off)?;
    let (oid, rest) = rest.split_at_checked(usize::from(*len)).ok_or_else(cut_off)?;
    *bytes = rest;
    Ok(oid)
}
