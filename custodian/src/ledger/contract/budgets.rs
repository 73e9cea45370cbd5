//! Budgets: charged and refused in the settling transaction (law 2).

use std::sync::Arc;

use custodian_proto::{key::KeyId, refusal::Refusal};
use jiff::SignedDuration;

use super::{refusals::futures, world::*};
use crate::{
    authority::{
        Amounts, Budget, Budgets, Guesses, Lift, Lock, Role, Session, SessionId, Span, Spender, SpenderKind,
        Spenders, SpkiHash, Standing,
    },
    custody::{Denial, Pause},
    ledger::{Change, Changed, Intent, Ledger, ManyFiles, Opening, Outcome},
};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// `laptop-1` and `laptop-2`, where `anna` and `bob` are signed in, and the keys `main` and `other`.
async fn busy<L: Ledger>(ledger: Arc<L>, clock: &TestClock) -> World<L> {
    let world = World::empty(ledger);
    for (device, spki) in [("laptop-1", 1), ("laptop-2", 2)] {
        world
            .done(Change::Invite(crate::authority::Invitation {
                expires: clock.now() + HOUR,
                ..invitation(spki, device)
            }))
            .await;
        let enroll =
            Change::Enroll { code_hash: [spki; 32], invited_by: None, device: self::device(device, spki) };
        world.done(enroll).await;
        world.sets_device(device, crate::authority::DeviceState::Active).await.unwrap();
    }
    for (user_id, sessions) in [("anna", [(1, 1), (2, 2)]), ("bob", [(3, 1), (4, 2)])] {
        world.done(Change::CreateUser(user(user_id, &[Role::Operator]))).await;
        for (id, device) in sessions {
            let expires = clock.now() + HOUR * 24 * 30;
            world.done(Change::OpenSession(Session { expires, ..session(id, user_id, device) })).await;
        }
    }
    for label in ["main", "other"] {
        let life = life(clock.now() - HOUR * 48, clock.now() + HOUR * 24 * 365, None);
        world.done(Change::AddKey(crate::authority::WrappingKey { life, ..key(label) })).await;
    }
    world
}

/// Sets one limit.
type Limit = fn(&mut Budget);

/// Who asks, on which device, with which key.
#[derive(Clone, Copy)]
struct Who {
    user: &'static str,
    device: u8,
    key: &'static str,
}

const ANNA: Who = Who { user: "anna", device: 1, key: "main" };

impl Who {
    fn standing(self, file: u8, budgets: Budgets) -> Standing {
        let session = if self.user == "anna" { self.device } else { self.device + 2 };
        Standing {
            device: Some(SpkiHash([self.device; 32])),
            session: Some(SessionId([session; 32])),
            role: Some(Role::Operator),
            key: Some(key(self.key).id),
            charge: Some(crate::authority::Charge { file: [file; 32], budgets }),
            ..Standing::default()
        }
    }

    fn device_id(self) -> String {
        format!("laptop-{}", self.device)
    }

    /// Unwraps a file.
    async fn unwraps<L: Ledger>(self, world: &World<L>, file: u8, budgets: Budgets) -> Result<(), Denial> {
        let standing = self.standing(file, budgets);
        world.unwraps_by(self.user, &self.device_id(), standing).await.map(drop)
    }

    /// Sends something that does not unwrap.
    async fn guesses<L: Ledger>(self, world: &World<L>, file: u8, budgets: Budgets) -> Denial {
        let intent = unwrap_intent(self.user, &self.device_id(), &self.standing(file, budgets));
        let outcome = Outcome::Rejected { denial: Refusal::WrappedKeyRejected.into(), budgets };
        let attempt = world.ledger.begin(intent);
        world.ledger.settle(attempt, outcome).await.err().unwrap()
    }
}

fn paused(denied: Result<(), Denial>) -> Pause {
    match denied {
        Err(Denial::Paused(pause)) => *pause,
        other => panic!("{:?}", other.map_err(|denial| denial.code())),
    }
}

