//! A small world to test ledgers in: one device, one user, one session, one key.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use custodian_proto::{
    key::{KeyId, KeyWrapping},
    refusal::Refusal,
    v1,
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    authority::{
        Beginning, Budgets, Charge, Device, DeviceId, DeviceState, FactorState, Groups, Invitation, KeyLife,
        KeyPurpose, KeyState, KeyStep, KeyTask, MayLack, PasswordHash, PasswordState, Role, Roles, Session,
        SessionId, SpkiHash, Standing, User, UserId, WrapPeriod, WrappingKey,
    },
    custody::Denial,
    ledger::{
        Change, Changed, Clock, Grant, Intent, Ledger, LedgerOptions, Missing, Outcome, RecordQuery, Release,
    },
};

/// How long the sessions of the suite live without use.
pub(crate) const SESSION_IDLE: SignedDuration = SignedDuration::from_mins(15);

/// A clock that a test sets: in the middle of an hour and a day to begin with.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<Mutex<Timestamp>>);

impl TestClock {
    /// Today, half past eleven: no hour and no day turns unless a test wants it.
    pub(crate) fn new() -> Self {
        let midnight = Timestamp::now().as_second() / 86_400 * 86_400;
        let time = Timestamp::from_second(midnight).unwrap() + SignedDuration::from_mins(11 * 60 + 30);
        Self(Arc::new(Mutex::new(time)))
    }

    /// Now, and for ever.
    pub(crate) fn stopped() -> Self {
        Self(Arc::new(Mutex::new(Timestamp::now())))
    }

    pub(crate) fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    /// Sets it forward, or back.
    pub(crate) fn moves(&self, by: SignedDuration) {
        *self.0.lock().unwrap() += by;
    }

    pub(crate) fn options(&self) -> LedgerOptions {
        let clock = self.clone();
        LedgerOptions { clock: Clock::new(move || clock.now()), ..options() }
    }
}

/// What the suite expects of a ledger. The deadline is long: the suite is not about speed.
pub(crate) fn options() -> LedgerOptions {
    LedgerOptions { missing: Missing::Create, deadline: Duration::from_secs(30), ..Default::default() }
}

/// Now, as exact as a ledger keeps it.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap()
}

pub(crate) fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

