//! Two persons: who may approve, how often, for how long, and what an approval is good for.

use std::{net::Ipv4Addr, num::NonZeroU32, sync::Arc};

use custodian_proto::{approval::Glass, limits::MAX_PENDING_APPROVALS, refusal::Refusal, v1};
use jiff::SignedDuration;

use super::world::*;
use crate::{
    authority::{
        Approval, ApprovalId, ApprovalRequest, ApprovalState, ApprovalUse, DeviceState, Ending, PolicyText,
        Role, SessionId, SpkiHash, Standing, Weight,
    },
    custody::{Denial, Unapproved},
    ledger::{ApprovalQuery, Change, Changed, Ledger, OK, Outcome},
};

/// What anna asks for; `what` makes it another request.
fn request(what: &str, needed: u32) -> ApprovalRequest {
    ApprovalRequest {
        user: user_id("anna"),
        device: device_id("laptop-1"),
        ip: Ipv4Addr::LOCALHOST.into(),
        operation: "Unwrap".to_owned(),
        target: String::new(),
        key: Some(key("main").id),
        reason: "case 7\u{202e}".to_owned(),
        claims: Some(v1::Claims { file_name: "a.mtd".to_owned(), ..Default::default() }),
        message: what.as_bytes().to_vec(),
        glass: Glass::Whole,
        needed: NonZeroU32::new(needed).unwrap(),
        expires: ahead(600),
    }
}

/// Three administrators, each with a device, beside anna.
async fn with_admins<L: Ledger>(ledger: Arc<L>) -> World<L> {
    let world = World::peopled(ledger).await;
    for (number, admin) in (11..).zip(["bob", "eve", "joe"]) {
        world.has_device(&format!("laptop-{admin}"), number).await;
        world.done(Change::CreateUser(user(admin, &[Role::Admin]))).await;
    }
    world
}

impl<L: Ledger> World<L> {
    /// Asks for approval. What the caller is told.
    async fn asks(&self, request: ApprovalRequest) -> Denial {
        let attempt = self.ledger.begin(intent("Unwrap"));
        self.ledger.settle(attempt, Outcome::Denied(Unapproved::by(request))).await.err().unwrap()
    }

    /// Asks for approval, which is kept.
    async fn waits(&self, request: ApprovalRequest) -> ApprovalId {
        match self.asks(request).await {
            Denial::Unapproved(unapproved) => unapproved.waiting.unwrap().id,
            denial => panic!("{} {}", denial.code(), denial.detail()),
        }
    }

    async fn approval(&self, id: ApprovalId) -> Approval {
        self.ledger.approval(id).await.unwrap().unwrap()
    }

    /// Approves what there is to see.
    async fn approves(&self, id: ApprovalId, admin: &str) -> Result<Changed, Denial> {
        let digest = self.approval(id).await.request.digest();
        self.change(approve(id, digest, admin)).await
    }

    /// Anna unwraps with an approval.
    async fn unwraps_with(&self, id: ApprovalId, request: &ApprovalRequest) -> Result<u64, &'static str> {
        let released = self.unwraps(self.standing_on(id, request)).await;
        released.map(|release| release.sequence()).map_err(|denial| denial.code())
    }

    fn standing_on(&self, id: ApprovalId, request: &ApprovalRequest) -> Standing {
        let used = ApprovalUse { id, digest: request.digest(), needed: request.needed };
        Standing { approval: Some(used), ..self.standing() }
    }
}

fn approve(id: ApprovalId, digest: [u8; 32], admin: &str) -> Change {
    let device = device_id(&format!("laptop-{admin}"));
    Change::Approve { id, digest, approves: "Unwrap".to_owned(), user: user_id(admin), device }
}

fn deny(id: ApprovalId, admin: &str) -> Change {
    Change::Deny { id, user: user_id(admin), reason: "not today".to_owned() }
}