/// Budgets without limits, but for this one.
fn only(kind: SpenderKind, change: impl Fn(&mut Budget)) -> Budgets {
    let mut budgets = Budgets::UNLIMITED;
    change(match kind {
        SpenderKind::User => &mut budgets.user,
        SpenderKind::Device => &mut budgets.device,
        SpenderKind::Key => &mut budgets.key,
    });
    budgets
}

pub(crate) async fn each_budget_has_its_boundary<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let others = [Who { user: "bob", ..ANNA }, Who { device: 2, ..ANNA }, Who { key: "other", ..ANNA }];
    let kinds = [SpenderKind::User, SpenderKind::Device, SpenderKind::Key];
    let mut file = 0;
    for (kind, other) in kinds.into_iter().zip(others) {
        let spender = match kind {
            SpenderKind::User => "users/anna".to_owned(),
            SpenderKind::Device => "devices/laptop-1".to_owned(),
            SpenderKind::Key => key("main").id.resource_name(),
        };
        let limits: [(&str, Span, Limit); 4] = [
            ("files", Span::Hour, |budget| budget.hour.files = 2),
            ("unwraps", Span::Hour, |budget| budget.hour.unwraps = 2),
            ("files", Span::Day, |budget| budget.day.files = 2),
            ("unwraps", Span::Day, |budget| budget.day.unwraps = 2),
        ];
        for (measure, span, limit) in limits {
            clock.moves(HOUR * 24);
            let budgets = only(kind, limit);
            for _ in 0..2 {
                file += 1;
                ANNA.unwraps(&world, file, budgets).await.unwrap();
            }
            let pause = paused(ANNA.unwraps(&world, file + 1, budgets).await);
            let what = format!("{spender} {measure}_per_{}", span.name());
            assert_eq!(pause.budget.map(|budget| budget.to_string()), Some(what.clone()));
            assert_eq!(pause.until, span.end(span.number(clock.now())), "{what}");
            assert!(pause.detail.contains(&pause.until.to_string()), "{}", pause.detail);
            // Another user, device or key has a budget of its own.
            other.unwraps(&world, file + 1, budgets).await.unwrap_or_else(|_| panic!("{what}"));
        }
    }
}

pub(crate) async fn a_file_is_charged_once_however_often_it_is_opened<L: Ledger>(
    ledger: Arc<L>,
    clock: TestClock,
) {
    let world = busy(ledger, &clock).await;
    let budgets = only(SpenderKind::User, |budget| budget.hour.files = 2);
    for file in [1, 2, 1, 1, 2] {
        ANNA.unwraps(&world, file, budgets).await.unwrap();
    }
    assert_eq!(paused(ANNA.unwraps(&world, 3, budgets).await).refusal, Refusal::BudgetExhausted);
    // From another device, and with refused attempts in between, it is the same file.
    let elsewhere = Who { device: 2, ..ANNA };
    elsewhere.unwraps(&world, 1, budgets).await.unwrap();
    ANNA.unwraps(&world, 2, budgets).await.unwrap();
    // In another hour it is another file of that hour.
    clock.moves(HOUR);
    for file in [3, 1] {
        ANNA.unwraps(&world, file, budgets).await.unwrap();
    }
    assert_eq!(paused(ANNA.unwraps(&world, 2, budgets).await).refusal, Refusal::BudgetExhausted);
    // To bob it is new, although anna opened it.
    let bob = Who { user: "bob", ..ANNA };
    for file in [1, 2] {
        bob.unwraps(&world, file, budgets).await.unwrap();
    }
    assert_eq!(paused(bob.unwraps(&world, 3, budgets).await).refusal, Refusal::BudgetExhausted);
}

