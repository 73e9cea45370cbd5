//! Too much, or too little room: quick, clear answers, no key without a record, and recovery without a restart.

use std::fs;

use softhsm_tests::{Dev, Person, Wire, sealed_key};
use tonic::Code;
use tonic_types::StatusExt;

fn reason(status: &tonic::Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// A stopped `dev`, with a change of its configuration.
fn configured(change: impl FnOnce(String) -> String) -> tempfile::TempDir {
    let (folder, ran) = Dev::start().stop();
    ran.expect(0);
    let config = folder.path().join("dev/custodian.toml");
    let text = fs::read_to_string(&config).unwrap();
    let changed = change(text.clone());
    assert_ne!(text, changed);
    fs::write(&config, changed).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_of_calls_the_answer_is_to_come_back_later() {
    let dev = Dev::start_in(configured(|text| text.replace("\ncalls = 512", "\ncalls = 2")));
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[4; 32]);
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let (wire, key, wrapped) = (wire.clone(), key.clone(), wrapped.clone());
            tokio::spawn(async move { wire.unwrap(&key, wrapped).await })
        })
        .collect();
    let (mut served, mut shed) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(answer) => {
                assert_eq!(answer.file_key, [4; 32]);
                served += 1;
            }
            Err(status) => {
                assert_eq!(
                    (status.code(), reason(&status).as_str()),
                    (Code::ResourceExhausted, "OVERLOADED")
                );
                assert!(status.get_error_details().retry_info().is_some());
                shed += 1;
            }
        }
    }
    assert!(served >= 2 && shed >= 1, "{served} served, {shed} shed");
    wire.unwrap(&key, wrapped).await.unwrap();
}

#[tokio::test]
async fn the_budget_counts_failures_too() {
    let dev =
        Dev::start_in(configured(|text| text.replace("unwraps_per_hour = 1000\n", "unwraps_per_hour = 3\n")));
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[4; 32]);
    wire.unwrap(&key, wrapped.clone()).await.unwrap();
    for _ in 0..2 {
        let status = wire.unwrap(&key, vec![7; wrapped.len()]).await.unwrap_err();
        assert_eq!(reason(&status), "WRAPPED_KEY_REJECTED");
    }
    // From here on, good and bad have one answer: whoever guesses learns nothing more.
    for ciphertext in [wrapped.clone(), vec![7; wrapped.len()], vec![8; wrapped.len()], wrapped] {
        let status = wire.unwrap(&key, ciphertext).await.unwrap_err();
        assert_eq!(reason(&status), "BUDGET_EXHAUSTED");
        assert!(status.get_error_details().retry_info().is_some());
    }
}

#[tokio::test]
async fn law_1_a_full_disk_gives_no_key_and_room_brings_it_back() {
    let (folder, ran) = Dev::start().stop();
    ran.expect(0);
    // What the ledger has so far fits; its write-ahead log cannot grow much.
    let dev = Dev::start_on_a_small_disk(folder, 4000);
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[4; 32]);
    let mut released = Vec::new();
    let refused = loop {
        match wire.unwrap(&key, wrapped.clone()).await {
            Ok(answer) => released.push(answer.request_id),
            Err(status) => break status,
        }
        assert!(released.len() < 10_000, "the disk is never full");
    };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "LEDGER_UNAVAILABLE"));
    assert!(wire.unwrap(&key, wrapped.clone()).await.is_err());

    dev.make_room();
    let answer = wire.unwrap(&key, wrapped).await.unwrap();
    released.push(answer.request_id);
    let records = Wire::records(&dev).await;
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.sequence, index as u64 + 1);
    }
    for request in released {
        assert!(records.iter().any(|record| record.request_id == request && record.outcome == "OK"));
    }
}
