//! What each change does and refuses.

use std::sync::Arc;

use custodian_proto::{key::KeyWrapping, refusal::Refusal};
use jiff::{Timestamp, ToSpan};

use super::world::*;
use crate::{
    authority::{
        Device, DeviceState, Invitation, KeyPurpose, KeyState, KeyStep, MayLack, PasswordHash, PasswordState,
        RevokedCertificate, Role, Roles, SessionId, SigningScheme, SpkiHash, Standing, User, Why,
        WrappingKey, next,
    },
    ledger::{Certified, Change, Changed, Grant, Ledger, OK, Outcome},
    token::Drain,
};

fn enroll(code: u8, device: Device) -> Change {
    Change::Enroll { code_hash: [code; 32], invited_by: Some(user_id("admin")), device }
}

pub(crate) async fn an_invitation_is_used_once<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    assert!(!world.ledger.has_open_invitation(now()).await.unwrap());
    let invited = invitation(1, "laptop-1");
    world.done(Change::Invite(invited.clone())).await;
    assert!(world.ledger.has_open_invitation(now()).await.unwrap());
    assert_eq!(world.ledger.invitation([1; 32], now()).await.unwrap(), Some(invited.clone()));
    assert_eq!(world.ledger.invitation([1; 32], invited.expires).await.unwrap(), None);

    // Whatever state it claims to be in, it begins as enrolled.
    let claimed = Device { state: DeviceState::Active, ..device("laptop-1", 1) };
    let Changed::Device(enrolled) = world.done(enroll(1, claimed.clone())).await else { panic!() };
    assert_eq!(enrolled, Device { state: DeviceState::Enrolled, ..claimed });
    assert_eq!(world.ledger.device(&enrolled.id).await.unwrap(), Some(enrolled));

    assert_eq!(world.ledger.invitation([1; 32], now()).await.unwrap(), None);
    assert!(!world.ledger.has_open_invitation(now()).await.unwrap());
    world.refuses_change(enroll(1, device("laptop-1", 2)), Refusal::EnrollmentRefused).await;
}

pub(crate) async fn an_invitation_is_for_one_device<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    world.done(Change::Invite(invitation(1, "laptop-1"))).await;
    world.refuses_change(enroll(1, device("laptop-2", 2)), Refusal::EnrollmentRefused).await;
    world.refuses_change(enroll(9, device("laptop-1", 1)), Refusal::EnrollmentRefused).await;
    world.refuses_change(Change::Invite(invitation(1, "laptop-3")), Refusal::AlreadyExists).await;
    // None of that used it up.
    world.done(enroll(1, device("laptop-1", 1))).await;
}

pub(crate) async fn an_open_invitation_is_replaced_by_the_next<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    world.done(Change::Invite(invitation(1, "laptop-1"))).await;
    world.done(Change::Invite(invitation(2, "laptop-1"))).await;
    assert_eq!(world.ledger.invitation([1; 32], now()).await.unwrap(), None);
    world.refuses_change(enroll(1, device("laptop-1", 1)), Refusal::EnrollmentRefused).await;
    world.done(enroll(2, device("laptop-1", 1))).await;
    assert!(!world.ledger.has_open_invitation(now()).await.unwrap());
}

pub(crate) async fn an_invitation_is_withdrawn<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    let withdraw = |id| Change::WithdrawInvitation(device_id(id));
    world.refuses_change(withdraw("laptop-1"), Refusal::NotFound).await;
    let ended = Invitation { expires: ago(1), ..invitation(1, "laptop-1") };
    world.done(Change::Invite(ended)).await;
    world.refuses_change(withdraw("laptop-1"), Refusal::NotFound).await;
    world.done(Change::Invite(invitation(2, "laptop-2"))).await;
    world.done(Change::Invite(invitation(3, "laptop-3"))).await;
    world.done(withdraw("laptop-2")).await;
    assert_eq!(world.last_record().await.target, "devices/laptop-2");
    world.refuses_change(enroll(2, device("laptop-2", 2)), Refusal::EnrollmentRefused).await;
    world.done(enroll(3, device("laptop-3", 3))).await;
}

