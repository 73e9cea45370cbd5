//! Whose signatures count, and that nothing can be changed.

use std::fs;

use custodian_client::{
    Kind,
    signed::{Accept, AcceptTable, Choice},
};
use custodian_proto::identity::IdentityLevel;
use rcgen::ExtendedKeyUsagePurpose;

use crate::{
    peers::{signed, verified},
    people::{People, Person, opened},
};

fn rules(table: AcceptTable) -> Accept {
    Accept::load(&table).expect("rules")
}

fn by_ca(people: &People, emails: &[&str]) -> AcceptTable {
    AcceptTable {
        ca: vec![people.root()],
        emails: emails.iter().map(ToString::to_string).collect(),
        ..AcceptTable::default()
    }
}

#[test]
fn every_changed_bit_of_a_signature_or_its_content_is_refused() {
    let people = People::new();
    let key = people.issue(&Person::named("anna"));
    let (file, signature) = signed(&people, &key, b"content");
    let sound = fs::read(&signature).expect("read");
    let accept = || rules(by_ca(&people, &["anna@example.org"]));
    verified(&file, &signature, accept()).expect("sound");
    // The version and the list of hashes stand before the content's type. They say nothing that is not said again.
    let told_again = 15..45;
    let passes = |bit: &usize| {
        let mut damaged = sound.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&signature, damaged).expect("written");
        verified(&file, &signature, accept()).is_ok() && !told_again.contains(&(bit / 8))
    };
    let passed: Vec<_> = (0..sound.len() * 8).filter(passes).map(|bit| (bit / 8, bit % 8)).collect();
    assert!(passed.is_empty(), "{passed:?}\n{}", hex::encode(&sound));
    for len in 0..sound.len() {
        fs::write(&signature, &sound[..len]).expect("written");
        verified(&file, &signature, accept()).expect_err("cut off");
    }
    fs::write(&signature, &sound).expect("written");
    for bit in 0..7 * 8 {
        let mut content = b"content".to_vec();
        content[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, content).expect("written");
        assert_eq!(verified(&file, &signature, accept()).expect_err("changed").kind, Kind::Integrity);
    }
}

#[test]
fn only_who_is_pinned_is_accepted() {
    let people = People::new();
    let [anna, bert] = ["anna", "bert"].map(|name| people.issue(&Person::named(name)));
    let pinned = || AcceptTable { certificates: vec![people.path("anna.crt")], ..AcceptTable::default() };
    let (file, signature) = signed(&people, &anna, b"content");
    let found = verified(&file, &signature, rules(pinned())).expect("pinned");
    assert_eq!((found.signer.standing, found.signer.subject.as_str()), ("pinned", "CN=anna"));
    let by_key =
        AcceptTable { keys: vec![found.signer.key_id.expect("known").to_string()], ..AcceptTable::default() };
    verified(&file, &signature, rules(by_key)).expect("the key is pinned");

    let (file, signature) = signed(&people, &bert, b"content");
    let error = verified(&file, &signature, rules(pinned())).expect_err("somebody else");
    assert!(error.kind == Kind::Integrity && error.why.contains("CN=bert"), "{error}");
    assert_eq!(verified(&file, &signature, Accept::Anything).expect("right").signer.standing, "unknown");
}

#[test]
fn a_ca_vouches_only_for_the_addresses_that_were_said() {
    let people = People::new();
    let anna = people.issue(&Person { level: Some(IdentityLevel::V2), ..Person::named("anna") });
    let (file, signature) = signed(&people, &anna, b"content");
    let check = |table| verified(&file, &signature, rules(table));
    for emails in ["anna@example.org", "@example.org"] {
        let found = check(by_ca(&people, &[emails])).expect("vouched for");
        assert_eq!(found.signer.identity_level, Some(IdentityLevel::V2));
        assert_eq!(found.signer.standing, "vouched for");
    }
    let error = check(by_ca(&people, &["bert@example.org", "@example.com"])).expect_err("another");
    assert!(error.why.contains("anna@example.org"), "{error}");
    let level =
        |level: &str| AcceptTable { level: Some(level.to_owned()), ..by_ca(&people, &["@example.org"]) };
    check(level("V2")).expect("enough");
    assert!(check(level("V3")).expect_err("too little").why.contains("V2, less than V3"));

    let strangers = People::new();
    let error = check(by_ca(&strangers, &["@example.org"])).expect_err("another CA of the same name");
    assert!(error.what.contains("nobody vouches"), "{error}");
}

#[test]
fn revoked_and_expired_certificates_do_not_count() {
    let people = People::new();
    let anna = people.issue(&Person::named("anna"));
    let (file, signature) = signed(&people, &anna, b"content");
    let with_list = |list| AcceptTable { crls: vec![list], ..by_ca(&people, &["@example.org"]) };
    let check = |table| verified(&file, &signature, rules(table));
    check(with_list(people.revoke("others.crl", &[8, 9], 2099))).expect("others are revoked");
    let error = check(with_list(people.revoke("hers.crl", &[7], 2099))).expect_err("revoked");
    assert!(error.why.contains("revoked"), "{error}");
    let error = check(with_list(people.revoke("old.crl", &[], 2025))).expect_err("the list ended");
    assert!(error.why.contains("list ended"), "{error}");
    let strangers = People::new();
    let error = check(with_list(strangers.revoke("list", &[], 2099))).expect_err("a list of somebody else");
    assert_eq!(error.kind, Kind::Integrity);

    let old = people.issue(&Person { years: (2020, 2024), ..Person::named("old") });
    let (file, signature) = signed(&people, &old, b"content");
    let pinned = |expired| AcceptTable {
        certificates: vec![people.path("old.crt")],
        expired,
        ..AcceptTable::default()
    };
    for expired in [Choice::Refuse, Choice::Allow] {
        let error =
            verified(&file, &signature, rules(pinned(expired))).expect_err("it had ended when it signed");
        assert!(error.why.contains("ended"), "{error}");
    }
}

#[test]
fn a_certificate_for_something_else_signs_nothing() {
    let people = People::new();
    let other = Person { purpose: Some(ExtendedKeyUsagePurpose::ServerAuth), ..Person::named("server") };
    let key = people.issue(&other);
    let error = opened(&key).err().expect("refused");
    assert!(error.why.contains("extendedKeyUsage"), "{error}");
    let mail = Person { purpose: Some(ExtendedKeyUsagePurpose::EmailProtection), ..Person::named("mail") };
    let (file, signature) = signed(&people, &people.issue(&mail), b"content");
    verified(&file, &signature, Accept::Anything).expect("for e-mail");
}
