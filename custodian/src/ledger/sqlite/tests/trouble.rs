//! When the disk, or somebody else on it, does not do what we want: no record, no key (law 1); and going on afterwards.

use std::{
    collections::HashSet,
    env,
    process::Command,
    time::{Duration, Instant},
};

use custodian_proto::refusal::fault::LEDGER_UNAVAILABLE;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const CHILD: &str = "CUSTODIAN_TEST_FULL_DISK";

fn impatient(queue: usize) -> LedgerOptions {
    LedgerOptions { deadline: Duration::from_millis(300), queue, ..world::options() }
}

#[tokio::test]
async fn a_commit_that_hangs_makes_nobody_wait_beyond_the_deadline() {
    let place = Place::new();
    let ledger = SqliteLedger::open(&place.path(), impatient(100)).unwrap();
    settle(&ledger).await.unwrap();
    let other = other_program(&place.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = Instant::now();
    let denials = tokio::join!(settle(&ledger), settle(&ledger), settle(&ledger));
    for denied in [denials.0, denials.1, denials.2] {
        assert_eq!(denied.err().unwrap().code(), LEDGER_UNAVAILABLE);
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    // Reading goes on.
    assert!(ledger.user(&world::user_id("anna")).await.unwrap().is_none());

    other.execute_batch("ROLLBACK").unwrap();
    world::announced(&ledger, 4).await;
    while settle(&ledger).await.is_err() {}
    let records = World::empty(Arc::new(ledger)).all_records().await;
    let outcomes: Vec<_> = records.iter().take(4).map(|record| record.outcome.as_str()).collect();
    let denied = LEDGER_UNAVAILABLE;
    assert_eq!(outcomes, [OK, denied, denied, denied], "an unanswered attempt must not read OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_found_the_queue_full_is_settled_when_there_is_room() {
    let place = Place::new();
    let options = LedgerOptions { queue: 4, ..world::options() };
    let ledger = Arc::new(SqliteLedger::open(&place.path(), options).unwrap());
    let other = other_program(&place.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let attempts: Vec<_> = (0..40).map(|_| ledger.begin(world::intent("Unwrap"))).collect();
    let tasks = attempts.into_iter().map(|attempt| {
        let ledger = Arc::clone(&ledger);
        let grant = Grant { standing: Standing::default(), change: None };
        tokio::spawn(async move { ledger.settle(attempt, Outcome::Granted(grant)).await.is_ok() })
    });
    let tasks = tasks.collect();
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(futures(tasks).await, [true; 40]);
    assert_eq!(World::empty(ledger).all_records().await.len(), 40);
}

#[tokio::test]
async fn a_queue_that_stays_full_denies_by_the_deadline() {
    let place = Place::new();
    let ledger = SqliteLedger::open(&place.path(), impatient(2)).unwrap();
    let other = other_program(&place.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let attempts: Vec<_> = (0..10).map(|_| ledger.begin(world::intent("Unwrap"))).collect();
    let mut denied = HashSet::new();
    for attempt in attempts {
        denied.insert(attempt.request_id().to_string());
        let grant = Grant { standing: Standing::default(), change: None };
        let denial = ledger.settle(attempt, Outcome::Granted(grant)).await.err().unwrap();
        assert_eq!(denial.code(), LEDGER_UNAVAILABLE);
    }
    other.execute_batch("ROLLBACK").unwrap();
    while settle(&ledger).await.is_err() {}
    let records = World::empty(Arc::new(ledger)).all_records().await;
    let allowed = records.iter().filter(|record| record.outcome == OK);
    assert!(allowed.clone().count() > 0);
    assert!(allowed.into_iter().all(|record| !denied.contains(&record.request_id)));
}

/// A file-size limit of a child process stands for the full disk.
#[test]
fn a_full_disk_releases_nothing_and_is_forgotten_once_there_is_room() {
    if env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(fill_the_disk());
    }
    let test = std::thread::current().name().unwrap().to_owned();
    // The signal's default is to kill, and only a parent can have it ignored without unsafe code.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let output = [child.stdout, child.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(child.status.success() && output[0].contains("there was room again"), "{}", output.join("\n"));
}

async fn fill_the_disk() {
    let place = Place::new();
    let ledger = place.open();
    let (mut allowed, mut denied) = (Vec::new(), Vec::new());
    let attempt = async |allowed: &mut Vec<String>, denied: &mut Vec<String>| {
        let attempt = ledger.begin(world::intent("Unwrap"));
        let id = attempt.request_id().to_string();
        let grant = Grant { standing: Standing::default(), change: None };
        match ledger.settle(attempt, Outcome::Granted(grant)).await {
            Ok(_) => allowed.push(id),
            Err(denial) => {
                assert_eq!(denial.code(), LEDGER_UNAVAILABLE);
                denied.push(id);
            }
        }
    };
    for _ in 0..10 {
        attempt(&mut allowed, &mut denied).await;
    }
    assert!(denied.is_empty());

    let all = getrlimit(Resource::Fsize);
    let used = std::fs::metadata(place.path().with_extension("db-wal")).unwrap().len();
    setrlimit(Resource::Fsize, Rlimit { current: Some(used + 3_000), ..all }).unwrap();
    for _ in 0..10 {
        attempt(&mut allowed, &mut denied).await;
    }
    assert_eq!((allowed.len(), denied.len()), (10, 10), "no record, no key");
    setrlimit(Resource::Fsize, all).unwrap();
    for _ in 0..10 {
        attempt(&mut allowed, &mut denied).await;
    }
    assert_eq!((allowed.len(), denied.len()), (20, 10));

    world::announced(&ledger, 30).await;
    let records = World::empty(Arc::new(ledger)).all_records().await;
    assert!(records.iter().map(|record| record.sequence).eq(1..=30));
    let with = |outcome: &str| -> Vec<String> {
        let records = records.iter().filter(|record| record.outcome == outcome);
        records.map(|record| record.request_id.clone()).collect()
    };
    assert_eq!(with(OK), allowed);
    assert_eq!(with(LEDGER_UNAVAILABLE), denied);
    println!("there was room again");
}
