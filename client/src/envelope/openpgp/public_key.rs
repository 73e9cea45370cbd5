//! Public keys (RFC 9580 §5.5.2), of versions 4 and 6.

use custodian_proto::openpgp::{RSA, fingerprint_v4, hashed_v4};
use sha2::{Digest, Sha256};

use super::packet::cut_off;
use crate::{
    envelope::{damaged, unsupported},
    error::Result,
};

const RSA_ENCRYPT_ONLY: u8 = 2;
const RSA_SIGN_ONLY: u8 = 3;
const ECDSA: u8 = 19;
pub(super) const EDDSA_LEGACY: u8 = 22;
const ED25519: u8 = 27;

/// RFC 9580 §9.2: object identifiers of curves.
pub(super) const P_256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(super) const P_384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
pub(super) const P_521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519_LEGACY: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];

/// A public key.
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
        Ok(Self {
            version,
            created,
            algorithm,
            material: Material::parse(algorithm, material)?,
            fingerprint,
            hashed,
        })
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

impl Material {
    fn parse(algorithm: u8, bytes: &[u8]) -> Result<Self> {
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
            ED25519 => Self::Ed25519(bytes.to_vec()),
            _ => Self::Other,
        };
        Ok(material)
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
