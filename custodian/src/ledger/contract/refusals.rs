//! What the settling transaction refuses (law 2).

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use custodian_proto::refusal::Refusal;

use super::world::*;
use crate::{
    authority::{
        Charge, DeviceState, Groups, KeyPurpose, KeyState, KeyStep, KeyTask, PolicyText, Role, Roles,
        Session, SessionId, SigningScheme, SpkiHash, Standing, WrappingKey,
    },
    ledger::{Change, Changed, Grant, Ledger, Outcome},
    log::{Cosigned, Cosigners},
};

pub(crate) async fn a_device_must_be_active<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let on = |spki: u8| Standing { device: Some(SpkiHash([spki; 32])), ..Default::default() };
    world.refuses(on(9), Refusal::DeviceUnknown).await;
    world.done(Change::Invite(invitation(2, "laptop-2"))).await;
    world
        .done(Change::Enroll {
            code_hash: [2; 32],
            invited_by: Some(user_id("admin")),
            device: device("laptop-2", 2),
        })
        .await;
    world.refuses(on(2), Refusal::DeviceNotActive).await;
    world.sets_device("laptop-2", DeviceState::Active).await.unwrap();
    assert!(world.unwraps(on(2)).await.is_ok());
    world.sets_device("laptop-2", DeviceState::Suspended).await.unwrap();
    world.refuses(on(2), Refusal::DeviceSuspended).await;
    world.sets_device("laptop-2", DeviceState::Active).await.unwrap();
    assert!(world.unwraps(on(2)).await.is_ok());
    world.sets_device("laptop-2", DeviceState::Revoked).await.unwrap();
    world.refuses(on(2), Refusal::DeviceRevoked).await;
}

/// docs/operations.md, The clock.
pub(crate) async fn a_clock_that_was_set_lets_nothing_live_for_ever<L: Ledger>(ledger: Arc<L>) {
    const HOUR: i64 = 3_600;
    let world = World::peopled(ledger).await;
    let of = |id: u8| Standing {
        session: Some(SessionId([id; 32])),
        session_idle: Some(SESSION_IDLE),
        ..world.standing()
    };
    // Set back by an hour: what was made before lies ahead. It works, and a use takes nothing away.
    let made_ahead = Session {
        created: ahead(HOUR),
        used: ahead(HOUR),
        expires: ahead(2 * HOUR),
        ..session(2, "anna", 1)
    };
    world.done(Change::OpenSession(made_ahead)).await;
    assert!(world.unwraps(of(2)).await.is_ok());
    assert!(world.unwraps(of(2)).await.is_ok());
    // Set forward by an hour: what was in use is idle, and what was to end has ended.
    for (id, session) in [
        (3, Session { used: ago(HOUR), ..session(3, "anna", 1) }),
        (4, Session { created: ago(2 * HOUR), used: ago(0), expires: ago(HOUR), ..session(4, "anna", 1) }),
    ] {
        world.done(Change::OpenSession(session)).await;
        world.refuses(of(id), Refusal::NotLoggedIn).await;
    }
    // Whatever the clock says, a revocation holds, and the numbers go on.
    world.sets_device("laptop-1", DeviceState::Revoked).await.unwrap();
    assert!(world.unwraps(of(2)).await.is_err());
    let records = world.all_records().await;
    assert!(records.iter().map(|record| record.sequence).eq(1..=records.len() as u64));
}

pub(crate) async fn a_session_must_be_alive<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let of = |id: u8| Standing {
        session: Some(SessionId([id; 32])),
        session_idle: Some(SESSION_IDLE),
        ..world.standing()
    };
    assert!(world.unwraps(of(1)).await.is_ok());
    world.refuses(of(9), Refusal::NotLoggedIn).await;

    let idle = SESSION_IDLE.as_secs();
    let sessions = [
        (2, Session { used: ago(idle + 1), ..session(2, "anna", 1) }, false),
        (3, Session { used: ago(idle - 60), ..session(3, "anna", 1) }, true),
        (4, Session { expires: ago(1), ..session(4, "anna", 1) }, false),
    ];
    for (id, session, alive) in sessions {
        world.done(Change::OpenSession(session)).await;
        match alive {
            true => assert!(world.unwraps(of(id)).await.is_ok()),
            false => world.refuses(of(id), Refusal::NotLoggedIn).await,
        }
    }
    world.done(Change::CloseSession(SessionId([1; 32]))).await;
    world.refuses(of(1), Refusal::NotLoggedIn).await;
}

