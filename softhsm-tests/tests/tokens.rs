//! Two tokens with the same keys: whatever happens to one of them, no request is lost that had time left.

use std::{fs, process::Command};

use serde_json::Value;
use softhsm_tests::{Dev, Load, Person, Start, Wire, bin, run, sealed_key};
use tonic_types::StatusExt;

/// What `custodianctl token ls` says of this token.
fn token(dev: &Dev, name: &str) -> Value {
    let named = format!("tokens/{name}");
    dev.tokens().into_iter().find(|token| token["name"] == named).unwrap()
}

/// Lets the load go on until the tokens are like this.
async fn until(dev: &Dev, load: &mut Load, like_this: impl Fn(&Dev) -> bool) {
    while !like_this(dev) {
        let before = load.count();
        load.received(before + 10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_one_tokens_worker_under_load_lose_no_request() {
    let dev = Dev::with_two_tokens();
    let mut load = Load::start(&dev, 4).await;
    load.received(20).await;
    let [_, spared] = dev.workers()[..] else { panic!("two workers") };
    for _ in 0..5 {
        let victim = dev.workers().into_iter().find(|pid| *pid != spared).unwrap();
        Dev::signal(victim, "KILL");
        let before = load.count();
        load.received(before + 20).await;
        until(&dev, &mut load, |dev| !dev.workers().contains(&victim) && dev.all_tokens_serve()).await;
    }
    assert_eq!(load.failures(), [""; 0]);
    load.stop().await;
    let restarts = |name| token(&dev, name)["worker_restarts"].as_u64().unwrap();
    assert_eq!((restarts("main") + restarts("second"), dev.workers().contains(&spared)), (5, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_while_one_worker_is_frozen_and_it_is_replaced() {
    let dev = Dev::with_two_tokens();
    let mut load = Load::start(&dev, 4).await;
    load.received(20).await;
    let frozen = dev.worker().unwrap();
    Dev::signal(frozen, "STOP");
    // What it had when it froze waits for half of its time before the other does it.
    let before = load.count();
    load.received(before + 50).await;
    until(&dev, &mut load, |dev| !dev.workers().contains(&frozen) && dev.all_tokens_serve()).await;
    assert_eq!(load.failures(), [""; 0]);
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_drained_and_resumed_under_load_without_losing_a_request() {
    let dev = Dev::with_two_tokens();
    let mut load = Load::start(&dev, 4).await;
    load.received(20).await;
    let drain = ["token", "drain", "second", "--reason", "new firmware", "--json"];
    let drained = dev.ctl(Person::Admin, drain).expect(0).json();
    assert_eq!((&drained["state"], &drained["under_way"]), (&"drained".into(), &0.into()), "{drained}");
    assert_eq!(drained["drain_reason"], "new firmware");
    // Again: no change, no error.
    dev.ctl(Person::Admin, drain).expect(0);
    let before = load.count();
    load.received(before + 50).await;
    assert_eq!(token(&dev, "second")["under_way"], 0);

    // Nobody else has the keys now.
    let last = ["token", "drain", "main", "--reason", "oops"];
    dev.ctl(Person::Admin, last).expect(3).says("LAST_TOKEN");
    dev.ctl(Person::Admin, ["token", "drain", "third", "--reason", "x"]).expect(3).says("NOT_FOUND");
    dev.ctl(Person::Auditor, ["token", "ls"]).expect(3).says("ROLE_MISSING");
    dev.ctl(Person::Auditor, drain).expect(3).says("ROLE_MISSING");
    assert_eq!(load.failures(), [""; 0]);
    load.stop().await;

    // A restart changes nothing about it.
    let (folder, _) = dev.stop();
    let dev = Dev::start_in(folder);
    assert_eq!(token(&dev, "second")["state"], "drained");
    let mut load = Load::start(&dev, 4).await;
    load.received(20).await;
    dev.ctl(Person::Admin, ["token", "resume", "second"]).expect(0);
    dev.ctl(Person::Admin, ["token", "drain", "main", "--reason", "its turn"]).expect(0);
    let before = load.count();
    load.received(before + 20).await;
    assert_eq!(load.failures(), [""; 0]);
    load.stop().await;

    // Whoever wishes so explicitly may stop all use of the keys.
    dev.ctl(Person::Admin, ["token", "drain", "second", "--reason", "all", "--even-if-last"]).expect(0);
    let operator = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[5; 32]);
    let status = operator.unwrap(&key, wrapped.clone()).await.unwrap_err();
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "TOKEN_UNAVAILABLE");
    assert!(details.retry_info().is_some());
    let status = dev.ctl(Person::Operator, ["status", "--json"]).expect(0).json();
    assert_eq!(status["token"]["serving"], false);
    let drained: Vec<_> =
        status["tokens"].as_array().unwrap().iter().map(|token| &token["drained"]).collect();
    assert_eq!(drained, [&serde_json::Value::Bool(true), &serde_json::Value::Bool(true)], "{status}");
    dev.ctl(Person::Admin, ["token", "resume", "second"]).expect(0);
    assert_eq!(operator.unwrap(&key, wrapped).await.unwrap().file_key, [5; 32]);

    let records = Wire::records(&dev).await;
    let of_tokens: Vec<_> = records
        .iter()
        .filter(|record| record.operation.ends_with("Token"))
        .map(|record| (record.operation.as_str(), record.target.as_str(), record.outcome.as_str()))
        .collect();
    assert_eq!(
        of_tokens,
        [
            ("DrainToken", "tokens/second", "OK"),
            ("DrainToken", "tokens/second", "OK"),
            ("DrainToken", "tokens/main", "LAST_TOKEN"),
            ("DrainToken", "tokens/third", "NOT_FOUND"),
            ("DrainToken", "tokens/second", "ROLE_MISSING"),
            ("ResumeToken", "tokens/second", "OK"),
            ("DrainToken", "tokens/main", "OK"),
            ("DrainToken", "tokens/second", "OK"),
            ("ResumeToken", "tokens/second", "OK"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_away_at_the_start_serves_once_it_is_back() {
    let dev = Dev::with_two_tokens();
    let (folder, _) = dev.stop();
    let (here, away) = (folder.path().join("dev/tokens-2"), folder.path().join("dev/away"));
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    let dev = Dev::start_in(folder);
    let second = token(&dev, "second");
    assert_eq!(second["state"], "away", "{second}");
    assert!(second["trouble"].as_str().unwrap().contains("no token with label"), "{second}");
    let status = dev.ctl(Person::Operator, ["status", "--json"]).expect(0).json();
    assert_eq!(status["token"]["serving"], true);
    let mut load = Load::start(&dev, 2).await;
    load.received(20).await;
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    until(&dev, &mut load, Dev::all_tokens_serve).await;
    assert_eq!(load.failures(), [""; 0]);
    load.stop().await;
    // And then it is as good as the other.
    dev.ctl(Person::Admin, ["token", "drain", "main", "--reason", "test"]).expect(0);
    let operator = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[5; 32]);
    assert_eq!(operator.unwrap(&key, wrapped).await.unwrap().file_key, [5; 32]);
}

#[test]
fn a_key_is_made_in_the_token_that_is_named() {
    let dev = Dev::with_two_tokens();
    let create = |label: &str, token: &str| {
        dev.ctl(Person::Admin, ["key", "create", label, "--bits", "2048", "--token", token, "--json"])
    };
    for token in ["second", "main"] {
        let uris = create(&format!("in-{token}"), token).expect(0).json()["uris"].clone();
        assert_eq!(uris.as_array().unwrap().len(), 1, "{uris}");
        // Only the worker of that token knows it.
        let other = if token == "main" { "second" } else { "main" };
        dev.ctl(Person::Admin, ["token", "drain", other, "--reason", "test", "--even-if-last"]).expect(0);
        let file = dev.scratch("source").join(token);
        fs::write(&file, token).unwrap();
        let certificate = dev.scratch("certificates").join(token);
        let label = format!("in-{token}");
        let args = ["key", "cert", &label, "-o", certificate.to_str().unwrap()];
        dev.ctl(Person::Admin, args).expect(0);
        let envelope = dev.scratch("sealed").join(token);
        let (to, out) = (certificate.to_str().unwrap(), envelope.to_str().unwrap());
        dev.envelope(Person::Operator, ["seal", "--to", to, "-o", out, file.to_str().unwrap()]).expect(0);
        let opened = dev.envelope(Person::Operator, ["extract", out, "--to-stdout"]).expect(0);
        assert_eq!(opened.stdout, token);
        dev.ctl(Person::Admin, ["token", "resume", other]).expect(0);
    }
    create("nowhere", "third").expect(3).says("NOT_FOUND");
    create("nowhere", "Not A Name").expect(3).says("INVALID_ARGUMENT");
}

#[test]
fn check_names_each_token_and_fails_for_one_that_is_away() {
    let dev = Dev::with_two_tokens();
    let dir = dev.dir();
    // The ledger is this custodian's alone while it runs.
    let (folder, _) = dev.stop();
    let checked = || {
        let config = dir.join("custodian.toml");
        run(Command::new(bin("custodian")).args(["check", "--config"]).arg(config))
    };
    let lines = checked().expect(0).stdout;
    for part in ["main: custodian-dev", "second: custodian-dev", "pkcs11:token=custodian-dev?module-path=/"] {
        assert!(lines.contains(part), "{part} is not in: {lines}");
    }
    assert!(lines.contains("active, in main, second"), "{lines}");
    fs::rename(dir.join("tokens-2"), dir.join("away")).unwrap();
    fs::create_dir(dir.join("tokens-2")).unwrap();
    checked().expect(1).says("cannot use the token second").says("no token with label");
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_worker_of_a_token_serves_a_key_that_one_of_them_made() {
    let folder = Dev::start().kill();
    let path = folder.path().join("dev/custodian.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("name = \"main\"", "name = \"main\"\nworkers = 3")).unwrap();
    let Start::Serving(dev) = Dev::try_start_in(folder) else { panic!("it does not start") };
    assert_eq!(dev.workers().len(), 3);
    dev.ctl(Person::Admin, ["key", "create", "backups", "--bits", "2048"]).expect(0);
    let certificate = dev.scratch("keys").join("backups.crt");
    dev.ctl(Person::Operator, ["key", "cert", "backups", "-o", certificate.to_str().unwrap()]).expect(0);
    let operator = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&certificate, &[5; 32]);
    for _ in 0..6 {
        assert_eq!(operator.unwrap(&key, wrapped.clone()).await.unwrap().file_key, [5; 32]);
    }
    // Any one of them alone serves it, too.
    for victim in dev.workers().into_iter().skip(1) {
        Dev::signal(victim, "STOP");
    }
    assert_eq!(operator.unwrap(&key, wrapped).await.unwrap().file_key, [5; 32]);
}