pub(crate) async fn many_at_once_never_exceed_a_budget<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = Arc::new(busy(ledger, &clock).await);
    let budgets = Budgets { user: some(20, 30), device: some(25, 35), ..Budgets::UNLIMITED };
    // Of each file two at once; the two users on one device.
    let tries = (0..200_u8).map(|number| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let user = if number % 2 == 0 { "anna" } else { "bob" };
            let who = Who { user, ..ANNA };
            (user, number / 4, who.unwraps(&world, number / 4, budgets).await.map_err(|denial| denial.code()))
        })
    });
    let mut allowed = Vec::new();
    for (user, file, unwrapped) in futures(tries.collect()).await {
        match unwrapped {
            Ok(()) => allowed.push((user, file)),
            Err(code) => assert_eq!(code, Refusal::BudgetExhausted.code()),
        }
    }
    let files = |of: &dyn Fn(&str) -> bool| {
        let mut files: Vec<_> = allowed.iter().filter(|(user, _)| of(user)).map(|(_, file)| file).collect();
        files.sort_unstable();
        files.dedup();
        files.len()
    };
    assert!(files(&|user| user == "anna") <= 20 && files(&|user| user == "bob") <= 20, "{allowed:?}");
    // The device's budget is what stops them: to it, anna's file is bob's.
    assert!(files(&|_| true) == 25 || allowed.len() == 35, "{allowed:?}");
    assert!(files(&|_| true) <= 25 && allowed.len() <= 35, "{allowed:?}");
}

fn some(files: u32, unwraps: u32) -> Budget {
    let amounts = Amounts { files, unwraps };
    Budget { hour: amounts, day: amounts }
}

pub(crate) async fn an_hour_and_a_day_turn<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let day = Amounts { files: 3, unwraps: 3 };
    let budgets = only(SpenderKind::User, |budget| *budget = Budget { day, ..some(2, 2) });
    let next = |span: Span| clock.moves(span.end(span.number(clock.now())).duration_since(clock.now()));
    let mut file = 0;
    let mut until_refused = async || {
        for count in 0.. {
            file += 1;
            if ANNA.unwraps(&world, file, budgets).await.is_err() {
                return count;
            }
        }
        unreachable!()
    };
    assert_eq!(until_refused().await, 2);
    next(Span::Hour);
    clock.moves(-SignedDuration::from_micros(1));
    assert_eq!(until_refused().await, 0, "a microsecond before the hour turns");
    clock.moves(SignedDuration::from_micros(1));
    assert_eq!(until_refused().await, 1, "the day has three");
    next(Span::Hour);
    assert_eq!(until_refused().await, 0);
    next(Span::Day);
    assert_eq!(until_refused().await, 2);
}

pub(crate) async fn a_clock_set_back_or_forward_gives_no_more<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let budgets = only(SpenderKind::User, |budget| budget.hour = Amounts { files: 2, unwraps: 2 });
    let mut file = 0;
    let mut until_refused = async || {
        for count in 0.. {
            file += 1;
            if let Err(denial) = ANNA.unwraps(&world, file, budgets).await {
                return (count, paused(Err(denial)).until);
            }
        }
        unreachable!()
    };
    let end = Span::Hour.end(Span::Hour.number(clock.now()));
    assert_eq!(until_refused().await, (2, end));
    clock.moves(-HOUR);
    assert_eq!(until_refused().await, (0, end), "set back, the hour that was begun goes on");
    clock.moves(HOUR * 2);
    assert_eq!(until_refused().await, (2, end + HOUR), "set forward, the next hour begins early");
    clock.moves(-HOUR);
    assert_eq!(until_refused().await, (0, end + HOUR), "and lasts until it ends by the clock");
    clock.moves(HOUR * 2);
    assert_eq!(until_refused().await, (2, end + HOUR * 2));
}

pub(crate) async fn all_three_are_charged_or_none<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let key_is_spent = only(SpenderKind::Key, |budget| budget.hour.unwraps = 0);
    for file in 0..3 {
        paused(ANNA.unwraps(&world, file, key_is_spent).await);
    }
    let one_each = Budgets { user: some(1, 1), device: some(1, 1), key: some(1, 1), ..Budgets::UNLIMITED };
    ANNA.unwraps(&world, 7, one_each).await.unwrap();
    paused(ANNA.unwraps(&world, 7, one_each).await);
}

