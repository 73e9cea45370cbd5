//! Who users are, and what certificates say of them.

use std::sync::Arc;

use custodian_proto::{identity::IdentityLevel, key::KeyId, refusal::Refusal};
use jiff::Timestamp;

use super::world::*;
use crate::{
    authority::{CertificateUse, Person, PersonCertificate, SealedSecret, Serial, SessionId, SpkiHash, Why},
    ledger::{CertificateQuery, Certified, Change, Changed, Ledger},
};

fn person(user: &str, email: &str, level: IdentityLevel) -> Person {
    Person {
        user: user_id(user),
        email: email.parse().unwrap(),
        level,
        evidence: "passport 7\u{202e}".to_owned(),
        since: now(),
    }
}

fn certificate(serial: u8, of: &Person, usage: CertificateUse, key: &str) -> PersonCertificate {
    PersonCertificate {
        serial: Serial([serial; 16]),
        user: of.user.clone(),
        usage,
        email: of.email.clone(),
        level: of.level,
        key: KeyId::of_public_key(key.as_bytes()),
        certificate: vec![serial; 400],
        issued: now(),
        expires: ahead(3_600),
        revoked: None,
    }
}

/// The device key that these certificates' keys are not.
const NO_DEVICE: SpkiHash = SpkiHash([0xee; 32]);

fn add(certificate: PersonCertificate) -> Change {
    Change::AddCertificate {
        certificate: Box::new(certificate),
        spki: NO_DEVICE,
        session: SessionId([1; 32]),
    }
}

impl<L: Ledger> World<L> {
    async fn found(&self, email: &str, at: Timestamp) -> Vec<Serial> {
        let current = Some((email.parse().unwrap(), at));
        let query = CertificateQuery { current, limit: 10, ..CertificateQuery::default() };
        let found = self.ledger.certificates(query).await.unwrap();
        found.into_iter().map(|(_, one)| one.serial).collect()
    }

    async fn revoked_people(&self) -> Vec<(u8, Why)> {
        assert!(matches!(self.done(Change::ListRevokedPeople).await, Changed::Listed(_)));
        let revoked = self.ledger.revoked(Certified::People).await.unwrap();
        revoked.into_iter().map(|one| (one.certificate[0], one.why)).collect()
    }
}

pub(crate) async fn a_certificate_says_what_is_recorded_or_is_not_added<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let anna = person("anna", "Anna@example.org", IdentityLevel::V2);
    let issued = |serial, of: &Person| add(certificate(serial, of, CertificateUse::Sign, "one"));
    world.refuses_change(issued(1, &anna), Refusal::IdentityUnknown).await;
    world
        .refuses_change(Change::SetPerson(person("nobody", "a@b", IdentityLevel::V1)), Refusal::NotFound)
        .await;
    let Changed::Person(recorded) = world.done(Change::SetPerson(anna.clone())).await else { panic!() };
    assert_eq!(recorded.evidence, "passport 7\u{fffd}");
    assert_eq!(world.ledger.person(&anna.user).await.unwrap().unwrap(), recorded);
    let record = world.last_record().await;
    assert_eq!(record.detail, "Anna@example.org, V2; passport 7\u{fffd}");
    for (email, level) in [("anna@example.com", IdentityLevel::V2), ("anna@example.org", IdentityLevel::V4)] {
        world.refuses_change(issued(1, &person("anna", email, level)), Refusal::StateConflict).await;
    }
    let Changed::Certificate(kept) = world.done(issued(1, &anna)).await else { panic!() };
    assert_eq!(
        (kept.user.clone(), kept.email.clone(), kept.level),
        (anna.user.clone(), anna.email.clone(), anna.level)
    );
    assert_eq!(world.ledger.certificate(kept.serial).await.unwrap(), Some(*kept));
    let record = world.last_record().await;
    assert!(
        record.detail.starts_with("certificate 0101")
            && record.detail.contains("to sign, Anna@example.org, V2")
    );
    world.refuses_change(issued(1, &anna), Refusal::AlreadyExists).await;
}

pub(crate) async fn an_address_is_one_users_and_what_is_not_true_any_more_is_revoked<L: Ledger>(
    ledger: Arc<L>,
) {
    let world = World::peopled(ledger).await;
    world.done(Change::CreateUser(user("bob", &[]))).await;
    let anna = |email, level| person("anna", email, level);
    let set = |person| Change::SetPerson(person);
    let (old, new) = ("anna@example.org", "a.smith@example.org");
    world.done(set(anna(old, IdentityLevel::V2))).await;
    let taken = person("bob", "ANNA@Example.Org", IdentityLevel::V1);
    world.refuses_change(set(taken.clone()), Refusal::AlreadyExists).await;
    world.done(add(certificate(1, &anna(old, IdentityLevel::V2), CertificateUse::Sign, "one"))).await;
    // What it says stays true: the same address, and more was checked.
    world.done(set(anna("Anna@example.org", IdentityLevel::V3))).await;
    assert_eq!(world.found(old, now()).await, [Serial([1; 16])]);
    world.done(add(certificate(2, &anna(old, IdentityLevel::V3), CertificateUse::Encrypt, "two"))).await;
    world.done(set(anna(old, IdentityLevel::V2))).await;
    assert_eq!(world.revoked_people().await, [(2, Why::NotTrueAnyMore)]);
    world.done(set(anna(new, IdentityLevel::V2))).await;
    assert_eq!(world.revoked_people().await, [(2, Why::NotTrueAnyMore), (1, Why::NotTrueAnyMore)]);
    assert_eq!(world.found(old, now()).await, []);
    // Free again, and nothing of hers is found under it.
    world.done(set(taken)).await;
    assert_eq!(world.found(old, now()).await, []);
}