pub(crate) async fn a_device_is_renewed_with_an_invitation<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.has_device("laptop-2", 2).await;
    let renew = |spki: u8| {
        let certificate = vec![spki; 9];
        enroll(7, Device { certificate, expires: ahead(9_999), ..device("laptop-1", spki) })
    };
    world.done(Change::Invite(invitation(7, "laptop-1"))).await;
    // The key of another device is no new key.
    world.refuses_change(renew(2), Refusal::AlreadyExists).await;
    assert!(has_session(&world, 1).await);
    let Changed::Device(renewed) = world.done(renew(3)).await else { panic!() };
    assert_eq!((renewed.state, renewed.spki), (DeviceState::Enrolled, SpkiHash([3; 32])));
    assert_eq!(renewed.certificate, [3; 9]);
    assert_eq!(world.ledger.device(&renewed.id).await.unwrap(), Some(renewed));
    assert!(!has_session(&world, 1).await);
    world.refuses(world.standing(), Refusal::DeviceUnknown).await;
    // Used up.
    world.refuses_change(renew(4), Refusal::EnrollmentRefused).await;

    // Nobody is signed in with the new key before it is activated; then as ever.
    world.sets_device("laptop-1", DeviceState::Active).await.unwrap();
    world.done(Change::OpenSession(session(1, "anna", 3))).await;
    let standing = Standing { device: Some(SpkiHash([3; 32])), ..world.standing() };
    assert!(world.unwraps(standing).await.is_ok());
}

pub(crate) async fn a_revoked_device_is_not_renewed<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    world.has_device("laptop-1", 1).await;
    world.done(Change::Invite(invitation(7, "laptop-1"))).await;
    world.sets_device("laptop-1", DeviceState::Revoked).await.unwrap();
    assert!(!world.ledger.has_open_invitation(now()).await.unwrap());
    world.refuses_change(enroll(7, device("laptop-1", 3)), Refusal::EnrollmentRefused).await;
    world.refuses_change(Change::Invite(invitation(8, "laptop-1")), Refusal::StateConflict).await;
}

pub(crate) async fn revoking_again_changes_nothing<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    world.has_device("laptop-1", 1).await;
    let Ok(Changed::Stopped(first, _)) = world.sets_device("laptop-1", DeviceState::Revoked).await else {
        panic!()
    };
    let again = Change::SetDeviceState {
        id: device_id("laptop-1"),
        state: DeviceState::Revoked,
        reason: "another reason".to_owned(),
    };
    let Changed::Stopped(second, 0) = world.done(again).await else { panic!() };
    assert_eq!(first, second);
    assert_eq!(world.last_record().await.outcome, OK);
}

pub(crate) async fn the_last_administrator_stays<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let disable = |id: &str| Change::SetUserDisabled { id: user_id(id), disabled: true };
    let demote =
        |id: &str| Change::SetRoles { id: user_id(id), roles: [Role::Auditor].into_iter().collect() };
    world.done(Change::CreateUser(user("root", &[Role::Admin, Role::Operator]))).await;
    for change in [disable("root"), demote("root")] {
        world.refuses_change(change, Refusal::StateConflict).await;
        let record = world.last_record().await;
        assert!(record.detail.contains("role admin would remain"), "{}", record.detail);
        let root = world.ledger.user(&user_id("root")).await.unwrap().unwrap();
        assert!(!root.disabled && root.roles.contains(Role::Admin));
    }
    let until = ahead(600);
    world.refuses_change(Change::SuspendUser { id: user_id("root"), until }, Refusal::StateConflict).await;
    // Others may go, and so may one of two.
    world.done(disable("anna")).await;
    world.done(Change::CreateUser(user("other", &[Role::Admin]))).await;
    world.done(disable("root")).await;
    // A disabled administrator is none.
    world.refuses_change(demote("other"), Refusal::StateConflict).await;
    world.done(demote("root")).await;
    let roles = [Role::Admin, Role::Auditor].into_iter().collect();
    world.done(Change::SetRoles { id: user_id("other"), roles }).await;
}

pub(crate) async fn the_last_active_device_stays<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.done(Change::CreateUser(user("root", &[Role::Admin]))).await;
    let conflict = Refusal::StateConflict.code();
    world.done(Change::Invite(invitation(7, "laptop-1"))).await;
    for state in [DeviceState::Suspended, DeviceState::Revoked] {
        assert_eq!(world.sets_device("laptop-1", state).await.err().unwrap().code(), conflict);
    }
    world.refuses_change(enroll(7, device("laptop-1", 3)), Refusal::StateConflict).await;
    assert!(world.unwraps(world.standing()).await.is_ok());
    // Enrolled, or active with an expired certificate, is no way in.
    world.done(Change::Invite(invitation(2, "laptop-2"))).await;
    world.done(enroll(2, Device { expires: ago(1), ..device("laptop-2", 2) })).await;
    for state in [DeviceState::Active, DeviceState::Suspended, DeviceState::Active] {
        assert_eq!(world.sets_device("laptop-1", DeviceState::Revoked).await.err().unwrap().code(), conflict);
        world.sets_device("laptop-2", state).await.unwrap();
    }
    world.has_device("laptop-3", 4).await;
    world.sets_device("laptop-1", DeviceState::Revoked).await.unwrap();
    assert_eq!(world.sets_device("laptop-3", DeviceState::Suspended).await.err().unwrap().code(), conflict);
}