pub(crate) async fn what_is_refused_early_is_what_would_be_refused_late<L: Ledger>(
    ledger: Arc<L>,
    clock: TestClock,
) {
    let world = busy(ledger, &clock).await;
    let guesses = Guesses { per_hour: 2, lock: SignedDuration::from_mins(5) };
    let budgets = Budgets { guesses, ..only(SpenderKind::User, |budget| *budget = some(2, 5)) };
    let early = async |file: u8| {
        let standing = ANNA.standing(file, budgets);
        let spenders = Spenders {
            user: "users/anna".to_owned(),
            device: "devices/laptop-1".to_owned(),
            key: key("main").id.resource_name(),
        };
        let asked = world.ledger.opening(key("main").id, spenders, standing.charge.unwrap()).await.unwrap();
        assert!(asked.key.is_some());
        asked.room
    };
    let mut seen = Vec::new();
    let mut agree = async |file: u8| {
        let (early, late) = (early(file).await, ANNA.unwraps(&world, file, budgets).await);
        assert_eq!(early, late, "file {file}");
        seen.push(late.map_err(|denial| denial.code()));
    };
    for file in [1, 1, 2, 3, 1, 2, 1] {
        agree(file).await;
    }
    clock.moves(HOUR);
    for file in [1, 2, 3, 2] {
        agree(file).await;
    }
    // An attempt before the day turns, and the first two bad ones of the next.
    clock.moves(HOUR * 24);
    for file in [8, 9] {
        assert_eq!(ANNA.guesses(&world, file, budgets).await.code(), Refusal::WrappedKeyRejected.code());
    }
    agree(8).await;
    clock.moves(SignedDuration::from_mins(5));
    agree(8).await;
    agree(1).await;
    let exhausted = Err(Refusal::BudgetExhausted.code());
    let mut expected = vec![Ok(()), Ok(()), Ok(()), exhausted, Ok(()), Ok(()), exhausted];
    // The day's five are spent.
    expected.extend([exhausted; 4]);
    expected.extend([Err(Refusal::UnwrapLocked.code()), Ok(()), exhausted]);
    assert_eq!(seen, expected);
    let unknown = KeyId::of_public_key(b"nobody's");
    let spenders = Spenders { user: String::new(), device: String::new(), key: unknown.resource_name() };
    let charge = ANNA.standing(1, budgets).charge.unwrap();
    let Opening { key, room } = world.ledger.opening(unknown, spenders, charge).await.unwrap();
    assert!(key.is_none() && room.is_ok());
}

pub(crate) async fn exceeding_a_budget_is_told_once<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let guesses = Guesses { per_hour: 3, lock: SignedDuration::from_mins(5) };
    let budgets = Budgets { guesses, ..only(SpenderKind::Device, |budget| budget.hour.files = 2) };
    let told = async || {
        let mut records = world.all_records().await;
        records.retain(|record| record.operation == "BudgetExceeded");
        records
    };
    for file in [1, 2] {
        ANNA.unwraps(&world, file, budgets).await.unwrap();
    }
    assert_eq!(told().await.len(), 0, "used up is not exceeded");
    // Whoever asks whether a file would fit has not tried: the alarm is left for who does.
    let files = vec![(key("main").id, vec![[3; 32]])];
    let many = ManyFiles { user: user_id("anna"), device: device_id("laptop-1"), keys: files, budgets };
    let denial = world.ledger.room_for(many).await.unwrap().unwrap_err();
    let asked = Intent { user: "users/anna".to_owned(), ..intent("CheckBudget") };
    let attempt = world.ledger.begin(asked);
    world.ledger.settle(attempt, Outcome::Denied(denial)).await.err().unwrap();
    assert_eq!(told().await.len(), 0, "asked");
    let first = paused(ANNA.unwraps(&world, 3, budgets).await);
    for file in 3..9 {
        paused(ANNA.unwraps(&world, file, budgets).await);
        paused(Who { user: "bob", ..ANNA }.unwraps(&world, file, budgets).await);
        // Refused early, without a try to settle a grant.
        let attempt = world.ledger.begin(unwrap_intent("anna", "laptop-1", &ANNA.standing(file, budgets)));
        world.ledger.settle(attempt, Outcome::Denied(first.clone().into())).await.err().unwrap();
    }
    let records = told().await;
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.target.as_str(), record.outcome.as_str()), ("devices/laptop-1", "BUDGET_EXHAUSTED"));
    assert_eq!((record.user.as_str(), record.device.as_str()), ("users/anna", "devices/laptop-1"));
    assert!(record.detail.starts_with(&first.detail), "{}", record.detail);
    assert!(record.wrapped_key_sha256.is_empty() && record.claims.is_none());

    // Once more in the next hour: then a refusal that was decided before it turned says nothing of it.
    clock.moves(HOUR);
    let attempt = world.ledger.begin(unwrap_intent("anna", "laptop-1", &ANNA.standing(9, budgets)));
    world.ledger.settle(attempt, Outcome::Denied(first.into())).await.err().unwrap();
    assert_eq!(told().await.len(), 1);
    for file in [1, 2] {
        ANNA.unwraps(&world, file, budgets).await.unwrap();
    }
    paused(ANNA.unwraps(&world, 3, budgets).await);
    assert_eq!(told().await.len(), 2);

    // A lock is told when it is set.
    let budgets = Budgets { guesses, ..Budgets::UNLIMITED };
    for file in 10..13 {
        ANNA.guesses(&world, file, budgets).await;
    }
    assert_eq!(paused(ANNA.unwraps(&world, 13, budgets).await).refusal, Refusal::UnwrapLocked);
    let records = told().await;
    assert_eq!(records.len(), 3);
    assert_eq!(records[2].outcome, Refusal::UnwrapLocked.code());
    assert!(records[2].detail.contains("users/anna on devices/laptop-1"), "{}", records[2].detail);
}

