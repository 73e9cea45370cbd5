//! The pool over doubles that share their keys, or do not, and fail as they are told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    sign::DigestToSign,
};
use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    Pool,
    breaker::FAILURES,
    care::{self, Tempo},
    line::Line,
    member::{Member, Miss, Readiness, Source},
    seat::Seat,
};
use crate::token::{
    Drain, Health, KeyDescription, KeyKind, KeyTemplate, StartError, Survey, Token, TokenError, TokenKey,
    TokenName, TokenSelect,
    contract::{self, FILE_KEY, RSA, encrypt, soon, template, unwrap, wrapped},
    even,
    memory::MemoryToken,
    turns::Turns,
};

/// Canaries at once where something is wrong, and never for being idle.
const TEMPO: Tempo = Tempo {
    idle: Duration::from_secs(3_600),
    canary: Duration::from_millis(100),
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(5),
};

/// What a double does with operations.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Mood {
    Well,
    /// Does not answer.
    Frozen,
    /// Ends in the middle, and is back at once.
    Dying,
    Failing,
    Busy,
    /// Says that it has no such key.
    Forgetful,
    Replaced,
    Down,
}

/// A worker over a token in memory.
struct Double {
    token: Arc<MemoryToken>,
    mood: watch::Sender<Mood>,
    asked: AtomicUsize,
}

impl Double {
    fn new(token: &Arc<MemoryToken>) -> Arc<Self> {
        let (token, mood) = (Arc::clone(token), watch::Sender::new(Mood::Well));
        Arc::new(Self { token, mood, asked: AtomicUsize::new(0) })
    }

    fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// How often it was asked since the last time.
    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }

    async fn mooded(&self, deadline: Instant, key: Option<KeyId>) -> Result<(), Miss> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mood = self.mood.borrow().clone();
        match (mood, key) {
            (Mood::Well, _) | (Mood::Forgetful, None) => Ok(()),
            (Mood::Frozen, _) => {
                tokio::time::sleep_until(deadline.into()).await;
                Err(Miss::Late)
            }
            (Mood::Dying, _) => Err(Miss::Lost),
            (Mood::Failing, _) => Err(Miss::Error(TokenError::Unavailable("it fails".to_owned()))),
            (Mood::Busy, _) => Err(Miss::Error(TokenError::Busy)),
            (Mood::Forgetful, Some(key)) => Err(Miss::Error(TokenError::UnknownKey(key))),
            (Mood::Replaced | Mood::Down, _) => Err(Miss::Gone),
        }
    }
}

fn readiness(mood: &Mood) -> Readiness {
    match mood {
        Mood::Replaced => Readiness::Soon,
        Mood::Down => Readiness::Down("it is down".to_owned()),
        _ => Readiness::Ready,
    }
}

#[async_trait]
impl Member for Double {
    async fn unwrap(&self, wrapped: &WrappedKey, deadline: Instant) -> Result<FileKey, Miss> {
        self.mooded(deadline, Some(wrapped.key_id())).await?;
        self.token.decrypt(wrapped, deadline).map_err(Miss::Error)
    }

    async fn sign_digest(&self, digest: &DigestToSign, deadline: Instant) -> Result<Vec<u8>, Miss> {
        self.mooded(deadline, Some(digest.key_id())).await?;
        self.token.sign_a_digest(digest, deadline).map_err(Miss::Error)
    }

    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, Miss> {
        self.mooded(deadline, Some(key)).await?;
        self.token.sign(key, message, deadline).await.map_err(Miss::Error)
    }