pub(crate) async fn a_session_works_on_its_device_alone<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.has_device("laptop-2", 2).await;
    let stolen = Standing { device: Some(SpkiHash([2; 32])), ..world.standing() };
    world.refuses(stolen, Refusal::NotLoggedIn).await;
    world.refuses(Standing { device: None, ..world.standing() }, Refusal::NotLoggedIn).await;
}

pub(crate) async fn a_user_must_be_enabled_and_have_the_role<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let auditor = Standing { role: Some(Role::Auditor), ..world.standing() };
    world.refuses(auditor, Refusal::RoleMissing).await;
    let roles = [Role::Auditor].into_iter().collect();
    world.done(Change::SetRoles { id: user_id("anna"), roles }).await;
    world.refuses(world.standing(), Refusal::RoleMissing).await;
    world.done(Change::SetUserDisabled { id: user_id("anna"), disabled: true }).await;
    world.refuses(world.standing(), Refusal::UserDisabled).await;
}

pub(crate) async fn a_wrapping_key_unwraps_as_its_state_allows<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let with = |id| Standing { key: Some(id), ..world.standing() };
    world.refuses(with(key("other").id), Refusal::KeyUnknown).await;
    for state in KeyState::ALL {
        let id = world.has_key(state.name(), state).await;
        match state {
            KeyState::Active | KeyState::Deactivated => assert!(world.unwraps(with(id)).await.is_ok()),
            KeyState::PreActive => world.refuses(with(id), Refusal::KeyNotActive).await,
            KeyState::Suspended => world.refuses(with(id), Refusal::KeySuspended).await,
            KeyState::Compromised => world.refuses(with(id), Refusal::KeyCompromised).await,
            KeyState::Destroyed => world.refuses(with(id), Refusal::KeyDestroyed).await,
        }
    }
}

/// SP 800-57 part 1 §5.2: one key, one purpose.
pub(crate) async fn a_signing_key_signs_while_it_is_active<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let purpose = KeyPurpose::Sign(SigningScheme::RsaPss);
    let signing = WrappingKey { purpose, ..key("contracts") };
    world.done(Change::AddKey(signing.clone())).await;
    let with = |id, task| Standing { key: Some(id), task, ..world.standing() };
    world.refuses(with(signing.id, KeyTask::Unwrap), Refusal::WrongKeyUse).await;
    world.refuses(with(key("main").id, KeyTask::Sign), Refusal::WrongKeyUse).await;
    assert!(world.unwraps(with(signing.id, KeyTask::Sign)).await.is_ok());
    let stamping = WrappingKey { purpose: KeyPurpose::Timestamp, ..key("stamps") };
    world.done(Change::AddKey(stamping.clone())).await;
    for task in [KeyTask::Unwrap, KeyTask::Sign] {
        world.refuses(with(stamping.id, task), Refusal::WrongKeyUse).await;
    }
    world.refuses(with(signing.id, KeyTask::Timestamp), Refusal::WrongKeyUse).await;
    assert!(world.unwraps(with(stamping.id, KeyTask::Timestamp)).await.is_ok());
    for (step, refusal) in [
        (KeyStep::Suspend, Refusal::KeySuspended),
        (KeyStep::Deactivate, Refusal::KeyDeactivated),
        (KeyStep::Compromise, Refusal::KeyCompromised),
        (KeyStep::Destroy, Refusal::KeyDestroyed),
    ] {
        world.steps(signing.id, step).await.unwrap();
        world.refuses(with(signing.id, KeyTask::Sign), refusal).await;
    }
}

