//! Keys as other tools make them: each with one thing wrong.

use std::path::Path;

use cryptoki::{
    mechanism::{Mechanism, MechanismType},
    object::{Attribute, ObjectClass},
    session::{Session, UserType},
    types::AuthPin,
};

use crate::token::pkcs11;

/// In the module's first token, which its own configuration leads to.
fn session(module: &Path) -> Session {
    let pkcs11 = pkcs11::load(module).unwrap();
    let slot = pkcs11.get_slots_with_initialized_token().unwrap()[0];
    let session = pkcs11.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::from(super::PIN))).unwrap();
    session
}

/// Copies the private key of this id, under another label.
pub(super) fn copy(module: &Path, id: &str) {
    let session = session(module);
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(hex::decode(id).unwrap())];
    let [key] = session.find_objects(&template).unwrap()[..] else { panic!("one key {id}") };
    session.copy_object(key, &[Attribute::Token(true), Attribute::Label(b"twin".to_vec())]).unwrap();
}

/// Makes one of each.
pub(super) fn make(module: &Path) {
    let session = session(module);
    let pinned = || Attribute::AllowedMechanisms(vec![MechanismType::RSA_PKCS_OAEP]);
    generate(
        &session,
        "extractable",
        2048,
        &[Attribute::Extractable(true), Attribute::Sign(false), pinned()],
    );
    generate(
        &session,
        "two purposes",
        2048,
        &[Attribute::Extractable(false), Attribute::Sign(true), pinned()],
    );
    generate(&session, "unpinned", 2048, &[Attribute::Extractable(false), Attribute::Sign(false)]);
    generate(&session, "too small", 1024, &[Attribute::Extractable(false), Attribute::Sign(false), pinned()]);
    // Made readable, and made sensitive only then: the token remembers.
    let once_readable =
        [Attribute::Sensitive(false), Attribute::Extractable(false), Attribute::Sign(false), pinned()];
    generate(&session, "imported", 2048, &once_readable);
    let label = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(b"imported".to_vec())];
    let key = session.find_objects(&label).unwrap()[0];
    session.update_attributes(key, &[Attribute::Sensitive(true)]).unwrap();
}

fn generate(session: &Session, label: &str, bits: u64, attributes: &[Attribute]) {
    let public = [
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Encrypt(true),
        Attribute::ModulusBits(bits.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
    ];
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Decrypt(true),
        Attribute::SignRecover(false),
        Attribute::Unwrap(false),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    let sensitive = |one: &Attribute| matches!(one, Attribute::Sensitive(_));
    if !attributes.iter().any(sensitive) {
        private.push(Attribute::Sensitive(true));
    }
    private.extend_from_slice(attributes);
    session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private).unwrap();
}
