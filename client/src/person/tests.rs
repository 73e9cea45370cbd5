//! Whose certificate is taken, and what happens when it is another one.

use std::cell::RefCell;

use custodian_proto::{email::Email, key::KeyId};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RevokedCertParams, RsaKeySize, SanType,
    SerialNumber, string::Ia5String,
};
use time::OffsetDateTime;

use super::*;
use crate::error::{Error, Kind, Result};

const WEEK: Freshness = Freshness(SignedDuration::from_hours(7 * 24));

fn alice() -> Email {
    "alice@example.org".parse().unwrap()
}

fn date(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.as_second()).unwrap()
}

/// A people's CA.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    now: Timestamp,
}

/// What a certificate is to say.
struct Says {
    serial: u8,
    email: &'static str,
    usages: Vec<KeyUsagePurpose>,
    purposes: Vec<ExtendedKeyUsagePurpose>,
    /// In hours from now.
    from: i64,
    until: i64,
}

impl Says {
    fn alice(serial: u8) -> Self {
        Self {
            serial,
            email: "Alice@example.org",
            usages: vec![KeyUsagePurpose::KeyEncipherment],
            purposes: vec![ExtendedKeyUsagePurpose::EmailProtection],
            from: -1,
            until: 24 * 365,
        }
    }
}

impl Ca {
    fn new(now: Timestamp) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "people");
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), certificate, now }
    }

    fn issue(&self, key: &KeyPair, says: Says) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(vec![says.serial]));
        params.not_before = date(self.now + SignedDuration::from_hours(says.from));
        params.not_after = date(self.now + SignedDuration::from_hours(says.until));
        params.subject_alt_names = vec![SanType::Rfc822Name(Ia5String::try_from(says.email).unwrap())];
        params.key_usages = says.usages;
        params.extended_key_usages = says.purposes;
        params.use_authority_key_identifier_extension = true;
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    /// A revocation list with these serial numbers that ends in so many hours.
    fn list(&self, revoked: &[u8], hours: i64) -> Vec<u8> {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: date(self.now),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date(self.now - SignedDuration::from_hours(200)),
            next_update: date(self.now + SignedDuration::from_hours(hours)),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    fn found(&self, certificates: &[&Vec<u8>]) -> Found {
        let certificates = certificates.iter().map(|one| (*one).clone()).collect();
        Found { certificates, issuer: self.certificate.clone(), list: self.list(&[], 8 * 24) }
    }
}

/// A custodian that says what it is told to.
struct Told(RefCell<Result<Found>>);

impl Directory for Told {
    fn find(&self, _: &Email) -> Result<Found> {
        self.0.borrow().clone()
    }
}

/// Somebody who seals to alice.
struct Sender {
    _folder: tempfile::TempDir,
    pins: Pins,
    custodian: Told,
    now: Timestamp,
}

impl Sender {
    fn new(now: Timestamp) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::in_folder(folder.path().join("pins"));
        Self { _folder: folder, pins, custodian: Told(RefCell::new(Ok(Found::default()))), now }
    }

    fn hears(&self, says: Result<Found>) -> &Self {
        *self.custodian.0.borrow_mut() = says;
        self
    }

    fn takes(&self, on_change: OnChange) -> Result<Recipient> {
        self.takes_after(on_change, SignedDuration::ZERO)
    }

    fn takes_after(&self, on_change: OnChange, time: SignedDuration) -> Result<Recipient> {
        recipient(&alice(), &self.custodian, &self.pins, on_change, WEEK, self.now + time)
    }
}

fn rsa() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

fn unreachable() -> Result<Found> {
    Err(Error::new(Kind::Unreachable, "cannot find", "nobody answers"))
}