pub(crate) async fn an_expired_invitation_is_replaced<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    let expired = Invitation { expires: ago(1), invited_by: None, ..invitation(1, "laptop-1") };
    world.done(Change::Invite(expired)).await;
    assert!(!world.ledger.has_open_invitation(now()).await.unwrap());
    world.refuses_change(enroll(1, device("laptop-1", 1)), Refusal::EnrollmentRefused).await;
    world.done(Change::Invite(invitation(2, "laptop-1"))).await;
    world.refuses_change(enroll(1, device("laptop-1", 1)), Refusal::EnrollmentRefused).await;
    world.done(enroll(2, device("laptop-1", 1))).await;
}

pub(crate) async fn ids_and_keys_of_devices_are_not_used_twice<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    world.has_device("laptop-1", 1).await;
    world.done(Change::Invite(invitation(2, "laptop-2"))).await;
    world.refuses_change(enroll(2, device("laptop-2", 1)), Refusal::AlreadyExists).await;
    // The refusal did not use the invitation up.
    world.done(enroll(2, device("laptop-2", 2))).await;
    world.sets_device("laptop-1", DeviceState::Revoked).await.unwrap();
    world.done(Change::Invite(invitation(3, "laptop-3"))).await;
    world.refuses_change(enroll(3, device("laptop-3", 1)), Refusal::AlreadyExists).await;
}

pub(crate) async fn a_device_lives_as_it_should<L: Ledger>(ledger: Arc<L>) {
    use DeviceState::{Active, Enrolled, Revoked, Suspended};
    let world = World::empty(ledger);
    let ways: [&[DeviceState]; 5] =
        [&[], &[Active], &[Active, Suspended], &[Active, Suspended, Active], &[Active, Revoked]];
    for (number, way) in (1..).zip(ways) {
        for next in [Enrolled, Active, Suspended, Revoked] {
            let id = format!("laptop-{number}-{}", next.name());
            let spki = number * 10 + next as u8;
            world.done(Change::Invite(invitation(spki, &id))).await;
            world.done(enroll(spki, device(&id, spki))).await;
            for step in way {
                world.sets_device(&id, *step).await.unwrap();
            }
            let before = world.ledger.device(&device_id(&id)).await.unwrap().unwrap();
            let made = world.sets_device(&id, next).await;
            let after = world.ledger.device(&device_id(&id)).await.unwrap().unwrap();
            if (before.state, next) == (Revoked, Revoked) {
                assert!(made.is_ok());
                assert_eq!(before, after);
            } else if before.state.may_become(next) {
                let changed = made.ok().unwrap().device().unwrap();
                assert_eq!((changed.state, &changed), (next, &after));
                assert!(after.updated >= before.updated);
                if matches!(next, Suspended | Revoked) {
                    assert_eq!(after.reason, format!("to be {}", next.name()));
                }
            } else {
                assert_eq!(made.err().unwrap().code(), Refusal::StateConflict.code(), "{id}");
                assert_eq!(before, after);
            }
        }
    }
}

pub(crate) async fn stopping_a_device_ends_its_sessions<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.has_device("laptop-2", 2).await;
    world.done(Change::OpenSession(session(2, "anna", 2))).await;
    world.sets_device("laptop-1", DeviceState::Suspended).await.unwrap();
    world.sets_device("laptop-1", DeviceState::Active).await.unwrap();
    world.refuses(world.standing(), Refusal::NotLoggedIn).await;
    assert!(has_session(&world, 2).await);
    world.sets_device("laptop-2", DeviceState::Revoked).await.unwrap();
    assert!(!has_session(&world, 2).await);
}

pub(crate) async fn a_suspension_with_an_end_ends_by_itself<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.done(Change::OpenSession(session(2, "anna", 1))).await;
    let suspend = |until| {
        let reason = "a holiday".to_owned();
        Change::SuspendDevice { id: device_id("laptop-1"), until, reason }
    };
    world.refuses_change(suspend(ago(1)), Refusal::StateConflict).await;
    let until = ahead(600);
    let Changed::Stopped(stopped, sessions) = world.done(suspend(until)).await else { panic!() };
    assert_eq!((stopped.state, stopped.suspended_until, sessions), (DeviceState::Suspended, Some(until), 2));
    let on_it = Standing { device: Some(SpkiHash([1; 32])), ..Standing::default() };
    world.refuses(on_it.clone(), Refusal::DeviceSuspended).await;
    world.sets_device("laptop-1", DeviceState::Active).await.unwrap();
    let until = now() + jiff::SignedDuration::from_millis(300);
    world.done(suspend(until)).await;
    world.until(until).await;
    assert!(world.unwraps(on_it.clone()).await.is_ok());
    let device = world.ledger.device(&device_id("laptop-1")).await.unwrap().unwrap();
    assert_eq!((device.state, device.suspended_until), (DeviceState::Active, None));
    // Its sessions are gone all the same.
    world.refuses(world.standing(), Refusal::NotLoggedIn).await;
    // From then on it is as any active one.
    world.done(suspend(ahead(600))).await;
    world.refuses(on_it.clone(), Refusal::DeviceSuspended).await;
    world.sets_device("laptop-1", DeviceState::Active).await.unwrap();
    assert!(world.unwraps(on_it.clone()).await.is_ok());
    // Without an end after one with: it has none.
    world.sets_device("laptop-1", DeviceState::Suspended).await.unwrap();
    let device = world.ledger.device(&device_id("laptop-1")).await.unwrap().unwrap();
    assert_eq!((device.state, device.suspended_until), (DeviceState::Suspended, None));
}

