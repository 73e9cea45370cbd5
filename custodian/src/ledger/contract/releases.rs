//! What a release promises.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use custodian_proto::refusal::Refusal;

use super::{refusals::futures, world::*};
use crate::{
    authority::{DeviceState, Session, SessionId, SpkiHash},
    custody::Denial,
    ledger::{Change, Grant, Intent, Ledger, OK, Outcome},
};

pub(crate) async fn a_grant_marks_the_session_as_used<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let old = Session { used: ago(300), ..session(2, "anna", 1) };
    world.done(Change::OpenSession(old.clone())).await;
    let standing = crate::authority::Standing { session: Some(old.id), ..world.standing() };
    world.unwraps(standing).await.unwrap();
    let identity = world.ledger.identify(SpkiHash([1; 32]), Some(old.id)).await.unwrap();
    assert!(identity.session.unwrap().used > ago(60));
    assert_eq!(identity.device.unwrap().id, device_id("laptop-1"));
    assert_eq!(identity.user.unwrap().id, user_id("anna"));
    let nobody = world.ledger.identify(SpkiHash([9; 32]), Some(SessionId([9; 32]))).await.unwrap();
    assert!(nobody.device.is_none() && nobody.session.is_none() && nobody.user.is_none());
}

pub(crate) async fn reading_marks_the_session_as_used<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let old = Session { used: ago(300), ..session(2, "anna", 1) };
    world.done(Change::OpenSession(old.clone())).await;
    let records = world.all_records().await.len();
    world.ledger.touch(old.id);
    world.ledger.touch(SessionId([9; 32]));
    // Queued behind them: when this has its record, they are done.
    world.done(Change::CreateUser(user("bob", &[]))).await;
    let identity = world.ledger.identify(SpkiHash([1; 32]), Some(old.id)).await.unwrap();
    assert!(identity.session.unwrap().used > ago(60));
    assert_eq!(world.all_records().await.len(), records + 1, "a touch makes no record");
}

/// Law 2: once a revocation has returned, nothing is released to that device, whenever it began.
pub(crate) async fn a_revocation_that_has_returned_is_never_overtaken<L: Ledger>(ledger: Arc<L>) {
    let world = Arc::new(World::peopled(ledger).await);
    let revoked = Arc::new(AtomicBool::new(false));
    let released = Arc::new(AtomicUsize::new(0));
    let hammers = (0..16).map(|_| {
        let (world, revoked, released) = (Arc::clone(&world), Arc::clone(&revoked), Arc::clone(&released));
        tokio::spawn(async move {
            loop {
                let attempt = world.ledger.begin(Intent { user: "users/anna".into(), ..intent("Unwrap") });
                let too_late = revoked.load(Ordering::SeqCst);
                let grant = Grant { standing: world.standing(), change: None };
                match world.ledger.settle(attempt, Outcome::Granted(grant)).await {
                    Ok(_) => {
                        assert!(!too_late, "released after the revocation had returned");
                        released.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(denial) => {
                        assert_eq!(denial.code(), Refusal::DeviceRevoked.code());
                        return;
                    }
                }
            }
        })
    });
    let hammers = hammers.collect();
    // Begun long before, settled after.
    let early = world.ledger.begin(intent("Unwrap"));
    while released.load(Ordering::SeqCst) < 200 {
        tokio::task::yield_now().await;
    }
    world.sets_device("laptop-1", DeviceState::Revoked).await.unwrap();
    revoked.store(true, Ordering::SeqCst);
    let number = world.ledger.last_sequence();
    let grant = Grant { standing: world.standing(), change: None };
    let denial = world.ledger.settle(early, Outcome::Granted(grant)).await.err().unwrap();
    assert_eq!(denial.code(), Refusal::DeviceRevoked.code());
    futures(hammers).await;
    assert!(*number.borrow() > 200);

    // The log tells the same story: no OK of that device follows the revocation.
    let records = world.all_records().await;
    let revocation = records.iter().rposition(|record| record.operation == "Change").unwrap();
    assert!(records[revocation..].iter().skip(1).all(|record| record.outcome != OK));
    assert!(records[..revocation].iter().filter(|record| record.operation == "Unwrap").count() >= 200);
}

pub(crate) async fn a_denied_attempt_is_recorded_and_denied<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let denial = Denial::Refused { refusal: Refusal::LoginThrottled, detail: "per device".to_owned() };
    let attempt = world.ledger.begin(Intent { reason: "not shown".to_owned(), ..intent("Login") });
    let settled = world.ledger.settle(attempt, Outcome::Denied(denial.clone())).await;
    assert_eq!(settled.err(), Some(denial));
    let record = world.last_record().await;
    assert_eq!((record.outcome.as_str(), record.detail.as_str()), ("LOGIN_THROTTLED", "per device"));
}
