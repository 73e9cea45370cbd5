//! The sequence, with a real ledger and a token in memory that does things at the worst moment.

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
    v1::{self, Claims},
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Call, Custodian, Denial, Place, UnwrapRequest, Withheld};
use crate::{
    authority::{
        Authority, DeviceState, Need, Peer, PeerCertificate, PeerKind, Permit, Policy, PolicyText, Role,
        Rules, SessionId, SpkiHash,
    },
    ledger::{
        Change, Ledger, OK, RecordQuery, SqliteLedger,
        contract::world::{self, World},
    },
    token::{Health, KeyKind, KeyTemplate, Survey, Token, TokenError, TokenKey, memory::MemoryToken},
};

/// What happens while the token works.
enum Meanwhile {
    Nothing,
    /// Somebody revokes the device; it has returned before the token answers.
    Revoked,
    /// The token waits to be told to go on.
    Waits(Arc<Notify>),
}

struct SlowToken {
    inner: MemoryToken,
    ledger: Arc<SqliteLedger>,
    meanwhile: Meanwhile,
}

#[async_trait]
impl Token for SlowToken {
    async fn unwrap(
        &self,
        permit: Permit,
        wrapped: &WrappedKey,
        deadline: Instant,
    ) -> Result<Withheld<FileKey>, TokenError> {
        match &self.meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Revoked => {
                let world = World { ledger: Arc::clone(&self.ledger) };
                world.sets_device("laptop-1", DeviceState::Revoked).await.unwrap();
            }
            Meanwhile::Waits(notify) => notify.notified().await,
        }
        self.inner.unwrap(permit, wrapped, deadline).await
    }

    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, TokenError> {
        self.inner.sign(key, message, deadline).await
    }

    async fn generate(&self, template: KeyTemplate, deadline: Instant) -> Result<TokenKey, TokenError> {
        self.inner.generate(template, deadline).await
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
            hourly_budget: 100,
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
            spent: identity.spent,
        };
        Call { request_id: Uuid::now_v7(), arrived: Instant::now(), caller, place: Place::default() }
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
    assert_eq!(key.map(|key| *key.expose()), Ok([6; 32]));
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
    let missing: [(Call, Refusal); 10] = [
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
        (with(&|caller| caller.spent = 100), Refusal::BudgetExhausted),
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
    scene.custodian.authority().set_rules(Rules { hourly_budget: 2, ..scene.custodian.authority().rules() });
    let garbage =
        |byte| WrappedKey::new(scene.wrapped.key_id(), KeyWrapping::OaepSha256, vec![byte; 256]).unwrap();
    let ask = async |call: Call, wrapped: WrappedKey| {
        let id = call.request_id;
        let asked = scene.custodian.unwrap(call, UnwrapRequest { wrapped, claims: Claims::default() }).await;
        let code = asked.map(drop).unwrap_err().code();
        assert_eq!(scene.record_of(id).await.unwrap().outcome, code);
        code
    };
    // Let in before the budget was spent: only the settling can know.
    let (early_bad, early_good) = (scene.call().await, scene.call().await);
    for byte in 1..=2 {
        assert_eq!(ask(scene.call().await, garbage(byte)).await, Refusal::WrappedKeyRejected.code());
    }
    let exhausted = Refusal::BudgetExhausted.code();
    assert_eq!(ask(early_bad, garbage(3)).await, exhausted);
    assert_eq!(ask(early_good, scene.wrapped.clone()).await, exhausted);
    assert_eq!(ask(scene.call().await, garbage(4)).await, exhausted);
    assert_eq!(ask(scene.call().await, scene.wrapped.clone()).await, exhausted);
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