pub(crate) async fn a_device_renews_itself_and_the_old_key_is_nobodys<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.has_device("laptop-2", 2).await;
    let before = world.ledger.device(&device_id("laptop-1")).await.unwrap().unwrap();
    let renew = |was: u8, spki: u8| Change::RenewDevice {
        was: SpkiHash([was; 32]),
        spki: SpkiHash([spki; 32]),
        certificate: vec![spki; 400],
        expires: ahead(99_999),
    };
    for taken in [1, 2] {
        world.refuses_change(renew(1, taken), Refusal::AlreadyExists).await;
    }
    world.refuses_change(renew(9, 8), Refusal::DeviceUnknown).await;
    let renewed = world.done(renew(1, 8)).await.device().unwrap();
    assert_eq!(
        (renewed.id.as_str(), renewed.state, renewed.spki),
        ("laptop-1", DeviceState::Active, SpkiHash([8; 32]))
    );
    assert_eq!((renewed.enrolled, renewed.certificate), (before.enrolled, vec![8; 400]));
    let on = |spki: u8| Standing { device: Some(SpkiHash([spki; 32])), ..Standing::default() };
    world.refuses(on(1), Refusal::DeviceUnknown).await;
    assert!(world.unwraps(on(8)).await.is_ok());
    assert!(!has_session(&world, 1).await);
    // The same once more: whoever still has the old key has nothing.
    world.refuses_change(renew(1, 7), Refusal::DeviceUnknown).await;
}

pub(crate) async fn the_revocation_list_has_what_is_stopped_or_replaced<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    for spki in 2..=6 {
        world.has_device(&format!("laptop-{spki}"), spki).await;
    }
    let list = async || {
        let Changed::Listed(number) = world.done(Change::ListRevoked).await else { panic!() };
        assert_eq!(number, world.last_record().await.sequence);
        let revoked = world.ledger.revoked(Certified::Devices).await.unwrap();
        let of = |one: &RevokedCertificate| (one.certificate[0], one.why);
        (number, revoked.iter().map(of).collect::<Vec<_>>())
    };
    let (first, nothing) = list().await;
    assert_eq!(nothing, []);
    world.sets_device("laptop-2", DeviceState::Revoked).await.unwrap();
    world.sets_device("laptop-3", DeviceState::Suspended).await.unwrap();
    let reason = String::new();
    let until = ahead(600);
    world.done(Change::SuspendDevice { id: device_id("laptop-4"), until, reason }).await;
    let renew = |was, spki, expires| Change::RenewDevice {
        was: SpkiHash([was; 32]),
        spki: SpkiHash([spki; 32]),
        certificate: vec![spki; 400],
        expires,
    };
    world.done(renew(5, 50, ahead(600))).await;
    // One whose certificate is over needs no list.
    world.done(renew(6, 60, ago(1))).await;
    world.sets_device("laptop-6", DeviceState::Revoked).await.unwrap();
    let (second, revoked) = list().await;
    assert!(second > first);
    assert_eq!(
        revoked,
        [(2, Why::Revoked), (3, Why::Suspended), (4, Why::Suspended), (5, Why::Replaced), (6, Why::Replaced)]
    );
    world.sets_device("laptop-3", DeviceState::Active).await.unwrap();
    assert_eq!(list().await.1.len(), 4);
}

pub(crate) async fn users_are_created_once<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    let anna = user("anna", &[Role::Operator, Role::Admin]);
    let Changed::User(created) = world.done(Change::CreateUser(anna.clone())).await else { panic!() };
    let read = world.ledger.user(&anna.id).await.unwrap().unwrap();
    for user in [created, read] {
        assert_eq!((&user.id, user.roles, user.disabled), (&anna.id, anna.roles, false));
        assert_eq!(user.password.as_phc(), anna.password.as_phc());
        assert_eq!((user.created, user.updated), (anna.created, anna.updated));
    }
    world.refuses_change(Change::CreateUser(user("anna", &[])), Refusal::AlreadyExists).await;
    assert!(world.ledger.user(&user_id("bob")).await.unwrap().is_none());
}

