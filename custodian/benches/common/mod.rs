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

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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
        let first = First {
            device: "laptop-7".to_owned(),
            spki: SpkiHash([1; 32]),
            user: "anna".to_owned(),
            session: SessionId([2; 32]),
            key: KeyId::of_public_key(b"bench"),
            certificate: Vec::new(),
        };
        for change in first.changes() {
            set_up(&ledger, Some(change)).await;
        }
        let caller = caller(&ledger, first.spki, first.session).await;
        Self { authority: authority(&ledger), ledger, caller, key: first.key }
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

/// Who gives permits (law 3) by what this ledger says: without limits, by the policy that comes with the program.
pub(crate) fn authority(ledger: &Arc<SqliteLedger>) -> Authority {
    let day = SignedDuration::from_hours(24);
    let rules = Rules {
        session_idle: day,
        session_lifetime: day,
        budgets: Budgets::UNLIMITED,
        given_passwords: PasswordState::Settled,
        approvals: ApprovalRules::default(),
    };
    let policy = Policy::parse(0, &PolicyText::initial().text).unwrap();
    Authority::new(Arc::clone(ledger) as Arc<dyn Ledger>, rules, policy)
}

/// Who calls in this session from this device.
pub(crate) async fn caller(ledger: &SqliteLedger, spki: SpkiHash, session: SessionId) -> Caller {
    let (now, kind) = (Timestamp::now(), PeerKind::Device);
    let (not_before, not_after) = (now - SignedDuration::from_hours(1), now + SignedDuration::from_hours(24));
    let certificate = PeerCertificate { spki, sha256: [7; 32], not_before, not_after, kind };
    let Identity { device, session, user, policy } = ledger.identify(spki, Some(session)).await.unwrap();
    assert!(device.is_some() && session.is_some() && user.is_some());
    Caller { peer: Peer { ip: LOCALHOST, certificate }, device, session, user, policy }
}

/// Makes a record of nobody, with this change if there is one.
pub(crate) async fn set_up(ledger: &SqliteLedger, change: Option<Change>) {
    let attempt = ledger.begin(Intent::of_nobody("SetUp", LOCALHOST));
    let grant = Grant { standing: Standing::default(), change };
    ledger.settle(attempt, Outcome::Granted(grant)).await.unwrap();
}

/// The first device, user, session and key of a ledger.
pub(crate) struct First {
    pub(crate) device: String,
    pub(crate) spki: SpkiHash,
    pub(crate) user: String,
    pub(crate) session: SessionId,
    pub(crate) key: KeyId,
    /// That of device and key.
    pub(crate) certificate: Vec<u8>,
}

impl First {
    /// What puts them into the ledger.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let now = Timestamp::now();
        let later = now + SignedDuration::from_hours(24 * 30);
        let device = Device {
            id: self.device.parse().unwrap(),
            spki: self.spki,
            state: DeviceState::Enrolled,
            certificate: self.certificate.clone(),
            expires: later,
            enrolled: now,
            updated: now,
            reason: String::new(),
            suspended_until: None,
            groups: Groups::default(),
        };
        let (id, code_hash) = (device.id.clone(), [3; 32]);
        let user = User {
            id: self.user.parse().unwrap(),
            roles: [Role::Operator].into_iter().collect(),
            disabled: false,
            disabled_until: None,
            // As long as real ones.
            password: PasswordHash::from_phc("$argon2id$v=19$m=19456,t=2,p=1$".to_owned() + &"x".repeat(66)),
            password_state: PasswordState::Settled,
            factor: FactorState::default(),
            groups: Groups::default(),
            created: now,
            updated: now,
        };
        let session = Session {
            id: self.session,
            user: user.id.clone(),
            device: self.spki,
            created: now,
            used: now,
            factor: None,
            expires: later,
        };
        vec![
            Change::Invite(Invitation { code_hash, device: id.clone(), invited_by: None, expires: later }),
            Change::Enroll { code_hash, invited_by: None, device },
            Change::SetDeviceState { id, state: DeviceState::Active, reason: String::new() },
            Change::CreateUser(user),
            Change::OpenSession(session),
            Change::AddKey(wrapping_key(self.key, KeyWrapping::OaepSha256, 3072, self.certificate.clone())),
        ]
    }
}

/// A wrapping key that has been in use for a year.
pub(crate) fn wrapping_key(
    id: KeyId,
    wrapping: KeyWrapping,
    modulus_bits: u32,
    certificate: Vec<u8>,
) -> WrappingKey {
    let now = Timestamp::now();
    let hours = SignedDuration::from_hours;
    let wraps = WrapPeriod::new(now - hours(24 * 366), now + hours(24 * 30)).unwrap();
    WrappingKey {
        id,
        label: "key-0".to_owned(),
        version: 1,
        life: KeyLife::begin(Beginning::OnItsDate, wraps, None).unwrap(),
        modulus_bits,
        purpose: KeyPurpose::Unwrap(wrapping),
        certificate,
        created: now,
        updated: now,
        reason: String::new(),
    }
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