    async fn generate(&self, template: &KeyTemplate, deadline: Instant) -> Result<TokenKey, Miss> {
        self.mooded(deadline, None).await?;
        self.token.generate(template.clone(), deadline).await.map_err(Miss::Error)
    }

    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), Miss> {
        self.mooded(deadline, Some(key)).await?;
        self.token.destroy(key, deadline).await.map_err(Miss::Error)
    }

    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<KeyDescription, Miss> {
        self.mooded(deadline, Some(key)).await?;
        let mut described = self.token.describe(key, deadline).await.map_err(Miss::Error)?;
        Ok(described.remove(0))
    }

    async fn survey(&self, deadline: Instant) -> Result<Survey, Miss> {
        self.mooded(deadline, None).await?;
        self.token.survey(deadline).await.map_err(Miss::Error)
    }

    fn health(&self) -> Health {
        let trouble = (readiness(&self.mood.borrow()) != Readiness::Ready).then(|| "trouble".to_owned());
        Health { trouble, ..self.token.health() }
    }

    fn readiness(&self) -> Readiness {
        readiness(&self.mood.borrow())
    }

    async fn other_than(&self, known: &Readiness) -> Readiness {
        let mut mood = self.mood.subscribe();
        let other = mood.wait_for(|mood| readiness(mood) != *known).await.map(|mood| readiness(&mood));
        other.unwrap()
    }

    async fn shutdown(&self) {
        self.is(Mood::Down);
    }
}

/// Starts that fail in this order before one succeeds.
struct Starts {
    double: Arc<Double>,
    failures: Vec<StartError>,
    tries: Arc<AtomicUsize>,
}

#[async_trait]
impl Source for Starts {
    async fn start(&self) -> Result<Arc<dyn Member>, StartError> {
        let number = self.tries.fetch_add(1, Ordering::SeqCst);
        match self.failures.get(number) {
            Some(failure) => Err(failure.clone()),
            None => Ok(Arc::clone(&self.double) as Arc<dyn Member>),
        }
    }
}

fn name(text: &str) -> TokenName {
    text.parse().unwrap()
}

fn drain(token: &str) -> Drain {
    Drain { token: name(token), reason: "firmware".to_owned(), since: Timestamp::now() }
}

fn seat(token: &str, sources: Vec<Starts>) -> Arc<Seat> {
    let lines = sources.into_iter().map(|source| Arc::new(Line::new(Box::new(source), 2))).collect();
    let found_by = (TokenSelect::Label(token.to_owned()), "/module.so".into());
    Arc::new(Seat::new(name(token), found_by, Duration::from_secs(20), (lines, Turns::default()), None))
}

async fn open(seats: Vec<Arc<Seat>>, tempo: Tempo) -> Result<Pool, StartError> {
    let mut failures = Vec::new();
    for seat in &seats {
        failures.extend(super::begin(Arc::clone(seat)).await);
    }
    Pool::open(seats, failures, tempo)
}

/// A pool with a token `a`, `b` … for each of these doubles.
async fn pool(doubles: &[&Arc<Double>]) -> Pool {
    let names = ["a", "b", "c"];
    let seats = doubles.iter().zip(names).map(|(double, name)| {
        let double = Arc::clone(double);
        seat(name, vec![Starts { double, failures: Vec::new(), tries: Arc::default() }])
    });
    open(seats.collect(), TEMPO).await.unwrap()
}

/// Two doubles with one RSA key in both.
async fn twins() -> (Arc<Double>, Arc<Double>, Pool, TokenKey) {
    let memory = Arc::new(MemoryToken::new(KeyWrapping::OaepSha256));
    let (a, b) = (Double::new(&memory), Double::new(&memory));
    let pool = pool(&[&a, &b]).await;
    let key = pool.generate(template("wrapping", RSA), soon()).await.unwrap();
    a.asked();
    b.asked();
    (a, b, pool, key)
}

fn good(key: &TokenKey) -> WrappedKey {
    wrapped(key, encrypt(key, &FILE_KEY))
}

