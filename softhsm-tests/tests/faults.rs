//! kill -9, anywhere, under load: every key that anybody received has its record (law 1).

use std::collections::HashMap;

use custodian_proto::v1;
use softhsm_tests::{Dev, Load, Person, Unwrapped, Wire, sealed_key};

/// Every received key has a record that says so, and the log has no gap.
fn assert_no_record_no_key(received: &[Unwrapped], records: &[v1::Record]) {
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.sequence, index as u64 + 1, "the log has a gap");
    }
    let by_id: HashMap<_, _> = records.iter().map(|record| (record.request_id.as_str(), record)).collect();
    for key in received {
        let record = by_id.get(key.request_id.as_str()).unwrap_or_else(|| panic!("no record of {key:?}"));
        assert_eq!((record.operation.as_str(), record.outcome.as_str()), ("Unwrap", "OK"));
        assert_eq!(record.wrapped_key_sha256, key.wrapped_sha256);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn law_6_a_killed_worker_is_replaced_and_the_next_requests_succeed() {
    let dev = Dev::without_budgets();
    let mut load = Load::start(&dev, 4).await;
    load.received(20).await;
    for _ in 0..3 {
        let worker = dev.worker().expect("there is a worker");
        Dev::signal(worker, "KILL");
        let before = load.count();
        load.received(before + 20).await;
        assert_ne!(dev.worker(), Some(worker));
    }
    let received = load.stop().await;
    assert_no_record_no_key(&received, &Wire::records(&dev).await);
    let status = token_status(&dev);
    assert_eq!((&status["worker_restarts"], &status["serving"]), (&3.into(), &true.into()), "{status}");
}

#[test]
fn the_status_never_waits_for_the_token() {
    let dev = Dev::start();
    let before = token_status(&dev);
    dev.ctl(Person::Admin, ["key", "create", "backups", "--bits", "2048"]).expect(0);
    let worker = dev.worker().expect("there is a worker");
    // A stopped worker answers nothing at all.
    Dev::signal(worker, "STOP");
    let status = token_status(&dev);
    Dev::signal(worker, "CONT");
    for fact in ["serving", "trouble", "label", "model", "wrapping", "worker_restarts"] {
        assert_eq!(status[fact], before[fact], "{fact}");
    }
    assert_eq!(status["serving"], true);
    assert_eq!(status["key_count"].as_u64(), before["key_count"].as_u64().map(|count| count + 1));
}

/// What `custodianctl status` says of the token.
fn token_status(dev: &Dev) -> serde_json::Value {
    dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json()["token"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn law_1_a_killed_custodian_has_a_record_of_every_key_it_gave() {
    let mut dev = Dev::without_budgets();
    let mut received = Vec::new();
    for _ in 0..3 {
        let mut load = Load::start(&dev, 8).await;
        load.received(30).await;
        let folder = dev.kill();
        received.extend(load.stop().await);
        dev = Dev::start_in(folder);
    }
    let records = Wire::records(&dev).await;
    assert_no_record_no_key(&received, &records);
    // And it serves again.
    let operator = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[9; 32]);
    assert_eq!(operator.unwrap(&key, wrapped).await.unwrap().file_key, [9; 32]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_open_calls_end_and_leaves_nothing_behind() {
    let dev = Dev::without_budgets();
    let mut load = Load::start(&dev, 4).await;
    load.received(20).await;
    let worker = dev.worker().expect("there is a worker");
    let (folder, ran) = dev.stop();
    ran.expect(0);
    assert!(!std::path::Path::new(&format!("/proc/{worker}")).exists(), "the worker is still there");
    let received = load.stop().await;
    let dev = Dev::start_in(folder);
    let records = Wire::records(&dev).await;
    assert_no_record_no_key(&received, &records);
    assert!(records.iter().all(|record| record.outcome != "OUTCOME_UNKNOWN"), "a call was cut off");
}