/// Law 2: what is signed of a key says how it was.
pub(crate) async fn nothing_is_said_of_a_key_that_has_changed_meanwhile<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let id = world.has_key("letters", KeyState::Active).await;
    let updated = world.ledger.key(id).await.unwrap().unwrap().updated;
    let standing = Standing { unchanged: Some((id, updated)), ..world.standing() };
    assert!(world.unwraps(standing.clone()).await.is_ok());
    world.steps(id, KeyStep::Compromise).await.unwrap();
    world.refuses(standing, Refusal::StateConflict).await;
}

/// Law 2: what the permit was given on may have ended since.
pub(crate) async fn a_key_that_stops_after_the_permit_unwraps_no_more<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let stops = [
        (&[KeyStep::Suspend][..], Refusal::KeySuspended),
        (&[KeyStep::Compromise], Refusal::KeyCompromised),
        (&[KeyStep::Deactivate, KeyStep::Destroy], Refusal::KeyDestroyed),
    ];
    for (steps, refusal) in stops {
        let id = world.has_key(&refusal.code().to_lowercase(), KeyState::Active).await;
        let standing = Standing { key: Some(id), ..world.standing() };
        assert!(world.unwraps(standing.clone()).await.is_ok());
        // Begun before, settled after.
        let early = world.ledger.begin(intent("Unwrap"));
        for step in steps {
            world.steps(id, *step).await.unwrap();
        }
        let outcome = Outcome::Granted(Grant { standing: standing.clone(), change: None });
        assert_eq!(world.ledger.settle(early, outcome).await.err().unwrap().code(), refusal.code());
        world.refuses(standing, refusal).await;
    }
}

pub(crate) async fn a_wrapping_key_unwraps_within_its_period<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let lives = [
        ("early", life(ahead(60), ahead(90), None), Some(Refusal::KeyNotActive)),
        // The period of sealing is over, that of unwrapping is not.
        ("old", life(ago(90), ago(60), Some(ahead(60))), None),
        ("over", life(ago(90), ago(60), Some(ago(30))), Some(Refusal::KeyExpired)),
    ];
    for (label, life, refusal) in lives {
        world.done(Change::AddKey(WrappingKey { life, ..key(label) })).await;
        let standing = Standing { key: Some(key(label).id), ..world.standing() };
        match refusal {
            None => assert!(world.unwraps(standing).await.is_ok()),
            Some(refusal) => world.refuses(standing, refusal).await,
        }
    }
    let limit = |label: &str, unwraps_until| {
        let reason = "an audit".to_owned();
        Change::LimitKey { id: key(label).id, unwraps_until, reason }
    };
    let Changed::Key(limited) = world.done(limit("old", Some(ago(1)))).await else { panic!() };
    assert_eq!(limited.reason, "an audit");
    let old = Standing { key: Some(key("old").id), ..world.standing() };
    world.refuses(old.clone(), Refusal::KeyExpired).await;
    for until in [Some(ahead(60)), None] {
        world.done(limit("old", until)).await;
        assert!(world.unwraps(old.clone()).await.is_ok());
    }
    world.steps(key("old").id, KeyStep::Compromise).await.unwrap();
    world.refuses_change(limit("old", None), Refusal::StateConflict).await;
}

pub(crate) async fn a_role_needs_a_session<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let role = Standing { session: None, ..world.standing() };
    world.refuses(role, Refusal::NotLoggedIn).await;
    let charge = Charge { file: [1; 32], budgets: hourly(9) };
    let budget = Standing { charge: Some(charge), ..Default::default() };
    world.refuses(budget, Refusal::NotLoggedIn).await;
}

/// Waits for all of them.
pub(crate) async fn futures<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

pub(crate) async fn a_policy_that_changed_meanwhile_stops_what_it_allowed<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let by = |version| Standing { policy: Some(version), ..world.standing() };
    assert!(world.unwraps(by(0)).await.is_ok());
    world.refuses(by(1), Refusal::PolicyChanged).await;
    world.done(applies(1)).await;
    world.refuses(by(0), Refusal::PolicyChanged).await;
    assert!(world.unwraps(by(1)).await.is_ok());
}

