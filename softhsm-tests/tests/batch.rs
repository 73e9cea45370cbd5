//! Many file keys in one call: each item is an unwrap of its own, with its own outcome and its own record.

use std::collections::HashMap;

use custodian_proto::v1;
use softhsm_tests::{BatchAnswers, Dev, Person, Wire, reason, sealed_key, unwrap_request, without_budgets};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// As many as a batch may have.
const MOST: u64 = 256;

fn request_id(status: &Status) -> String {
    status.get_error_details().request_info().map(|info| info.request_id.clone()).unwrap_or_default()
}

fn item(reference: u64, key: &str, wrapped_key: Vec<u8>) -> v1::UnwrapBatchRequest {
    v1::UnwrapBatchRequest { reference, unwrap: Some(unwrap_request(key, wrapped_key)) }
}

/// A batch that is fed one item after the other.
async fn fed(wire: &Wire) -> (mpsc::Sender<v1::UnwrapBatchRequest>, BatchAnswers) {
    let (feed, items) = mpsc::channel(1);
    (feed, wire.unwrap_batch(ReceiverStream::new(items)).await.unwrap())
}

/// Feeds a batch as much as there may be of this wrapped key.
async fn feed_all(feed: mpsc::Sender<v1::UnwrapBatchRequest>, key: String, wrapped: Vec<u8>) {
    for reference in 0..MOST {
        // Once the batch has ended nobody takes more.
        if feed.send(item(reference, &key, wrapped.clone())).await.is_err() {
            return;
        }
    }
}