pub(crate) fn ahead(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

/// An attempt of nobody.
pub(crate) fn intent(operation: &'static str) -> Intent {
    Intent::of_nobody(operation, IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// An attempt to unwrap what this standing is for.
pub(crate) fn unwrap_intent(user: &str, device: &str, standing: &Standing) -> Intent {
    Intent {
        user: format!("users/{user}"),
        device: format!("devices/{device}"),
        key: standing.key,
        wrapped_sha256: standing.charge.as_ref().map(|charge| charge.file),
        ..intent("Unwrap")
    }
}

/// Budgets without limits, but for this one of a user's unwraps within an hour.
pub(crate) fn hourly(unwraps: u32) -> Budgets {
    let mut budgets = Budgets::UNLIMITED;
    budgets.user.hour.unwraps = unwraps;
    budgets
}

pub(crate) fn device_id(id: &str) -> DeviceId {
    id.parse().unwrap()
}

pub(crate) fn user_id(id: &str) -> UserId {
    id.parse().unwrap()
}

pub(crate) fn device(id: &str, spki: u8) -> Device {
    Device {
        id: device_id(id),
        spki: SpkiHash([spki; 32]),
        state: DeviceState::Enrolled,
        certificate: vec![spki; 500],
        expires: ahead(86_400),
        enrolled: now(),
        updated: now(),
        reason: String::new(),
        suspended_until: None,
        groups: Groups::default(),
    }
}

pub(crate) fn invitation(code: u8, device: &str) -> Invitation {
    Invitation {
        code_hash: [code; 32],
        device: device_id(device),
        invited_by: Some(user_id("root")),
        expires: ahead(600),
    }
}

pub(crate) fn user(id: &str, roles: &[Role]) -> User {
    User {
        id: user_id(id),
        roles: roles.iter().copied().collect::<Roles>(),
        disabled: false,
        disabled_until: None,
        password: PasswordHash::from_phc("$argon2id$first".to_owned()),
        password_state: PasswordState::Settled,
        factor: FactorState::default(),
        groups: Groups::default(),
        created: now(),
        updated: now(),
    }
}

pub(crate) fn session(id: u8, user: &str, device: u8) -> Session {
    Session {
        id: SessionId([id; 32]),
        user: user_id(user),
        device: SpkiHash([device; 32]),
        created: now(),
        used: now(),
        factor: None,
        expires: ahead(3_600),
    }
}

/// The first version of a key; sealed to for a day, unwraps without end.
pub(crate) fn key(label: &str) -> WrappingKey {
    WrappingKey {
        id: KeyId::of_public_key(label.as_bytes()),
        label: label.to_owned(),
        version: 1,
        life: life(ago(60), ahead(86_400), None),
        modulus_bits: 3072,
        purpose: KeyPurpose::Unwrap(KeyWrapping::OaepSha256),
        certificate: vec![1, 2, 3],
        created: now(),
        updated: now(),
        reason: String::new(),
    }
}

/// Another version of it.
pub(crate) fn key_version(label: &str, version: u32) -> WrappingKey {
    let id = KeyId::of_public_key(format!("{label}@{version}").as_bytes());
    WrappingKey { id, version, ..key(label) }
}

/// The life of a key that begins on its date.
pub(crate) fn life(from: Timestamp, until: Timestamp, unwraps_until: Option<Timestamp>) -> KeyLife {
    KeyLife::begin(Beginning::OnItsDate, WrapPeriod::new(from, until).unwrap(), unwraps_until).unwrap()
}

/// The steps that bring a key that begins by hand to this state.
pub(crate) fn way_to(state: KeyState) -> &'static [KeyStep] {
    match state {
        KeyState::PreActive => &[],
        KeyState::Active => &[KeyStep::Activate],
        KeyState::Suspended => &[KeyStep::Activate, KeyStep::Suspend],
        KeyState::Deactivated => &[KeyStep::Activate, KeyStep::Deactivate],
        KeyState::Compromised => &[KeyStep::Compromise],
        KeyState::Destroyed => &[KeyStep::Destroy],
    }
}

/// Waits until so many records are durable; not for ever.
pub(crate) async fn announced(ledger: &impl Ledger, count: u64) {
    let mut last = ledger.last_sequence();
    let announced = last.wait_for(|last| *last >= count);
    drop(tokio::time::timeout(Duration::from_secs(60), announced).await.unwrap().unwrap());
}

/// The verbs the suite speaks in.
pub(crate) struct World<L> {
    pub(crate) ledger: Arc<L>,
}

impl<L: Ledger> World<L> {
    /// Nobody in it.
    pub(crate) fn empty(ledger: Arc<L>) -> Self {
        Self { ledger }
    }

    /// `laptop-1` is active, `anna` may unwrap and is signed in there, the key `main` is active.
    pub(crate) async fn peopled(ledger: Arc<L>) -> Self {
        let world = Self::empty(ledger);
        world.has_device("laptop-1", 1).await;
        world.done(Change::CreateUser(user("anna", &[Role::Operator]))).await;
        world.done(Change::OpenSession(session(1, "anna", 1))).await;
        world.done(Change::AddKey(key("main"))).await;
        world
    }

    /// What an unwrap by anna rests on.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            session_idle: None,
            may_lack: MayLack::Nothing,
            device: Some(SpkiHash([1; 32])),
            session: Some(SessionId([1; 32])),
            role: Some(Role::Operator),
            key: Some(key("main").id),
            task: KeyTask::Unwrap,
            unchanged: None,
            policy: None,
            roles: None,
            groups: None,
            factor: None,
            cosigned: None,
            approval: None,
            charge: None,
        }
    }

    /// What an unwrap of this file by anna rests on, with these budgets.
    pub(crate) fn charged(&self, file: u8, budgets: Budgets) -> Standing {
        Standing { charge: Some(Charge { file: [file; 32], budgets }), ..self.standing() }
    }

    /// Enrols a device and activates it.
    pub(crate) async fn has_device(&self, id: &str, spki: u8) {
        self.done(Change::Invite(invitation(spki, id))).await;
        self.done(Change::Enroll {
            code_hash: [spki; 32],
            invited_by: Some(user_id("admin")),
            device: device(id, spki),
        })
        .await;
        self.sets_device(id, DeviceState::Active).await.unwrap();
    }

    pub(crate) async fn sets_device(&self, id: &str, state: DeviceState) -> Result<Changed, Denial> {
        let reason = format!("to be {}", state.name());
        self.change(Change::SetDeviceState { id: device_id(id), state, reason }).await
    }

    /// Tries a step in the life of a key.
    pub(crate) async fn steps(&self, id: KeyId, step: KeyStep) -> Result<Changed, Denial> {
        self.change(Change::StepKey { id, step, reason: format!("{step:?}") }).await
    }

    /// Adds a version 1 that begins by hand, and brings it to this state.
    pub(crate) async fn has_key(&self, label: &str, state: KeyState) -> KeyId {
        let WrappingKey { id, life, .. } = key(label);
        let life = KeyLife::begin(Beginning::ByHand, life.wraps(), None).unwrap();
        self.done(Change::AddKey(WrappingKey { life, ..key(label) })).await;
        for step in way_to(state) {
            self.steps(id, *step).await.unwrap_or_else(|denial| panic!("{}", denial.detail()));
        }
        id
    }

    /// Tries a change that nothing but itself can stop.
    pub(crate) async fn change(&self, change: Change) -> Result<Changed, Denial> {
        let grant = Grant { standing: Standing::default(), change: Some(change) };
        let attempt = self.ledger.begin(intent("Change"));
        Ok(self.ledger.settle(attempt, Outcome::Granted(grant)).await?.1)
    }

    /// Makes a change that must succeed.
    pub(crate) async fn done(&self, change: Change) -> Changed {
        self.change(change).await.unwrap_or_else(|denial| panic!("{} {}", denial.code(), denial.detail()))
    }

    /// Tries an unwrap on this standing.
    pub(crate) async fn unwraps(&self, standing: Standing) -> Result<Release, Denial> {
        self.unwraps_by("anna", "laptop-1", standing).await
    }

    /// Tries an unwrap of this user on this device.
    pub(crate) async fn unwraps_by(
        &self,
        user: &str,
        device: &str,
        standing: Standing,
    ) -> Result<Release, Denial> {
        let intent = unwrap_intent(user, device, &standing);
        let attempt = self.ledger.begin(intent);
        Ok(self.ledger.settle(attempt, Outcome::Granted(Grant { standing, change: None })).await?.0)
    }

    /// Waits until this time has come.
    pub(crate) async fn until(&self, time: Timestamp) {
        while let Ok(left) = Duration::try_from(time.duration_since(Timestamp::now())) {
            tokio::time::sleep(left.max(Duration::from_millis(1))).await;
        }
    }

    /// The newest record.
    pub(crate) async fn last_record(&self) -> v1::Record {
        let query = RecordQuery { newest_first: true, limit: 1, ..Default::default() };
        self.ledger.records(query).await.unwrap().pop().unwrap()
    }

    /// All records, from the first on.
    pub(crate) async fn all_records(&self) -> Vec<v1::Record> {
        self.ledger.records(RecordQuery { limit: u32::MAX, ..Default::default() }).await.unwrap()
    }

    /// An unwrap on this standing is refused so, and the log says so.
    pub(crate) async fn refuses(&self, standing: Standing, refusal: Refusal) {
        let denial = self.unwraps(standing).await.err().unwrap();
        assert_eq!(denial.code(), refusal.code(), "{}", denial.detail());
        // The very last may say that a budget was exceeded.
        let mut records = self.all_records().await;
        records.retain(|record| record.operation == "Unwrap");
        assert_eq!(records.last().unwrap().outcome, refusal.code());
    }

    /// This change is refused so, and the log says so.
    pub(crate) async fn refuses_change(&self, change: Change, refusal: Refusal) {
        let denial = self.change(change).await.err().unwrap();
        assert_eq!(denial.code(), refusal.code(), "{}", denial.detail());
        assert_eq!(self.last_record().await.outcome, refusal.code());
    }
}