/// Waits until the pool is like this.
async fn until(pool: &Pool, like_this: impl Fn(&Pool) -> bool) {
    let mut changes = pool.changed.subscribe();
    let reached = async {
        while !like_this(pool) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("within 20 s");
}

#[tokio::test]
async fn the_pool_keeps_the_contract() {
    for count in 1..=3 {
        let one = Arc::new(MemoryToken::new(KeyWrapping::OaepSha256));
        let same: Vec<_> = (0..count).map(|_| Double::new(&one)).collect();
        contract::holds(&pool(&same.iter().collect::<Vec<_>>()).await).await;
        let own = || Double::new(&Arc::new(MemoryToken::new(KeyWrapping::OaepSha1)));
        let different: Vec<_> = (0..count).map(|_| own()).collect();
        contract::holds(&pool(&different.iter().collect::<Vec<_>>()).await).await;
    }
}

#[tokio::test]
async fn law_5_a_rejection_leaves_at_a_full_step_of_time_and_a_file_key_at_once() {
    let (_a, _b, pool, key) = twins().await;
    for (what, ciphertext) in contract::bad_ciphertexts(&key) {
        let begun = Instant::now();
        assert_eq!(unwrap(&pool, &wrapped(&key, ciphertext), soon()).await, Err(TokenError::Rejected));
        assert!(begun.elapsed() >= even::STEP, "{what}");
    }
    // The quickest of some: a machine may stand still.
    let mut times = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(unwrap(&pool, &good(&key), soon()).await, Ok(FILE_KEY));
        times.push(begun.elapsed());
    }
    assert!(times.iter().min().unwrap() < &even::STEP, "{times:?}");
}

#[tokio::test]
async fn an_operation_that_one_token_does_not_do_is_done_by_another() {
    let (a, b, pool, key) = twins().await;
    for mood in
        [Mood::Frozen, Mood::Dying, Mood::Failing, Mood::Busy, Mood::Forgetful, Mood::Replaced, Mood::Down]
    {
        for (sick, well) in [(&a, &b), (&b, &a)] {
            sick.is(mood.clone());
            // As often as it takes until each has had its turn.
            for _ in 0..4 {
                let deadline = Instant::now() + Duration::from_millis(600);
                assert_eq!(unwrap(&pool, &good(&key), deadline).await, Ok(FILE_KEY), "{mood:?}");
            }
            assert!(well.asked() >= 4, "{mood:?}");
            sick.is(Mood::Well);
            until(&pool, |pool| pool.reports().iter().all(|report| report.serving == 1)).await;
        }
    }
}

#[tokio::test]
async fn law_5_what_one_token_rejects_is_never_tried_on_another() {
    let (a, b, pool, key) = twins().await;
    for (what, ciphertext) in contract::bad_ciphertexts(&key) {
        let rejected = unwrap(&pool, &wrapped(&key, ciphertext), soon()).await;
        assert_eq!(rejected, Err(TokenError::Rejected), "{what}");
        assert_eq!(a.asked() + b.asked(), 1, "{what}");
    }
    assert!(pool.reports().iter().all(|report| report.serving == 1), "no breaker opens for it");
}