pub(crate) async fn stopping_a_user_ends_the_sessions<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let set = |disabled| Change::SetUserDisabled { id: user_id("anna"), disabled };
    for disabled in [true, true] {
        let Changed::User(anna) = world.done(set(disabled)).await else { panic!() };
        assert!(anna.disabled);
        world.refuses(world.standing(), Refusal::UserDisabled).await;
    }
    for disabled in [false, false] {
        let Changed::User(anna) = world.done(set(disabled)).await else { panic!() };
        assert!(!anna.disabled);
        world.refuses(world.standing(), Refusal::NotLoggedIn).await;
    }
    world.done(Change::OpenSession(session(1, "anna", 1))).await;
    // Already enabled: nothing changes.
    world.done(set(false)).await;
    assert!(world.unwraps(world.standing()).await.is_ok());
}

pub(crate) async fn a_user_stopped_until_a_time_is_let_in_by_itself<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let disable = |disabled| Change::SetUserDisabled { id: user_id("anna"), disabled };
    let suspend = |until| Change::SuspendUser { id: user_id("anna"), until };
    let signs_in = |id| Change::OpenSession(session(id, "anna", 1));
    world.refuses_change(suspend(ago(1)), Refusal::StateConflict).await;
    let until = ahead(600);
    let Changed::User(anna) = world.done(suspend(until)).await else { panic!() };
    assert_eq!((anna.disabled, anna.disabled_until), (true, Some(until)));
    assert_eq!(world.last_record().await.detail, format!("until {until}"));
    world.refuses_change(signs_in(2), Refusal::LoginFailed).await;
    world.done(Change::SetUserDisabled { id: user_id("anna"), disabled: false }).await;
    let until = now() + jiff::SignedDuration::from_millis(300);
    world.done(suspend(until)).await;
    world.until(until).await;
    let anna = world.ledger.user(&user_id("anna")).await.unwrap().unwrap();
    assert_eq!((anna.disabled, anna.disabled_until), (false, None));
    // Let in, but the old session is gone.
    world.refuses(world.standing(), Refusal::NotLoggedIn).await;
    let in_session = |id: u8| Standing { session: Some(SessionId([id; 32])), ..world.standing() };
    world.done(signs_in(3)).await;
    assert!(world.unwraps(in_session(3)).await.is_ok());

    // What was permitted before does not settle (law 2).
    world.done(suspend(ahead(600))).await;
    world.refuses(in_session(3), Refusal::NotLoggedIn).await;
    // Stopping needs nobody's approval, so it must not shorten what was decided: only letting in does.
    world.refuses_change(suspend(ahead(60)), Refusal::StateConflict).await;
    world.done(suspend(ahead(6_000))).await;
    let Changed::User(anna) = world.done(disable(true)).await else { panic!() };
    assert_eq!((anna.disabled, anna.disabled_until), (true, None));
    world.refuses_change(suspend(ahead(9_000)), Refusal::StateConflict).await;
    let Changed::User(anna) = world.done(disable(false)).await else { panic!() };
    assert_eq!((anna.disabled, anna.disabled_until), (false, None));
    world.done(suspend(ahead(600))).await;
    let Changed::User(anna) = world.done(disable(false)).await else { panic!() };
    assert_eq!((anna.disabled, anna.disabled_until), (false, None));
    world.done(signs_in(4)).await;
    assert!(world.unwraps(in_session(4)).await.is_ok());
}

pub(crate) async fn a_new_password_ends_the_other_sessions<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.done(Change::CreateUser(user("bob", &[]))).await;
    world.done(Change::OpenSession(session(2, "anna", 1))).await;
    world.done(Change::OpenSession(session(3, "bob", 1))).await;
    let set = |phc: &str, keep: Option<u8>| Change::SetPassword {
        id: user_id("anna"),
        password: PasswordHash::from_phc(phc.to_owned()),
        state: PasswordState::Settled,
        keep: keep.map(|id| SessionId([id; 32])),
    };
    let Changed::User(anna) = world.done(set("second", Some(2))).await else { panic!() };
    assert_eq!(anna.password.as_phc(), "second");
    assert!(!has_session(&world, 1).await && has_session(&world, 2).await && has_session(&world, 3).await);
    world.done(set("third", None)).await;
    assert!(!has_session(&world, 2).await && has_session(&world, 3).await);
}

