//! Whatever the disk under the ledger does: no key without a record, no hang, and recovery without a restart.

use std::time::Duration;

use softhsm_tests::{Dev, Disk, DiskFault, Person, Wire, sealed_key};
use tonic::Code;
use tonic_types::StatusExt;

/// The ledger's deadline is two seconds; the rest is for a busy machine.
const ANSWER: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn law_1_a_full_disk_gives_no_key() {
    no_key_while_the_disk_fails(DiskFault::Full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_1_a_disk_that_became_read_only_gives_no_key() {
    no_key_while_the_disk_fails(DiskFault::ReadOnly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_1_a_disk_with_write_errors_gives_no_key() {
    no_key_while_the_disk_fails(DiskFault::BadWrite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_1_a_disk_that_cannot_sync_gives_no_key() {
    no_key_while_the_disk_fails(DiskFault::BadSync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_1_a_disk_whose_sync_hangs_gives_no_key_and_no_hang() {
    no_key_while_the_disk_fails(DiskFault::HungSync).await;
}

async fn no_key_while_the_disk_fails(fault: DiskFault) {
    let folder = Dev::configured(|config, _| config["ledger"]["deadline"] = "2s".into());
    let (disk, command) = Disk::under(&folder);
    let dev = Dev::start_as(folder, command);
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[4; 32]);
    let mut released = vec![wire.unwrap(&key, wrapped.clone()).await.unwrap().request_id];

    disk.fails(fault);
    // Several at once, and again: one failure must not be all that is noticed.
    for _ in 0..2 {
        let calls = (0..8).map(|_| {
            let (wire, key, wrapped) = (wire.clone(), key.clone(), wrapped.clone());
            tokio::spawn(async move { tokio::time::timeout(ANSWER, wire.unwrap(&key, wrapped)).await })
        });
        for call in calls.collect::<Vec<_>>() {
            let answer = call.await.unwrap().unwrap_or_else(|_| panic!("{fault:?}: no answer in {ANSWER:?}"));
            let status = answer.unwrap_err();
            let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
            assert_eq!((status.code(), reason.as_deref()), (Code::Unavailable, Some("LEDGER_UNAVAILABLE")));
        }
    }

    disk.works();
    released.push(wire.unwrap(&key, wrapped.clone()).await.unwrap().request_id);
    let before = Wire::records(&dev).await;
    // And all of it survives a power failure.
    let dev = Dev::start_in(dev.kill());
    let records = Wire::records(&dev).await;
    assert_eq!(before, records[..before.len()]);
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.sequence, index as u64 + 1, "the log has a gap");
    }
    for request in released {
        assert!(records.iter().any(|record| record.request_id == request && record.outcome == "OK"));
    }
    dev.ctl(Person::Auditor, ["audit", "verify"]).expect(0);
}
