//! Budgets: nobody walks out with everything, and whoever tries is seen.

use std::{fs, path::PathBuf};

use softhsm_tests::{Dev, Person, Ran, Wire, reason, sealed_key, without_budgets};
use tokio::task::JoinSet;
use tonic::Status;
use tonic_types::StatusExt;

/// What a program learns of a refusal beside its reason.
fn fact(status: &Status, name: &str) -> String {
    let info = status.get_error_details().error_info().cloned().unwrap();
    info.metadata.get(name).cloned().unwrap_or_default()
}

/// A custodian with this limit only: `of` is a user, a device or a key.
fn limited(of: &str, name: &str, limit: i64) -> Dev {
    Dev::with_budgets(|budgets| budgets[of][name] = limit.into())
}

#[tokio::test]
async fn the_same_file_again_is_no_further_file_and_a_restart_forgets_nothing() {
    let dev = limited("user", "files_per_day", 2);
    let wire = Wire::login(&dev, Person::Operator).await;
    let files: Vec<_> = (1..=3).map(|byte| sealed_key(&dev.certificate(), &[byte; 32])).collect();
    let [(key, first), (_, second), (_, third)] = &files[..] else { panic!() };
    for wrapped in [first, second, first, second] {
        wire.unwrap(key, wrapped.clone()).await.unwrap();
    }
    let refused = wire.unwrap(key, third.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "BUDGET_EXHAUSTED");
    assert_eq!(fact(&refused, "budget"), "users/operator files_per_day");
    assert!(fact(&refused, "until").ends_with("T00:00:00Z"), "{refused:?}");
    assert!(refused.message().contains(&fact(&refused, "until")), "{refused:?}");
    assert!(refused.get_error_details().retry_info().is_some());

    let dev = Dev::start_in(dev.kill());
    let wire = Wire::login(&dev, Person::Operator).await;
    assert_eq!(reason(&wire.unwrap(key, third.clone()).await.unwrap_err()), "BUDGET_EXHAUSTED");
    wire.unwrap(key, first.clone()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_never_exceed_a_budget() {
    for (of, name) in [("user", "unwraps_per_hour"), ("device", "files_per_hour"), ("key", "files_per_day")] {
        let dev = limited(of, name, 7);
        let wire = Wire::login(&dev, Person::Operator).await;
        let mut calls = JoinSet::new();
        for byte in 0..40 {
            let (key, wrapped) = sealed_key(&dev.certificate(), &[byte; 32]);
            let wire = wire.clone();
            calls.spawn(async move { wire.unwrap(&key, wrapped).await });
        }
        let answers = calls.join_all().await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 7, "{of} {name}");
        for refused in answers.into_iter().filter_map(Result::err) {
            assert_eq!(reason(&refused), "BUDGET_EXHAUSTED");
        }
        let records = Wire::records(&dev).await;
        let told: Vec<_> = records.iter().filter(|record| record.operation == "BudgetExceeded").collect();
        let [told] = told[..] else { panic!("told {} times", told.len()) };
        assert_eq!(told.outcome, "BUDGET_EXHAUSTED");
        assert!(told.target.starts_with(&format!("{of}s/")), "{}", told.target);
    }
}

#[tokio::test]
async fn whoever_sends_too_much_that_is_bad_is_locked_there_and_nobody_else_is() {
    let dev = Dev::with_budgets(|budgets| budgets["bad_files_per_hour"] = 3.into());
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[4; 32]);
    for byte in 1..=3 {
        let status = wire.unwrap(&key, vec![byte; wrapped.len()]).await.unwrap_err();
        assert_eq!(reason(&status), "WRAPPED_KEY_REJECTED");
    }
    for ciphertext in [wrapped.clone(), vec![9; wrapped.len()]] {
        let status = wire.unwrap(&key, ciphertext).await.unwrap_err();
        assert_eq!(reason(&status), "UNWRAP_LOCKED");
        assert!(
            status.message().contains("users/operator on devices/operator-laptop"),
            "{}",
            status.message()
        );
        assert!(status.get_error_details().retry_info().unwrap().retry_delay.unwrap().as_secs() > 800);
    }
    let records = Wire::records(&dev).await;
    let told: Vec<_> = records.iter().filter(|record| record.operation == "BudgetExceeded").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].outcome, "UNWRAP_LOCKED");

    // A restart does not help, and a file is told like that, too.
    let dev = Dev::start_in(dev.kill());
    let source = dev.scratch("source").join("a");
    std::fs::write(&source, b"content").unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &envelope);
    let args = ["extract".as_ref(), envelope.as_os_str(), "--to-stdout".as_ref()];
    dev.envelope(Person::Operator, args).expect(3).says("UNWRAP_LOCKED").says("until ");
    // The same person from another workstation may.
    let mut elsewhere = dev.command("envelope", Person::Operator);
    for (name, file) in [("CUSTODIAN_CERT", "device.crt"), ("CUSTODIAN_KEY", "device.key")] {
        elsewhere.env(name, dev.dir().join("auditor").join(file));
    }
    assert_eq!(softhsm_tests::run(elsewhere.args(args)).expect(0).stdout, "content");
}