pub(crate) async fn rejected_ciphertexts_are_charged_as_good_ones<L: Ledger>(
    ledger: Arc<L>,
    clock: TestClock,
) {
    let world = busy(ledger, &clock).await;
    let rejected = Refusal::WrappedKeyRejected.code();
    let exhausted = Refusal::BudgetExhausted.code();
    // This costs nothing.
    let attempt = world.ledger.begin(unwrap_intent("anna", "laptop-1", &ANNA.standing(1, hourly(3))));
    world.ledger.settle(attempt, Outcome::Denied(Refusal::KeyUnknown.into())).await.err().unwrap();
    ANNA.unwraps(&world, 1, hourly(3)).await.unwrap();
    // These do.
    for file in [2, 3] {
        assert_eq!(ANNA.guesses(&world, file, hourly(3)).await.code(), rejected);
    }
    // With nothing left, bad and good have one answer, and cost nothing.
    assert_eq!(ANNA.guesses(&world, 4, hourly(3)).await.code(), exhausted);
    paused(ANNA.unwraps(&world, 1, hourly(3)).await);
    ANNA.unwraps(&world, 1, hourly(4)).await.unwrap();
    assert_eq!(world.last_record().await.outcome, crate::ledger::OK);
    // A bad one is a file, too: of the five that were tried, four were let in.
    let files = |most| only(SpenderKind::Device, |budget| budget.day.files = most);
    ANNA.guesses(&world, 3, files(3)).await;
    assert_eq!(ANNA.guesses(&world, 5, files(3)).await.code(), exhausted);
    assert_eq!(ANNA.guesses(&world, 5, files(4)).await.code(), rejected);
}

