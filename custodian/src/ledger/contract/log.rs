//! What the log promises.

use std::{net::IpAddr, sync::Arc};

use custodian_proto::{
    key::KeyId,
    limits::{MAX_FORMAT_LEN, MAX_TEXT_LEN},
    refusal::Refusal,
    tlog::{
        Hash,
        merkle::{self, Node, perfect_root},
    },
    v1,
};
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{refusals::futures, world::*};
use crate::{
    authority::{DeviceState, KeyStep, Role, Roles, Standing},
    ledger::{Change, Grant, Included, Intent, Ledger, OK, OUTCOME_UNKNOWN, Outcome, RecordQuery, TreeHead},
};

async fn settle<L: Ledger>(ledger: &L, intent: Intent, refusal: Option<Refusal>) {
    let outcome = match refusal {
        Some(refusal) => Outcome::Denied(refusal.into()),
        None => Outcome::Granted(Grant { standing: Standing::default(), change: None }),
    };
    assert_eq!(ledger.settle(ledger.begin(intent), outcome).await.is_ok(), refusal.is_none());
}

pub(crate) async fn a_record_says_who_what_where_and_when<L: Ledger>(ledger: Arc<L>) {
    let claims = v1::Claims {
        file_name: "Q3 report.mtd".to_owned(),
        file_size: 1 << 40,
        format: "mtd".to_owned(),
        reason: "audit".to_owned(),
    };
    let key = KeyId::of_public_key(b"main");
    let intent = Intent {
        user: "users/anna".to_owned(),
        device: "devices/laptop-7".to_owned(),
        certificate: Some([0xAB; 32]),
        ip: "2001:db8::7".parse::<IpAddr>().unwrap(),
        key: Some(key),
        wrapped_sha256: Some([0xCD; 32]),
        digest: "sha256:ef".to_owned(),
        claims: Some(claims.clone()),
        target: "users/bob".to_owned(),
        reason: "because".to_owned(),
        factor: Some(Timestamp::from_second(1_700_000_000).unwrap()),
        ..intent("Unwrap")
    };
    let before = now();
    let arrived = intent.arrived;
    let request_id = intent.request_id;
    settle(&*ledger, intent, None).await;
    let world = World::empty(ledger);
    let record = world.last_record().await;
    let time = record.time.unwrap();
    let time = Timestamp::new(time.seconds, time.nanos).unwrap();
    assert!((before..=now()).contains(&time));
    assert!(u128::from(record.duration_us) <= arrived.elapsed().as_micros());
    let expected = v1::Record {
        sequence: 1,
        time: record.time,
        request_id: request_id.to_string(),
        operation: "Unwrap".to_owned(),
        user: "users/anna".to_owned(),
        device: "devices/laptop-7".to_owned(),
        certificate_sha256: "ab".repeat(32),
        peer_ip: "2001:db8::7".to_owned(),
        key: key.resource_name(),
        wrapped_key_sha256: "cd".repeat(32),
        claims: Some(claims),
        target: "users/bob".to_owned(),
        outcome: OK.to_owned(),
        detail: "because".to_owned(),
        duration_us: record.duration_us,
        second_factor_time: record.second_factor_time,
        approval: String::new(),
        break_glass: false,
        digest: "sha256:ef".to_owned(),
    };
    assert_eq!(record.second_factor_time.unwrap().seconds, 1_700_000_000);
    assert_eq!(record, expected);
}