pub(crate) async fn what_others_approved_passes_once<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let request = request("it", 2);
    let id = world.waits(request.clone()).await;
    let asked = world.last_record().await;
    assert_eq!((asked.outcome.as_str(), asked.sequence), ("APPROVAL_REQUIRED", id.0));
    assert_eq!(asked.approval, id.resource_name());
    assert!(asked.detail.contains("0 of 2"), "{}", asked.detail);

    let kept = world.approval(id).await;
    // Nothing in it can fool a terminal; what it is bound to stays as it was.
    assert_eq!(kept.request.reason, "case 7\u{fffd}");
    assert_eq!(kept.request.digest(), request.digest());
    assert_eq!((kept.request.message.as_slice(), kept.state(now())), (&b"it"[..], ApprovalState::Pending));

    assert_eq!(world.unwraps_with(id, &request).await, Err("APPROVAL_REQUIRED"));
    world.approves(id, "bob").await.unwrap();
    assert_eq!(world.last_record().await.approval, id.resource_name());
    assert_eq!(world.unwraps_with(id, &request).await, Err("APPROVAL_REQUIRED"));
    world.approves(id, "eve").await.unwrap();
    assert_eq!(world.approval(id).await.state(now()), ApprovalState::Approved);

    let sequence = world.unwraps_with(id, &request).await.unwrap();
    let used = world.last_record().await;
    assert_eq!(
        (used.sequence, used.outcome.as_str(), used.approval.as_str()),
        (sequence, OK, &*id.resource_name())
    );
    assert_eq!(used.detail, "approved by users/bob, users/eve");
    assert_eq!(world.approval(id).await.ending, Some(Ending::Used { sequence }));
    assert_eq!(world.unwraps_with(id, &request).await, Err("APPROVAL_USED"));
    let late = world.approves(id, "joe").await.err().unwrap();
    assert_eq!(late.code(), "APPROVAL_USED");
    // The same again is asked for anew.
    assert_ne!(world.waits(request).await, id);
}

pub(crate) async fn the_same_request_waits_for_the_same_approval<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let id = world.waits(request("it", 1)).await;
    assert_eq!(world.waits(request("it", 1)).await, id);
    for other in [
        request("that", 1),
        ApprovalRequest { operation: "Rewrap".to_owned(), ..request("it", 1) },
        ApprovalRequest { device: device_id("laptop-2"), ..request("it", 1) },
        ApprovalRequest { glass: Glass::Broken, ..request("it", 1) },
    ] {
        assert_ne!(world.waits(other.clone()).await, id);
        assert_eq!(
            world.ledger.approval_of(other.digest()).await.unwrap().unwrap().request.digest(),
            other.digest()
        );
    }
    // The policy asks for more by now: the same approval, and what was given stays.
    world.approves(id, "bob").await.unwrap();
    assert_eq!(world.waits(request("it", 3)).await, id);
    let kept = world.approval(id).await;
    assert_eq!((kept.request.needed.get(), kept.given(), kept.state(now())), (3, 1, ApprovalState::Pending));
}

pub(crate) async fn an_approval_is_for_what_was_asked_and_by_whom<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let asked = request("it", 1);
    let id = world.waits(asked.clone()).await;
    world.approves(id, "bob").await.unwrap();
    assert_eq!(world.unwraps_with(id, &request("that", 1)).await, Err("APPROVAL_REQUIRED"));
    // Another user's session, with anna's approval.
    world.done(Change::CreateUser(user("otto", &[Role::Operator]))).await;
    world.done(Change::OpenSession(session(2, "otto", 1))).await;
    let otto = Standing { session: Some(SessionId([2; 32])), ..world.standing_on(id, &asked) };
    world.refuses(otto, Refusal::ApprovalRequired).await;
    let nobody = Standing { session: None, role: None, ..world.standing_on(id, &asked) };
    world.refuses(nobody, Refusal::NotLoggedIn).await;
    let unknown = world.standing_on(ApprovalId(999_999), &asked);
    world.refuses(unknown, Refusal::NotFound).await;
    // None of that used it up.
    world.unwraps_with(id, &asked).await.unwrap();
}