pub(crate) async fn guessing_locks_the_user_on_the_device<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let minutes = SignedDuration::from_mins;
    let guesses = Guesses { per_hour: 3, lock: minutes(10) };
    let budgets = Budgets { guesses, ..Budgets::UNLIMITED };
    let (rejected, locked) = (Refusal::WrappedKeyRejected.code(), Refusal::UnwrapLocked.code());
    for file in 1..=3 {
        assert_eq!(ANNA.guesses(&world, file, budgets).await.code(), rejected);
    }
    let lock = paused(ANNA.unwraps(&world, 9, budgets).await);
    assert_eq!((lock.refusal.code(), lock.until), (locked, clock.now() + minutes(10)));
    assert_eq!(ANNA.guesses(&world, 4, budgets).await.code(), locked, "good and bad have one answer");
    // Neither anna elsewhere, nor somebody else here.
    Who { device: 2, ..ANNA }.unwraps(&world, 9, budgets).await.unwrap();
    Who { user: "bob", ..ANNA }.unwraps(&world, 9, budgets).await.unwrap();
    // A clock that is set back prolongs it.
    clock.moves(-HOUR);
    assert_eq!(paused(ANNA.unwraps(&world, 9, budgets).await).until, lock.until);
    clock.moves(HOUR + minutes(10) - SignedDuration::from_micros(1));
    paused(ANNA.unwraps(&world, 9, budgets).await);
    clock.moves(SignedDuration::from_micros(1));
    ANNA.unwraps(&world, 9, budgets).await.unwrap();
    // Within the hour, one more is one too many. After it, three are.
    assert_eq!(ANNA.guesses(&world, 5, budgets).await.code(), rejected);
    paused(ANNA.unwraps(&world, 9, budgets).await);
    clock.moves(HOUR);
    for file in 6..=7 {
        assert_eq!(ANNA.guesses(&world, file, budgets).await.code(), rejected);
        ANNA.unwraps(&world, 9, budgets).await.unwrap();
    }
    ANNA.guesses(&world, 8, budgets).await;
    paused(ANNA.unwraps(&world, 9, budgets).await);
}

pub(crate) async fn many_guesses_at_once_are_not_more<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = Arc::new(busy(ledger, &clock).await);
    let guesses = Guesses { per_hour: 5, lock: SignedDuration::from_mins(10) };
    let budgets = Budgets { guesses, ..Budgets::UNLIMITED };
    let tries = (0..50).map(|file| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { ANNA.guesses(&world, file, budgets).await.code() })
    });
    let codes = futures(tries.collect()).await;
    let answered = codes.iter().filter(|code| **code == Refusal::WrappedKeyRejected.code()).count();
    let locked = codes.iter().filter(|code| **code == Refusal::UnwrapLocked.code()).count();
    assert_eq!((answered, locked), (5, 45));
}

fn anna() -> Spender {
    Spender::User(user_id("anna"))
}

fn lift(count: u32, until: jiff::Timestamp) -> Option<Lift> {
    Some(Lift { count, left: count, until, reason: "case 17".to_owned(), by: "users/root".to_owned() })
}

pub(crate) async fn a_lift_is_counted_and_ends<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let budgets = hourly(2);
    let until = clock.now() + SignedDuration::from_mins(10);
    let Changed::Budget(tally) =
        world.done(Change::LiftBudget { spender: anna(), lift: lift(2, until) }).await
    else {
        panic!()
    };
    assert_eq!(tally.lift, lift(2, until));
    let record = world.last_record().await;
    assert_eq!((record.target.as_str(), record.outcome.as_str()), ("users/anna", crate::ledger::OK));
    assert!(record.detail.contains(&format!("2 more until {until}")), "{}", record.detail);
    // The budget first, the lift beyond it.
    for file in 1..=4 {
        ANNA.unwraps(&world, file, budgets).await.unwrap();
    }
    paused(ANNA.unwraps(&world, 5, budgets).await);
    // Another one: what the clock has not ended, it ends at its time.
    world.done(Change::LiftBudget { spender: anna(), lift: lift(9, until) }).await;
    clock.moves(SignedDuration::from_mins(10) - SignedDuration::from_micros(1));
    ANNA.unwraps(&world, 5, budgets).await.unwrap();
    clock.moves(SignedDuration::from_micros(1));
    paused(ANNA.unwraps(&world, 6, budgets).await);
    assert_eq!(world.ledger.budget(&anna()).await.unwrap().unwrap().lift, None);
    // Rejected ones use it up, too; and it is of no use to anybody else.
    let device = only(SpenderKind::Device, |budget| budget.day.unwraps = 5);
    let until = clock.now() + HOUR;
    world.done(Change::LiftBudget { spender: anna(), lift: lift(9, until) }).await;
    paused(ANNA.unwraps(&world, 6, device).await);
    ANNA.guesses(&world, 6, budgets).await;
    assert_eq!(world.ledger.budget(&anna()).await.unwrap().unwrap().lift.unwrap().left, 8);
}