pub(crate) async fn a_record_names_what_was_changed<L: Ledger>(ledger: Arc<L>) {
    let world = World::empty(ledger);
    let laptop = device("laptop-1", 1);
    let certificate = hex::encode(Sha256::digest(&laptop.certificate));
    let enroll = Change::Enroll { code_hash: [1; 32], invited_by: Some(user_id("admin")), device: laptop };
    let (anna, main) = (user("anna", &[Role::Operator, Role::Auditor]), key("main"));
    let (id, key_id) = (anna.id.clone(), main.id);
    let state = Change::SetDeviceState {
        id: device_id("laptop-1"),
        state: DeviceState::Active,
        reason: String::new(),
    };
    let (wraps, until) = (main.life.wraps(), ahead(99));
    let added = format!("main@1, RSA-3072, sealed to from {} until {}", wraps.from(), wraps.until());
    let limit = |unwraps_until| Change::LimitKey { id: key_id, unwraps_until, reason: String::new() };
    let changes = [
        (Change::Invite(invitation(1, "laptop-1")), "devices/laptop-1", ""),
        (enroll, "devices/laptop-1", &*format!("certificate {certificate}, invited by users/admin")),
        (state, "devices/laptop-1", ""),
        (Change::CreateUser(anna), "users/anna", "roles: operator, auditor"),
        (Change::SetRoles { id: id.clone(), roles: Roles::default() }, "users/anna", "no roles"),
        (Change::SetUserDisabled { id, disabled: true }, "users/anna", ""),
        (Change::AddKey(main), "", &*added),
        (Change::StepKey { id: key_id, step: KeyStep::Suspend, reason: String::new() }, "", ""),
        (limit(Some(until)), "", &*format!("unwraps until {until}")),
        (limit(None), "", "unwraps without end"),
    ];
    for (change, target, detail) in changes {
        let is_of_key =
            matches!(change, Change::AddKey(_) | Change::StepKey { .. } | Change::LimitKey { .. });
        world.done(change).await;
        let record = world.last_record().await;
        assert_eq!((record.target.as_str(), record.detail.as_str()), (target, detail));
        assert_eq!(record.key, if is_of_key { key_id.resource_name() } else { String::new() });
    }
    // What the intent says stays, and a refusal names what it is about.
    let roles = [Role::Admin].into_iter().collect();
    let change = Some(Change::SetRoles { id: user_id("bob"), roles });
    let intent = Intent { reason: "new job".to_owned(), ..intent("SetRoles") };
    let grant = Grant { standing: Standing::default(), change };
    assert!(world.ledger.settle(world.ledger.begin(intent), Outcome::Granted(grant)).await.is_err());
    let record = world.last_record().await;
    assert_eq!(record.outcome, Refusal::NotFound.code());
    assert_eq!((record.target.as_str(), record.detail.as_str()), ("users/bob", "roles: admin; new job"));
}

pub(crate) async fn texts_are_cut_and_cannot_fool_a_terminal<L: Ledger>(ledger: Arc<L>) {
    let long = format!("\x1b[31m{}", "ä".repeat(5_000));
    let text = || long.clone();
    let claims = v1::Claims { file_name: text(), file_size: 1, format: text(), reason: "a\nb".to_owned() };
    let intent = Intent {
        user: text(),
        device: text(),
        target: text(),
        reason: text(),
        claims: Some(claims),
        ..intent("Login")
    };
    settle(&*ledger, intent, Some(Refusal::LoginFailed)).await;
    let record = World::empty(ledger).last_record().await;
    let claims = record.claims.unwrap();
    for text in [&record.user, &record.device, &record.target, &record.detail, &claims.file_name] {
        assert!((MAX_TEXT_LEN - 1..=MAX_TEXT_LEN).contains(&text.len()), "{}", text.len());
        assert!(text.starts_with("\u{FFFD}[31mää") && text.ends_with('ä'));
    }
    assert!(claims.format.len() <= MAX_FORMAT_LEN && claims.format.starts_with("\u{FFFD}[31m"));
    assert_eq!(claims.reason, "a\u{FFFD}b");
}

