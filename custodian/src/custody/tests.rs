//! The sequence, with a real ledger and a token in memory that does things at the worst moment.

mod approvals;
mod place;
mod policy;
mod sign;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    refusal::Refusal,
    sign::{DigestToSign, Hash, SignatureAlgorithm},
    v1::{self, Claims},
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Call, Custodian, Denial, Place, SignRequest, UnwrapRequest, Withheld};
use crate::{
    authority::{
        ApprovalRules, Asked, Authority, Budgets, DeviceState, Guesses, KeyState, KeyStep, Need,
        PasswordState, Peer, PeerCertificate, PeerKind, Permit, Policy, PolicyText, Role, Rules, SessionId,
        SpkiHash, WrappingKey,
    },
    ledger::{
        Change, Changed, Intent, Ledger, OK, Outcome, RecordQuery, SqliteLedger,
        contract::world::{self, World},
    },
    token::{
        Health, KeyDescription, KeyKind, KeyTemplate, Survey, Token, TokenError, TokenKey,
        memory::MemoryToken,
    },
};

/// What happens while the token works.
enum Meanwhile {
    Nothing,
    /// The test fails: it should never have been asked.
    Unthinkable,
    /// Somebody revokes the device; it has returned before the token answers.
    Revoked,
    /// Somebody disables this user; it has returned before the token answers.
    Disabled(&'static str),
    /// Somebody brings the key to this state; it has returned before the token answers.
    Stepped(KeyState),
    /// The token waits to be told to go on.
    Waits(Arc<Notify>),
}

struct SlowToken {
    inner: MemoryToken,
    ledger: Arc<SqliteLedger>,
    meanwhile: Meanwhile,
}

impl SlowToken {
    async fn something_happens(&self, key: KeyId) {
        match &self.meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Unthinkable => panic!("the token was asked"),
            Meanwhile::Revoked => {
                let world = World { ledger: Arc::clone(&self.ledger) };
                world.sets_device("laptop-1", DeviceState::Revoked).await.unwrap();
            }
            Meanwhile::Disabled(user) => {
                let world = World { ledger: Arc::clone(&self.ledger) };
                world.done(Change::SetUserDisabled { id: world::user_id(user), disabled: true }).await;
            }
            Meanwhile::Stepped(state) => {
                let world = World { ledger: Arc::clone(&self.ledger) };
                // From active on: the way to a state begins with activating.
                for step in world::way_to(*state).iter().filter(|step| **step != KeyStep::Activate) {
                    world.steps(key, *step).await.unwrap();
                }
            }
            Meanwhile::Waits(notify) => notify.notified().await,
        }
    }
}

#[async_trait]
impl Token for SlowToken {
    async fn unwrap(
        &self,
        permit: Permit,
        wrapped: &WrappedKey,
        deadline: Instant,
    ) -> Result<Withheld<FileKey>, TokenError> {
        self.something_happens(wrapped.key_id()).await;
        self.inner.unwrap(permit, wrapped, deadline).await
    }

    async fn sign_digest(
        &self,
        permit: Permit,
        digest: &DigestToSign,
        deadline: Instant,
    ) -> Result<Withheld<Vec<u8>>, TokenError> {
        self.something_happens(digest.key_id()).await;
        self.inner.sign_digest(permit, digest, deadline).await
    }

    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, TokenError> {
        self.inner.sign(key, message, deadline).await
    }

