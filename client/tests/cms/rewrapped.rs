//! A recipient who passes an envelope on: the file key is wrapped properly for somebody else, and nothing else is changed. The
//! sender never said that this person should have it, so the sender's signature must not say so.

use std::{fs, time::SystemTime};

use custodian_client::{
    Kind,
    envelope::{Format, Recipient, cms::Message},
    signed::{Accept, Signing},
    unwrapper::Unwrapper,
};
use custodian_proto::v1::Claims;

use crate::{
    common::SoftKey,
    peers::decrypt,
    senders::{Scene, attached, stripped},
};

fn replaced(whole: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let at = whole.windows(old.len()).position(|window| window == old).expect("there");
    [&whole[..at], new, &whole[at + old.len()..]].concat()
}

#[test]
fn who_wraps_the_file_key_for_somebody_else_has_no_signature_for_that() {
    let scene = Scene::new();
    let signed = scene.sealed_by("anna", b"content");
    let bare = stripped(&signed);
    let other = SoftKey::new(&[]);

    // What the recipient does, who may have the file key.
    let path = |name: &str| scene.folder.path().join(name);
    fs::write(path("bare"), &bare).expect("written");
    let file = fs::File::open(path("bare")).expect("open");
    let message = Message::new(&file, bare.len() as u64).expect("a message");
    let wrapped = message.read_header().expect("sound").wrapped_keys().first().expect("one").clone();
    let claims = Claims { format: Format::Cms.name().to_owned(), ..Claims::default() };
    let file_key = scene.key.unwrap(&wrapped, &claims).expect("unwrapped");
    let recipient = Recipient::from_certificate(&other.certificate, SystemTime::now()).expect("recipient");
    let for_other = recipient.wrap(&file_key).expect("wrapped");
    let rewrap = |envelope: &[u8]| {
        let (old, new) = (wrapped.key_id(), for_other.key_id());
        let readdressed = replaced(envelope, old.as_bytes(), new.as_bytes());
        replaced(&readdressed, wrapped.ciphertext(), for_other.ciphertext())
    };
    // It is proper: the other one can open it, with a program that knows nothing of senders.
    fs::write(path("rewrapped"), rewrap(&bare)).expect("written");
    assert_eq!(decrypt(&other, &path("rewrapped")), b"content");

    let accepted = || scene.pinned(&["anna", "bert"]);
    let error = scene.extract(&rewrap(&signed), &accepted()).expect_err("she did not sign that");
    assert!(error.kind == Kind::Integrity && error.why.contains("not what was signed"), "{error}");
    let error = scene.extract(&rewrap(&bare), &Accept::Anything).expect_err("her signature is missed");
    assert!(error.why.contains("taken away"), "{error}");
    scene.extract(&rewrap(&bare), &accepted()).expect_err("unsigned");
    let bert = scene.signer("bert");
    let berts = attached(&rewrap(&bare), Signing::by(&bert), SystemTime::now());
    let error = scene.extract(&berts, &accepted()).expect_err("he did not seal it");
    assert!(error.why.contains("somebody else"), "{error}");
    // As she sealed it, it opens.
    scene.extract(&signed, &accepted()).expect("hers");
}
