//! Ten times as many unwraps as there is room for, and a crowd that signs in: what is left for those who are let in, how soon
//! the others know, and how long a revocation takes meanwhile.
//!
//!     cargo bench -p softhsm-tests --bench overload
//!
//! Twice: with callers that share all of the machine's cores with the custodian, and cost ten times the processor time as they ask
//! ten times as often; and with callers on cores of their own, as they are on machines of their own.

#[path = "common/mod.rs"]
mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bench_rows::{Rows, Spread, Target};
use common::{Load, Pool, Receipts, at, millis, used};
use custodian_proto::v1::{self, user_service_client::UserServiceClient};
use softhsm_tests::{Dev, Identity, Person, Wire};
use tonic::Code;

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(4);

/// How many times the peak comes.
const TIMES: f64 = 10.0;

/// Devices that people sign in on, and people. So many that no throttle is in the way.
const DEVICES: usize = 40;
const PEOPLE: usize = 80;

const LOGINS_A_SECOND: u64 = 100;
const PASSWORD: &str = "tangible-osprey-moraine";

fn main() {
    let mut rows = Rows::new("overload");
    measure(&mut rows, "callers on the same cores", common::dev_without_budgets());
    common::apart(common::dev_without_budgets, |dev| {
        measure(&mut rows, "callers on cores of their own", dev)
    });
    rows.finish();
}

fn measure(rows: &mut Rows, place: &str, dev: Dev) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let pool = Pool::of(&dev);
    let wires = runtime.block_on(common::wires(&dev, 30));
    let admin = runtime.block_on(Wire::login(&dev, Person::Admin));
    let mut row = |name: &str, value: Spread, unit, target| {
        rows.add(format!("{place}: {name}"), value, unit, target);
    };

    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let peak = runtime.block_on(steady(&dev, &wires, &pool));
        let flood = runtime.block_on(flood(&dev, &wires, &pool, &admin, round, peak.rate * TIMES));
        rounds.push((peak, flood));
    }
    let each = |figure: fn(&(Steady, Flood)) -> f64| Spread::of(rounds.iter().map(figure));
    row("asked for / peak", each(|(peak, flood)| flood.asked / peak.rate), "ratio", Target::None);
    row("goodput / peak", each(|(peak, flood)| flood.rate / peak.rate), "ratio", Target::AtLeast(0.9));
    row(
        "goodput / peak, for the same CPU of the custodian",
        each(|(peak, flood)| flood.rate / flood.cpu / (peak.rate / peak.cpu)),
        "ratio",
        Target::AtLeast(0.9),
    );
    let refused = each(|(_, flood)| millis(at(&flood.refused, 0.5)));
    row("a refusal (OVERLOADED), p50", refused, "ms", Target::AtMost(10.0));
    row("a refusal, p99", each(|(_, flood)| millis(at(&flood.refused, 0.99))), "ms", Target::None);
    let revoked = each(|(_, flood)| millis(at(&flood.revoked, 1.0)));
    row("the slowest revocation meanwhile", revoked, "ms", Target::AtMost(100.0));

    let people = runtime.block_on(people(&dev, &admin));
    let (mut quiet, mut crowded, mut signed_in) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        quiet.push(runtime.block_on(latencies(&wires, &pool)));
        let running = Arc::new(AtomicBool::new(true));
        let logins = runtime.spawn(crowd(people.clone(), round, Arc::clone(&running)));
        crowded.push(runtime.block_on(latencies(&wires, &pool)));
        running.store(false, Ordering::Relaxed);
        signed_in.push(runtime.block_on(logins).unwrap() as f64 / ROUND.as_secs_f64());
    }
    let over = |share: f64| {
        let both = quiet.iter().zip(&crowded);
        Spread::of(
            both.map(|(quiet, crowded)| at(crowded, share).as_secs_f64() / at(quiet, share).as_secs_f64()),
        )
    };
    row("unwraps beside 100 logins a second / alone, p50", over(0.5), "ratio", Target::None);
    row("unwraps beside 100 logins a second / alone, p99", over(0.99), "ratio", Target::AtMost(1.1));
    row("logins that got through beside 64 unwraps in flight", Spread::of(signed_in), "1/s", Target::None);
}

/// Full load, nobody refused.
struct Steady {
    rate: f64,
    /// Processors that the custodian had.
    cpu: f64,
}

async fn steady(dev: &Dev, wires: &[Wire], pool: &Arc<Pool>) -> Steady {
    let (before, start) = (used(dev), Instant::now());
    let load = Load { in_flight: 64, receipts: Receipts::None };
    let times = load.run(wires, pool, Arc::new(move || start.elapsed() < ROUND)).await;
    let took = start.elapsed().as_secs_f64();
    Steady { rate: times.len() as f64 / took, cpu: (used(dev) - before) / took }
}