pub(crate) async fn a_key_is_one_persons_for_one_use<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.done(Change::CreateUser(user("bob", &[]))).await;
    let (anna, bob) =
        (person("anna", "anna@b", IdentityLevel::V1), person("bob", "bob@b", IdentityLevel::V1));
    for one in [&anna, &bob] {
        world.done(Change::SetPerson(one.clone())).await;
    }
    let of = |serial, who: &Person, usage, key: &str| add(certificate(serial, who, usage, key));
    world.done(of(1, &anna, CertificateUse::Sign, "one")).await;
    // The same again is a renewal.
    world.done(of(2, &anna, CertificateUse::Sign, "one")).await;
    for other in [of(3, &anna, CertificateUse::Encrypt, "one"), of(3, &bob, CertificateUse::Sign, "one")] {
        world.refuses_change(other, Refusal::StateConflict).await;
    }
    // `main` is a wrapping key, and SPKI 1 the key of laptop-1.
    world.refuses_change(of(3, &anna, CertificateUse::Encrypt, "main"), Refusal::StateConflict).await;
    let certificate = Box::new(certificate(3, &anna, CertificateUse::Sign, "three"));
    let session = SessionId([1; 32]);
    let device = Change::AddCertificate { certificate, spki: SpkiHash([1; 32]), session };
    world.refuses_change(device, Refusal::StateConflict).await;
}

pub(crate) async fn only_what_may_be_used_now_is_found<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let anna = person("anna", "anna@b", IdentityLevel::V1);
    world.done(Change::SetPerson(anna.clone())).await;
    for (serial, usage) in
        [(1, CertificateUse::Sign), (2, CertificateUse::Encrypt), (3, CertificateUse::Encrypt)]
    {
        world.done(add(certificate(serial, &anna, usage, &format!("key {serial}")))).await;
    }
    let [one, two, three] = [1, 2, 3].map(|serial| Serial([serial; 16]));
    assert_eq!(world.found("ANNA@B", now()).await, [three, two, one]);
    assert_eq!(world.found("anna@c", now()).await, []);
    assert_eq!(world.found("anna@b", ahead(3_700)).await, []);
    let query = |query| world.ledger.certificates(query);
    let encrypt =
        CertificateQuery { usage: Some(CertificateUse::Encrypt), limit: 1, ..CertificateQuery::default() };
    let page = query(encrypt.clone()).await.unwrap();
    assert_eq!(page[0].1.serial, three);
    let next = query(CertificateQuery { before: Some(page[0].0), ..encrypt }).await.unwrap();
    assert_eq!(next.iter().map(|(_, one)| one.serial).collect::<Vec<_>>(), [two]);

    let revoke = |reason: &str| Change::RevokeCertificate {
        serial: two,
        why: Why::Compromised,
        reason: reason.to_owned(),
    };
    for reason in ["lost", "lost again"] {
        let Changed::Certificate(revoked) = world.done(revoke(reason)).await else { panic!() };
        assert_eq!(
            revoked.revoked.map(|it| (it.why, it.reason)),
            Some((Why::Compromised, "lost".to_owned()))
        );
    }
    assert_eq!(world.found("anna@b", now()).await, [three, one]);
    assert_eq!(world.revoked_people().await, [(2, Why::Compromised)]);
    let unknown =
        Change::RevokeCertificate { serial: Serial([9; 16]), why: Why::Revoked, reason: String::new() };
    world.refuses_change(unknown, Refusal::NotFound).await;
    // Who is stopped is not sealed to; it is no reason to revoke.
    world.done(Change::SuspendUser { id: anna.user.clone(), until: ahead(600) }).await;
    assert_eq!(world.found("anna@b", now()).await, []);
    assert_eq!(world.found("anna@b", ahead(601)).await, [three, one]);
    // They are kept: keys have a history.
    let all = CertificateQuery { user: Some(anna.user), limit: 10, ..CertificateQuery::default() };
    assert_eq!(query(all).await.unwrap().len(), 3);
}

pub(crate) async fn who_has_a_second_factor_shows_it_for_a_certificate<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let anna = person("anna", "anna@b", IdentityLevel::V1);
    world.done(Change::SetPerson(anna.clone())).await;
    let (first, second) = (SessionId([1; 32]), SessionId([2; 32]));
    let secret = SealedSecret(vec![7; 48]);
    world.done(Change::PendFactor { session: first, secret: secret.clone() }).await;
    world.done(Change::ConfirmFactor { session: first, secret, step: 1, recovery: Vec::new() }).await;
    // Confirming it was showing it; another session has not.
    world.done(add(certificate(1, &anna, CertificateUse::Sign, "one"))).await;
    world.done(Change::OpenSession(session(2, "anna", 1))).await;
    let certificate = Box::new(certificate(2, &anna, CertificateUse::Sign, "two"));
    let stolen = Change::AddCertificate { certificate, spki: NO_DEVICE, session: second };
    world.refuses_change(stolen, Refusal::StepUpRequired).await;
    assert_eq!(world.ledger.certificate(Serial([2; 16])).await.unwrap(), None);
}