/// Envelopes of one small file each, named after it.
fn sealed(dev: &Dev, names: &[&str]) -> Vec<PathBuf> {
    let seal = |name: &&str| {
        let source = dev.scratch("source").join(name);
        fs::write(&source, format!("content of {name}")).unwrap();
        let envelope = dev.scratch("sealed").join(format!("{name}.mtd"));
        dev.seal(&source, &envelope);
        envelope
    };
    names.iter().map(seal).collect()
}

fn extract(dev: &Dev, envelopes: &[PathBuf], folder: &str) -> Ran {
    let folder = dev.scratch(folder);
    let options = ["extract".as_ref(), "-C".as_ref(), folder.as_os_str()];
    let envelopes = envelopes.iter().map(|path| path.as_os_str());
    dev.envelope(Person::Operator, options.into_iter().chain(envelopes))
}

fn names_in(dev: &Dev, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(dev.scratch(folder)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn several_envelopes_are_opened_if_all_fit_and_none_if_they_do_not() {
    let dev = limited("user", "files_per_day", 3);
    let envelopes = sealed(&dev, &["a", "b", "c", "d"]);
    extract(&dev, &envelopes, "none")
        .expect(3)
        .says("BUDGET_EXHAUSTED")
        .says("3 are left until")
        .says("these are 4");
    assert_eq!(names_in(&dev, "none"), [""; 0]);
    let unwraps = |records: Vec<custodian_proto::v1::Record>| {
        records.into_iter().filter(|record| record.operation == "Unwrap").count()
    };
    assert_eq!(unwraps(Wire::records(&dev).await), 0);
    extract(&dev, &envelopes[..3], "three").expect(0).says("c.mtd: extracted 1 entry");
    assert_eq!(names_in(&dev, "three"), ["a", "b", "c"]);
    assert_eq!(fs::read_to_string(dev.scratch("three").join("b")).unwrap(), "content of b");
    // Once more, they are no further files.
    extract(&dev, &envelopes[..3], "again").expect(0);
    extract(&dev, &envelopes[2..], "fourth").expect(3).says("0 are left");
    assert_eq!(unwraps(Wire::records(&dev).await), 6);
}

#[test]
fn of_several_envelopes_each_is_told_and_the_worst_is_the_exit_code() {
    let dev = Dev::start();
    let mut envelopes = sealed(&dev, &["a", "b", "c"]);
    // Cut off; and not there at all.
    let whole = fs::read(&envelopes[1]).unwrap();
    fs::write(&envelopes[1], &whole[..whole.len() / 2]).unwrap();
    envelopes.insert(2, dev.scratch("sealed").join("missing.mtd"));
    let ran = extract(&dev, &envelopes, "out").expect(5);
    let ran = ran.says("a.mtd: extracted 1 entry").says("c.mtd: extracted 1 entry").says("missing.mtd");
    ran.says("cannot extract 2 of 4 envelopes");
    assert_eq!(names_in(&dev, "out"), ["a", "c"]);
    // What is there is not overwritten, and does not stop the others.
    let mut more = sealed(&dev, &["d"]);
    more.insert(0, envelopes[0].clone());
    extract(&dev, &more, "out").expect(1).says("d.mtd: extracted").says("1 of 2");
    assert_eq!(names_in(&dev, "out"), ["a", "c", "d"]);
}

#[tokio::test]
async fn an_administrator_gives_more_for_a_time_and_ends_a_lock() {
    let dev = limited("device", "files_per_day", 1);
    let envelopes = sealed(&dev, &["a", "b", "c"]);
    extract(&dev, &envelopes[..1], "one").expect(0);
    extract(&dev, &envelopes[1..2], "two")
        .expect(3)
        .says("BUDGET_EXHAUSTED")
        .says("custodianctl budget lift");

    let device = "devices/operator-laptop";
    let lift = |person, more| {
        dev.ctl(
            person,
            ["budget", "lift", device, "--more", more, "--until", "1h", "--reason", "case 17", "--json"],
        )
    };
    lift(Person::Operator, "1").expect(3).says("ROLE_MISSING");
    let lifted = lift(Person::Admin, "1").expect(0).json();
    assert_eq!((&lifted["lift"]["left"], &lifted["lift"]["lifted_by"]), (&1.into(), &"users/admin".into()));
    let records = Wire::records(&dev).await;
    let record = records.iter().rfind(|record| record.operation == "LiftBudget").unwrap();
    assert_eq!((record.target.as_str(), record.user.as_str()), (device, "users/admin"));
    assert!(
        record.detail.starts_with("1 more until ") && record.detail.ends_with("; case 17"),
        "{}",
        record.detail
    );

    // It is there after a kill -9, and used once.
    let dev = Dev::start_in(dev.kill());
    extract(&dev, &envelopes[1..], "two").expect(3).says("these are 2");
    extract(&dev, &envelopes[1..2], "two").expect(0);
    extract(&dev, &envelopes[2..], "three").expect(3);
    let shown = dev.ctl(Person::Admin, ["budget", "show", device, "--json"]).expect(0).json();
    assert_eq!((&shown["day"]["files"], &shown["day"]["files_limit"]), (&2.into(), &1.into()));
    assert!(shown["lift"].is_null(), "{shown}");
    let listed = dev.ctl(Person::Admin, ["budget", "ls", "--json"]).expect(0).json();
    let spenders: Vec<_> = listed["budgets"].as_array().unwrap().iter().map(|one| &one["spender"]).collect();
    assert!(spenders.contains(&&device.into()) && spenders.contains(&&"users/operator".into()), "{listed}");
    dev.ctl(Person::Admin, ["budget", "show", "users/nobody"]).expect(3).says("NOT_FOUND");

    // A lock is listed, and ended.
    let dev = Dev::start_in(dev.reconfigured(|config, _| {
        without_budgets(config);
        config["budgets"]["bad_files_per_hour"] = 1.into();
    }));
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[4; 32]);
    wire.unwrap(&key, vec![1; wrapped.len()]).await.unwrap_err();
    assert_eq!(reason(&wire.unwrap(&key, wrapped.clone()).await.unwrap_err()), "UNWRAP_LOCKED");
    let listed = dev.ctl(Person::Admin, ["budget", "ls"]).expect(0);
    assert!(listed.stdout.contains("LOCKED") && listed.stdout.contains(device), "{}", listed.stdout);
    let unlock =
        ["budget", "unlock", "--user", "operator", "--device", "operator-laptop", "--reason", "a bad disk"];
    dev.ctl(Person::Admin, unlock).expect(0);
    wire.unwrap(&key, wrapped).await.unwrap();
}