    async fn generate(&self, template: KeyTemplate, deadline: Instant) -> Result<TokenKey, TokenError> {
        self.inner.generate(template, deadline).await
    }

    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), TokenError> {
        self.inner.destroy(key, deadline).await
    }

    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<Vec<KeyDescription>, TokenError> {
        self.inner.describe(key, deadline).await
    }

    async fn survey(&self, deadline: Instant) -> Result<Survey, TokenError> {
        self.inner.survey(deadline).await
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

struct Scene {
    custodian: Arc<Custodian>,
    ledger: Arc<SqliteLedger>,
    wrapped: WrappedKey,
}

impl Scene {
    async fn new(meanwhile: Meanwhile) -> Self {
        let ledger = Arc::new(SqliteLedger::for_test(world::options()));
        let world = World::peopled(Arc::clone(&ledger)).await;
        let inner = MemoryToken::new(KeyWrapping::OaepSha256);
        let template = KeyTemplate { label: "k".into(), kind: KeyKind::RsaUnwrap { modulus_bits: 2048 } };
        let key = inner.generate(template, Instant::now() + Duration::from_secs(60)).await.unwrap();
        let metadata = crate::authority::WrappingKey { id: key.id, modulus_bits: 2048, ..world::key("k") };
        world.done(Change::AddKey(metadata)).await;
        let public = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&key.spki).unwrap()).unwrap();
        let mut ciphertext = vec![0; public.ciphertext_size()];
        public.encrypt(&OAEP_SHA256_MGF1SHA256, &[6; 32], &mut ciphertext, None).unwrap();
        let rules = Rules {
            session_idle: SignedDuration::from_mins(15),
            session_lifetime: SignedDuration::from_hours(1),
            budgets: Budgets::UNLIMITED,
            given_passwords: PasswordState::Settled,
            approvals: ApprovalRules::default(),
        };
        let policy = Policy::parse(0, &PolicyText::initial().text).unwrap();
        let token = Arc::new(SlowToken { inner, ledger: Arc::clone(&ledger), meanwhile });
        let authority = Arc::new(Authority::new(Arc::clone(&ledger) as Arc<dyn Ledger>, rules, policy));
        let custodian =
            Custodian::new(authority, token, Arc::clone(&ledger) as Arc<dyn Ledger>, Duration::from_secs(60));
        let wrapped = WrappedKey::new(key.id, KeyWrapping::OaepSha256, ciphertext).unwrap();
        Self { custodian, ledger, wrapped }
    }

    /// A call of anna on laptop-1, as the ledger knows them.
    async fn call(&self) -> Call {
        let now = Timestamp::now();
        let certificate = PeerCertificate {
            spki: SpkiHash([1; 32]),
            sha256: [1; 32],
            not_before: now - SignedDuration::from_hours(1),
            not_after: now + SignedDuration::from_hours(1),
            kind: PeerKind::Device,
        };
        let peer = Peer { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), certificate };
        let identity = self.ledger.identify(SpkiHash([1; 32]), Some(SessionId([1; 32]))).await.unwrap();
        let caller = crate::authority::Caller {
            peer,
            device: identity.device,
            session: identity.session,
            user: identity.user,
            policy: identity.policy,
        };
        Call {
            request_id: Uuid::now_v7(),
            arrived: Instant::now(),
            caller,
            asked: Asked::NotKept,
            place: Place::default(),
        }
    }

    /// From now on, these budgets hold.
    fn limited(&self, budgets: Budgets) {
        let authority = self.custodian.authority();
        authority.set_rules(Rules { budgets, ..authority.rules() });
    }

    fn request(&self) -> UnwrapRequest {
        UnwrapRequest { wrapped: self.wrapped.clone(), claims: Claims::default() }
    }

    async fn record_of(&self, request_id: Uuid) -> Option<v1::Record> {
        let query = RecordQuery { limit: 1000, ..RecordQuery::default() };
        let records = self.ledger.records(query).await.unwrap();
        records.into_iter().find(|record| record.request_id == request_id.to_string())
    }
}

#[tokio::test]
async fn law_1_the_record_is_there_when_the_key_is() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let call = scene.call().await;
    let key =
        scene.custodian.unwrap(call.clone(), scene.request()).await.map_err(|denial| denial.to_string());
    assert_eq!(key.map(|key| *key.file_key.expose()), Ok([6; 32]));
    let record = scene.record_of(call.request_id).await.unwrap();
    assert_eq!((record.operation.as_str(), record.outcome.as_str()), ("Unwrap", OK));
}

#[tokio::test]
async fn law_2_a_revocation_while_the_token_works_wins() {
    let scene = Scene::new(Meanwhile::Revoked).await;
    let call = scene.call().await;
    let denial = scene.custodian.unwrap(call.clone(), scene.request()).await.err();
    assert_eq!(denial.map(|denial| denial.code()), Some(Refusal::DeviceRevoked.code()));
    let record = scene.record_of(call.request_id).await.unwrap();
    assert_eq!(record.outcome, Refusal::DeviceRevoked.code());
}