pub(crate) async fn nobody_counts_twice_and_the_requester_never<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let asked = request("it", 2);
    let id = world.waits(asked.clone()).await;
    let digest = asked.digest();
    world.refuses_change(approve(id, [9; 32], "bob"), Refusal::StateConflict).await;
    let own = Change::Approve {
        id,
        digest,
        approves: "Unwrap".to_owned(),
        user: user_id("anna"),
        device: device_id("laptop-1"),
    };
    world.refuses_change(own, Refusal::OwnRequest).await;
    // The policy was asked about approving something else, or nothing: there was none of this number yet.
    for other in ["", "ApplyPolicy"] {
        let device = device_id("laptop-bob");
        let blind = Change::Approve { id, digest, approves: other.to_owned(), user: user_id("bob"), device };
        world.refuses_change(blind, Refusal::StateConflict).await;
    }
    // Again, from another device: no error, and no second vote.
    world.approves(id, "bob").await.unwrap();
    world
        .done(Change::Approve {
            id,
            digest,
            approves: "Unwrap".to_owned(),
            user: user_id("bob"),
            device: device_id("laptop-eve"),
        })
        .await;
    let kept = world.approval(id).await;
    assert_eq!((kept.given(), kept.votes.len()), (1, 1));
    assert_eq!(kept.votes[0].device, device_id("laptop-eve"));
    assert_eq!(world.unwraps_with(id, &asked).await, Err("APPROVAL_REQUIRED"));
    let unknown = approve(ApprovalId(999_999), digest, "bob");
    world.refuses_change(unknown, Refusal::NotFound).await;
}

pub(crate) async fn whoever_was_stopped_does_not_count<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let asked = request("it", 1);
    let disable = |disabled| Change::SetUserDisabled { id: user_id("bob"), disabled };
    let roles = |role: Role| Change::SetRoles { id: user_id("bob"), roles: [role].into_iter().collect() };

    let id = world.waits(asked.clone()).await;
    world.approves(id, "bob").await.unwrap();
    for (stop, again) in [(disable(true), disable(false)), (roles(Role::Operator), roles(Role::Admin))] {
        world.done(stop).await;
        assert_eq!(world.unwraps_with(id, &asked).await, Err("APPROVAL_REQUIRED"));
        let kept = world.approval(id).await;
        assert_eq!((kept.votes[0].weight, kept.state(now())), (Weight::Void, ApprovalState::Pending));
        world.done(again).await;
        assert_eq!(world.approval(id).await.state(now()), ApprovalState::Approved);
    }
    world.sets_device("laptop-bob", DeviceState::Suspended).await.unwrap();
    assert_eq!(world.unwraps_with(id, &asked).await, Err("APPROVAL_REQUIRED"));
    world.sets_device("laptop-bob", DeviceState::Active).await.unwrap();
    world.sets_device("laptop-bob", DeviceState::Revoked).await.unwrap();
    assert_eq!(world.unwraps_with(id, &asked).await, Err("APPROVAL_REQUIRED"));
    world.approves(id, "eve").await.unwrap();
    world.unwraps_with(id, &asked).await.unwrap();
}

/// Not part of every ledger's suite: of those whose clock a test can set.
pub(crate) async fn whether_a_vote_counts_goes_by_the_ledgers_clock<L: Ledger>(
    ledger: Arc<L>,
    clock: &TestClock,
) {
    let world = with_admins(ledger).await;
    let asked = ApprovalRequest { expires: ahead(86_400), ..request("it", 3) };
    let id = world.waits(asked).await;
    world.approves(id, "bob").await.unwrap();
    let until = clock.now() + SignedDuration::from_mins(10);
    let reason = "a holiday".to_owned();
    world.done(Change::SuspendDevice { id: device_id("laptop-bob"), until, reason }).await;
    let weights = async |admin| match world.approves(id, admin).await.unwrap() {
        Changed::Approval(approval) => {
            assert_eq!(world.approval(id).await.votes, approval.votes, "readers go by it, too");
            approval.votes[0].weight
        }
        _ => panic!("it was approved"),
    };
    assert_eq!(weights("eve").await, Weight::Void);
    clock.moves(SignedDuration::from_mins(11));
    assert_eq!(weights("joe").await, Weight::Counts);
    clock.moves(SignedDuration::from_mins(-5));
    assert_eq!(weights("joe").await, Weight::Void);
}

