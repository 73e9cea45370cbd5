//! Numbers for what keys are and how they wrap.

use custodian_proto::{key::KeyWrapping, v1};

use crate::token::KeyKind;

pub(super) fn wrapping_of(number: i32) -> Option<KeyWrapping> {
    KeyWrapping::try_from(v1::KeyWrapping::try_from(number).ok()?).ok()
}

/// An RSA modulus has more bits than any of the numbers that stand for other keys.
pub(super) fn bits_of(kind: KeyKind) -> u32 {
    match kind {
        KeyKind::RsaUnwrap { modulus_bits }
        | KeyKind::RsaOpenPgp { modulus_bits }
        | KeyKind::RsaPssSign { modulus_bits } => modulus_bits,
        KeyKind::EcdsaP256Sign => 0,
        KeyKind::Ed25519Sign => 1,
    }
}

/// What an RSA key is for.
pub(super) fn rsa_use(kind: KeyKind) -> u32 {
    match kind {
        KeyKind::RsaOpenPgp { .. } => 1,
        KeyKind::RsaPssSign { .. } => 2,
        KeyKind::RsaUnwrap { .. } | KeyKind::EcdsaP256Sign | KeyKind::Ed25519Sign => 0,
    }
}

pub(super) fn kind_of(modulus_bits: u32, rsa_use: u32) -> KeyKind {
    match (modulus_bits, rsa_use) {
        (0, _) => KeyKind::EcdsaP256Sign,
        (1, _) => KeyKind::Ed25519Sign,
        (modulus_bits, 1) => KeyKind::RsaOpenPgp { modulus_bits },
        (modulus_bits, 2) => KeyKind::RsaPssSign { modulus_bits },
        (modulus_bits, _) => KeyKind::RsaUnwrap { modulus_bits },
    }
}
