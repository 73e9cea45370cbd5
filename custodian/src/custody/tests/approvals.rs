//! Two persons, from the policy's answer to the record.

use custodian_proto::approval::Glass;

use super::*;
use crate::authority::{ApprovalId, AskedRequest};

const TWO_PERSONS: &str = r#"
@id("open") permit (principal, action in Action::"Open", resource);
@id("audit") permit (principal, action in Action::"Audit", resource);
@id("two") @approvals("1") forbid (principal, action, resource);
"#;

/// A scene under this policy, with an administrator `bob` on a device of his own.
async fn scene(policy: &str, meanwhile: Meanwhile) -> Scene {
    let scene = Scene::new(meanwhile).await;
    let world = World { ledger: Arc::clone(&scene.ledger) };
    world.has_device("laptop-2", 2).await;
    world.done(Change::CreateUser(world::user("bob", &[Role::Admin]))).await;
    let text = PolicyText { version: 1, text: policy.to_owned(), ..PolicyText::initial() };
    world.done(Change::ApplyPolicy { policy: text, approvers: 0 }).await;
    scene.custodian.authority().set_policy(Policy::parse(1, policy).unwrap());
    scene
}

/// Anna's call, with a request that approvals can be bound to.
async fn asking(scene: &Scene, glass: Glass) -> Call {
    let request = AskedRequest { message: b"the request".to_vec().into(), glass };
    Call { asked: Asked::Kept(Arc::new(request)), ..scene.call().await }
}

async fn unwrap(scene: &Scene, call: Call) -> Result<[u8; 32], Denial> {
    scene.custodian.unwrap(call, scene.request()).await.map(|key| *key.file_key.expose())
}

/// What a refused unwrap waits for.
async fn waits(scene: &Scene, glass: Glass) -> ApprovalId {
    match unwrap(scene, asking(scene, glass).await).await {
        Err(Denial::Unapproved(unapproved)) => unapproved.waiting.unwrap().id,
        other => panic!("{:?}", other.map(drop)),
    }
}

async fn bob_approves(scene: &Scene, id: ApprovalId) {
    let request = scene.ledger.approval(id).await.unwrap().unwrap().request;
    let (digest, approves) = (request.digest(), request.operation);
    let (user, device) = (world::user_id("bob"), world::device_id("laptop-2"));
    let world = World { ledger: Arc::clone(&scene.ledger) };
    world.done(Change::Approve { id, digest, approves, user, device }).await;
}

#[tokio::test]
async fn a_key_is_released_once_somebody_else_has_approved() {
    let scene = scene(TWO_PERSONS, Meanwhile::Nothing).await;
    let id = waits(&scene, Glass::Whole).await;
    assert_eq!(waits(&scene, Glass::Whole).await, id);
    let kept = scene.ledger.approval(id).await.unwrap().unwrap().request;
    assert_eq!((kept.operation.as_str(), kept.message.as_slice()), ("Unwrap", &b"the request"[..]));
    assert_eq!(kept.key, Some(scene.wrapped.key_id()));
    bob_approves(&scene, id).await;
    let call = asking(&scene, Glass::Whole).await;
    let request_id = call.request_id;
    assert_eq!(unwrap(&scene, call).await, Ok([6; 32]));
    assert_eq!(scene.record_of(request_id).await.unwrap().approval, id.resource_name());
    assert_ne!(waits(&scene, Glass::Whole).await, id);
}

#[tokio::test]
async fn law_2_an_approver_who_is_stopped_while_the_token_works_does_not_count() {
    let scene = scene(TWO_PERSONS, Meanwhile::Disabled("bob")).await;
    let world = World { ledger: Arc::clone(&scene.ledger) };
    world.done(Change::CreateUser(world::user("eve", &[Role::Admin]))).await;
    let id = waits(&scene, Glass::Whole).await;
    bob_approves(&scene, id).await;
    let denial = unwrap(&scene, asking(&scene, Glass::Whole).await).await.unwrap_err();
    assert_eq!(denial.code(), Refusal::ApprovalRequired.code());
    assert_eq!(denial.detail(), "only 0 of 1 approvals still count");
}

#[tokio::test]
async fn a_call_that_came_before_the_policy_asked_for_approval_is_made_again() {
    let scene = scene(TWO_PERSONS, Meanwhile::Nothing).await;
    let denial = unwrap(&scene, scene.call().await).await.unwrap_err();
    assert_eq!(denial.code(), Refusal::PolicyChanged.code());
}

#[tokio::test]
async fn a_read_that_takes_an_approval_is_recorded_and_uses_it_up() {
    let scene = scene(TWO_PERSONS, Meanwhile::Nothing).await;
    let world = World { ledger: Arc::clone(&scene.ledger) };
    let roles = [Role::Auditor].into_iter().collect();
    world.done(Change::SetRoles { id: world::user_id("anna"), roles }).await;
    let admit = async |call: Call| {
        let call = Call { request_id: Uuid::now_v7(), ..call };
        scene.custodian.admit(&call, Need::Role(Role::Auditor), "TailRecords").await
    };
    let call = asking(&scene, Glass::Whole).await;
    let Err(Denial::Unapproved(unapproved)) = admit(call.clone()).await else { panic!() };
    let id = unapproved.waiting.unwrap().id;
    bob_approves(&scene, id).await;
    admit(call.clone()).await.unwrap();
    let record = world.last_record().await;
    assert_eq!((record.outcome.as_str(), record.approval), (OK, id.resource_name()));
    // What began goes on; what begins anew asks anew.
    admit(Call { asked: Asked::GoesOn, ..call.clone() }).await.unwrap();
    assert!(matches!(admit(call).await, Err(Denial::Unapproved(_))));
}

#[tokio::test]
async fn the_glass_takes_as_many_as_the_configuration_says_and_is_no_way_around_a_state() {
    let policy = r#"@id("open") permit (principal, action in Action::"Open", resource);
                    @id("never") @break_glass forbid (principal, action == Action::"Unwrap", resource);"#;
    let scene = scene(policy, Meanwhile::Nothing).await;
    let denial = unwrap(&scene, asking(&scene, Glass::Whole).await).await.unwrap_err();
    assert_eq!(denial.code(), Refusal::PolicyDenied.code());
    let id = waits(&scene, Glass::Broken).await;
    let kept = scene.ledger.approval(id).await.unwrap().unwrap();
    assert_eq!((kept.request.needed.get(), kept.request.glass), (2, Glass::Broken));
    let hour = SignedDuration::from_hours(1);
    assert!(kept.request.expires <= Timestamp::now() + hour);
    bob_approves(&scene, id).await;
    assert_eq!(waits(&scene, Glass::Broken).await, id, "one is not enough");

    let world = World { ledger: Arc::clone(&scene.ledger) };
    world.has_device("laptop-3", 3).await;
    world.done(Change::CreateUser(world::user("eve", &[Role::Admin]))).await;
    let digest = kept.request.digest();
    let (user, device) = (world::user_id("eve"), world::device_id("laptop-3"));
    world.done(Change::Approve { id, digest, approves: "Unwrap".to_owned(), user, device }).await;
    world.steps(scene.wrapped.key_id(), KeyStep::Suspend).await.unwrap();
    let denial = unwrap(&scene, asking(&scene, Glass::Broken).await).await.unwrap_err();
    assert_eq!(denial.code(), Refusal::KeySuspended.code());
    world.steps(scene.wrapped.key_id(), KeyStep::Activate).await.unwrap();
    assert_eq!(unwrap(&scene, asking(&scene, Glass::Broken).await).await, Ok([6; 32]));
}
