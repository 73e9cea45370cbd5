//! What auditors ask for, a page of each.

use std::{fs::File, io, path::Path, time::Instant};

use bench_rows::{Rows, Target};
use custodian::ledger::{Ledger, RecordQuery};
use sha2::{Digest as _, Sha256};

use super::{
    below, forget, mixed,
    world::{self, ONE_CALLER, People, Scene, SlowYear},
};

/// Of each kind, with all of the file in the page cache, and with nothing of it there.
const WARM: u64 = 20;
const COLD: u64 = 3;

/// As many as the largest page has, and one to see whether there are more.
const PAGE: u32 = 1_001;

const SOON: Target = Target::AtMost(100.0);

type Ask = fn(u64, &SlowYear) -> RecordQuery;

const KINDS: [(&str, Ask); 13] = [
    ("the last page", |_, _| newest()),
    ("a user's last", |dice, _| RecordQuery { user: Some(user(dice)), ..newest() }),
    ("a device's last", |dice, _| RecordQuery { device: Some(device(dice)), ..newest() }),
    ("a key's last", |dice, _| RecordQuery { key: Some(key(dice)), ..newest() }),
    ("a busy user's last", |_, _| RecordQuery { user: Some(busy_user()), ..newest() }),
    ("a file's", |dice, _| {
        let file = Some(hex::encode(Sha256::digest(dice.to_be_bytes())));
        RecordQuery { wrapped_key_sha256: file, ..newest() }
    }),
    ("refused, the last", |_, _| RecordQuery { outcome: denied(), ..newest() }),
    ("one kind of refusal", |_, _| RecordQuery { outcome: Some("USER_DISABLED".into()), ..newest() }),
    ("refused to a busy user in the last tenth", |_, year| RecordQuery {
        user: Some(busy_user()),
        outcome: denied(),
        start: Some(year.at(0.9)),
        ..newest()
    }),
    ("a user's logins", |dice, _| RecordQuery {
        user: Some(user(dice)),
        operation: Some("Login".into()),
        ..newest()
    }),
    ("a span of a ten-thousandth", |dice, year| {
        let begins = f64::from(below(dice, 9_999)) / 10_000.0;
        RecordQuery { start: Some(year.at(begins)), end: Some(year.at(begins + 0.0001)), ..oldest() }
    }),
    ("since the middle, the oldest", |_, year| RecordQuery { start: Some(year.at(0.5)), ..oldest() }),
    ("what a busy device opened, a page", |dice, year| RecordQuery {
        device: Some(format!("devices/{}", world::device(0))),
        operation: Some("Unwrap".into()),
        outcome: Some("OK".into()),
        start: Some(year.at(0.1)),
        beyond: Some(dice / 2),
        ..oldest()
    }),
];

/// Asks, and prints the slowest answer to each.
pub(crate) async fn run(path: &Path, records: u64, clock: &SlowYear, rows: &mut Rows) {
    io::copy(&mut File::open(path).unwrap(), &mut io::sink()).unwrap();
    let scene = Scene::open(path, ONE_CALLER, clock).await;
    for (name, ask) in KINDS {
        let mut slowest = 0.0_f64;
        let mut found = 0;
        for number in 0..WARM {
            let (took, page) = answer(&scene, ask(mixed(number) % records, clock)).await;
            slowest = slowest.max(took);
            found = found.max(page);
        }
        assert!(found > 0, "{name}: finds nothing");
        rows.add(
            format!("audit, {records} records: {name} ({found}), slowest of {WARM}"),
            slowest,
            "ms",
            SOON,
        );
    }
    drop(scene);
    for (name, ask) in KINDS {
        let mut slowest = 0.0_f64;
        for number in 0..COLD {
            forget(path);
            // With empty caches of its own, too.
            let scene = Scene::open(path, ONE_CALLER, clock).await;
            slowest = slowest.max(answer(&scene, ask(mixed(number + 1_000) % records, clock)).await.0);
        }
        rows.add(format!("audit, {records} records: {name}, from the disk"), slowest, "ms", Target::None);
    }
}

/// What it took, ms, and how many were found.
async fn answer(scene: &Scene, query: RecordQuery) -> (f64, usize) {
    let begun = Instant::now();
    let page = scene.ledger.records(query).await.unwrap();
    (begun.elapsed().as_secs_f64() * 1e3, page.len())
}

fn newest() -> RecordQuery {
    RecordQuery { newest_first: true, ..oldest() }
}

fn oldest() -> RecordQuery {
    RecordQuery { limit: PAGE, ..RecordQuery::default() }
}

fn denied() -> Option<String> {
    Some("!OK".to_owned())
}

fn user(dice: u64) -> String {
    format!("users/{}", world::user(below(dice, People::MANY.users)))
}

fn busy_user() -> String {
    format!("users/{}", world::user(0))
}

fn device(dice: u64) -> String {
    format!("devices/{}", world::device(below(dice, People::MANY.devices)))
}

fn key(dice: u64) -> String {
    world::key(below(dice, People::MANY.keys)).resource_name()
}