pub(crate) async fn every_filter_finds_its_records<L: Ledger>(ledger: Arc<L>) {
    let key = |name: &str| Some(KeyId::of_public_key(name.as_bytes()));
    // Twelve attempts of two users on three devices.
    for number in 0..12_u8 {
        let intent = Intent {
            user: format!("users/{}", number % 2),
            device: format!("devices/{}", number % 3),
            key: if number % 4 == 0 { key("main") } else { None },
            wrapped_sha256: (number >= 6).then_some([number; 32]),
            ..intent(if number == 5 { "Login" } else { "Unwrap" })
        };
        let refusal = match number {
            3 => Some(Refusal::DeviceRevoked),
            4 | 7 => Some(Refusal::BudgetExhausted),
            _ => None,
        };
        settle(&*ledger, intent, refusal).await;
    }
    let found = async |query: RecordQuery| -> Vec<u64> {
        let mut numbers = Vec::new();
        for newest_first in [true, false] {
            let query = RecordQuery { newest_first, limit: 100, ..query.clone() };
            numbers = ledger.records(query).await.unwrap().iter().map(|r| r.sequence - 1).collect();
            assert!(numbers.is_sorted_by(|a, b| if newest_first { a > b } else { a < b }));
        }
        numbers
    };
    let any = RecordQuery::default;
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(found(any()).await, Vec::from_iter(0..12));
    assert_eq!(found(RecordQuery { user: some("users/1"), ..any() }).await, [1, 3, 5, 7, 9, 11]);
    assert_eq!(found(RecordQuery { device: some("devices/2"), ..any() }).await, [2, 5, 8, 11]);
    let main = key("main").map(|key| key.resource_name());
    assert_eq!(found(RecordQuery { key: main.clone(), ..any() }).await, [0, 4, 8]);
    let hash = Some("0a".repeat(32));
    assert_eq!(found(RecordQuery { wrapped_key_sha256: hash, ..any() }).await, [10]);
    let hash = Some("0A".repeat(32));
    assert_eq!(found(RecordQuery { wrapped_key_sha256: hash, ..any() }).await, [10]);
    assert_eq!(found(RecordQuery { wrapped_key_sha256: some("zz"), ..any() }).await, Vec::<u64>::new());
    assert_eq!(found(RecordQuery { operation: some("Login"), ..any() }).await, [5]);
    assert_eq!(found(RecordQuery { operation: some("Unwrap"), ..any() }).await.len(), 11);
    assert_eq!(found(RecordQuery { operation: some("Nothing"), ..any() }).await, Vec::<u64>::new());
    assert_eq!(found(RecordQuery { outcome: some("OK"), ..any() }).await.len(), 9);
    assert_eq!(found(RecordQuery { outcome: some("!OK"), ..any() }).await, [3, 4, 7]);
    assert_eq!(found(RecordQuery { outcome: some("BUDGET_EXHAUSTED"), ..any() }).await, [4, 7]);
    let both = RecordQuery { user: some("users/0"), outcome: some("!OK"), key: main, ..any() };
    assert_eq!(found(both).await, [4]);

    let records = World::empty(Arc::clone(&ledger)).all_records().await;
    let time = |number: usize| {
        let time = records[number].time.unwrap();
        Timestamp::new(time.seconds, time.nanos).unwrap()
    };
    let from_four = RecordQuery { start: Some(time(4)), ..any() };
    assert_eq!(found(from_four.clone()).await, Vec::from_iter(4..12));
    let to_six = RecordQuery { end: Some(time(6)), ..from_four };
    assert_eq!(found(to_six.clone()).await, [4, 5]);
    assert_eq!(found(RecordQuery { start: None, ..to_six.clone() }).await, Vec::from_iter(0..6));
    let of_user = RecordQuery { user: some("users/1"), ..to_six.clone() };
    assert_eq!(found(of_user).await, [5]);
    let nanosecond = SignedDuration::from_nanos(1);
    let after_four = RecordQuery { start: Some(time(4) + nanosecond), ..to_six.clone() };
    assert_eq!(found(after_four).await, [5]);
    let with_six = RecordQuery { end: Some(time(6) + nanosecond), ..to_six };
    assert_eq!(found(with_six).await, [4, 5, 6]);
    let extremes = RecordQuery { start: Some(Timestamp::MIN), end: Some(Timestamp::MAX), ..any() };
    assert_eq!(found(extremes).await.len(), 12);
    assert_eq!(found(RecordQuery { start: Some(ahead(60)), ..any() }).await, Vec::<u64>::new());
}

pub(crate) async fn pages_follow_each_other_in_both_directions<L: Ledger>(ledger: Arc<L>) {
    for number in 0..10 {
        let refusal = (number % 3 == 0).then_some(Refusal::KeyUnknown);
        settle(&*ledger, intent("Unwrap"), refusal).await;
    }
    for (newest_first, outcome, expected) in [
        (false, None, Vec::from_iter(1..=10)),
        (true, None, Vec::from_iter((1..=10).rev())),
        (false, Some("!OK"), vec![1, 4, 7, 10]),
        (true, Some("!OK"), vec![10, 7, 4, 1]),
    ] {
        let (mut read, mut beyond) = (Vec::new(), None);
        loop {
            let outcome = outcome.map(str::to_owned);
            let query = RecordQuery { outcome, beyond, newest_first, limit: 3, ..Default::default() };
            let page = ledger.records(query).await.unwrap();
            assert!(page.len() <= 3);
            let Some(last) = page.last() else { break };
            beyond = Some(last.sequence);
            read.extend(page.iter().map(|record| record.sequence));
        }
        assert_eq!(read, expected);
    }
}

