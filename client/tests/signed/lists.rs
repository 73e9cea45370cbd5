//! Revocation lists that come along: of a timestamp's authority they count, of a signer they do not.

use std::{fs, path::PathBuf};

use custodian_client::{
    error::Result,
    extract::Input,
    progress::Silent,
    sign::{SignJob, SignTo, sign},
    signed::{Accept, AcceptTable, Signing},
    timestamp::TrustedAuthorities,
    verify::{Verification, VerifyJob, verify_stamped},
};

use crate::{
    authority::{Clock, with_lists},
    people::{People, Person, opened},
};

/// The number of the authority's certificate.
const CLOCK: u64 = 70;

struct Scene {
    people: People,
}

impl Scene {
    fn new() -> Self {
        let people = People::new();
        people.issue(&Person::named("anna"));
        people.issue_authority("clock", CLOCK);
        fs::write(people.path("report"), "what is agreed").expect("written");
        Self { people }
    }

    /// A list of the CA that certified all, in DER.
    fn list(&self, serials: &[u64], until: i32) -> Vec<u8> {
        der_of(&self.people.revoke("some.crl", serials, until))
    }

    /// Anna's signature of the report, with a timestamp that brings these lists along.
    fn signed(&self, name: &str, lists: Vec<Vec<u8>>) -> PathBuf {
        let signer = opened(&self.people.path("anna.pem")).expect("signer");
        let clock = Clock { lists, ..Clock::now(&self.people, "clock") };
        let output = self.people.path(name);
        let job =
            SignJob { file: Input::File(self.people.path("report")), output: SignTo::File(output.clone()) };
        sign(&job, Signing { signer: &signer, authority: Some(&clock) }, &Silent).expect("signed");
        output
    }

    fn verified(
        &self,
        signature: PathBuf,
        accept: Accept,
        trusted: &TrustedAuthorities,
    ) -> Result<Verification> {
        let file = Input::File(self.people.path("report"));
        verify_stamped(&VerifyJob { file, signature: Some(signature), accept }, trusted, &Silent)
    }

    /// With these lists of the verifier's own.
    fn trusted(&self, lists: &[PathBuf]) -> TrustedAuthorities {
        TrustedAuthorities::load(&[self.people.root()], lists).expect("read")
    }
}

fn der_of(list: &PathBuf) -> Vec<u8> {
    let pem = fs::read(list).expect("list");
    der::pem::decode_vec(&pem).expect("PEM").1
}

#[test]
fn the_lists_in_a_timestamp_count_for_its_authority() {
    let scene = Scene::new();
    let check =
        |name: &str, lists| scene.verified(scene.signed(name, lists), Accept::Anything, &scene.trusted(&[]));
    check("none.p7s", Vec::new()).expect("no list is asked for");
    let found = check("others.p7s", vec![scene.list(&[8, 9], 2099)]).expect("others are on it");
    assert!(found.timestamp.is_some());
    let error = check("old.p7s", vec![scene.list(&[], 2025)]).expect_err("it had ended when it was stamped");
    assert!(error.what.contains("timestamp") && error.why.contains("list ended"), "{error}");
    let error = check("hers.p7s", vec![scene.list(&[CLOCK], 2099)]).expect_err("its own CA says no");
    assert!(error.what.contains("timestamp") && error.why.contains("revoked"), "{error}");
    let strangers = Scene::new();
    let error = check("foreign.p7s", vec![strangers.list(&[], 2099)]).expect_err("a list of somebody else");
    assert!(error.what.contains("timestamp"), "{error}");
}

#[test]
fn so_do_the_lists_of_who_verifies() {
    let scene = Scene::new();
    let signature = scene.signed("report.p7s", Vec::new());
    let check = |name: &str, serials: &[u64]| {
        let list = scene.people.revoke(name, serials, 2099);
        scene.verified(signature.clone(), Accept::Anything, &scene.trusted(&[list]))
    };
    check("others.crl", &[8]).expect("others are on it");
    let error = check("hers.crl", &[CLOCK]).expect_err("revoked");
    assert!(error.what.contains("timestamp") && error.why.contains("revoked"), "{error}");
}