pub(crate) async fn a_given_password_must_be_changed_first<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let set = |state, keep: Option<u8>| Change::SetPassword {
        id: user_id("anna"),
        password: PasswordHash::from_phc("given".to_owned()),
        state,
        keep: keep.map(|id| SessionId([id; 32])),
    };
    // Permitted before, settled after: the administrator's word holds at once.
    assert!(world.unwraps(world.standing()).await.is_ok());
    let Changed::User(anna) = world.done(set(PasswordState::MustChange, Some(1))).await else { panic!() };
    assert_eq!(anna.password_state, PasswordState::MustChange);
    world.refuses(world.standing(), Refusal::PasswordMustChange).await;
    // Signing in is possible, and what it takes to change the password.
    world.done(Change::OpenSession(session(2, "anna", 1))).await;
    let session = Some(SessionId([2; 32]));
    let unfinished = Standing { session, role: None, key: None, ..world.standing() };
    world.refuses(unfinished.clone(), Refusal::PasswordMustChange).await;
    assert!(world.unwraps(Standing { may_lack: MayLack::Everything, ..unfinished.clone() }).await.is_ok());
    world.done(set(PasswordState::Settled, Some(2))).await;
    assert!(world.unwraps(unfinished).await.is_ok());

    let given = User { password_state: PasswordState::MustChange, ..user("bob", &[Role::Auditor]) };
    let Changed::User(bob) = world.done(Change::CreateUser(given)).await else { panic!() };
    assert_eq!(bob.password_state, PasswordState::MustChange);
    let record = world.last_record().await;
    assert_eq!(record.detail, "roles: auditor; the password must be changed");
}

pub(crate) async fn a_password_that_changes_during_a_login_stops_it<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let login = world.ledger.begin(intent("Login"));
    let password = PasswordHash::from_phc("second".to_owned());
    let state = PasswordState::Settled;
    world.done(Change::SetPassword { id: user_id("anna"), password, state, keep: None }).await;
    let change = Some(Change::OpenSession(session(2, "anna", 1)));
    let grant = Grant { standing: Standing::default(), change };
    let denial = world.ledger.settle(login, Outcome::Granted(grant)).await.err().unwrap();
    assert_eq!(denial.code(), Refusal::LoginFailed.code());
    assert!(!has_session(&world, 2).await);
    world.done(Change::OpenSession(session(2, "anna", 1))).await;
}

pub(crate) async fn roles_are_replaced<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.done(Change::CreateUser(user("root", &[Role::Admin]))).await;
    for roles in [&[][..], &[Role::Admin], &[Role::Operator, Role::Auditor]] {
        let roles: Roles = roles.iter().copied().collect();
        let Changed::User(anna) = world.done(Change::SetRoles { id: user_id("anna"), roles }).await else {
            panic!()
        };
        assert_eq!(anna.roles, roles);
    }
}

pub(crate) async fn keys_have_ids_and_labels_of_their_own<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    let main = key("main");
    let Changed::Key(added) = world.done(Change::AddKey(main.clone())).await else { panic!() };
    assert_eq!(added, main);
    assert_eq!(world.ledger.key(main.id).await.unwrap(), Some(main.clone()));
    assert_eq!(world.ledger.key_by_label("main").await.unwrap(), Some(main.clone()));
    assert_eq!(world.ledger.key_by_label("other").await.unwrap(), None);
    assert_eq!(world.ledger.key(key("other").id).await.unwrap(), None);
    let same_id = WrappingKey { label: "other".to_owned(), ..main.clone() };
    let same_label = WrappingKey { id: key("other").id, ..main };
    let version_left_out = key_version("main", 3);
    let no_first_version = key_version("other", 2);
    for taken in [same_id, same_label, version_left_out, no_first_version] {
        world.refuses_change(Change::AddKey(taken), Refusal::AlreadyExists).await;
    }

    let [openpgp, signing] = KeyPurpose::WITH_OPENPGP_CERTIFICATE
        .map(|purpose| move |label, created| WrappingKey { purpose, created, ..key(label) });
    let second = Timestamp::from_second(1_700_000_000).unwrap();
    let (early, late) = (second + 1.milliseconds(), second + 999.milliseconds());
    world.done(Change::AddKey(openpgp("partners", early))).await;
    world.refuses_change(Change::AddKey(openpgp("others", late)), Refusal::StateConflict).await;
    world.refuses_change(Change::AddKey(signing("letters", late)), Refusal::StateConflict).await;
    world.done(Change::AddKey(openpgp("others", second + 1.seconds()))).await;
    world.done(Change::AddKey(signing("letters", second + 2.seconds()))).await;
    world.refuses_change(Change::AddKey(openpgp("more", second + 2.seconds())), Refusal::StateConflict).await;
    world.done(Change::AddKey(WrappingKey { created: late, ..key("for-oaep") })).await;
}

