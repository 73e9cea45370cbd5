//! A token that cannot be served: the error says why, and a refused PIN is never tried again.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use super::{Bench, PIN, command, good, kill, rsa_key, until};
use crate::token::{
    PinSource, StartError, Supervisor, Token, TokenConfig, TokenError, TokenSelect, WorkerCommand,
    contract::{soon, unwrap},
    supervisor::State,
    turns::Turns,
};

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_never_again() {
    let bench = Bench::new();
    bench.write_pin("9999");
    let error = bench.refusal(bench.config()).await;
    assert!(matches!(error, StartError::Pin(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("refuses the PIN as wrong") && text.contains("Fewer tries are left"), "{text}");
    assert!(!text.contains("9999"), "{text}");
}

#[tokio::test]
async fn a_pin_that_becomes_wrong_stops_the_supervisor() {
    let bench = Bench::new();
    let token = Supervisor::start(bench.counted(), bench.config()).await.unwrap();
    let key = rsa_key(&token).await;
    bench.write_pin("9999");
    kill(token.worker_pid().unwrap());
    until(&token, |state| matches!(state, State::Down { .. })).await;
    let mut state = token.state.clone();
    state.mark_unchanged();
    for _ in 0..3 {
        let Err(TokenError::Unavailable(why)) = unwrap(&token, &good(&key), soon()).await else {
            panic!("a token without login")
        };
        assert!(why.contains("refuses the PIN"), "{why}");
    }
    assert!(token.health().trouble.unwrap().contains("refuses the PIN"));
    // Longer than the first pauses between starts.
    let more = tokio::time::timeout(Duration::from_secs(1), state.changed()).await;
    assert!(more.is_err(), "nothing may happen any more");
    assert_eq!(bench.starts(), 2);
    token.shutdown().await;
}

#[tokio::test]
async fn a_pin_that_becomes_wrong_is_tried_once_by_all_workers_of_the_token() {
    let bench = Bench::new();
    let turns = Turns::default();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let worker = Supervisor::start_among(bench.counted(), bench.config(), turns.clone()).await;
        workers.push(worker.unwrap());
    }
    bench.write_pin("9999");
    workers.iter().for_each(|worker| kill(worker.worker_pid().unwrap()));
    for worker in &workers {
        until(worker, |state| matches!(state, State::Down { .. })).await;
        assert!(worker.health().trouble.unwrap().contains("refuses the PIN"));
    }
    assert_eq!(bench.starts(), 3 + 1);
    // Nor does one that is added.
    let error = Supervisor::start_among(bench.counted(), bench.config(), turns).await.err().unwrap();
    assert!(matches!(error, StartError::Pin(_)), "{error:?}");
    assert_eq!(bench.starts(), 3 + 1);
}

#[tokio::test]
async fn errors_of_configuration_say_what_to_do() {
    let bench = Bench::new();
    let config = || bench.config();
    let label = |label: &str| TokenSelect::Label(label.to_owned());
    let not_pkcs11 = bench.path("softhsm2.conf");
    let mut no_conf = bench.environment();
    no_conf.insert("SOFTHSM2_CONF".to_owned(), "/nonexistent/softhsm2.conf".to_owned());

    let cases = [
        (TokenConfig { module: "libsofthsm2.so".into(), ..config() }, "not an absolute path"),
        (
            TokenConfig { module: "/nonexistent/module.so".into(), ..config() },
            "cannot find the PKCS#11 module",
        ),
        (TokenConfig { module: not_pkcs11, ..config() }, "is no PKCS#11 module"),
        (TokenConfig { environment: no_conf, ..config() }, "does not initialise"),
        (TokenConfig { select: label("other"), ..config() }, "Tokens there: \"bench\" (serial "),
        (
            TokenConfig { select: TokenSelect::Serial("0".to_owned()), ..config() },
            "no token with serial \"0\"",
        ),
        (TokenConfig { pin: PinSource::File(bench.path("missing")), ..config() }, "cannot read the PIN file"),
        (TokenConfig { pin: PinSource::Credential("pin".to_owned()), ..config() }, "no systemd credential"),
        (TokenConfig { pin: PinSource::Credential("../pin".to_owned()), ..config() }, "no name of a systemd"),
    ];
    for (config, part) in cases {
        let error = bench.refusal(config).await;
        assert!(matches!(error, StartError::Token(_)), "{error:?}");
        assert!(error.to_string().contains(part), "{part:?} in {error}");
    }

    bench.write_pin("");
    assert!(bench.refusal(config()).await.to_string().contains("does not hold a PIN"));
    bench.write_pin(PIN);
    fs::set_permissions(bench.path("pin"), fs::Permissions::from_mode(0o604)).unwrap();
    assert!(bench.refusal(config()).await.to_string().contains("others can get at it"));
    bench.write_pin(PIN);

    bench.make_token("bench");
    let error = bench.refusal(config()).await.to_string();
    assert!(error.contains("more than one token has label") && error.contains("Choose by serial"), "{error}");
}

#[tokio::test]
async fn the_pin_may_be_a_systemd_credential_and_the_token_chosen_by_serial() {
    let bench = Bench::new();
    let config = TokenConfig { select: TokenSelect::Label("nobody".to_owned()), ..bench.config() };
    let error = bench.refusal(config).await.to_string();
    let serial = error.split("(serial ").nth(1).unwrap().split(')').next().unwrap().to_owned();
    let mut environment = bench.environment();
    environment.insert("CREDENTIALS_DIRECTORY".to_owned(), bench.dir.path().display().to_string());
    let config = TokenConfig {
        select: TokenSelect::Serial(serial),
        pin: PinSource::Credential("pin".to_owned()),
        environment,
        ..bench.config()
    };
    let token = Supervisor::start(command(), config).await.unwrap();
    assert_eq!(token.survey(soon()).await.unwrap().label, "bench");
}

#[tokio::test]
async fn a_worker_that_is_none_is_an_error_and_not_a_loop() {
    let bench = Bench::new();
    for program in ["/bin/true", "/nonexistent/custodian"] {
        let command = WorkerCommand { program: program.into(), args: Vec::new() };
        let error = Supervisor::start(command, bench.config()).await.err().unwrap();
        assert!(matches!(error, StartError::Worker(_)), "{error:?}");
    }
}