#[test]
fn a_certificate_is_taken_only_if_everything_in_it_is_right() {
    let now = Timestamp::now();
    let (ca, other, key) = (Ca::new(now), Ca::new(now), rsa());
    let check = |der: &[u8], list: Vec<u8>| {
        let certificate = PersonCertificate::read(der).unwrap();
        certificate.check(&alice(), &ca.certificate, &[list], now.into()).map_err(|why| why.to_string())
    };
    let good = ca.issue(&key, Says::alice(1));
    assert_eq!(check(&good, ca.list(&[2], 24)), Ok(()));
    let flaw = |says: Says, part: &str| {
        let why = check(&ca.issue(&key, says), ca.list(&[], 24)).unwrap_err();
        assert!(why.contains(part), "{part}: {why}");
    };
    flaw(Says { email: "mallory@example.org", ..Says::alice(1) }, "not for alice@example.org");
    flaw(Says { email: "alice@example.org.evil.example", ..Says::alice(1) }, "not for alice@example.org");
    flaw(Says { usages: vec![KeyUsagePurpose::DigitalSignature], ..Says::alice(1) }, "keyEncipherment");
    flaw(Says { usages: vec![], ..Says::alice(1) }, "keyEncipherment");
    flaw(Says { purposes: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Says::alice(1) }, "emailProtection");
    flaw(Says { purposes: vec![], ..Says::alice(1) }, "emailProtection");
    flaw(Says { from: -10, until: -1, ..Says::alice(1) }, "has ended");
    flaw(Says { from: 1, ..Says::alice(1) }, "has not begun");
    assert_eq!(check(&good, ca.list(&[1], 24)), Err("it was revoked".to_owned()));
    // A list that ended tells of what was revoked all the same.
    assert_eq!(check(&good, ca.list(&[1], -1)), Err("it was revoked".to_owned()));
    // Of nothing else it tells anything.
    let ended = check(&good, ca.list(&[], -1)).unwrap_err();
    assert!(ended.contains("revocation list ended at 20"), "{ended}");
    assert!(check(&good, other.list(&[], 24)).is_err());
    assert!(check(&other.issue(&key, Says::alice(1)), ca.list(&[], 24)).is_err());
    // Who is no CA vouches for nobody.
    let certificate = PersonCertificate::read(&good).unwrap();
    assert!(certificate.check(&alice(), &good, &[], now.into()).unwrap_err().to_string().contains("no CA"));
    for position in (0..good.len()).step_by(11) {
        let mut bad = good.clone();
        bad[position] ^= 1;
        let fails = PersonCertificate::read(&bad)
            .and_then(|one| one.check(&alice(), &ca.certificate, &[], now.into()))
            .is_err();
        assert!(fails, "byte {position}");
    }
    assert_eq!(certificate.key_id(), KeyId::of_public_key(key.public_key_raw()));
}

#[test]
fn the_first_certificate_is_remembered_and_another_one_is_told_and_refused() {
    let now = Timestamp::now();
    let (ca, sender) = (Ca::new(now), Sender::new(now));
    let [first, second] = [rsa(), rsa()];
    let (one, two) = (ca.issue(&first, Says::alice(1)), ca.issue(&second, Says::alice(2)));
    assert_eq!(sender.takes(OnChange::Refuse).unwrap_err().kind, Kind::Refused);

    let taken = sender.hears(Ok(ca.found(&[&one]))).takes(OnChange::Refuse).unwrap();
    assert_eq!(taken.certificate, one);
    assert!(taken.remarks[0].contains("first use"), "{:?}", taken.remarks);
    assert!(sender.takes(OnChange::Refuse).unwrap().remarks.is_empty());
    // Another certificate of the same key is no news.
    let renewed = ca.issue(&first, Says::alice(3));
    let taken = sender.hears(Ok(ca.found(&[&renewed, &one]))).takes(OnChange::Refuse).unwrap();
    assert_eq!((taken.certificate, taken.remarks), (renewed.clone(), vec![]));
    // A newer key beside it is told of.
    let taken = sender.hears(Ok(ca.found(&[&two, &renewed]))).takes(OnChange::Refuse).unwrap();
    assert_eq!(taken.certificate, renewed);
    assert!(taken.remarks[0].contains("newer"), "{:?}", taken.remarks);

    let refused = sender.hears(Ok(ca.found(&[&two]))).takes(OnChange::Refuse).unwrap_err();
    assert!(
        refused.kind == Kind::Refused && refused.hint.contains("--accept-new-certificate"),
        "{refused:?}"
    );
    let why = refused.why;
    for key in [&first, &second] {
        assert!(why.contains(&KeyId::of_public_key(key.public_key_raw()).to_string()), "{why}");
    }
    // Refused, it is not remembered either.
    assert!(sender.takes(OnChange::Refuse).is_err());
    assert_eq!(sender.takes(OnChange::Accept).unwrap().certificate, two);
    assert_eq!(sender.takes(OnChange::Refuse).unwrap().certificate, two);

    // The same key from another CA is a change, too.
    let other = Ca::new(now);
    let twin = other.issue(&second, Says::alice(2));
    let refused = sender.hears(Ok(other.found(&[&twin]))).takes(OnChange::Refuse).unwrap_err();
    assert!(refused.why.contains("another CA"), "{}", refused.why);
}

