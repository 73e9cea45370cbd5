//! A revocation that has returned cannot be overtaken (law 2).

use custodian_proto::v1;
use softhsm_tests::{Dev, Load, Person, Wire, reason, sealed_key};

#[tokio::test(flavor = "multi_thread")]
async fn revocation_holds_at_once_on_a_live_connection_under_load() {
    let dev = Dev::without_budgets();
    let admin = Wire::login(&dev, Person::Admin).await;
    let mut load = Load::start(&dev, 8).await;
    load.received(50).await;

    let request = v1::RevokeDeviceRequest { name: "devices/operator-laptop".into(), reason: "lost".into() };
    let device = admin.devices().revoke_device(admin.request(request)).await.unwrap().into_inner();
    assert_eq!(device.state(), v1::DeviceState::Revoked);
    // Answers that were on their way when the revocation returned may still be counted; the log decides.
    let keys = load.stop().await;

    let records = Wire::records(&dev).await;
    let revoked = records.iter().find(|record| record.operation == "RevokeDevice").unwrap();
    assert_eq!(revoked.outcome, "OK");
    assert_eq!(revoked.detail, "lost");
    let unwraps: Vec<_> = records.iter().filter(|record| record.operation == "Unwrap").collect();
    let released_after =
        unwraps.iter().filter(|record| record.sequence > revoked.sequence && record.outcome == "OK").count();
    assert_eq!(released_after, 0, "keys were released after the revocation");
    let refused_after = unwraps.iter().any(|record| record.outcome == "DEVICE_REVOKED");
    assert!(refused_after, "the load did not go on after the revocation");
    for key in keys {
        let record = records.iter().find(|record| record.request_id == key.request_id).unwrap();
        assert!(record.outcome == "OK" && record.sequence < revoked.sequence);
    }
}

#[tokio::test]
async fn after_revocation_nothing_works_any_more_on_that_device() {
    let dev = Dev::start();
    let operator = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[3; 32]);
    operator.unwrap(&key, wrapped.clone()).await.unwrap();
    dev.ctl(Person::Admin, ["device", "revoke", "operator-laptop", "--reason", "lost"]).expect(0);
    let status = operator.unwrap(&key, wrapped).await.unwrap_err();
    assert_eq!(reason(&status), "DEVICE_REVOKED");
    let again = dev.ctl(Person::Admin, ["device", "activate", "operator-laptop"]).expect(3);
    again.says("STATE_CONFLICT");
    dev.envelope(Person::Operator, ["login"]).expect(3).says("DEVICE_REVOKED");
}

#[tokio::test]
async fn suspending_a_key_and_disabling_a_user_hold_at_once() {
    let dev = Dev::start();
    let operator = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[3; 32]);

    dev.ctl(Person::Admin, ["key", "suspend", "sample", "--reason", "inventory"]).expect(0);
    assert_eq!(reason(&operator.unwrap(&key, wrapped.clone()).await.unwrap_err()), "KEY_SUSPENDED");
    dev.ctl(Person::Admin, ["key", "activate", "sample"]).expect(0);
    operator.unwrap(&key, wrapped.clone()).await.unwrap();

    dev.ctl(Person::Admin, ["user", "disable", "operator", "--reason", "left"]).expect(0);
    assert_eq!(reason(&operator.unwrap(&key, wrapped.clone()).await.unwrap_err()), "USER_DISABLED");
    // Letting the user in again does not bring the old session back.
    dev.ctl(Person::Admin, ["user", "enable", "operator"]).expect(0);
    assert_eq!(reason(&operator.unwrap(&key, wrapped).await.unwrap_err()), "NOT_LOGGED_IN");
}