fn assert_no_gap(records: &[v1::Record]) {
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.sequence, index as u64 + 1, "the log has a gap");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_item_has_its_own_outcome_and_its_own_record_in_the_order_of_the_items() {
    let dev = Dev::without_budgets();
    let wire = Wire::login(&dev, Person::Operator).await;
    let unknown = format!("keys/{}", "0".repeat(40));
    let mut expected = Vec::new();
    let mut items = Vec::new();
    for number in 0..MOST {
        // References mean nothing to the custodian: here they fall, and two have the same one.
        let reference = (MOST - number) / 2;
        let (key, wrapped) = sealed_key(&dev.certificate(), &[number as u8; 32]);
        let (outcome, item) = match number % 8 {
            3 => ("WRAPPED_KEY_REJECTED", item(reference, &key, vec![7; wrapped.len()])),
            5 => ("KEY_UNKNOWN", item(reference, &unknown, wrapped)),
            6 => ("INVALID_ARGUMENT", item(reference, "keys/none", wrapped)),
            7 => ("INVALID_ARGUMENT", v1::UnwrapBatchRequest { reference, unwrap: None }),
            _ => ("OK", item(reference, &key, wrapped)),
        };
        expected.push((reference, outcome));
        items.push(item);
    }
    let (answers, end) = wire.unwrap_batch(tokio_stream::iter(items)).await.unwrap().rest().await;
    end.unwrap();
    let records = Wire::records(&dev).await;
    assert_no_gap(&records);
    let by_id: HashMap<_, _> = records.iter().map(|record| (record.request_id.as_str(), record)).collect();
    assert_eq!(answers.len(), expected.len());
    for (number, ((reference, answer), expected)) in answers.iter().zip(&expected).enumerate() {
        let (id, outcome) = match answer {
            Ok(released) => {
                assert_eq!(released.file_key, [number as u8; 32]);
                assert_eq!(by_id[released.request_id.as_str()].sequence, released.sequence);
                (released.request_id.clone(), "OK".to_owned())
            }
            Err(status) => (request_id(status), reason(status)),
        };
        assert_eq!((*reference, outcome.as_str()), *expected, "item {number}");
        let record = by_id.get(id.as_str()).unwrap_or_else(|| panic!("no record of item {number}"));
        assert_eq!((record.operation.as_str(), record.outcome.as_str()), ("Unwrap", expected.1));
    }
    let unwraps = records.iter().filter(|record| record.operation == "Unwrap");
    assert_eq!(unwraps.count() as u64, MOST, "one record of each item, and no other");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_fails_as_the_same_request_by_itself_does() {
    let dev = Dev::without_budgets();
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    let unknown = format!("keys/{}", "0".repeat(40));
    for (key, wrapped) in [
        (key.as_str(), vec![7; wrapped.len()]),
        (unknown.as_str(), wrapped.clone()),
        ("nonsense", wrapped.clone()),
    ] {
        let alone = wire.unwrap(key, wrapped.clone()).await.unwrap_err();
        let items = tokio_stream::iter([item(9, key, wrapped)]);
        let (answers, end) = wire.unwrap_batch(items).await.unwrap().rest().await;
        end.unwrap();
        let [(9, Err(status))] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((status.code(), status.message()), (alone.code(), alone.message()));
        assert_eq!(reason(status), reason(&alone));
        assert_ne!(request_id(status), request_id(&alone));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_signed_in_is_refused_and_recorded_once() {
    let dev = Dev::without_budgets();
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    let mut refusals = Vec::new();
    for token in [None, Some("another".to_owned())] {
        let stranger = wire.clone().with_token(token);
        let alone = stranger.unwrap(&key, wrapped.clone()).await.unwrap_err();
        let items: Vec<_> = (0..9).map(|reference| item(reference, &key, wrapped.clone())).collect();
        let refused = stranger.unwrap_batch(tokio_stream::iter(items)).await.err().unwrap();
        assert_eq!((refused.code(), refused.message()), (alone.code(), alone.message()));
        assert_eq!((reason(&refused).as_str(), reason(&alone).as_str()), ("NOT_LOGGED_IN", "NOT_LOGGED_IN"));
        refusals.extend([request_id(&alone), request_id(&refused)]);
    }
    let records = Wire::records(&dev).await;
    let unwraps = records.iter().filter(|record| record.operation == "Unwrap");
    let recorded: Vec<_> =
        unwraps.map(|record| (record.request_id.clone(), record.outcome.as_str())).collect();
    assert_eq!(recorded, refusals.into_iter().map(|id| (id, "NOT_LOGGED_IN")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn law_2_a_revocation_in_the_middle_ends_the_batch_and_nothing_is_released_behind_it() {
    let dev = Dev::without_budgets();
    let admin = Wire::login(&dev, Person::Admin).await;
    let operator = Wire::login(&dev, Person::Operator).await;
    let (feed, mut answers) = fed(&operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    let feeding = tokio::spawn(feed_all(feed, key, wrapped));
    let mut released = Vec::new();
    for _ in 0..20 {
        let (_, answer) = answers.next().await.unwrap().unwrap();
        released.push(answer.unwrap());
    }
    let request = v1::RevokeDeviceRequest { name: "devices/operator-laptop".into(), reason: "lost".into() };
    let device = admin.devices().revoke_device(admin.request(request)).await.unwrap().into_inner();
    assert_eq!(device.stopped.unwrap().streams, 1);
    // What was on its way when the revocation returned may still come; the log decides.
    let (rest, end) = answers.rest().await;
    assert_eq!(reason(&end.unwrap_err()), "DEVICE_REVOKED");
    released.extend(rest.into_iter().filter_map(|(_, answer)| answer.ok()));
    feeding.await.unwrap();
    assert!((released.len() as u64) < MOST);

    let (folder, ran) = dev.stop();
    ran.expect(0);
    let dev = Dev::start_in(folder);
    let records = Wire::records(&dev).await;
    assert_no_gap(&records);
    let revoked = records.iter().find(|record| record.operation == "RevokeDevice").unwrap();
    for record in records.iter().filter(|record| record.operation == "Unwrap") {
        assert_ne!(record.outcome, "OUTCOME_UNKNOWN", "what had begun was settled");
        assert!(record.outcome != "OK" || record.sequence < revoked.sequence, "{record:?}");
    }
    for key in released {
        assert!(key.sequence < revoked.sequence);
        assert_eq!(records[key.sequence as usize - 1].request_id, key.request_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_caller_that_hangs_up_what_has_begun_is_settled() {
    let dev = Dev::without_budgets();
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    let items: Vec<_> = (0..MOST).map(|reference| item(reference, &key, wrapped.clone())).collect();
    let mut answers = wire.unwrap_batch(tokio_stream::iter(items)).await.unwrap();
    let (_, first) = answers.next().await.unwrap().unwrap();
    drop(answers);
    drop(wire);
    // Open calls end before it does; an attempt that was left would be found by the next start.
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let dev = Dev::start_in(folder);
    let records = Wire::records(&dev).await;
    assert_no_gap(&records);
    let unwraps: Vec<_> = records.iter().filter(|record| record.operation == "Unwrap").collect();
    // The token was there until the last of them had ended.
    assert!(unwraps.iter().all(|record| record.outcome == "OK"), "{unwraps:?}");
    assert!(unwraps.iter().any(|record| record.request_id == first.as_ref().unwrap().request_id));
    assert!((unwraps.len() as u64) < MOST, "nobody was there to ask for the rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_open_when_the_custodian_is_stopped_says_that_items_are_missing() {
    let dev = Dev::without_budgets();
    let wire = Wire::login(&dev, Person::Operator).await;
    let (feed, mut answers) = fed(&wire).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    let feeding = tokio::spawn(feed_all(feed, key, wrapped));
    answers.next().await.unwrap().unwrap().1.unwrap();
    Dev::signal(dev.pid(), "TERM");
    let (rest, end) = answers.rest().await;
    let end = end.unwrap_err();
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Unavailable, "STOPPING"));
    assert!((rest.len() as u64) < MOST - 1);
    assert!(rest.iter().all(|(_, answer)| answer.is_ok()), "what had begun ended: {rest:?}");
    feeding.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn law_1_kill_9_in_the_middle_leaves_no_key_without_a_record() {
    let dev = Dev::without_budgets();
    let wire = Wire::login(&dev, Person::Operator).await;
    let (feed, mut answers) = fed(&wire).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    let feeding = tokio::spawn(feed_all(feed, key, wrapped));
    let mut released = Vec::new();
    for _ in 0..20 {
        let (_, answer) = answers.next().await.unwrap().unwrap();
        released.push(answer.unwrap());
    }
    let folder = dev.kill();
    let (rest, end) = answers.rest().await;
    end.expect_err("it was killed before the end");
    released.extend(rest.into_iter().filter_map(|(_, answer)| answer.ok()));
    feeding.await.unwrap();
    let dev = Dev::start_in(folder);
    let records = Wire::records(&dev).await;
    assert_no_gap(&records);
    for key in released {
        let record = &records[key.sequence as usize - 1];
        assert_eq!((record.request_id.as_str(), record.outcome.as_str()), (key.request_id.as_str(), "OK"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_ends_in_the_middle_is_never_exceeded() {
    let dev = Dev::with_budgets(|budgets| budgets["user"]["files_per_hour"] = 10.into());
    let wire = Wire::login(&dev, Person::Operator).await;
    let items = (0..40).map(|number| {
        let (key, wrapped) = sealed_key(&dev.certificate(), &[number as u8; 32]);
        item(number, &key, wrapped)
    });
    let items: Vec<_> = items.collect();
    let (answers, end) = wire.unwrap_batch(tokio_stream::iter(items)).await.unwrap().rest().await;
    end.unwrap();
    let (released, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, answer)| answer.is_ok());
    assert_eq!((released.len(), refused.len()), (10, 30));
    for (_, status) in refused {
        let status = status.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "BUDGET_EXHAUSTED"));
        assert!(status.get_error_details().retry_info().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_item_too_many_ends_the_batch_behind_the_answers() {
    let dev = Dev::without_budgets();
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    let items: Vec<_> = (0..MOST + 5).map(|reference| item(reference, &key, wrapped.clone())).collect();
    let (answers, end) = wire.unwrap_batch(tokio_stream::iter(items)).await.unwrap().rest().await;
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    assert_eq!(answers.len() as u64, MOST);
    assert_eq!(reason(&end.unwrap_err()), "INVALID_ARGUMENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_takes_no_room_from_who_asks_for_one_thing() {
    let dev = Dev::start_in(Dev::configured(|config, _| {
        without_budgets(config);
        config["limits"]["calls"] = 2.into();
    }));
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    let items: Vec<_> = (0..MOST).map(|reference| item(reference, &key, wrapped.clone())).collect();
    let mut answers = wire.unwrap_batch(tokio_stream::iter(items)).await.unwrap();
    answers.next().await.unwrap().unwrap().1.unwrap();
    for _ in 0..20 {
        wire.unwrap(&key, wrapped.clone()).await.unwrap();
    }
    let (rest, end) = answers.rest().await;
    end.unwrap();
    assert_eq!(rest.len() as u64, MOST - 1);
    assert!(rest.iter().all(|(_, answer)| answer.is_ok()), "an item waits for room instead");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_device_there_are_few_batches_at_once() {
    let dev = Dev::without_budgets();
    let wire = Wire::login(&dev, Person::Operator).await;
    let mut open = Vec::new();
    let refused = loop {
        let (feed, items) = mpsc::channel::<v1::UnwrapBatchRequest>(1);
        match wire.unwrap_batch(ReceiverStream::new(items)).await {
            Ok(answers) => open.push((feed, answers)),
            Err(status) => break status,
        }
        assert!(open.len() < 64, "there is always room");
    };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    // Others have room, and so has this one when a batch ends.
    let (feed, answers) = open.pop().unwrap();
    drop(feed);
    assert_eq!(answers.rest().await.0.len(), 0);
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    let answers = loop {
        // The place is free a moment after the end is told.
        match wire.unwrap_batch(tokio_stream::iter([item(1, &key, wrapped.clone())])).await {
            Ok(answers) => break answers,
            Err(status) => assert_eq!(reason(&status), "OVERLOADED"),
        }
    };
    assert!(answers.rest().await.0[0].1.is_ok());
}
