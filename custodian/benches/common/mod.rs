//! One operator on one device with one key, and a ledger: what several benches need.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each bench uses a part of it, and stops at the first error"
)]

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::Instant,
};

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

const SPKI: SpkiHash = SpkiHash([1; 32]);
const SESSION: SessionId = SessionId([2; 32]);

/// One operator on one device, with one key.
pub(crate) struct Scene {
    pub(crate) ledger: Arc<SqliteLedger>,
    pub(crate) authority: Authority,
    pub(crate) caller: Caller,
    pub(crate) key: KeyId,
}

impl Scene {
    pub(crate) async fn new(path: &Path) -> Self {
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

    /// One attempt, from its beginning to its durable record.
    pub(crate) async fn record_one(&self) {
        let request_id = Uuid::now_v7();
        // Spread over the index as real ones are.
        let mut ciphertext = [0; 384];
        ciphertext[..32].copy_from_slice(&sha2::Sha256::digest(request_id.as_bytes()));
        let wrapped = WrappedKey::new(self.key, KeyWrapping::OaepSha256, ciphertext.to_vec()).unwrap();
        let attempt = self.ledger.begin(intent(request_id, &wrapped, &self.caller));
        let need = Need::Unwrap(&wrapped);
        let permit = self.authority.permit(&self.caller, need, attempt.intent()).await.ok().unwrap();
        let grant = Grant { standing: permit.redeem(), change: None };
        self.ledger.settle(attempt, Outcome::Granted(grant)).await.unwrap();
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

pub(crate) fn intent(request_id: Uuid, wrapped: &WrappedKey, caller: &Caller) -> Intent {
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
