//! Budgets: nobody walks out with everything, and whoever tries is seen.

use softhsm_tests::{Dev, Person, Wire, sealed_key, without_budgets};
use tokio::task::JoinSet;
use tonic::Status;
use tonic_types::StatusExt;

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// What a program learns of a refusal beside its reason.
fn fact(status: &Status, name: &str) -> String {
    let info = status.get_error_details().error_info().cloned().unwrap();
    info.metadata.get(name).cloned().unwrap_or_default()
}

/// A custodian with this limit only: `of` is a user, a device or a key.
fn limited(of: &str, name: &str, limit: i64) -> Dev {
    Dev::start_in(Dev::configured(|config, _| {
        without_budgets(config);
        config["budgets"][of][name] = limit.into();
    }))
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
        // An hour that turns in the middle would have a budget of its own: the loop tries again then.
        loop {
            let dev = limited(of, name, 7);
            let wire = Wire::login(&dev, Person::Operator).await;
            let hour = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 3_600;
            let begun = hour();
            let mut calls = JoinSet::new();
            for byte in 0..40 {
                let (key, wrapped) = sealed_key(&dev.certificate(), &[byte; 32]);
                let wire = wire.clone();
                calls.spawn(async move { wire.unwrap(&key, wrapped).await });
            }
            let answers = calls.join_all().await;
            if hour() != begun {
                continue;
            }
            assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 7, "{of} {name}");
            for refused in answers.into_iter().filter_map(Result::err) {
                assert_eq!(reason(&refused), "BUDGET_EXHAUSTED");
            }
            let records = Wire::records(&dev).await;
            let told: Vec<_> = records.iter().filter(|record| record.operation == "BudgetExceeded").collect();
            let [told] = told[..] else { panic!("told {} times", told.len()) };
            assert_eq!(told.outcome, "BUDGET_EXHAUSTED");
            assert!(told.target.starts_with(&format!("{of}s/")), "{}", told.target);
            break;
        }
    }
}

#[tokio::test]
async fn whoever_sends_too_much_that_is_bad_is_locked_there_and_nobody_else_is() {
    let dev = Dev::start_in(Dev::configured(|config, _| {
        config["budgets"].as_table_mut().unwrap().insert("bad_files_per_hour".into(), 3.into());
    }));
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
