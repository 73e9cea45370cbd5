//! Signed envelopes with timestamps: when they were signed is known, and they outlive the certificate of their signer.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use cms::{
    content_info::ContentInfo,
    signed_data::{SignedData, SignerInfos},
};
use custodian_client::{
    Kind,
    error::Result,
    extract::{ExtractReport, Input, extract_stamped},
    progress::Silent,
    seal::seal_signed,
    signed::{Accept, Hash, Signing, sign_detached},
    timestamp::{Authority, Others, TrustedAuthorities},
    verify::{VerifyJob, verify_stamped},
};
use custodian_proto::tsp::{MessageImprint, TimeStampReq};
use der::{Any, Decode, Encode};

use crate::{
    authority::Clock,
    common::{extract_job, seal_job, tree},
    people::Person,
    senders::{Scene, attached, stripped},
};

/// In the middle of 2022.
fn in_2022() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_656_000_000)
}

impl Scene {
    /// An envelope that anna signed, and this authority timestamped.
    fn stamped_by(&self, authority: &Clock<'_>) -> Vec<u8> {
        let [source, envelope] = ["source", "stamped"].map(|name| self.folder.path().join(name));
        tree::write(&source, b"content");
        let signer = self.signer("anna");
        let signing = Signing { signer: &signer, authority: Some(authority) };
        let report = seal_signed(&seal_job(&self.key, &[&source], &envelope), signing, &Silent);
        let bytes = fs::read(&envelope).expect("read");
        assert_eq!(report.expect("sealed").envelope_bytes, bytes.len() as u64);
        fs::remove_file(envelope).expect("removed");
        bytes
    }

    /// Extracts, and sees to it that it comes to what was sealed, or that no key was asked for.
    fn opened(
        &self,
        envelope: &[u8],
        accept: &Accept,
        trusted: &TrustedAuthorities,
    ) -> Result<ExtractReport> {
        let [file, out] = ["given", "out"].map(|name| self.folder.path().join(name));
        fs::write(&file, envelope).expect("written");
        let asked = self.key.asked();
        let result = extract_stamped(&extract_job(&file, &out), accept, trusted, &self.key, &Silent);
        match &result {
            Ok(_) => fs::remove_dir_all(out).expect("removed"),
            Err(_) => assert!(self.key.asked() == asked && !out.exists(), "a key was asked for"),
        }
        result
    }

    fn trusted(&self) -> TrustedAuthorities {
        TrustedAuthorities::load(&[self.people.root()], &[]).expect("read")
    }
}

#[test]
fn a_timestamped_envelope_tells_when_it_was_signed_and_who_says_so() {
    let scene = Scene::new();
    scene.people.issue_authority("clock", 70);
    let envelope = scene.stamped_by(&Clock::now(&scene.people, "clock"));
    let pinned = scene.pinned(&["anna"]);
    let told = scene.opened(&envelope, &pinned, &scene.trusted()).expect("opened").timestamp.expect("told");
    assert_eq!(told.authority, "CN=clock");
    assert!(told.at.elapsed().expect("past") < Duration::from_secs(300));

    // Of an authority that nobody knows: refused where somebody said who it must be, else it counts nothing.
    let strangers = Scene::new();
    let error = scene.opened(&envelope, &pinned, &strangers.trusted()).expect_err("somebody else");
    assert!(error.kind == Kind::Integrity && error.what.contains("timestamp"), "{error}");
    for trusted in [strangers.trusted().and_others(Others::Ignore), TrustedAuthorities::default()] {
        let report = scene.opened(&envelope, &pinned, &trusted).expect("opened");
        assert!(report.timestamp.is_none() && report.sender.is_some());
        let file = scene.folder.path().join("verified");
        fs::write(&file, &envelope).expect("written");
        let job = VerifyJob { file: Input::File(file), signature: None, accept: scene.pinned(&["anna"]) };
        let found = verify_stamped(&job, &trusted, &Silent).expect("verified");
        assert!(found.timestamp.is_none() && found.timestamp_does_not_count.is_some());
        let counts = verify_stamped(&job, &scene.trusted(), &Silent).expect("verified");
        assert!(counts.timestamp.is_some() && counts.timestamp_does_not_count.is_none());
    }
}