#[tokio::test]
async fn tokens_share_the_work_by_what_is_under_way() {
    let (a, b, pool, key) = twins().await;
    for _ in 0..10 {
        unwrap(&pool, &good(&key), soon()).await.unwrap();
    }
    assert_eq!((a.asked(), b.asked()), (5, 5));
    a.is(Mood::Frozen);
    let pool = Arc::new(pool);
    let stuck: Vec<_> = (0..2)
        .map(|_| {
            let (pool, wrapped) = (Arc::clone(&pool), good(&key));
            tokio::spawn(async move { unwrap(&*pool, &wrapped, soon()).await })
        })
        .collect();
    while a.asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    b.asked();
    for _ in 0..10 {
        unwrap(&*pool, &good(&key), soon()).await.unwrap();
    }
    assert!(b.asked() >= 10, "the one that is stuck gets no more");
    stuck.into_iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn an_operation_waits_for_a_worker_that_is_being_replaced_while_its_deadline_allows() {
    let (a, b, pool, key) = twins().await;
    a.is(Mood::Replaced);
    b.is(Mood::Down);
    let (pool, wrapped) = (Arc::new(pool), good(&key));
    let waiting = {
        let (pool, wrapped) = (Arc::clone(&pool), wrapped.clone());
        tokio::spawn(async move { unwrap(&*pool, &wrapped, soon()).await })
    };
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    a.is(Mood::Well);
    assert_eq!(waiting.await.unwrap(), Ok(FILE_KEY));

    a.is(Mood::Replaced);
    let deadline = Instant::now() + Duration::from_millis(50);
    assert!(matches!(unwrap(&*pool, &wrapped, deadline).await, Err(TokenError::Unavailable(_))));
    a.is(Mood::Down);
    let begun = Instant::now();
    let error = unwrap(&*pool, &wrapped, soon()).await.unwrap_err().to_string();
    assert!(error.contains("token a: it is down") && error.contains("token b: it is down"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "fails at once");
    assert!(pool.health().trouble.is_some());
}

#[tokio::test]
async fn an_operation_that_ends_every_worker_is_given_up() {
    let (a, b, pool, key) = twins().await;
    a.is(Mood::Dying);
    b.is(Mood::Dying);
    assert!(matches!(unwrap(&pool, &good(&key), soon()).await, Err(TokenError::Unavailable(_))));
    assert_eq!(a.asked() + b.asked(), 3);
}

#[tokio::test]
async fn a_full_queue_is_busy_and_no_failure() {
    let (a, b, pool, key) = twins().await;
    a.is(Mood::Busy);
    b.is(Mood::Busy);
    for _ in 0..2 * FAILURES {
        assert_eq!(unwrap(&pool, &good(&key), soon()).await, Err(TokenError::Busy));
    }
    assert!(pool.reports().iter().all(|report| report.serving == 1));
    b.is(Mood::Down);
    assert_eq!(unwrap(&pool, &good(&key), soon()).await, Err(TokenError::Busy));
}

#[tokio::test]
async fn a_token_that_fails_is_given_nothing_until_its_canary_sings() {
    let (a, b, pool, key) = twins().await;
    a.is(Mood::Failing);
    for _ in 0..2 * FAILURES {
        assert_eq!(unwrap(&pool, &good(&key), soon()).await, Ok(FILE_KEY));
    }
    until(&pool, |pool| matches!(pool.seats[0].lines[0].readiness(), Readiness::Down(_))).await;
    let report = &pool.reports()[0];
    assert_eq!((report.serving, report.health.trouble.as_deref()), (0, Some("it fails")));
    assert_eq!(pool.health().trouble, None, "the other serves");
    b.asked();
    for _ in 0..10 {
        assert_eq!(unwrap(&pool, &good(&key), soon()).await, Ok(FILE_KEY));
    }
    assert_eq!(b.asked(), 10);
    a.is(Mood::Well);
    until(&pool, |pool| pool.reports()[0].serving == 1).await;
    a.asked();
    unwrap(&pool, &good(&key), soon()).await.unwrap();
    unwrap(&pool, &good(&key), soon()).await.unwrap();
    assert_eq!(a.asked(), 1);
}

#[tokio::test]
async fn an_idle_sick_token_is_noticed_before_anybody_asks() {
    let memory = Arc::new(MemoryToken::new(KeyWrapping::OaepSha256));
    let key = memory.generate(template("wrapping", RSA), soon()).await.unwrap();
    let (a, b) = (Double::new(&memory), Double::new(&memory));
    let tempo = Tempo { idle: Duration::from_millis(5), ..TEMPO };
    let source = |double: &Arc<Double>| {
        vec![Starts { double: Arc::clone(double), failures: Vec::new(), tries: Arc::default() }]
    };
    let pool = open(vec![seat("a", source(&a)), seat("b", source(&b))], tempo).await.unwrap();
    a.is(Mood::Forgetful);
    until(&pool, |pool| pool.reports()[0].health.trouble.is_some()).await;
    assert_eq!(unwrap(&pool, &good(&key), soon()).await, Ok(FILE_KEY));
    a.is(Mood::Well);
    until(&pool, |pool| pool.reports()[0].health.trouble.is_none()).await;
}

#[tokio::test]
async fn a_token_that_is_away_at_the_start_serves_once_it_is_there() {
    let memory = Arc::new(MemoryToken::new(KeyWrapping::OaepSha256));
    let key = memory.generate(template("wrapping", RSA), soon()).await.unwrap();
    let only_there = Arc::new(MemoryToken::new(KeyWrapping::OaepSha256));
    let other = only_there.generate(template("other", RSA), soon()).await.unwrap();
    let (here, away) = (Double::new(&memory), Double::new(&only_there));
    let (tries, blocked) = (Arc::new(AtomicUsize::new(0)), StartError::Token("no such token".to_owned()));
    let seats = vec![
        seat("away", vec![Starts { double: away, failures: vec![blocked; 4], tries: Arc::clone(&tries) }]),
        seat("here", vec![Starts { double: here, failures: Vec::new(), tries: Arc::default() }]),
    ];
    let pool = open(seats, TEMPO).await.unwrap();
    assert_eq!(unwrap(&pool, &good(&key), soon()).await, Ok(FILE_KEY));
    assert_eq!(pool.health().trouble, None);
    let error = unwrap(&pool, &good(&other), soon()).await.unwrap_err().to_string();
    assert!(error.contains("the token away may have it: no such token"), "{error}");
    until(&pool, |pool| pool.reports()[0].serving == 1).await;
    assert_eq!(tries.load(Ordering::SeqCst), 5);
    assert_eq!(unwrap(&pool, &good(&other), soon()).await, Ok(FILE_KEY));
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_stops_that_token_alone() {
    let memory = Arc::new(MemoryToken::new(KeyWrapping::OaepSha256));
    let key = memory.generate(template("wrapping", RSA), soon()).await.unwrap();
    let (a, b) = (Double::new(&memory), Double::new(&memory));
    let tries = Arc::new(AtomicUsize::new(0));
    let wrong = || Starts {
        double: Arc::clone(&a),
        failures: vec![StartError::Pin("the PIN is wrong".to_owned()); 9],
        tries: Arc::clone(&tries),
    };
    let right = Starts { double: Arc::clone(&b), failures: Vec::new(), tries: Arc::default() };
    let pool =
        open(vec![seat("a", vec![wrong(), wrong(), wrong()]), seat("b", vec![right])], TEMPO).await.unwrap();
    assert_eq!(unwrap(&pool, &good(&key), soon()).await, Ok(FILE_KEY));
    let seat = Arc::clone(&pool.seats[0]);
    for line in &seat.lines {
        assert!(care::start(&seat, line, TEMPO).await.is_err(), "what looks after it gives up at once");
    }
    assert_eq!(tries.load(Ordering::SeqCst), 1);
    assert_eq!(pool.reports()[0].health.trouble.as_deref(), Some("the PIN is wrong"));
}

#[tokio::test]
async fn without_any_token_there_is_no_start() {
    let memory = Arc::new(MemoryToken::new(KeyWrapping::OaepSha256));
    let failing = |why: &str| {
        let failures = vec![StartError::Token(why.to_owned())];
        vec![Starts { double: Double::new(&memory), failures, tries: Arc::default() }]
    };
    let error = open(vec![seat("a", failing("gone"))], TEMPO).await.err().unwrap();
    assert_eq!(error, StartError::Token("gone".to_owned()));
    let error =
        open(vec![seat("a", failing("gone")), seat("b", failing("broken"))], TEMPO).await.err().unwrap();
    assert_eq!(error.to_string(), "no token serves: token a: gone; token b: broken");
}

#[tokio::test]
async fn a_drained_token_gets_nothing_new_and_ends_what_it_has() {
    let (a, b, pool, key) = twins().await;
    let pool = Arc::new(pool);
    b.is(Mood::Down);
    a.is(Mood::Frozen);
    let under_way = {
        let (pool, wrapped) = (Arc::clone(&pool), good(&key));
        let deadline = Instant::now() + Duration::from_millis(300);
        tokio::spawn(async move { unwrap(&*pool, &wrapped, deadline).await })
    };
    while pool.report(&name("a")).unwrap().under_way == 0 {
        tokio::task::yield_now().await;
    }
    b.is(Mood::Well);
    pool.drain(drain("a"));
    pool.until_idle(&name("a"), Duration::ZERO).await;
    assert_eq!(pool.report(&name("a")).unwrap().under_way, 1, "it is let finish");
    for _ in 0..5 {
        assert_eq!(unwrap(&*pool, &good(&key), soon()).await, Ok(FILE_KEY));
    }
    assert_eq!(a.asked(), 1);
    pool.until_idle(&name("a"), Duration::from_secs(20)).await;
    assert_eq!(pool.report(&name("a")).unwrap().under_way, 0);
    assert!(matches!(under_way.await.unwrap(), Err(TokenError::Unavailable(_)) | Ok(_)));
    // New keys, too, are made elsewhere.
    a.is(Mood::Well);
    pool.generate(template("next", KeyKind::EcdsaP256Sign), soon()).await.unwrap();
    assert_eq!(a.asked(), 0);

    pool.drain(drain("b"));
    let error = unwrap(&*pool, &good(&key), soon()).await.unwrap_err().to_string();
    assert!(error.contains("drained (a, b)"), "{error}");
    assert!(pool.health().trouble.is_some());
    pool.resume(&name("a"));
    assert_eq!(unwrap(&*pool, &good(&key), soon()).await, Ok(FILE_KEY));
}

#[tokio::test]
async fn what_only_one_token_serves_is_known() {
    let (one, two) = ([0; 2]).map(|_| Arc::new(MemoryToken::new(KeyWrapping::OaepSha256))).into();
    let (a, b, c) = (Double::new(&one), Double::new(&two), Double::new(&one));
    let pool = pool(&[&a, &b, &c]).await;
    let in_one = pool.generate_in(&name("a"), template("x", RSA), soon()).await.unwrap();
    let in_two = pool.generate_in(&name("b"), template("y", RSA), soon()).await.unwrap();
    assert_eq!(pool.keys_only_in(&name("a")), []);
    assert_eq!(pool.keys_only_in(&name("b")), [in_two]);
    c.is(Mood::Down);
    assert_eq!(pool.keys_only_in(&name("a")), std::slice::from_ref(&in_one));
    assert_eq!(pool.keys_only_in(&name("c")), [], "it serves nothing that could be lost");
    c.is(Mood::Well);
    pool.drain(drain("c"));
    assert_eq!(pool.keys_only_in(&name("a")), [in_one]);
    let nowhere = pool.generate_in(&name("c"), template("z", RSA), soon()).await.unwrap_err();
    assert!(nowhere.to_string().contains("token c is drained"), "{nowhere}");
}

#[tokio::test]
async fn a_wrapping_that_only_one_token_can_do_is_never_asked_of_the_other() {
    // The same key behind an old module and a new one: what the old one cannot do, it would reject, and that is final.
    let (old, new) = (MemoryToken::new(KeyWrapping::OaepSha1), MemoryToken::new(KeyWrapping::OaepSha512));
    let key = new.generate(template("wrapping", RSA), soon()).await.unwrap();
    new.copy_to(&old);
    let (old, new) = (Double::new(&Arc::new(old)), Double::new(&Arc::new(new)));
    let pool = pool(&[&old, &new]).await;
    for _ in 0..4 {
        assert_eq!(unwrap(&pool, &good(&key), soon()).await, Ok(FILE_KEY));
    }
    assert_eq!((old.asked(), new.asked()), (0, 4));
    new.is(Mood::Down);
    let error = unwrap(&pool, &good(&key), soon()).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable(_)), "{error}");
}