pub(crate) async fn numbers_have_no_gap_under_load<L: Ledger>(ledger: Arc<L>) {
    let tasks = (0..400).map(|number| {
        let ledger = Arc::clone(&ledger);
        tokio::spawn(async move {
            let refusal = (number % 5 == 0).then_some(Refusal::DeviceUnknown);
            let attempt = ledger.begin(intent("Unwrap"));
            if number % 7 == 0 {
                return drop(attempt);
            }
            let outcome = match refusal {
                Some(refusal) => Outcome::Denied(refusal.into()),
                None => Outcome::Granted(Grant { standing: Standing::default(), change: None }),
            };
            assert_eq!(ledger.settle(attempt, outcome).await.is_ok(), refusal.is_none());
        })
    });
    futures(tasks.collect()).await;
    announced(&*ledger, 400).await;
    let records = World::empty(ledger).all_records().await;
    assert!(records.iter().map(|record| record.sequence).eq(1..=400));
    assert_eq!(records.iter().filter(|record| record.outcome == OUTCOME_UNKNOWN).count(), 58);
}

pub(crate) async fn the_last_number_is_announced<L: Ledger>(ledger: Arc<L>) {
    let mut last = ledger.last_sequence();
    assert_eq!(*last.borrow_and_update(), 0);
    settle(&*ledger, intent("Unwrap"), None).await;
    assert!(last.has_changed().unwrap());
    assert_eq!(*last.borrow_and_update(), 1);
    settle(&*ledger, intent("Unwrap"), Some(Refusal::KeyUnknown)).await;
    last.changed().await.unwrap();
    assert_eq!(*last.borrow(), 2);
}

pub(crate) async fn an_attempt_that_is_dropped_is_recorded_as_unknown<L: Ledger>(ledger: Arc<L>) {
    let dropped = Intent { user: "users/anna".to_owned(), request_id: Uuid::now_v7(), ..intent("Unwrap") };
    let request_id = dropped.request_id.to_string();
    let task = {
        let ledger = Arc::clone(&ledger);
        tokio::spawn(async move {
            let _attempt = ledger.begin(dropped);
            panic!("in the middle of an attempt (wanted by the test)");
        })
    };
    assert!(task.await.unwrap_err().is_panic());
    announced(&*ledger, 1).await;
    let record = World::empty(ledger).last_record().await;
    assert_eq!((record.outcome.as_str(), record.request_id), (OUTCOME_UNKNOWN, request_id));
    assert_eq!(record.user, "users/anna");
}

/// The head of the tree, which must be the one of the records as they are read.
pub(crate) async fn tree_of_the_records(ledger: &impl Ledger) -> TreeHead {
    let query = RecordQuery { limit: u32::MAX, ..RecordQuery::default() };
    let records = ledger.records(query).await.unwrap();
    let leaves: Vec<Hash> = records.iter().map(|record| Hash::of_entry(&record.encode_to_vec())).collect();
    let head = ledger.tree_head(None).await.unwrap();
    assert_eq!(head, head_of(&leaves));
    head
}

fn head_of(leaves: &[Hash]) -> TreeHead {
    let size = leaves.len() as u64;
    let mut read = |node: Node| {
        let start = usize::try_from(node.index << node.level).unwrap();
        perfect_root(&leaves[start..start + (1 << node.level)]).ok_or(())
    };
    TreeHead { size, root: merkle::root(size, &mut read).unwrap() }
}

pub(crate) async fn the_log_is_a_merkle_tree_of_its_records<L: Ledger>(ledger: Arc<L>) {
    assert_eq!(ledger.tree_head(None).await.unwrap(), head_of(&[]));
    let mut heads = Vec::new();
    for number in 0..20 {
        settle(&*ledger, intent("Unwrap"), (number % 3 == 0).then_some(Refusal::KeyUnknown)).await;
        heads.push(tree_of_the_records(&*ledger).await);
    }
    let entries = ledger.entries(0, 100).await.unwrap();
    assert_eq!(entries.len(), 20);
    assert_eq!(ledger.entries(7, 2).await.unwrap(), entries[7..9]);
    assert!(ledger.entries(20, 1).await.unwrap().is_empty());
    for head in heads {
        assert_eq!(ledger.tree_head(Some(head.size)).await.unwrap(), head);
        for (index, entry) in (0..head.size).zip(&entries) {
            let Included { proof, .. } = ledger.inclusion(index, head.size).await.unwrap().unwrap();
            merkle::verify_inclusion(Hash::of_entry(entry), index, head.size, &head.root, &proof).unwrap();
        }
    }
    assert!(ledger.tree_head(Some(21)).await.is_err(), "there is no such tree yet");
}
