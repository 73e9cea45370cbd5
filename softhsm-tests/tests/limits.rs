//! Too much, or too little room: quick, clear answers, no key without a record, and recovery without a restart.

use std::{
    fs,
    time::{Duration, Instant},
};

use custodian_proto::v1;
use softhsm_tests::{Dev, Person, Wire, reason, sealed_key, without_budgets};
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;

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

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_all_the_room_can_still_be_stopped() {
    let dev = Dev::start_in(configured(|text| text.replace("\ncalls = 512", "\ncalls = 2")));
    let (admin, operator) =
        (Wire::login(&dev, Person::Admin).await, Wire::login(&dev, Person::Operator).await);
    let (key, wrapped) = sealed_key(&dev.certificate(), &[4; 32]);
    // A worker that hangs keeps those two calls where they are, until their deadline.
    let worker = dev.worker().expect("there is a worker");
    Dev::signal(worker, "STOP");
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let (operator, key, wrapped) = (operator.clone(), key.clone(), wrapped.clone());
            tokio::spawn(async move {
                loop {
                    match operator.unwrap(&key, wrapped.clone()).await {
                        // One of the calls below had the place.
                        Err(status) if status.code() == Code::ResourceExhausted => {}
                        ended => return ended,
                    }
                }
            })
        })
        .collect();
    let revoke = || v1::RevokeDeviceRequest { name: "devices/operator-laptop".into(), reason: "lost".into() };
    let until = Instant::now() + Duration::from_secs(60);
    // No room, and none in that lane for who is no administrator.
    while operator.devices().revoke_device(operator.request(revoke())).await.unwrap_err().code()
        != Code::ResourceExhausted
    {
        assert!(Instant::now() < until, "there is always room");
    }
    let list = admin.devices().list_devices(admin.request(v1::ListDevicesRequest::default())).await;
    assert_eq!(reason(&list.unwrap_err()), "OVERLOADED");
    let revoked = admin.devices().revoke_device(admin.request(revoke())).await.unwrap().into_inner();
    assert_eq!(revoked.state(), v1::DeviceState::Revoked);
    Dev::signal(worker, "CONT");
    for call in calls {
        call.await.unwrap().expect_err("a key left after the revocation");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_has_no_room_for_is_refused_at_the_door_and_others_are_served() {
    let dev = Dev::start_in(Dev::configured(|config, _| {
        let token = config["token"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        token.insert("threads".to_owned(), 1.into());
        token.insert("queue".to_owned(), 2.into());
    }));
    let (admin, operator) =
        (Wire::login(&dev, Person::Admin).await, Wire::login(&dev, Person::Operator).await);
    let (key, wrapped) = sealed_key(&dev.certificate(), &[4; 32]);
    // Two wait, as long as the worker stands still.
    let worker = dev.worker().expect("there is a worker");
    Dev::signal(worker, "STOP");
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let (operator, key, wrapped) = (operator.clone(), key.clone(), wrapped.clone());
        calls.spawn(async move { operator.unwrap(&key, wrapped).await });
    }
    for _ in 0..6 {
        let refused = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    }
    admin.devices().list_devices(admin.request(v1::ListDevicesRequest::default())).await.unwrap();
    Dev::signal(worker, "CONT");
    while let Some(served) = calls.join_next().await {
        assert_eq!(served.unwrap().unwrap().file_key, [4; 32]);
    }
    let records = Wire::records(&dev).await;
    let unwraps = records.iter().filter(|record| record.operation == "Unwrap");
    assert_eq!(unwraps.count(), 2, "what was refused was looked at");

    // How many they were is recorded, each minute and at the end.
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let records = Wire::records(&Dev::start_in(folder)).await;
    let told: Vec<_> = records.iter().filter(|record| record.operation == "Flood").collect();
    let [told] = told[..] else { panic!("{told:?}") };
    assert_eq!(told.outcome, "OVERLOADED");
    assert!(told.detail.starts_with("6 calls that found no room"), "{}", told.detail);
}

#[tokio::test]
async fn the_budget_counts_failures_too() {
    let dev = Dev::with_budgets(|budgets| budgets["user"]["unwraps_per_hour"] = 3.into());
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
    let folder = Dev::configured(|config, _| without_budgets(config));
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