#[test]
fn a_list_that_a_signer_brings_along_says_nothing_about_the_signer() {
    let scene = Scene::new();
    let plain = fs::read(scene.signed("plain.p7s", Vec::new())).expect("read");
    let by_ca = |crls: Vec<PathBuf>| {
        let (ca, emails) = (vec![scene.people.root()], vec!["@example.org".to_owned()]);
        Accept::load(&AcceptTable { ca, emails, crls, ..AcceptTable::default() }).expect("rules")
    };
    let trusted = scene.trusted(&[]);
    // Anna's number is 7. A fresh list of her own choice does not help her, and no list harms her that the verifier lacks.
    let ended = scene.people.revoke("ended.crl", &[], 2025);
    let revoked = scene.people.revoke("revoked.crl", &[7], 2099);
    for (name, serials) in [("clean.p7s", &[][..]), ("dirty.p7s", &[7][..])] {
        let signature = scene.people.path(name);
        fs::write(&signature, with_lists(&plain, &[scene.list(serials, 2099)])).expect("written");
        let check = |crls| scene.verified(signature.clone(), by_ca(crls), &TrustedAuthorities::default());
        check(Vec::new()).expect("nobody asked for lists");
        let error = check(vec![ended.clone()]).expect_err("the verifier's list ended");
        assert!(error.why.contains("list ended"), "{error}");
        assert!(check(vec![revoked.clone()]).expect_err("revoked").why.contains("revoked"));
        // A timestamp does not help: the list had ended when it was made, and whoever stole her key could have it made.
        let error = scene.verified(signature.clone(), by_ca(vec![ended.clone()]), &trusted);
        let error = error.expect_err("the list had ended by then");
        assert!(error.why.contains("list ended"), "{error}");
        scene.verified(signature.clone(), by_ca(vec![revoked.clone()]), &trusted).expect_err("revoked");
    }
}

#[test]
fn of_several_lists_none_may_have_the_signer_and_one_of_its_ca_must_be_good() {
    let scene = Scene::new();
    let signature = scene.signed("report.p7s", Vec::new());
    let list = |name: &str, serials: &[u64], until| scene.people.revoke(name, serials, until);
    // Anna's number is 7.
    let clean = list("clean.crl", &[8], 2099);
    let dirty = list("dirty.crl", &[7], 2099);
    let ended = list("ended.crl", &[8], 2025);
    let ended_dirty = list("ended-dirty.crl", &[7], 2025);
    let foreign = scene.people.revoke_by_root("foreign.crl");
    // It says that it is of her CA.
    let forged = Scene::new().list(&[8], 2099);
    fs::write(scene.people.path("forged.crl"), forged).expect("written");
    let forged = scene.people.path("forged.crl");
    let check = |lists: [&PathBuf; 2]| {
        let (ca, emails) = (vec![scene.people.root()], vec!["@example.org".to_owned()]);
        let crls = lists.map(PathBuf::clone).to_vec();
        let accept =
            Accept::load(&AcceptTable { ca, emails, crls, ..AcceptTable::default() }).expect("rules");
        scene.verified(signature.clone(), accept, &TrustedAuthorities::default())
    };
    let cases = [
        ([&clean, &clean], None),
        ([&ended, &clean], None),
        ([&foreign, &clean], None),
        ([&clean, &dirty], Some("revoked")),
        ([&ended, &dirty], Some("revoked")),
        ([&foreign, &dirty], Some("revoked")),
        // Whatever came after: who was revoked once does not become good by it.
        ([&ended_dirty, &clean], Some("revoked")),
        ([&ended, &ended], Some("list ended")),
        ([&foreign, &ended], Some("list ended")),
        ([&foreign, &foreign], Some("no revocation list")),
        ([&forged, &clean], None),
        ([&forged, &dirty], Some("revoked")),
        ([&forged, &ended_dirty], Some("revoked")),
        ([&forged, &ended], Some("list ended")),
        ([&forged, &foreign], Some("no revocation list")),
        ([&forged, &forged], Some("no revocation list")),
    ];
    for (lists, refused) in cases {
        for lists in [lists, [lists[1], lists[0]]] {
            let why = check(lists).err().map(|error| error.why);
            match refused {
                None => assert_eq!(why, None, "{lists:?}"),
                Some(text) => assert!(why.is_some_and(|why| why.contains(text)), "{lists:?}: not {text}"),
            }
        }
    }
}