pub(crate) async fn a_label_keeps_its_purpose<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    let pss = KeyPurpose::Sign(SigningScheme::RsaPss);
    let signing = WrappingKey { purpose: pss, ..key("contracts") };
    world.done(Change::AddKey(signing.clone())).await;
    assert_eq!(world.ledger.key(signing.id).await.unwrap(), Some(signing.clone()));
    let ecdsa = KeyPurpose::Sign(SigningScheme::EcdsaP256);
    for purpose in [ecdsa, KeyPurpose::Unwrap(KeyWrapping::OaepSha256)] {
        let other = WrappingKey { purpose, ..key_version("contracts", 2) };
        world.refuses_change(Change::AddKey(other), Refusal::AlreadyExists).await;
    }
    world.done(Change::AddKey(WrappingKey { purpose: pss, ..key_version("contracts", 2) })).await;
    let reason = "it unwraps nothing".to_owned();
    let limit = Change::LimitKey { id: signing.id, unwraps_until: None, reason };
    world.refuses_change(limit, Refusal::WrongKeyUse).await;
    // A token may have learnt a stronger wrapping since.
    world.done(Change::AddKey(key("main"))).await;
    let purpose = KeyPurpose::Unwrap(KeyWrapping::OaepSha512);
    world.done(Change::AddKey(WrappingKey { purpose, ..key_version("main", 2) })).await;
}

pub(crate) async fn keys_live_as_they_should<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    for state in KeyState::ALL {
        for step in KeyStep::ALL {
            let id = world.has_key(&format!("{}-{step:?}", state.name()).to_lowercase(), state).await;
            let before = world.ledger.key(id).await.unwrap().unwrap();
            assert_eq!(before.life.state(now()), state);
            let made = world.steps(id, step).await;
            let after = world.ledger.key(id).await.unwrap().unwrap();
            match next(state, step) {
                Ok(next) if next == state => {
                    assert!(made.is_ok());
                    assert_eq!(before, after, "again changes nothing");
                }
                Ok(next) => {
                    let Changed::Key(changed) = made.ok().unwrap() else { panic!() };
                    assert_eq!((changed.life.state(now()), &changed), (next, &after));
                    assert_eq!(after.reason, format!("{step:?}"));
                    assert!(after.updated >= before.updated);
                }
                Err(_) => {
                    assert_eq!(made.err().unwrap().code(), Refusal::StateConflict.code());
                    assert_eq!(world.last_record().await.outcome, Refusal::StateConflict.code());
                    assert_eq!(before, after);
                }
            }
        }
    }
}

pub(crate) async fn a_rotation_ends_sealing_to_the_version_before<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    let state = async |id| world.ledger.key(id).await.unwrap().unwrap().life.state(now());
    let Changed::Key(second) = world.done(Change::AddKey(key_version("main", 2))).await else { panic!() };
    assert_eq!(world.ledger.key_by_label("main").await.unwrap(), Some(second.clone()));
    let first = world.ledger.key(key("main").id).await.unwrap().unwrap();
    assert_eq!(first.life.state(now()), KeyState::Deactivated);
    assert_eq!(first.reason, "replaced by version 2");
    assert_eq!(state(second.id).await, KeyState::Active);
    // What was sealed to it still opens.
    assert!(world.unwraps(world.standing()).await.is_ok());
    // Of two that rotate at the same time, one is late.
    let late = WrappingKey { id: key("late").id, ..key_version("main", 2) };
    world.refuses_change(Change::AddKey(late), Refusal::AlreadyExists).await;
    // What is not active stays as it is.
    for (version, step, stays) in
        [(3, KeyStep::Suspend, KeyState::Suspended), (4, KeyStep::Compromise, KeyState::Compromised)]
    {
        let before = key_version("main", version - 1).id;
        world.steps(before, step).await.unwrap();
        world.done(Change::AddKey(key_version("main", version))).await;
        assert_eq!(state(before).await, stays);
    }
}

pub(crate) async fn sessions_open_only_for_enabled_users<L: Ledger>(ledger: Arc<L>) {
    let world = World::peopled(ledger).await;
    world.refuses_change(Change::OpenSession(session(2, "bob", 1)), Refusal::LoginFailed).await;
    world.done(Change::CreateUser(User { disabled: true, ..user("bob", &[]) })).await;
    world.refuses_change(Change::OpenSession(session(2, "bob", 1)), Refusal::LoginFailed).await;
    world.refuses_change(Change::OpenSession(session(2, "anna", 9)), Refusal::DeviceUnknown).await;
    world.refuses_change(Change::OpenSession(session(1, "anna", 1)), Refusal::AlreadyExists).await;
    world.done(Change::SetUserDisabled { id: user_id("bob"), disabled: false }).await;
    let opened = session(2, "bob", 1);
    world.done(Change::OpenSession(opened.clone())).await;
    let identity = world.ledger.identify(SpkiHash([9; 32]), Some(opened.id)).await.unwrap();
    assert_eq!(identity.session, Some(opened));
}