pub(crate) async fn a_device_whose_suspension_has_ended_counts_as_any_other<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let suspend = |until| {
        let id = device_id("laptop-bob");
        Change::SuspendDevice { id, until, reason: "a holiday".to_owned() }
    };
    let applies = Change::ApplyPolicy { policy: policy(1), approvers: 2 };
    let asked = request("it", 1);
    let id = world.waits(asked.clone()).await;
    world.approves(id, "bob").await.unwrap();
    world.done(suspend(ahead(600))).await;
    assert_eq!(world.unwraps_with(id, &asked).await, Err("APPROVAL_REQUIRED"));
    world.sets_device("laptop-1", DeviceState::Suspended).await.unwrap();
    world.refuses_change(applies.clone(), Refusal::StateConflict).await;
    world.sets_device("laptop-bob", DeviceState::Active).await.unwrap();

    let until = now() + SignedDuration::from_millis(300);
    world.done(suspend(until)).await;
    world.until(until).await;
    assert_eq!(world.approval(id).await.votes[0].weight, Weight::Counts);
    world.done(applies).await;
    world.sets_device("laptop-1", DeviceState::Active).await.unwrap();
    world.done(Change::OpenSession(session(1, "anna", 1))).await;
    world.unwraps_with(id, &asked).await.unwrap();
    // It is the last one that an administrator could use.
    for laptop in ["laptop-1", "laptop-eve", "laptop-joe"] {
        world.sets_device(laptop, DeviceState::Suspended).await.unwrap();
    }
    let denial = world.sets_device("laptop-bob", DeviceState::Suspended).await.err().unwrap();
    assert_eq!(denial.code(), Refusal::StateConflict.code());
}

fn policy(version: u64) -> PolicyText {
    PolicyText {
        version,
        text: "// text".to_owned(),
        applied_by: Some(user_id("bob")),
        applied: now(),
        reason: String::new(),
    }
}

pub(crate) async fn a_request_is_withdrawn_by_who_made_it_and_nobody_else<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let asked = request("it", 1);
    let withdraw = |id, user: &str| Change::Withdraw { id, user: user_id(user) };
    let id = world.waits(asked.clone()).await;
    world.refuses_change(withdraw(id, "bob"), Refusal::NotOwnRequest).await;
    world.refuses_change(withdraw(ApprovalId(999_999), "anna"), Refusal::NotFound).await;
    // Approved already: of no use all the same.
    world.approves(id, "bob").await.unwrap();
    for _ in 0..2 {
        let Changed::Approval(gone) = world.done(withdraw(id, "anna")).await else { panic!() };
        assert_eq!(
            (gone.state(now()), gone.ending.clone()),
            (ApprovalState::Withdrawn, Some(Ending::Withdrawn))
        );
    }
    assert_eq!(world.last_record().await.approval, id.resource_name());
    assert_eq!(world.unwraps_with(id, &asked).await, Err("APPROVAL_WITHDRAWN"));
    let digest = asked.digest();
    world.refuses_change(approve(id, digest, "eve"), Refusal::ApprovalWithdrawn).await;
    let deny = Change::Deny { id, user: user_id("eve"), reason: "too late".to_owned() };
    world.refuses_change(deny, Refusal::ApprovalWithdrawn).await;
    let open = ApprovalQuery { open_at: Some(now()), limit: 10, ..ApprovalQuery::default() };
    assert!(world.ledger.approvals(open).await.unwrap().is_empty());

    // The same again is another request, without what was given before.
    let again = world.waits(asked.clone()).await;
    assert_ne!(again, id);
    assert_eq!(world.unwraps_with(again, &asked).await, Err("APPROVAL_REQUIRED"));
    world.approves(again, "bob").await.unwrap();
    world.unwraps_with(again, &asked).await.unwrap();
    world.refuses_change(withdraw(again, "anna"), Refusal::ApprovalUsed).await;
}

