//! Attempts per second that the ledger records durably, by the number of writers that wait for it at once, and the processor
//! time of each.
//!
//! `cargo bench -p custodian --bench ledger`. Each writer asks for a permit, as an unwrap does, and settles the attempt at
//! once: reading again what the permit was given on, charging the budgets, and writing the record. Every attempt is of
//! another file. What is missing of an unwrap is the network and the token.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first error")]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bench_rows::{Rows, Target};
use custodian::{
    authority::{
        ApprovalRules, Authority, Beginning, Budgets, Caller, Device, DeviceState, FactorState, Groups,
        Invitation, KeyLife, KeyPurpose, Need, PasswordHash, PasswordState, Peer, PeerCertificate, PeerKind,
        Policy, PolicyText, Role, Rules, Session, SessionId, SpkiHash, Standing, User, WrapPeriod,
        WrappingKey,
    },
    ledger::{Change, Grant, Identity, Intent, Ledger, LedgerOptions, Missing, Outcome, SqliteLedger},
};
use custodian_proto::{
    key::{KeyId, KeyWrapping, WrappedKey},
    v1::Claims,
};
use jiff::{SignedDuration, Timestamp};
use sha2::Digest as _;
use uuid::Uuid;

const SPAN: Duration = Duration::from_secs(3);

const SPKI: SpkiHash = SpkiHash([1; 32]);
const SESSION: SessionId = SessionId([2; 32]);

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let mut rows = Rows::new("ledger");
    for writers in [1, 8, 64, 256] {
        let scene = Arc::new(Scene::new(&directory.path().join(format!("{writers}.db"))).await);
        let (began, cpu) = (Instant::now(), cpu_time());
        let tasks: Vec<_> = (0..writers).map(|_| tokio::spawn(write(Arc::clone(&scene), began))).collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        let cpu = (cpu_time() - cpu).as_secs_f64() * 1e6 / times.len() as f64;
        times.sort();
        let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1_000.0;
        rows.add(format!("permit and durable record, {writers} at once"), rate, "1/s", Target::None);
        rows.add(format!("the same, {writers} at once: CPU of each"), cpu, "µs", Target::None);
        rows.add(format!("the same, {writers} at once: p50"), at(0.5), "ms", Target::None);
        rows.add(format!("the same, {writers} at once: p99"), at(0.99), "ms", Target::None);
    }
    rows.finish();
}

/// One operator on one device, with one key.
struct Scene {
    ledger: Arc<SqliteLedger>,
    authority: Authority,
    caller: Caller,
    key: KeyId,
}

impl Scene {
    async fn new(path: &Path) -> Self {
        let options = LedgerOptions { missing: Missing::Create, ..Default::default() };
        let ledger = Arc::new(SqliteLedger::open(path, options).unwrap());
        let key = KeyId::of_public_key(b"bench");
        for change in people(key) {
            let attempt = ledger.begin(Intent::of_nobody("SetUp", IpAddr::V4(Ipv4Addr::LOCALHOST)));
            let grant = Grant { standing: Standing::default(), change: Some(change) };
            assert!(ledger.settle(attempt, Outcome::Granted(grant)).await.is_ok());
        }
        let hour = SignedDuration::from_hours(1);
        let rules = Rules {
            session_idle: hour,
            session_lifetime: hour,
            budgets: Budgets::UNLIMITED,
            given_passwords: PasswordState::Settled,
            approvals: ApprovalRules::default(),
        };
        let policy = Policy::parse(0, &PolicyText::initial().text).unwrap();
        let authority = Authority::new(Arc::clone(&ledger) as Arc<dyn Ledger>, rules, policy);
        let now = Timestamp::now();
        let certificate = PeerCertificate {
            spki: SPKI,
            sha256: [7; 32],
            not_before: now - hour,
            not_after: now + hour,
            kind: PeerKind::Device,
        };
        let peer = Peer { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), certificate };
        let identity = ledger.identify(SPKI, Some(SESSION)).await.unwrap();
        let Identity { device, session, user, policy } = identity;
        let caller = Caller { peer, device, session, user, policy };
        Self { ledger, authority, caller, key }
    }
}

fn people(key: KeyId) -> Vec<Change> {
    let now = Timestamp::now();
    let later = now + SignedDuration::from_hours(1);
    let device = Device {
        id: "laptop-7".parse().unwrap(),
        spki: SPKI,
        state: DeviceState::Enrolled,
        certificate: Vec::new(),
        expires: later,
        enrolled: now,
        updated: now,
        reason: String::new(),
        suspended_until: None,
        groups: Groups::default(),
    };
    let (id, code_hash) = (device.id.clone(), [3; 32]);
    let user = User {
        id: "anna".parse().unwrap(),
        roles: [Role::Operator].into_iter().collect(),
        disabled: false,
        disabled_until: None,
        password: PasswordHash::from_phc(String::new()),
        password_state: PasswordState::Settled,
        factor: FactorState::default(),
        groups: Groups::default(),
        created: now,
        updated: now,
    };
    let session = Session {
        id: SESSION,
        user: user.id.clone(),
        device: SPKI,
        created: now,
        used: now,
        factor: None,
        expires: later,
    };
    let wraps = WrapPeriod::new(now - SignedDuration::from_hours(1), later).unwrap();
    let key = WrappingKey {
        id: key,
        label: "bench".to_owned(),
        version: 1,
        life: KeyLife::begin(Beginning::OnItsDate, wraps, None).unwrap(),
        modulus_bits: 3072,
        purpose: KeyPurpose::Unwrap(KeyWrapping::OaepSha256),
        certificate: Vec::new(),
        created: now,
        updated: now,
        reason: String::new(),
    };
    vec![
        Change::Invite(Invitation { code_hash, device: id.clone(), invited_by: None, expires: later }),
        Change::Enroll { code_hash, invited_by: None, device },
        Change::SetDeviceState { id, state: DeviceState::Active, reason: String::new() },
        Change::CreateUser(user),
        Change::OpenSession(session),
        Change::AddKey(key),
    ]
}

async fn write(scene: Arc<Scene>, began: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while began.elapsed() < SPAN {
        let start = Instant::now();
        let request_id = Uuid::now_v7();
        // Spread over the index as real ones are.
        let mut ciphertext = [0; 384];
        ciphertext[..32].copy_from_slice(&sha2::Sha256::digest(request_id.as_bytes()));
        let wrapped = WrappedKey::new(scene.key, KeyWrapping::OaepSha256, ciphertext.to_vec()).unwrap();
        let attempt = scene.ledger.begin(intent(request_id, &wrapped, &scene.caller));
        let need = Need::Unwrap(&wrapped);
        let permit = scene.authority.permit(&scene.caller, need, attempt.intent()).await.ok().unwrap();
        let grant = Grant { standing: permit.redeem(), change: None };
        scene.ledger.settle(attempt, Outcome::Granted(grant)).await.unwrap();
        times.push(start.elapsed());
    }
    times
}

fn intent(request_id: Uuid, wrapped: &WrappedKey, caller: &Caller) -> Intent {
    Intent {
        factor: None,
        key: Some(wrapped.key_id()),
        wrapped_sha256: Some(wrapped.sha256()),
        claims: Some(Claims {
            file_name: "quarterly-report-2026-Q3.mtd".to_owned(),
            file_size: 12_345_678,
            format: "mtd".to_owned(),
            reason: "ticket 4711".to_owned(),
        }),
        ..Intent::new(request_id, Instant::now(), "Unwrap", caller)
    }
}

/// Processor time of this process: proc(5), fields 14 and 15, in 1/100 s.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
