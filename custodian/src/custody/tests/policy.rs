//! The policy in force, whatever happens to those who apply it.

use tokio::sync::oneshot;

use super::*;

const NOBODY: &str = r#"@id("nobody") forbid (principal, action, resource);"#;

/// Puts a policy into the ledger only: what is left of applying one whose caller was gone before it was put in force, or was
/// told that the commit took too long.
async fn applied_unnoticed(ledger: Arc<SqliteLedger>, version: u64, text: &str) {
    let policy = PolicyText { version, text: text.to_owned(), ..PolicyText::initial() };
    World { ledger }.done(Change::ApplyPolicy { policy, approvers: 0 }).await;
}

fn code<T>(result: Result<T, Denial>) -> Result<(), &'static str> {
    result.map(drop).map_err(|denial| denial.code())
}

#[tokio::test]
async fn a_policy_that_is_durable_is_in_force_even_if_nobody_was_told() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let usual = PolicyText::initial().text;
    let before = scene.call().await;
    applied_unnoticed(Arc::clone(&scene.ledger), 1, &usual).await;
    let late = code(scene.custodian.unwrap(before, scene.request()).await);
    assert_eq!(late, Err(Refusal::PolicyChanged.code()), "it was judged by the old one");
    assert_eq!(code(scene.custodian.unwrap(scene.call().await, scene.request()).await), Ok(()));
    assert_eq!(scene.custodian.authority().policy().version(), 1);

    // Whoever only reads is judged by it, too.
    applied_unnoticed(Arc::clone(&scene.ledger), 2, NOBODY).await;
    let admin = admin(&scene).await;
    let read = scene.custodian.admit(&admin, Need::Role(Role::Admin), "ListUsers").await;
    assert_eq!(code(read), Err(Refusal::PolicyDenied.code()));
}

#[tokio::test]
async fn stopping_somebody_does_not_depend_on_the_policy_in_any_way() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let world = World { ledger: Arc::clone(&scene.ledger) };
    world.has_device("laptop-2", 2).await;
    let call = admin(&scene).await;
    let change = async |operation: &'static str, version, state| {
        let call = Call { request_id: Uuid::now_v7(), ..call.clone() };
        let (intent, ledger) = (call.intent(operation), Arc::clone(&scene.ledger));
        // Between the permit and its settling, somebody applies another policy.
        let prepare = async move {
            applied_unnoticed(ledger, version, NOBODY).await;
            let id = world::device_id("laptop-2");
            Ok((Change::SetDeviceState { id, state, reason: "stolen".to_owned() }, ()))
        };
        code(scene.custodian.change(call, Need::Role(Role::Admin), intent, prepare).await)
    };
    let activated = change("ActivateDevice", 1, DeviceState::Active).await;
    assert_eq!(activated, Err(Refusal::PolicyChanged.code()));
    assert_eq!(change("SuspendDevice", 2, DeviceState::Suspended).await, Ok(()));
    assert_eq!(change("RevokeDevice", 3, DeviceState::Revoked).await, Ok(()));
}

#[tokio::test]
async fn what_a_change_puts_in_force_is_so_even_if_its_caller_hangs_up() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let call = admin(&scene).await;
    let (go_on, (began, begun)) = (Arc::new(Notify::new()), oneshot::channel());
    let (custodian, waits) = (Arc::clone(&scene.custodian), Arc::clone(&go_on));
    let (in_force, is_in_force) = oneshot::channel();
    let applying = tokio::spawn(async move {
        let intent = call.intent("SuspendKey");
        let prepare = async move {
            began.send(()).unwrap();
            waits.notified().await;
            let id = world::key("main").id;
            Ok((Change::StepKey { id, step: KeyStep::Suspend, reason: String::new() }, in_force))
        };
        let put_in_force = |changed: &Changed, in_force: oneshot::Sender<bool>| {
            in_force.send(matches!(changed, Changed::Key(_))).unwrap();
        };
        custodian.change_and(call, Need::Role(Role::Admin), intent, prepare, put_in_force).await.map(drop)
    });
    begun.await.unwrap();
    applying.abort();
    assert!(applying.await.unwrap_err().is_cancelled());
    go_on.notify_one();
    let in_force = tokio::time::timeout(Duration::from_secs(60), is_in_force).await;
    assert_eq!(in_force.unwrap(), Ok(true));
}

#[tokio::test]
async fn law_2_other_roles_than_the_policy_looked_at_stop_what_it_allowed() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let call = admin(&scene).await;
    let (intent, world) = (call.intent("ActivateKey"), World { ledger: Arc::clone(&scene.ledger) });
    let prepare = async move {
        let roles = [Role::Admin, Role::Auditor].into_iter().collect();
        world.done(Change::SetRoles { id: world::user_id("anna"), roles }).await;
        let id = world::key("main").id;
        Ok((Change::StepKey { id, step: KeyStep::Suspend, reason: String::new() }, ()))
    };
    let changed = scene.custodian.change(call, Need::Role(Role::Admin), intent, prepare).await;
    assert_eq!(code(changed), Err(Refusal::PolicyChanged.code()));
}

#[tokio::test]
async fn only_a_session_that_is_good_now_is_one() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let good = scene.call().await.caller;
    let authority = scene.custodian.authority();
    assert!(authority.has_session(&good));
    type Change = fn(&mut crate::authority::Caller);
    let changes: [Change; 6] = [
        |caller| caller.session = None,
        |caller| caller.session.as_mut().unwrap().expires = Timestamp::now(),
        |caller| caller.session.as_mut().unwrap().used = world::ago(900),
        |caller| caller.session.as_mut().unwrap().device = SpkiHash([2; 32]),
        |caller| caller.user.as_mut().unwrap().disabled = true,
        |caller| caller.device.as_mut().unwrap().state = DeviceState::Suspended,
    ];
    for change in changes {
        let mut caller = good.clone();
        change(&mut caller);
        assert!(!authority.has_session(&caller));
    }
}