pub(crate) async fn other_roles_stop_what_the_policy_allowed<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let roles = |roles: &[Role]| roles.iter().copied().collect::<Roles>();
    let seen = |seen: &[Role]| Standing { roles: Some(roles(seen)), ..world.standing() };
    assert!(world.unwraps(seen(&[Role::Operator])).await.is_ok());
    let both = [Role::Operator, Role::Auditor];
    world.done(Change::SetRoles { id: user_id("anna"), roles: roles(&both) }).await;
    world.refuses(seen(&[Role::Operator]), Refusal::PolicyChanged).await;
    assert!(world.unwraps(seen(&both)).await.is_ok());
    assert!(world.unwraps(world.standing()).await.is_ok(), "no policy looked at them");
    world.done(Change::SetRoles { id: user_id("anna"), roles: roles(&[Role::Auditor]) }).await;
    world.refuses(seen(&both), Refusal::RoleMissing).await;
}

pub(crate) async fn other_groups_stop_what_the_policy_allowed<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let groups = |names: &[&str]| Groups::new(names.iter().copied()).unwrap();
    let seen = |user: &[&str], device: &[&str]| Standing {
        groups: Some((groups(user), groups(device))),
        ..world.standing()
    };
    assert!(world.unwraps(seen(&[], &[])).await.is_ok());
    let set = Change::SetUserGroups { id: user_id("anna"), groups: groups(&["night", "board"]) };
    let Changed::User(anna) = world.done(set).await else { panic!() };
    assert_eq!(anna.groups, groups(&["board", "night"]));
    assert_eq!(world.last_record().await.detail, "groups: board, night");
    world.refuses(seen(&[], &[]), Refusal::PolicyChanged).await;
    world.refuses(seen(&["board"], &[]), Refusal::PolicyChanged).await;
    assert!(world.unwraps(seen(&["night", "board"], &[])).await.is_ok());
    let set = Change::SetDeviceGroups { id: device_id("laptop-1"), groups: groups(&["office"]) };
    assert_eq!(world.done(set).await.device().unwrap().groups, groups(&["office"]));
    world.refuses(seen(&["night", "board"], &[]), Refusal::PolicyChanged).await;
    assert!(world.unwraps(seen(&["night", "board"], &["office"])).await.is_ok());
    // What no policy was asked about has nothing to do with groups.
    assert!(world.unwraps(world.standing()).await.is_ok());
}

pub(crate) async fn fewer_witnesses_stop_what_the_policy_allowed<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let lately = Arc::new(AtomicU32::new(2));
    let counted = Arc::clone(&lately);
    let cosigners = Cosigners::counted_by(move |_| counted.load(Ordering::SeqCst));
    let seen =
        |count| Standing { cosigned: Some(Cosigned::seen(cosigners.clone(), count)), ..world.standing() };
    assert!(world.unwraps(seen(2)).await.is_ok());
    lately.store(1, Ordering::SeqCst);
    world.refuses(seen(2), Refusal::PolicyChanged).await;
    assert!(world.unwraps(seen(1)).await.is_ok());
    // What no policy looked at does not matter.
    assert!(world.unwraps(world.standing()).await.is_ok());
}

pub(crate) async fn policies_follow_each_other<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    assert!(world.ledger.policy().await.unwrap().is_none());
    for version in [0, 2] {
        world.refuses_change(applies(version), Refusal::StateConflict).await;
    }
    for version in 1..=5 {
        let Changed::Policy(changed) = world.done(applies(version)).await else { panic!("no policy") };
        assert_eq!(changed, policy(version));
        assert_eq!(world.last_record().await.target, format!("policies/{version}"));
    }
    assert_eq!(world.ledger.policy().await.unwrap(), Some(policy(5)));
    assert_eq!(world.ledger.policies(None, 2).await.unwrap(), [policy(5), policy(4)]);
    assert_eq!(world.ledger.policies(Some(4), 9).await.unwrap(), [policy(3), policy(2), policy(1)]);
}

fn applies(version: u64) -> Change {
    Change::ApplyPolicy { policy: policy(version), approvers: 0 }
}

fn policy(version: u64) -> PolicyText {
    PolicyText {
        version,
        text: format!("// {version}"),
        applied_by: Some(user_id("root")),
        applied: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
        reason: "to test".to_owned(),
    }
}