struct Flood {
    /// Calls a second.
    asked: f64,
    /// File keys a second.
    rate: f64,
    cpu: f64,
    refused: Vec<Duration>,
    revoked: Vec<Duration>,
}

async fn flood(dev: &Dev, wires: &[Wire], pool: &Arc<Pool>, admin: &Wire, round: usize, rate: f64) -> Flood {
    const REVOCATIONS: usize = 20;
    for number in 0..REVOCATIONS {
        Identity::enrolled(dev, admin, &format!("lost-{round}-{number}")).await;
    }
    let revoker = admin.clone();
    let revoking = tokio::spawn(async move {
        let mut times = Vec::new();
        for number in 0..REVOCATIONS {
            tokio::time::sleep(ROUND / (REVOCATIONS as u32 + 1)).await;
            let name = format!("devices/lost-{round}-{number}");
            let request = v1::RevokeDeviceRequest { name, reason: "lost".into() };
            let asked = Instant::now();
            revoker.devices().revoke_device(revoker.request(request)).await.unwrap();
            times.push(asked.elapsed());
        }
        times
    });
    let (before, start) = (used(dev), Instant::now());
    let mut calls = Vec::new();
    while start.elapsed() < ROUND {
        // As many as are due by now; a machine that is too slow to ask asks less, and the row of what was asked tells.
        let due = (start.elapsed().as_secs_f64() * rate) as usize;
        while calls.len() < due && start.elapsed() < ROUND {
            let (wire, pool) = (wires[calls.len() % wires.len()].clone(), Arc::clone(pool));
            calls.push(tokio::spawn(async move {
                let asked = Instant::now();
                let (key, wrapped) = pool.next();
                let answer = wire.unwrap(key, wrapped.clone()).await;
                (answer.map(drop).map_err(|status| status.code()), asked.elapsed(), Instant::now())
            }));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (took, spent, asked) = (start.elapsed(), used(dev) - before, calls.len());
    let (mut refused, mut released) = (Vec::new(), 0);
    for call in calls {
        match call.await.unwrap() {
            (Ok(()), _, done) if done <= start + took => released += 1,
            (Ok(()), _, _) => {}
            (Err(Code::ResourceExhausted), time, _) => refused.push(time),
            (Err(code), _, _) => panic!("a call failed with {code:?}"),
        }
    }
    let mut revoked = revoking.await.unwrap();
    refused.sort();
    revoked.sort();
    let seconds = took.as_secs_f64();
    assert!(!refused.is_empty(), "nobody was refused");
    Flood {
        asked: asked as f64 / seconds,
        rate: f64::from(released) / seconds,
        cpu: spent / seconds,
        refused,
        revoked,
    }
}

async fn latencies(wires: &[Wire], pool: &Arc<Pool>) -> Vec<Duration> {
    let start = Instant::now();
    Load { in_flight: 64, receipts: Receipts::None }
        .run(wires, pool, Arc::new(move || start.elapsed() < ROUND))
        .await
}

/// A connection for each of the people, spread over the devices.
async fn people(dev: &Dev, admin: &Wire) -> Arc<Vec<(Wire, String)>> {
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        devices.push(Identity::enrolled(dev, admin, &format!("desk-{number}")).await);
    }
    let mut people = Vec::new();
    for number in 0..PEOPLE {
        let user_id = format!("person-{number}");
        let request = v1::CreateUserRequest {
            user_id: user_id.clone(),
            password: PASSWORD.into(),
            roles: vec![v1::Role::Operator.into()],
            must_change_password: false,
        };
        UserServiceClient::new(admin.channel()).create_user(admin.request(request)).await.unwrap();
        people.push((Wire::connect(dev, &devices[number % DEVICES]).await.unwrap(), user_id));
    }
    Arc::new(people)
}

/// Signs in at the rate that is to be borne. How many got through.
async fn crowd(people: Arc<Vec<(Wire, String)>>, round: usize, running: Arc<AtomicBool>) -> usize {
    let start = Instant::now();
    let mut logins = Vec::new();
    while running.load(Ordering::Relaxed) {
        let due = start.elapsed().as_millis() as u64 * LOGINS_A_SECOND / 1_000;
        while (logins.len() as u64) < due {
            let (people, turn) = (Arc::clone(&people), logins.len() + round * 7);
            logins.push(tokio::spawn(async move {
                let (wire, user) = &people[turn % people.len()];
                wire.clone().sign_in(user, PASSWORD).await.is_ok()
            }));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut through = 0;
    for login in logins {
        through += usize::from(login.await.unwrap());
    }
    through
}
