//! What the library's connection promises to the pipelines: the right key is chosen, and only file keys come back.

#![allow(clippy::unwrap_used)]

mod double;

use std::collections::BTreeMap;

use custodian_client::{
    ahead::Question,
    error::{Error, Kind},
    interrupt::Interrupt,
    remote::Remote,
    settings::Settings,
    unwrapper::Unwrapper,
};
use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    v1,
};
use double::{Accept, Custodian, PASSWORD, Pki};

fn connect(pki: &Pki, custodian: &Custodian) -> Remote {
    Remote::connect(&settings(pki, custodian), &Interrupt::never()).unwrap()
}

fn settings(pki: &Pki, custodian: &Custodian) -> Settings {
    let password = pki.path("password");
    std::fs::write(&password, PASSWORD).unwrap();
    Settings {
        addr: Some(custodian.address.to_string()),
        ca: Some(pki.path("ca.crt")),
        cert: Some(pki.path("device.crt")),
        key: Some(pki.path("device.key")),
        user: Some("anna".into()),
        password_file: Some(password),
        session_dir: Some(pki.path("sessions")),
        ..Settings::default()
    }
}

fn key_id(name: u8) -> KeyId {
    KeyId::of_public_key(&[name])
}

fn wrapped(name: u8) -> WrappedKey {
    WrappedKey::new(key_id(name), KeyWrapping::OaepSha256, vec![name; 256]).unwrap()
}

fn key(name: u8, state: v1::KeyState) -> v1::Key {
    v1::Key {
        name: key_id(name).resource_name(),
        label: format!("label-{name}"),
        state: state.into(),
        wrapping: v1::KeyWrapping::RsaOaepSha256.into(),
        ..v1::Key::default()
    }
}

fn running() -> (Pki, Custodian) {
    let pki = Pki::new();
    let custodian = Custodian::start(&pki, Accept::DeviceCa);
    (pki, custodian)
}

#[test]
fn the_first_recipient_whose_key_is_active_is_chosen() {
    let (pki, custodian) = running();
    custodian.state.lock().keys =
        vec![key(2, v1::KeyState::Suspended), key(3, v1::KeyState::Active), key(4, v1::KeyState::Active)];
    let remote = connect(&pki, &custodian);
    assert_eq!(remote.choose(&[wrapped(1), wrapped(2), wrapped(3), wrapped(4)]), Ok(2));
    assert_eq!(remote.choose(&[wrapped(4)]), Ok(0));
    assert_eq!(custodian.state.lock().logins, 1, "one login serves the whole connection");
}