pub(crate) async fn many_at_once_use_no_more_than_a_lift<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = Arc::new(busy(ledger, &clock).await);
    world.done(Change::LiftBudget { spender: anna(), lift: lift(7, clock.now() + HOUR) }).await;
    let tries = (0..60).map(|file| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { ANNA.unwraps(&world, file, hourly(10)).await.is_ok() })
    });
    let allowed = futures(tries.collect()).await.into_iter().filter(|allowed| *allowed).count();
    assert_eq!(allowed, 17);
    // Used up, it is not there any more, and was told of as exceeded once.
    assert_eq!(world.ledger.budget(&anna()).await.unwrap().unwrap().lift, None);
    let records = world.all_records().await;
    assert_eq!(records.iter().filter(|record| record.operation == "BudgetExceeded").count(), 1);
}

pub(crate) async fn a_lift_is_replaced_and_taken_back<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let left = async |spender: &Spender| {
        let tally = world.ledger.budget(spender).await.unwrap().unwrap();
        tally.lift.map(|lift| (lift.count, lift.left))
    };
    let until = clock.now() + HOUR;
    let spenders = [anna(), Spender::Device(device_id("laptop-1")), Spender::Key(key("main").id)];
    for spender in &spenders {
        world.done(Change::LiftBudget { spender: spender.clone(), lift: lift(5, until) }).await;
        world.done(Change::LiftBudget { spender: spender.clone(), lift: lift(3, until) }).await;
        assert_eq!(left(spender).await, Some((3, 3)));
    }
    ANNA.unwraps(&world, 1, hourly(0)).await.unwrap();
    assert_eq!(left(&spenders[0]).await, Some((3, 2)));
    assert_eq!(left(&spenders[1]).await, Some((3, 3)), "only where it was needed");
    world.done(Change::LiftBudget { spender: anna(), lift: None }).await;
    assert_eq!(left(&anna()).await, None);
    paused(ANNA.unwraps(&world, 1, hourly(0)).await);

    let strangers = [
        Spender::User(user_id("nobody")),
        Spender::Device(device_id("laptop-9")),
        Spender::Key(key("unknown").id),
    ];
    for spender in strangers {
        assert_eq!(world.ledger.budget(&spender).await.unwrap(), None);
        let change = Change::LiftBudget { spender, lift: lift(1, until) };
        world.refuses_change(change, Refusal::NotFound).await;
    }
}

pub(crate) async fn a_lock_is_ended<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let guesses = Guesses { per_hour: 2, lock: SignedDuration::from_mins(10) };
    let budgets = Budgets { guesses, ..Budgets::UNLIMITED };
    let unlock =
        |user: &str, device: &str| Change::UnlockUnwrap { user: user_id(user), device: device_id(device) };
    for file in 1..=2 {
        ANNA.guesses(&world, file, budgets).await;
    }
    let locks = world.ledger.locks(9).await.unwrap();
    let until = clock.now() + SignedDuration::from_mins(10);
    let lock = Lock { user: "users/anna".to_owned(), device: "devices/laptop-1".to_owned(), until };
    assert_eq!(locks, [lock]);
    world.done(unlock("anna", "laptop-2")).await;
    paused(ANNA.unwraps(&world, 3, budgets).await);
    world.done(unlock("anna", "laptop-1")).await;
    let record = world.last_record().await;
    assert_eq!((record.target.as_str(), record.detail.as_str()), ("users/anna", "on devices/laptop-1"));
    assert_eq!(world.ledger.locks(9).await.unwrap(), []);
    // It begins anew.
    ANNA.guesses(&world, 4, budgets).await;
    ANNA.unwraps(&world, 3, budgets).await.unwrap();
    ANNA.guesses(&world, 5, budgets).await;
    paused(ANNA.unwraps(&world, 3, budgets).await);
    for (user, device) in [("nobody", "laptop-1"), ("anna", "laptop-9")] {
        world.refuses_change(unlock(user, device), Refusal::NotFound).await;
    }
}