#[tokio::test]
async fn law_2_a_key_that_stops_while_the_token_works_is_not_released_from() {
    let stops =
        [(KeyState::Suspended, Refusal::KeySuspended), (KeyState::Compromised, Refusal::KeyCompromised)];
    for (state, refusal) in stops {
        let scene = Scene::new(Meanwhile::Stepped(state)).await;
        let call = scene.call().await;
        let denial = scene.custodian.unwrap(call.clone(), scene.request()).await.err();
        assert_eq!(denial.map(|denial| denial.code()), Some(refusal.code()));
        assert_eq!(scene.record_of(call.request_id).await.unwrap().outcome, refusal.code());
    }
    let scene = Scene::new(Meanwhile::Stepped(KeyState::Deactivated)).await;
    let key = scene.custodian.unwrap(scene.call().await, scene.request()).await;
    assert!(key.is_ok(), "what was sealed before still opens");
}

#[tokio::test]
async fn a_permit_is_given_only_for_keys_that_unwrap_now() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let world = World { ledger: Arc::clone(&scene.ledger) };
    for state in KeyState::ALL {
        let id = world.has_key(state.name(), state).await;
        let wrapped = WrappedKey::new(id, KeyWrapping::OaepSha256, vec![1; 384]).unwrap();
        let call = scene.call().await;
        let permit = scene
            .custodian
            .authority()
            .permit(&call.caller, Need::Unwrap(&wrapped), &call.intent("Unwrap"))
            .await;
        let code = permit.map(drop).map_err(|denial| denial.code());
        let expected = match state {
            KeyState::Active | KeyState::Deactivated => Ok(()),
            KeyState::PreActive => Err(Refusal::KeyNotActive.code()),
            KeyState::Suspended => Err(Refusal::KeySuspended.code()),
            KeyState::Compromised => Err(Refusal::KeyCompromised.code()),
            KeyState::Destroyed => Err(Refusal::KeyDestroyed.code()),
        };
        assert_eq!(code, expected, "{state:?}");
    }
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_escape_the_record() {
    let go_on = Arc::new(Notify::new());
    let scene = Scene::new(Meanwhile::Waits(Arc::clone(&go_on))).await;
    let call = scene.call().await;
    let id = call.request_id;
    let custodian = Arc::clone(&scene.custodian);
    let request = scene.request();
    let asking = tokio::spawn(async move { custodian.unwrap(call, request).await.map(drop) });
    // The task must have begun to be cut off in the middle.
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let mut last = scene.ledger.last_sequence();
    let before = *last.borrow_and_update();
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    go_on.notify_one();
    let settled = tokio::time::timeout(Duration::from_secs(60), last.wait_for(|last| *last > before)).await;
    drop(settled.unwrap().unwrap());
    assert_eq!(scene.record_of(id).await.unwrap().outcome, OK);
}

#[tokio::test]
async fn law_3_whatever_is_missing_there_is_no_permit() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let good = scene.call().await;
    let with = |change: &dyn Fn(&mut crate::authority::Caller)| {
        let mut call = Call { request_id: Uuid::now_v7(), ..good.clone() };
        change(&mut call.caller);
        call
    };
    let now = Timestamp::now();
    let missing: [(Call, Refusal); 9] = [
        (with(&|caller| caller.peer.certificate.kind = PeerKind::Newcomer), Refusal::CertificateRefused),
        (with(&|caller| caller.peer.certificate.not_after = now), Refusal::CertificateExpired),
        (
            with(&|caller| caller.peer.certificate.not_before = now + SignedDuration::from_mins(1)),
            Refusal::CertificateExpired,
        ),
        (with(&|caller| caller.device = None), Refusal::DeviceUnknown),
        (
            with(&|caller| caller.device.as_mut().unwrap().state = DeviceState::Enrolled),
            Refusal::DeviceNotActive,
        ),
        (with(&|caller| caller.session = None), Refusal::NotLoggedIn),
        (with(&|caller| caller.session.as_mut().unwrap().expires = now), Refusal::NotLoggedIn),
        (with(&|caller| caller.user.as_mut().unwrap().disabled = true), Refusal::UserDisabled),
        (
            with(&|caller| {
                caller.user.as_mut().unwrap().roles = [Role::Admin, Role::Auditor].into_iter().collect()
            }),
            Refusal::RoleMissing,
        ),
    ];
    for (call, refusal) in missing {
        let id = call.request_id;
        let denial: Denial = scene.custodian.unwrap(call, scene.request()).await.map(drop).unwrap_err();
        assert_eq!(denial.code(), refusal.code());
        assert_eq!(scene.record_of(id).await.unwrap().outcome, refusal.code());
    }
    let unknown = WrappedKey::new(world::key("main").id, KeyWrapping::OaepSha1, vec![1; 256]).unwrap();
    let denial = scene.custodian.unwrap(
        Call { request_id: Uuid::now_v7(), ..good.clone() },
        UnwrapRequest { wrapped: unknown, claims: Claims::default() },
    );
    assert_eq!(denial.await.map(drop).unwrap_err().code(), Refusal::WrappedKeyRejected.code());
}