pub(crate) async fn a_denied_request_stays_denied_for_its_time<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let asked = request("it", 1);
    let id = world.waits(asked.clone()).await;
    world.approves(id, "bob").await.unwrap();
    world.done(deny(id, "eve")).await;
    assert_eq!(world.last_record().await.approval, id.resource_name());
    assert_eq!(world.unwraps_with(id, &asked).await, Err("APPROVAL_DENIED"));
    assert_eq!(world.approves(id, "joe").await.err().unwrap().code(), "APPROVAL_DENIED");
    let Changed::Approval(again) = world.done(deny(id, "joe")).await else { panic!() };
    assert_eq!(again.ending, Some(Ending::Denied { by: user_id("eve"), reason: "not today".to_owned() }));
    // Asking again does not help; asking for something else does.
    assert_eq!(world.asks(asked.clone()).await.code(), "APPROVAL_DENIED");
    world.waits(request("that", 1)).await;

    // What is over by then can be asked for again.
    let brief = ApprovalRequest { expires: now() + SignedDuration::from_millis(300), ..request("brief", 1) };
    let id = world.waits(brief.clone()).await;
    world.done(deny(id, "eve")).await;
    world.until(brief.expires).await;
    assert_ne!(world.waits(request("brief", 1)).await, id);
}

pub(crate) async fn an_approval_ends_on_time<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let brief = ApprovalRequest { expires: now() + SignedDuration::from_millis(300), ..request("it", 1) };
    let id = world.waits(brief.clone()).await;
    world.approves(id, "bob").await.unwrap();
    let kept = world.approval(id).await;
    let (last, end) = (brief.expires - SignedDuration::from_micros(1), brief.expires);
    assert_eq!((kept.state(last), kept.state(end)), (ApprovalState::Approved, ApprovalState::Expired));
    world.until(brief.expires).await;
    assert_eq!(world.unwraps_with(id, &brief).await, Err("APPROVAL_EXPIRED"));
    assert_eq!(world.approves(id, "eve").await.err().unwrap().code(), "APPROVAL_EXPIRED");
    world.refuses_change(deny(id, "eve"), Refusal::ApprovalExpired).await;
    assert_ne!(world.waits(request("it", 1)).await, id);
}

pub(crate) async fn of_two_at_once_one_uses_the_approval<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    for round in 0..20 {
        let asked = request(&format!("round {round}"), 1);
        let id = world.waits(asked.clone()).await;
        world.approves(id, "bob").await.unwrap();
        let (one, other) = tokio::join!(world.unwraps_with(id, &asked), world.unwraps_with(id, &asked));
        let mut results = [one.map(drop), other.map(drop)];
        results.sort();
        assert_eq!(results, [Ok(()), Err("APPROVAL_USED")]);
    }
}

pub(crate) async fn what_fails_does_not_use_the_approval_up<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let asked = request("it", 1);
    let id = world.waits(asked.clone()).await;
    world.approves(id, "bob").await.unwrap();
    let charge = world.charged(1, hourly(0)).charge;
    let exhausted = Standing { charge, ..world.standing_on(id, &asked) };
    let denial = world.unwraps(exhausted).await.err().unwrap();
    assert_eq!(denial.code(), Refusal::BudgetExhausted.code());
    let elsewhere = Standing { device: Some(SpkiHash([11; 32])), ..world.standing_on(id, &asked) };
    world.refuses(elsewhere, Refusal::NotLoggedIn).await;
    assert_eq!(world.approval(id).await.state(now()), ApprovalState::Approved);
    world.unwraps_with(id, &asked).await.unwrap();
}