pub(crate) async fn many_files_fit_if_each_would<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let fits = async |keys: &[(&str, std::ops::Range<u8>)], budgets| {
        let keys =
            keys.iter().map(|(label, files)| (key(label).id, files.clone().map(|file| [file; 32]).collect()));
        let (user, device) = (user_id("anna"), device_id("laptop-1"));
        let many = ManyFiles { user, device, keys: keys.collect(), budgets };
        world.ledger.room_for(many).await.unwrap()
    };
    let budgets = Budgets { user: some(5, 9), key: some(4, 9), ..Budgets::UNLIMITED };
    fits(&[("main", 0..4)], budgets).await.unwrap();
    let pause = paused(fits(&[("main", 0..5)], budgets).await);
    assert_eq!(pause.budget.unwrap().spender, key("main").id.resource_name());
    // Of two keys, each has its own; the user has one.
    fits(&[("main", 0..3), ("other", 3..5)], budgets).await.unwrap();
    let pause = paused(fits(&[("main", 0..3), ("other", 3..6)], budgets).await);
    assert_eq!(pause.budget.unwrap().spender, "users/anna");
    assert!(pause.detail.contains("5 are left until"), "{}", pause.detail);
    // What was opened is no further file, nor is the same twice; each is an unwrap.
    for file in 0..3 {
        ANNA.unwraps(&world, file, budgets).await.unwrap();
    }
    fits(&[("main", 0..4), ("other", 4..5)], budgets).await.unwrap();
    fits(&[("main", 0..3), ("main", 0..3)], budgets).await.unwrap();
    let pause = paused(fits(&[("main", 0..3), ("main", 0..3), ("main", 0..1)], budgets).await);
    assert_eq!(pause.budget.unwrap().measure, crate::authority::Measure::Unwraps);
    // And what fits is unwrapped.
    for file in 0..4 {
        ANNA.unwraps(&world, file, budgets).await.unwrap();
    }
    Who { key: "other", ..ANNA }.unwraps(&world, 4, budgets).await.unwrap();
    paused(fits(&[("other", 5..6)], budgets).await);
    // A lift counts, and so does a lock.
    world.done(Change::LiftBudget { spender: anna(), lift: lift(2, clock.now() + HOUR) }).await;
    fits(&[("other", 5..6)], budgets).await.unwrap();
    paused(fits(&[("other", 5..8)], budgets).await);
    let guesses = Guesses { per_hour: 1, lock: HOUR };
    ANNA.guesses(&world, 9, Budgets { guesses, ..Budgets::UNLIMITED }).await;
    assert_eq!(paused(fits(&[("main", 0..1)], Budgets::UNLIMITED).await).refusal, Refusal::UnwrapLocked);
}

pub(crate) async fn what_was_spent_is_listed<L: Ledger>(ledger: Arc<L>, clock: TestClock) {
    let world = busy(ledger, &clock).await;
    let names = async |after: &str, limit| {
        let spent = world.ledger.budgets(after, limit).await.unwrap();
        spent.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(names("", 9).await, [""; 0]);
    for file in [1, 1, 2] {
        ANNA.unwraps(&world, file, Budgets::UNLIMITED).await.unwrap();
    }
    let main = key("main").id.resource_name();
    let all = ["devices/laptop-1".to_owned(), main, "users/anna".to_owned()];
    assert_eq!(names("", 9).await, all);
    assert_eq!(names("", 2).await, all[..2]);
    assert_eq!(names(&all[1], 2).await, all[2..]);
    let (_, tally) = world.ledger.budgets(&all[1], 1).await.unwrap().pop().unwrap();
    assert_eq!((tally.hour.files, tally.hour.unwraps, tally.day.files, tally.day.unwraps), (2, 3, 2, 3));
    assert_eq!(world.ledger.budget(&anna()).await.unwrap(), Some(tally));
    // Who spent nothing today is not listed, unless there is a lift.
    world.done(Change::LiftBudget { spender: anna(), lift: lift(2, clock.now() + HOUR * 48) }).await;
    clock.moves(HOUR * 24);
    assert_eq!(names("", 9).await, all[2..]);
    let tally = world.ledger.budget(&anna()).await.unwrap().unwrap();
    assert_eq!((tally.hour.files, tally.day.unwraps), (0, 0));
}