#[test]
fn it_opens_after_its_signers_certificate_has_ended_and_without_its_timestamp_it_does_not() {
    let scene = Scene::new();
    scene.people.issue(&Person { years: (2020, 2024), ..Person::named("anna") });
    scene.people.issue_authority("clock", 70);
    let bare = stripped(&scene.sealed_by("anna", b"content"));
    let (signer, pinned, trusted) = (scene.signer("anna"), scene.pinned(&["anna"]), scene.trusted());
    let at = |time| Clock { time, ..Clock::now(&scene.people, "clock") };
    let clock = at(in_2022());
    let signed = attached(&bare, Signing { signer: &signer, authority: Some(&clock) }, in_2022());
    let report =
        scene.opened(&signed, &pinned, &trusted).expect("it was there while the certificate was valid");
    assert!(report.timestamp.expect("told").time.starts_with("2022-06-23"));
    scene.opened(&signed, &pinned, &TrustedAuthorities::default()).expect_err("nobody's word counts");

    // Neither the signer's word alone nor a timestamp of today is enough; nor one before the certificate was there.
    let plain = attached(&bare, Signing::by(&signer), in_2022());
    assert!(scene.opened(&plain, &pinned, &trusted).expect_err("no timestamp").why.contains("ended"));
    for time in [SystemTime::now(), in_2022() - Duration::from_secs(4 * 365 * 86_400)] {
        let clock = at(time);
        let signed = attached(&bare, Signing { signer: &signer, authority: Some(&clock) }, in_2022());
        scene.opened(&signed, &pinned, &trusted).expect_err("not then");
    }
}

#[test]
fn no_changed_bit_of_a_timestamp_changes_what_comes_out_or_what_is_told() {
    let scene = Scene::new();
    scene.people.issue_authority("clock", 70);
    let sound = scene.stamped_by(&Clock::now(&scene.people, "clock"));
    let (pinned, trusted) = (scene.pinned(&["anna"]), scene.trusted());
    let told = |report: &ExtractReport| {
        let (sender, stamped) = (report.sender.clone().expect("signed"), report.timestamp.clone());
        (sender.subject, sender.signed, stamped.map(|stamped| (stamped.time, stamped.authority)))
    };
    let right = told(&scene.opened(&sound, &pinned, &trusted).expect("sound"));
    assert!(right.2.is_some());
    let mut refused = 0;
    // Every byte; in each another bit.
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        match scene.opened(&damaged, &pinned, &trusted) {
            Ok(report) => assert_eq!(told(&report), right, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    // What nobody looks at: how the token is wrapped, and the certificates beside its own.
    assert!(refused * 10 > sound.len() * 8, "{refused} of {}", sound.len());
}

/// Answers about something else than what it is asked.
struct Replays<'a>(Clock<'a>);

impl Authority for Replays<'_> {
    fn answer(&self, query: &[u8]) -> Result<Vec<u8>> {
        let mut request = TimeStampReq::from_der(query).expect("a request");
        request.message_imprint = MessageImprint::new(Hash::Sha256, &[7; 32]).expect("imprint");
        self.0.answer(&request.to_der().expect("DER"))
    }
}

/// A signature with the unsigned attributes of another.
fn with_timestamp_of(signature: &[u8], other: &[u8]) -> Vec<u8> {
    let read = |der| {
        let message = ContentInfo::from_der(der).expect("CMS");
        let signed: SignedData = message.content.decode_as().expect("signed");
        (message.content_type, signed)
    };
    let ((content_type, mut signed), (_, other)) = (read(signature), read(other));
    let mut signers = signed.signer_infos.0.into_vec();
    signers[0].unsigned_attrs = other.signer_infos.0.as_slice()[0].unsigned_attrs.clone();
    signed.signer_infos = SignerInfos::try_from(signers).expect("a set");
    let content = Any::encode_from(&signed).expect("encodes");
    ContentInfo { content_type, content }.to_der().expect("DER")
}

#[test]
fn a_timestamp_of_another_signature_is_refused_whoevers_it_is() {
    let scene = Scene::new();
    scene.people.issue_authority("clock", 70);
    let bare = stripped(&scene.sealed_by("anna", b"content"));
    let signer = scene.signer("anna");
    let replays = Replays(Clock::now(&scene.people, "clock"));
    // The sender's own program takes no such answer.
    let signing = Signing { signer: &signer, authority: Some(&replays) };
    let signed = sign_detached(signing, &[7; 32], SystemTime::now());
    assert!(signed.expect_err("another's").why.contains("another digest"));

    // Nor does a reader: the timestamp of one signature in the place of another's.
    let clock = Clock::now(&scene.people, "clock");
    let signing = Signing { signer: &signer, authority: Some(&clock) };
    let digest = Hash::Sha256.of(&bare);
    let [one, other] =
        [in_2022(), SystemTime::now()].map(|time| sign_detached(signing, &digest, time).expect("signed"));
    let [file, signature] = ["bare", "bare.p7s"].map(|name| scene.folder.path().join(name));
    fs::write(&file, &bare).expect("written");
    fs::write(&signature, with_timestamp_of(&one, &other)).expect("written");
    for trusted in [scene.trusted(), TrustedAuthorities::default()] {
        let file = Input::File(file.clone());
        let job = VerifyJob { file, signature: Some(signature.clone()), accept: scene.pinned(&["anna"]) };
        let error = verify_stamped(&job, &trusted, &Silent).expect_err("another's");
        assert!(error.why.contains("another digest"), "{error}");
    }
}