pub(crate) async fn what_is_not_there_cannot_be_changed<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    let password = PasswordHash::from_phc("any".to_owned());
    let (anna, reason) = (user_id("anna"), String::new());
    let changes = [
        Change::CloseSession(SessionId([1; 32])),
        Change::SetDeviceState { id: device_id("laptop-1"), state: DeviceState::Revoked, reason },
        Change::SetUserDisabled { id: anna.clone(), disabled: true },
        Change::SetPassword { id: anna.clone(), password, state: PasswordState::Settled, keep: None },
        Change::SetRoles { id: anna, roles: Roles::default() },
        Change::StepKey { id: key("main").id, step: KeyStep::Suspend, reason: String::new() },
        Change::LimitKey { id: key("main").id, unwraps_until: None, reason: String::new() },
    ];
    for change in changes {
        world.refuses_change(change, Refusal::NotFound).await;
    }
}

/// Among many that succeed in the same transaction, one that is refused leaves nothing behind.
pub(crate) async fn a_refused_change_changes_nothing<L: Ledger>(ledger: Arc<L>) {
    let world = Arc::new(World::peopled(ledger).await);
    let tasks = (0..64).map(|number| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let id = format!("user-{number}");
            match number % 2 {
                0 => drop(world.done(Change::CreateUser(user(&id, &[]))).await),
                // The standing holds and is charged; then the change is refused.
                _ => {
                    let standing = world.charged(7, hourly(32));
                    let change = Some(Change::CreateUser(user("anna", &[])));
                    let attempt = world.ledger.begin(intent("CreateUser"));
                    let outcome = Outcome::Granted(Grant { standing, change });
                    let denial = world.ledger.settle(attempt, outcome).await.err().unwrap();
                    assert_eq!(denial.code(), Refusal::AlreadyExists.code());
                }
            }
        })
    });
    super::refusals::futures(tasks.collect()).await;
    assert_eq!(world.ledger.users(None, 100).await.unwrap().len(), 33);
    assert!(world.unwraps(world.charged(7, hourly(1))).await.is_ok(), "the refused ones were charged");
}

pub(crate) async fn lists_are_paged_in_order<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    for number in [3, 1, 5, 2, 4] {
        world.has_device(&format!("laptop-{number}"), number).await;
        world.done(Change::CreateUser(user(&format!("user-{number}"), &[]))).await;
        world.done(Change::AddKey(key(&format!("key-{number}")))).await;
    }
    let mut devices = world.ledger.devices(None, 2).await.unwrap();
    devices.extend(world.ledger.devices(Some(devices[1].id.clone()), 9).await.unwrap());
    let ids: Vec<_> = devices.iter().map(|device| device.id.as_str()).collect();
    assert_eq!(ids, ["laptop-1", "laptop-2", "laptop-3", "laptop-4", "laptop-5"]);

    let mut users = world.ledger.users(None, 2).await.unwrap();
    users.extend(world.ledger.users(Some(users[1].id.clone()), 9).await.unwrap());
    let ids: Vec<_> = users.iter().map(|user| user.id.as_str()).collect();
    assert_eq!(ids, ["user-1", "user-2", "user-3", "user-4", "user-5"]);

    let mut keys = world.ledger.keys(None, 2).await.unwrap();
    keys.extend(world.ledger.keys(Some(keys[1].id), 9).await.unwrap());
    assert_eq!(keys.len(), 5);
    assert!(keys.is_sorted_by_key(|key| key.id));
}

async fn has_session<L: Ledger>(world: &World<L>, id: u8) -> bool {
    let identity = world.ledger.identify(SpkiHash([1; 32]), Some(SessionId([id; 32]))).await.unwrap();
    identity.session.is_some()
}

pub(crate) async fn tokens_are_drained_and_resumed<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    let drain = |token: &str, reason: &str| Drain {
        token: token.parse().unwrap(),
        reason: reason.to_owned(),
        since: now(),
    };
    assert_eq!(world.ledger.drains().await.unwrap(), []);
    let (one, two) = (drain("hsm-1", "firmware"), drain("hsm-2", "move"));
    world.done(Change::DrainToken(two.clone())).await;
    world.done(Change::DrainToken(one.clone())).await;
    assert_eq!(world.last_record().await.target, "tokens/hsm-1");
    assert_eq!(world.ledger.drains().await.unwrap(), [one.clone(), two.clone()]);
    // The first reason stays.
    world.done(Change::DrainToken(drain("hsm-1", "another"))).await;
    assert_eq!(world.ledger.drains().await.unwrap(), [one.clone(), two.clone()]);
    for _ in 0..2 {
        world.done(Change::ResumeToken(one.token.clone())).await;
        assert_eq!(world.last_record().await.target, "tokens/hsm-1");
        assert_eq!(world.ledger.drains().await.unwrap(), std::slice::from_ref(&two));
    }
}