#[tokio::test]
async fn law_5_an_exhausted_budget_answers_good_and_bad_alike() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    scene.limited(world::hourly(2));
    let garbage =
        |byte| WrappedKey::new(scene.wrapped.key_id(), KeyWrapping::OaepSha256, vec![byte; 256]).unwrap();
    let ask = async |call: Call, wrapped: WrappedKey| {
        let id = call.request_id;
        let asked = scene.custodian.unwrap(call, UnwrapRequest { wrapped, claims: Claims::default() }).await;
        let code = asked.map(drop).unwrap_err().code();
        assert_eq!(scene.record_of(id).await.unwrap().outcome, code);
        code
    };
    for byte in 1..=2 {
        assert_eq!(ask(scene.call().await, garbage(byte)).await, Refusal::WrappedKeyRejected.code());
    }
    let exhausted = Refusal::BudgetExhausted.code();
    assert_eq!(ask(scene.call().await, garbage(4)).await, exhausted);
    assert_eq!(ask(scene.call().await, scene.wrapped.clone()).await, exhausted);
}

#[tokio::test]
async fn what_a_budget_or_a_lock_refuses_never_reaches_the_token() {
    let scene = Scene::new(Meanwhile::Unthinkable).await;
    let budgets = world::hourly(1);
    let guesses = Guesses { per_hour: 1, ..budgets.guesses };
    let rejected = |budgets| Outcome::Rejected { denial: Refusal::WrappedKeyRejected.into(), budgets };
    let key = scene.wrapped.key_id();
    for (limits, refusal) in [
        (budgets, Refusal::BudgetExhausted),
        (
            Budgets { guesses: Guesses { lock: SignedDuration::from_hours(1), ..guesses }, ..budgets },
            Refusal::UnwrapLocked,
        ),
    ] {
        // Another wrapped key, which came earlier and was bad.
        let intent =
            Intent { key: Some(key), wrapped_sha256: Some([9; 32]), ..scene.call().await.intent("Unwrap") };
        let attempt = scene.ledger.begin(intent);
        let early =
            scene.ledger.settle(attempt, rejected(Budgets { user: Budgets::UNLIMITED.user, ..limits })).await;
        assert_eq!(early.err().unwrap().code(), Refusal::WrappedKeyRejected.code());
        scene.limited(limits);
        let call = scene.call().await;
        let denial = scene.custodian.unwrap(call.clone(), scene.request()).await.err().unwrap();
        assert_eq!(denial.code(), refusal.code(), "{}", denial.detail());
        assert_eq!(scene.record_of(call.request_id).await.unwrap().outcome, refusal.code());
    }
}

#[tokio::test]
async fn whoever_only_reads_stays_signed_in() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let (idle, recent) = (world::ago(600), world::ago(5));
    for (id, used) in [(7, idle), (8, recent)] {
        let session = crate::authority::Session { used, ..world::session(id, "anna", 1) };
        World { ledger: Arc::clone(&scene.ledger) }.done(Change::OpenSession(session)).await;
    }
    let used = async |id: u8| {
        let identity = scene.ledger.identify(SpkiHash([1; 32]), Some(SessionId([id; 32]))).await.unwrap();
        identity.session.unwrap()
    };
    for id in [7, 8] {
        let mut call = scene.call().await;
        call.caller.session = Some(used(id).await);
        scene.custodian.admit(&call, Need::Session, "ListKeys").await.unwrap();
    }
    // Behind the uses in the queue: when this is recorded, they are noted.
    let refused: Result<(), _> =
        scene.custodian.refuse(&scene.call().await, "ListKeys", Refusal::NotFound.into()).await;
    assert!(refused.is_err());
    assert!(used(7).await.used > world::ago(60), "the use is noted");
    assert_eq!(used(8).await.used, recent, "so soon after another it is not noted again");
}