#[test]
fn what_is_wrapped_with_pkcs1_v1_5_comes_last_and_only_a_key_made_for_that_is_asked() {
    let (pki, custodian) = running();
    let active = v1::KeyState::Active;
    let made = v1::Key { r#use: v1::KeyUse::Pkcs1.into(), ..key(4, active) };
    custodian.state.lock().keys = vec![key(2, active), key(3, v1::KeyState::Suspended), made];
    let remote = connect(&pki, &custodian);
    let pkcs1 = |name: u8| WrappedKey::new(key_id(name), KeyWrapping::Pkcs1, vec![name; 256]).unwrap();
    assert_eq!(remote.choose(&[pkcs1(4), wrapped(2)]), Ok(1), "OAEP first");
    assert_eq!(remote.choose(&[pkcs1(2), wrapped(2)]), Ok(1), "of one key, too");
    assert_eq!(remote.choose(&[wrapped(1), pkcs1(4)]), Ok(1), "nobody has the other");
    assert_eq!(remote.choose(&[wrapped(3), pkcs1(4)]), Ok(1), "the other is suspended");
    assert_eq!(remote.choose(&[pkcs1(2), pkcs1(4)]), Ok(1), "the one that was made for it");
    assert_eq!(remote.choose(&[pkcs1(2), wrapped(3)]), Ok(1), "it says that it is suspended");
    for only in [&[pkcs1(2)][..], &[pkcs1(1), pkcs1(2)]] {
        let refused = remote.choose(only).unwrap_err();
        assert!(refused.kind == Kind::Refused && refused.why.contains("not made for that"), "{refused}");
    }
    assert!(remote.choose(&[pkcs1(1)]).unwrap_err().why.contains("KEY_UNKNOWN"));
}

#[test]
fn an_envelope_for_somebody_else_names_the_keys_that_would_do() {
    let (pki, custodian) = running();
    custodian.state.lock().keys = vec![key(7, v1::KeyState::Active)];
    let error = connect(&pki, &custodian).choose(&[wrapped(1), wrapped(2)]).unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    for part in [key_id(1).to_string(), key_id(2).to_string(), key_id(7).to_string(), "label-7".into()] {
        assert!(error.why.contains(&part), "{} lacks {part}", error.why);
    }
}

#[test]
fn a_suspended_key_is_asked_all_the_same_so_that_the_log_names_the_file() {
    let (pki, custodian) = running();
    custodian.state.lock().keys = vec![key(2, v1::KeyState::Suspended)];
    let remote = connect(&pki, &custodian);
    assert_eq!(remote.choose(&[wrapped(1), wrapped(2)]), Ok(1));
    custodian.state.lock().keys.push(key(3, v1::KeyState::Active));
    assert_eq!(remote.choose(&[wrapped(2), wrapped(3)]), Ok(1));
}

#[test]
fn a_file_key_comes_back_and_the_claims_get_there() {
    let (pki, custodian) = running();
    let claims =
        v1::Claims { file_name: "report.mtd".into(), reason: "audit".into(), ..v1::Claims::default() };
    let file_key = connect(&pki, &custodian).unwrap(&wrapped(1), &claims).ok().unwrap();
    assert_eq!(file_key.expose(), &[7; 32]);
    let asked = custodian.state.lock().unwraps.pop().unwrap();
    assert_eq!(asked.key, key_id(1).resource_name());
    assert_eq!(asked.wrapping(), v1::KeyWrapping::RsaOaepSha256);
    assert_eq!(asked.wrapped_key, vec![1; 256]);
    assert_eq!(asked.claims, Some(claims));
}

#[test]
fn law_4_what_is_no_file_key_is_not_taken_for_one() {
    let (pki, custodian) = running();
    let remote = connect(&pki, &custodian);
    for len in [0, 16, 31, 33, 64] {
        custodian.state.lock().file_key = vec![7; len];
        let error = remote.unwrap(&wrapped(1), &v1::Claims::default()).err().unwrap();
        assert_eq!(error.kind, Kind::Integrity, "{len}");
    }
}

fn questions(count: u8) -> Vec<Question> {
    (0..count).map(|byte| Question { wrapped: wrapped(byte), claims: v1::Claims::default() }).collect()
}

/// What is told of so many questions in one batch.
fn told(remote: &Remote, count: u8) -> BTreeMap<usize, Result<[u8; 32], Kind>> {
    let mut all = BTreeMap::new();
    let mut note = |index, answer: Result<FileKey, Error>| {
        let answer = answer.map(|key| *key.expose()).map_err(|error| error.kind);
        assert!(all.insert(index, answer).is_none());
    };
    remote.unwrap_many(&questions(count), &mut note).unwrap();
    all
}

#[test]
fn many_keys_come_in_one_call_and_what_somebody_could_heal_is_left_to_be_asked_again() {
    let (pki, custodian) = running();
    let remote = connect(&pki, &custodian);
    remote.who_am_i().unwrap();
    custodian.state.lock().denied =
        [(1, "POLICY_DENIED"), (2, "STEP_UP_REQUIRED"), (4, "WRAPPED_KEY_REJECTED")]
            .map(|(byte, reason)| (wrapped(byte).ciphertext().to_vec(), reason))
            .into();
    let answers = told(&remote, 6);
    let (refused, bad) = (Err(Kind::Refused), Err(Kind::Integrity));
    assert_eq!(
        answers,
        BTreeMap::from([(0, Ok([7; 32])), (1, refused), (3, Ok([7; 32])), (4, bad), (5, Ok([7; 32]))])
    );
    let state = custodian.state.lock();
    assert_eq!((state.batched, state.unwraps.len(), state.logins), (6, 6, 1));
    assert_eq!(state.unwraps[3].key, key_id(3).resource_name());
}

#[test]
fn for_a_batch_nobody_is_asked_for_a_password() {
    let (pki, custodian) = running();
    let failed = connect(&pki, &custodian).unwrap_many(&questions(2), &mut |_, _| panic!("an answer"));
    assert_eq!(failed.unwrap_err().kind, Kind::Refused);
    assert_eq!(custodian.state.lock().logins, 0);
}

#[test]
fn law_4_holds_for_each_of_many() {
    let (pki, custodian) = running();
    let remote = connect(&pki, &custodian);
    remote.who_am_i().unwrap();
    for len in [0, 16, 31, 33, 64] {
        custodian.state.lock().file_key = vec![7; len];
        assert_eq!(told(&remote, 1), BTreeMap::from([(0, Err(Kind::Integrity))]), "{len}");
    }
}

#[test]
fn whether_files_fit_is_asked_once_for_all_of_them() {
    let (pki, custodian) = running();
    custodian.state.lock().room = 3;
    let remote = connect(&pki, &custodian);
    let files = |count: u8| {
        BTreeMap::from([(key_id(1), (0..count).map(|file| [file; 32]).collect()), (key_id(2), vec![[9; 32]])])
    };
    remote.check_budget("cannot extract these", &files(2)).unwrap();
    let error = remote.check_budget("cannot extract these", &files(3)).unwrap_err();
    assert_eq!((error.kind, error.what.as_str()), (Kind::Refused, "cannot extract these"));
    assert_eq!(custodian.state.lock().checked, [3, 4]);
}

#[test]
fn several_threads_may_unwrap_at_once() {
    let (pki, custodian) = running();
    let remote = connect(&pki, &custodian);
    std::thread::scope(|scope| {
        for name in 0..8 {
            let remote = &remote;
            scope.spawn(move || {
                for _ in 0..20 {
                    assert!(remote.unwrap(&wrapped(name), &v1::Claims::default()).is_ok());
                }
            });
        }
    });
    assert_eq!(custodian.state.lock().unwraps.len(), 160);
}

/// What eight threads are told that ask at the same time.
fn at_once(remote: &Remote) -> Vec<Result<(), Kind>> {
    let start = std::sync::Barrier::new(8);
    let ask = || {
        start.wait();
        remote.who_am_i().map(drop).map_err(|error| error.kind)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn of_several_threads_one_logs_in() {
    let (pki, custodian) = running();
    assert_eq!(at_once(&connect(&pki, &custodian)), [Ok(()); 8]);
    assert_eq!(custodian.state.lock().logins, 1);
    // The session that is kept is one that the custodian has forgotten.
    custodian.state.lock().sessions.clear();
    assert_eq!(at_once(&connect(&pki, &custodian)), [Ok(()); 8]);
    assert_eq!(custodian.state.lock().logins, 2);
}

#[test]
fn a_wrong_password_in_a_file_is_tried_once_whoever_asks() {
    let (pki, custodian) = running();
    let remote = connect(&pki, &custodian);
    std::fs::write(pki.path("password"), "wrong horse battery").unwrap();
    assert_eq!(at_once(&remote), [Err(Kind::Refused); 8]);
    let error = remote.who_am_i().unwrap_err();
    assert!(error.why.contains("LOGIN_FAILED"), "{error}");
    assert_eq!(custodian.state.lock().logins, 1);
}

#[test]
fn a_wrong_code_in_a_file_is_tried_once_whatever_it_is_for() {
    let (pki, custodian) = running();
    let code = pki.path("code");
    std::fs::write(&code, "123456").unwrap();
    let settings = Settings { totp_file: Some(code), ..settings(&pki, &custodian) };
    let remote = Remote::connect(&settings, &Interrupt::never()).unwrap();
    custodian.state.lock().denied =
        (1..=8).map(|name| (wrapped(name).ciphertext().to_vec(), "STEP_UP_REQUIRED")).collect();
    for name in 1..=8 {
        let error = remote.unwrap(&wrapped(name), &v1::Claims::default()).err().unwrap();
        assert!(error.kind == Kind::Refused && error.why.contains("FACTOR_REFUSED"), "{error}");
    }
    let state = custodian.state.lock();
    assert_eq!((state.codes, state.unwraps.len()), (1, 8));
}

#[test]
fn who_must_leave_everybody_alone_uses_the_session_there_is_and_nothing_else() {
    let (pki, custodian) = running();
    let code = pki.path("code");
    std::fs::write(&code, "123456").unwrap();
    let settings = Settings { totp_file: Some(code), ..settings(&pki, &custodian) };
    let remote = Remote::connect(&settings, &Interrupt::never()).unwrap();
    custodian.state.lock().keys = vec![key(2, v1::KeyState::Active)];
    let sealed_to = [wrapped(1), wrapped(2)];
    let misses = || {
        let quiet = remote.without_person();
        assert_eq!(quiet.choose(&sealed_to).unwrap_err().kind, Kind::Refused);
        let state = custodian.state.lock();
        (quiet.missed_person(), state.logins, state.codes)
    };
    assert_eq!(misses(), (true, 0, 0), "no session");
    remote.login().unwrap();
    let quiet = remote.without_person();
    assert_eq!((quiet.choose(&sealed_to), quiet.missed_person()), (Ok(1), false));

    custodian.state.lock().sessions.clear();
    assert_eq!(misses(), (true, 1, 0), "the session is forgotten");
    assert_eq!(remote.choose(&sealed_to), Ok(1));
    assert_eq!(custodian.state.lock().logins, 2, "who may renews it, though this very program began it");

    custodian.state.lock().refuse_all = Some("STEP_UP_REQUIRED");
    assert_eq!(misses(), (true, 2, 0), "the second factor is missing");
}

#[test]
fn an_overloaded_custodian_is_one_to_try_again_later() {
    let (pki, custodian) = running();
    custodian.state.lock().refuse_all = Some("OVERLOADED");
    let error = connect(&pki, &custodian).who_am_i().unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
}