#[test]
fn what_the_custodian_shows_is_not_believed_unchecked() {
    let now = Timestamp::now();
    let (ca, sender, key) = (Ca::new(now), Sender::new(now), rsa());
    let mallory = ca.issue(&key, Says { email: "mallory@example.org", ..Says::alice(1) });
    let refused = sender.hears(Ok(ca.found(&[&mallory]))).takes(OnChange::Accept).unwrap_err();
    assert!(refused.kind == Kind::Integrity && refused.why.contains("not for alice"), "{refused:?}");
    let good = ca.issue(&key, Says::alice(2));
    let revoked = Found { list: ca.list(&[2], 24), ..ca.found(&[&good]) };
    let refused = sender.hears(Ok(revoked)).takes(OnChange::Accept).unwrap_err();
    assert!(refused.why.contains("revoked"), "{}", refused.why);
    // One that is good beside one that is not.
    let taken = sender.hears(Ok(ca.found(&[&mallory, &good]))).takes(OnChange::Refuse).unwrap();
    assert_eq!(taken.certificate, good);
}

#[test]
fn while_nobody_can_be_asked_what_is_remembered_is_good_for_a_while() {
    let now = Timestamp::now();
    let (ca, sender, key) = (Ca::new(now), Sender::new(now), rsa());
    assert_eq!(sender.hears(unreachable()).takes(OnChange::Refuse).unwrap_err().kind, Kind::Unreachable);
    let good = ca.issue(&key, Says { until: 150, ..Says::alice(1) });
    sender.hears(Ok(ca.found(&[&good]))).takes(OnChange::Refuse).unwrap();
    sender.hears(unreachable());
    let hours = |hours| sender.takes_after(OnChange::Refuse, SignedDuration::from_hours(hours));
    let taken = hours(149).unwrap();
    assert!(
        taken.certificate == good && taken.remarks[0].contains("cannot be reached"),
        "{:?}",
        taken.remarks
    );
    // It ends before the week does.
    assert!(hours(151).unwrap_err().why.contains("has ended"));
    assert_eq!(hours(7 * 24 + 1).unwrap_err().kind, Kind::Unreachable);
    // A clock that was set back makes nothing fresh.
    assert_eq!(hours(-2).unwrap_err().kind, Kind::Unreachable);
    // What refuses is not taken for somebody who cannot be reached.
    let refused = Err(Error::new(Kind::Refused, "cannot find", "not logged in"));
    assert_eq!(sender.hears(refused).takes(OnChange::Refuse).unwrap_err().why, "not logged in");
}

#[test]
fn while_nobody_can_be_asked_a_remembered_list_is_good_until_it_ends_and_is_then_refused_by_name() {
    let now = Timestamp::now();
    let (ca, sender, key) = (Ca::new(now), Sender::new(now), rsa());
    let good = ca.issue(&key, Says { until: 150, ..Says::alice(1) });
    sender.hears(Ok(Found { list: ca.list(&[], 24), ..ca.found(&[&good]) })).takes(OnChange::Refuse).unwrap();
    sender.hears(unreachable());
    let hours = |hours| sender.takes_after(OnChange::Refuse, SignedDuration::from_hours(hours));
    assert_eq!(hours(23).unwrap().certificate, good);
    let refused = hours(25).unwrap_err();
    assert!(refused.why.contains("revocation list ended at 20"), "{}", refused.why);
    // The next answer brings the next list.
    sender.hears(Ok(ca.found(&[&good]))).takes(OnChange::Refuse).unwrap();
    sender.hears(unreachable());
    assert_eq!(hours(25).unwrap().certificate, good);
}

#[test]
fn a_damaged_memory_is_not_passed_over() {
    let now = Timestamp::now();
    let (ca, sender, key) = (Ca::new(now), Sender::new(now), rsa());
    let good = ca.issue(&key, Says::alice(1));
    sender.hears(Ok(ca.found(&[&good]))).takes(OnChange::Refuse).unwrap();
    let pins = sender._folder.path().join("pins");
    let file = std::fs::read_dir(&pins).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    for damaged in ["", "{}", &text[..text.len() / 2], &text.replace("alice@", "bob@")] {
        std::fs::write(&file, damaged).unwrap();
        let refused = sender.takes(OnChange::Accept).unwrap_err();
        assert!(refused.kind == Kind::Local && refused.hint.contains("pins"), "{refused:?}");
    }
}