pub(crate) async fn the_requests_of_one_user_that_wait_are_bounded<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let mut ids = Vec::new();
    for number in 0..MAX_PENDING_APPROVALS {
        ids.push(world.waits(request(&number.to_string(), 1)).await);
    }
    let denial = world.asks(request("one more", 1)).await;
    assert_eq!(denial.code(), "TOO_MANY_PENDING");
    // What waits already still does; others are not concerned; and room is made by denying.
    assert_eq!(world.waits(request("0", 1)).await, ids[0]);
    world.waits(ApprovalRequest { user: user_id("eve"), ..request("one more", 1) }).await;
    world.done(deny(ids[3], "bob")).await;
    world.waits(request("one more", 1)).await;

    let page = |before, limit, open_at| {
        let query = ApprovalQuery { user: Some(user_id("anna")), open_at, before, limit };
        async { world.ledger.approvals(query).await.unwrap() }
    };
    let open = page(None, 100, Some(now())).await;
    assert_eq!(open.len(), MAX_PENDING_APPROVALS as usize);
    assert!(open.windows(2).all(|two| two[0].id > two[1].id));
    assert!(open.iter().all(|approval| approval.id != ids[3]));
    assert_eq!(page(None, 100, None).await.len(), MAX_PENDING_APPROVALS as usize + 1);
    assert_eq!(page(Some(open[4].id), 2, Some(now())).await, open[5..7]);
    let all = world.ledger.approvals(ApprovalQuery { limit: 100, ..Default::default() }).await.unwrap();
    assert_eq!(all.len(), MAX_PENDING_APPROVALS as usize + 2);
}

pub(crate) async fn breaking_the_glass_stands_out_in_the_log<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let asked = ApprovalRequest { glass: Glass::Broken, ..request("it", 1) };
    let id = world.waits(asked.clone()).await;
    world.approves(id, "bob").await.unwrap();
    world.unwraps_with(id, &asked).await.unwrap();
    let usual = request("it", 1);
    let other = world.waits(usual.clone()).await;
    world.approves(other, "bob").await.unwrap();
    world.unwraps_with(other, &usual).await.unwrap();

    let query = crate::ledger::RecordQuery { break_glass: true, limit: 100, ..Default::default() };
    let loud = world.ledger.records(query).await.unwrap();
    assert!(loud.iter().all(|record| record.break_glass && record.approval == id.resource_name()));
    let outcomes: Vec<_> = loud.iter().map(|record| record.outcome.as_str()).collect();
    assert_eq!(outcomes, ["APPROVAL_REQUIRED", OK, OK]);
    let all = world.all_records().await;
    assert_eq!(all.iter().filter(|record| record.break_glass).count(), 3);
}

pub(crate) async fn a_policy_needs_enough_administrators_for_the_next_one<L: Ledger>(ledger: Arc<L>) {
    let world = with_admins(ledger).await;
    let applies = |version, approvers| Change::ApplyPolicy { policy: policy(version), approvers };
    world.refuses_change(applies(1, 3), Refusal::StateConflict).await;
    let record = world.last_record().await;
    assert!(record.detail.contains("3 enabled admins and 4 active devices"), "{}", record.detail);
    world.done(applies(1, 2)).await;
    world.done(Change::SetUserDisabled { id: user_id("joe"), disabled: true }).await;
    world.refuses_change(applies(2, 2), Refusal::StateConflict).await;
    world.done(applies(2, 1)).await;
    for laptop in ["laptop-1", "laptop-joe", "laptop-eve"] {
        world.sets_device(laptop, DeviceState::Suspended).await.unwrap();
    }
    world.refuses_change(applies(3, 1), Refusal::StateConflict).await;
    world.done(applies(3, 0)).await;
}