/// A new pair in the token, as a wrapping key of this label.
async fn new_pair(scene: &Scene, label: &str) -> WrappingKey {
    let template = KeyTemplate { label: label.into(), kind: KeyKind::RsaUnwrap { modulus_bits: 2048 } };
    let deadline = scene.custodian.token_deadline();
    let key = scene.custodian.token().generate(template, deadline).await.unwrap();
    WrappingKey { id: key.id, ..world::key(label) }
}

async fn held(scene: &Scene) -> Vec<KeyId> {
    let survey = scene.custodian.token().survey(scene.custodian.token_deadline()).await.unwrap();
    survey.keys.into_iter().map(|key| key.id).collect()
}

/// A call of anna, who is an administrator now.
async fn admin(scene: &Scene) -> Call {
    let roles = [Role::Admin].into_iter().collect();
    let change = Change::SetRoles { id: world::user_id("anna"), roles };
    World { ledger: Arc::clone(&scene.ledger) }.done(change).await;
    scene.call().await
}

#[tokio::test]
async fn of_two_keys_with_one_label_the_later_leaves_no_pair_in_the_token() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let call = admin(&scene).await;
    let mut made = Vec::new();
    for _ in 0..2 {
        let key = new_pair(&scene, "invoices").await;
        made.push((key.id, async move { Ok(key) }));
    }
    let both = made.into_iter().map(|(id, make)| {
        let call = Call { request_id: Uuid::now_v7(), ..call.clone() };
        let intent = call.intent("CreateKey");
        let custodian = Arc::clone(&scene.custodian);
        async move { (id, custodian.make_key(call, intent, make).await.map_err(|denial| denial.code())) }
    });
    let [first, second] = <[_; 2]>::try_from(both.collect::<Vec<_>>()).ok().unwrap();
    let (one, other) = tokio::join!(first, second);
    let (won, lost) = if one.1.is_ok() { (one, other) } else { (other, one) };
    assert_eq!(lost.1.unwrap_err(), Refusal::AlreadyExists.code());
    let held = held(&scene).await;
    assert!(held.contains(&won.0) && !held.contains(&lost.0));
}

#[tokio::test]
async fn a_key_is_destroyed_in_the_ledger_first_and_then_in_the_token() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let id = scene.wrapped.key_id();
    let destroy = async |call: Call, label: &str| {
        let call = Call { request_id: Uuid::now_v7(), ..call };
        let asked = scene.custodian.destroy_key(call, id, label.to_owned(), "the ceremony".to_owned()).await;
        asked.map_err(|denial| denial.code())
    };
    let operator = scene.call().await;
    assert_eq!(destroy(operator, "k").await.unwrap_err(), Refusal::RoleMissing.code());
    let call = admin(&scene).await;
    assert_eq!(destroy(call.clone(), "other").await.unwrap_err(), Refusal::InvalidArgument.code());
    assert_eq!(destroy(call.clone(), "k").await.unwrap_err(), Refusal::StateConflict.code(), "it is active");
    assert!(held(&scene).await.contains(&id));

    let world = World { ledger: Arc::clone(&scene.ledger) };
    world.steps(id, KeyStep::Deactivate).await.unwrap();
    let destroyed = destroy(call.clone(), "k").await.unwrap();
    assert_eq!(destroyed.life.state(Timestamp::now()), KeyState::Destroyed);
    assert!(!held(&scene).await.contains(&id));
    let records = world.all_records().await;
    let [.., decided, erased] = records.as_slice() else { panic!() };
    assert_eq!((decided.operation.as_str(), decided.outcome.as_str()), ("DestroyKey", OK));
    assert_eq!(decided.detail, "the ceremony");
    assert_eq!((erased.operation.as_str(), erased.outcome.as_str()), ("EraseKey", OK));
    assert_eq!(erased.key, id.resource_name());
    // Once more is no error: that is how a token that failed is tried again.
    assert!(destroy(call, "k").await.is_ok());
}
