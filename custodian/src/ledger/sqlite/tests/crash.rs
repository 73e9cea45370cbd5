//! kill -9 in the middle of load.

use std::{
    collections::HashSet,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use super::*;
use crate::ledger::{OUTCOME_UNKNOWN, OpenError, contract::log::tree_of_the_records};

const CHILD: &str = "CUSTODIAN_TEST_CRASH";

#[test]
fn nothing_that_was_answered_is_lost_by_kill_9_and_nothing_that_began_goes_unrecorded() {
    if let Some(path) = env::var_os(CHILD) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(load(path.as_ref()));
    }
    let place = Place::new();
    for round in 1..=3 {
        let test = std::thread::current().name().unwrap().to_owned();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", &test, "--nocapture"])
            .env(CHILD, place.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut said: Vec<String> = lines.by_ref().take(500 * round).collect();
        let error = SqliteLedger::open(&place.path(), world::options()).err().unwrap();
        assert!(
            matches!(&error, OpenError::InUse { holder } if holder.contains(&child.id().to_string())),
            "{error}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        said.extend(lines);
        check(&place, &said);
    }
}

/// Says what it knows to be durable: `OK ID` of answered attempts, `BEGUN ID` of those it never settles.
async fn load(path: &Path) {
    let ledger = Arc::new(SqliteLedger::open(path, world::options()).unwrap());
    let tasks = (0..16).map(|_| {
        let ledger = Arc::clone(&ledger);
        tokio::spawn(async move {
            let mut unsettled = Vec::new();
            for number in 0.. {
                let left = (number % 10 == 0).then(|| ledger.begin(world::intent("Unwrap")));
                let attempt = ledger.begin(world::intent("Unwrap"));
                let id = attempt.request_id();
                let grant = Grant { standing: Standing::default(), change: None };
                ledger.settle(attempt, Outcome::Granted(grant)).await.unwrap();
                let mut text = format!("OK {id}\n");
                // It was queued ahead of what is durable now.
                if let Some(left) = left {
                    text.push_str(&format!("BEGUN {}\n", left.request_id()));
                    unsettled.push(left);
                }
                std::io::stdout().lock().write_all(text.as_bytes()).unwrap();
            }
        })
    });
    futures(tasks.collect()).await;
}

fn check(place: &Place, said: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ledger = Arc::new(place.open());
    let head = runtime.block_on(tree_of_the_records(&*ledger));
    let records = runtime.block_on(World::empty(ledger).all_records());
    assert_eq!(head.size, records.len() as u64, "every record is in the tree");
    let last = records.len() as u64;
    assert!(records.iter().map(|record| record.sequence).eq(1..=last), "gaps");
    let with = |outcome: &str| -> HashSet<&str> {
        let records = records.iter().filter(|record| record.outcome == outcome);
        records.map(|record| record.request_id.as_str()).collect()
    };
    let (allowed, unknown) = (with(OK), with(OUTCOME_UNKNOWN));
    assert_eq!(allowed.len() + unknown.len(), records.len());
    let whole = said.iter().filter(|line| line.len() >= "OK ".len() + 36);
    let (mut answered, mut begun) = (0, 0);
    for line in whole {
        if let Some(id) = line.strip_prefix("OK ") {
            assert!(allowed.contains(id), "{id} was answered, but is not in the log");
            answered += 1;
        } else if let Some(id) = line.strip_prefix("BEGUN ") {
            assert!(unknown.contains(id), "{id} began, but the log does not know");
            begun += 1;
        }
    }
    assert!(answered > 400 && begun > 40, "{answered} answered, {begun} begun");
}
