//! Whatever happens to the worker, the supervisor answers by the deadline and the next request succeeds.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fs::FlockOperation,
    process::{Pid, Signal, WaitId, WaitIdOptions},
};

use super::{Bench, command, good, kill, rsa_key, until};
use crate::token::{
    CageConfig, PinSource, Supervisor, Token, TokenConfig, TokenError,
    contract::{FILE_KEY, RSA, soon, template, unwrap},
    supervisor::State,
};

/// Tells this test program to be a custodian, with the token in this directory.
const BE_CUSTODIAN: &str = "CUSTODIAN_TEST_CUSTODIAN";

/// What that custodian prints before the process id of its worker.
const WORKER_PID: &str = "the worker is ";

fn serves_other_than(state: &State, pid: u32) -> bool {
    matches!(state, State::Serving { pid: other, .. } if *other != pid)
}

/// Whether a process exists. A worker may not be looked into, but its directory in /proc is there.
fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[tokio::test]
async fn shutdown_and_drop_end_the_worker() {
    let bench = Bench::new();
    let token = bench.start().await;
    let pid = token.worker_pid().unwrap();
    assert!(exists(pid));
    token.shutdown().await;
    assert!(!exists(pid));
    assert_eq!(token.worker_pid(), None);
    assert!(matches!(token.survey(soon()).await, Err(TokenError::Unavailable(_))));

    let token = bench.start().await;
    let (pid, mut state) = (token.worker_pid().unwrap(), token.state.clone());
    drop(token);
    while state.changed().await.is_ok() {}
    assert!(!exists(pid));
}

#[tokio::test]
async fn law_6_a_killed_worker_is_replaced_and_the_next_request_succeeds() {
    let bench = Bench::new();
    let token = bench.start().await;
    let key = rsa_key(&token).await;
    for restarts in 1..=3 {
        let pid = token.worker_pid().unwrap();
        kill(pid);
        assert_eq!(unwrap(&token, &good(&key), soon()).await, Ok(FILE_KEY));
        // The request may have been answered by a worker that was just dying.
        until(&token, |state| serves_other_than(state, pid)).await;
        let health = token.health();
        assert_eq!((health.restarts, health.trouble), (restarts, None));
        assert_eq!(unwrap(&token, &good(&key), soon()).await, Ok(FILE_KEY));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn law_6_kills_in_the_middle_of_load_lose_nothing() {
    let bench = Bench::new();
    let token = Arc::new(bench.start().await);
    let key = rsa_key(&token).await;
    let work = (0..8).map(|_| {
        let (token, wrapped) = (Arc::clone(&token), good(&key));
        tokio::spawn(async move {
            let mut lost = 0;
            for _ in 0..100 {
                match unwrap(&*token, &wrapped, soon()).await {
                    Ok(file_key) => assert_eq!(file_key, FILE_KEY),
                    // The same operation was under way in two workers that were killed.
                    Err(TokenError::Unavailable(_)) => lost += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            lost
        })
    });
    let work: Vec<_> = work.collect();
    let pid = token.worker_pid().unwrap();
    kill(pid);
    let mut lost = 0;
    for task in work {
        lost += task.await.unwrap();
    }
    assert_eq!(lost, 0, "each was retried once");
    assert_ne!(token.worker_pid().unwrap(), pid);
}

#[tokio::test]
async fn a_hang_in_the_module_ends_with_the_deadline_and_the_token_recovers() {
    let bench = Bench::new();
    let token = bench.start().await;
    let key = rsa_key(&token).await;
    let pid = token.worker_pid().unwrap();

    let locks = bench.object_files();
    for file in &locks {
        rustix::fs::fcntl_lock(file, FlockOperation::LockExclusive).unwrap();
    }
    // Before the clock runs: the first encryption in a process may take longer than the deadline.
    let wrapped = good(&key);
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(300);
    assert!(matches!(unwrap(&token, &wrapped, deadline).await, Err(TokenError::Unavailable(_))));
    assert!(begun.elapsed() < Duration::from_secs(2), "answered {:?} after the start", begun.elapsed());

    until(&token, |state| !matches!(state, State::Serving { pid: same, .. } if *same == pid)).await;
    drop(locks);
    assert_eq!(unwrap(&token, &good(&key), soon()).await, Ok(FILE_KEY));
    assert!(!exists(pid), "what hangs is killed");
    assert!(token.health().restarts >= 1);
}

#[tokio::test]
async fn a_worker_that_stops_answering_is_replaced() {
    let bench = Bench::new();
    let token = bench.start().await;
    let key = rsa_key(&token).await;
    let pid = token.worker_pid().unwrap();
    let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(process, Signal::STOP).unwrap();
    // Its threads stop one after the other.
    let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::Pid(process), stopped).unwrap();
    let wrapped = good(&key);
    let deadline = Instant::now() + Duration::from_millis(300);
    assert!(matches!(unwrap(&token, &wrapped, deadline).await, Err(TokenError::Unavailable(_))));
    until(&token, |state| serves_other_than(state, pid)).await;
    assert_eq!(unwrap(&token, &good(&key), soon()).await, Ok(FILE_KEY));
}

#[tokio::test]
async fn a_full_queue_is_busy_at_once() {
    let bench = Bench::new();
    let config = TokenConfig { threads: Some(1), queue: 1, ..bench.config() };
    let token = Arc::new(Supervisor::start(command(), config).await.unwrap());
    let key = rsa_key(&token).await;
    let locks = bench.object_files();
    for file in &locks {
        rustix::fs::fcntl_lock(file, FlockOperation::LockExclusive).unwrap();
    }
    // One is stuck in the module and one waits: three more find no room.
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (token, wrapped) = (Arc::clone(&token), good(&key));
        asked.spawn(async move { unwrap(&*token, &wrapped, soon()).await });
    }
    for _ in 0..3 {
        assert_eq!(asked.join_next().await.unwrap().unwrap(), Err(TokenError::Busy));
    }
    drop(locks);
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap(), Ok(FILE_KEY));
    }
}

#[tokio::test]
async fn a_token_that_went_away_comes_back() {
    let bench = Bench::new();
    let token = bench.start().await;
    let key = rsa_key(&token).await;
    let (here, away) = (bench.path("tokens"), bench.path("away"));
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    // The module says that it finds no keys: that must not pass for an answer.
    let missing = token.survey(soon()).await;
    assert!(matches!(missing, Err(TokenError::Unavailable(_))), "{missing:?}");
    until(&token, |state| matches!(state, State::Down { .. })).await;
    let trouble = token.health().trouble.unwrap();
    assert!(trouble.contains("no token with label \"bench\""), "{trouble}");
    let begun = Instant::now();
    assert!(unwrap(&token, &good(&key), soon()).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(5), "fails at once while it is down");

    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    until(&token, |state| matches!(state, State::Serving { .. })).await;
    assert_eq!(unwrap(&token, &good(&key), soon()).await, Ok(FILE_KEY));
}

#[tokio::test]
async fn a_worker_that_comes_back_without_its_keys_does_not_serve_until_it_has_them_again() {
    let bench = Bench::new();
    let old = bench.start().await;
    let known_at_start = rsa_key(&old).await;
    old.shutdown().await;
    let token = bench.start().await;
    let made_since = token.generate(template("made since", RSA), soon()).await.unwrap();

    let hidden = bench.hide_keys();
    kill(token.worker_pid().unwrap());
    until(&token, |state| matches!(state, State::Down { .. })).await;
    let trouble = token.health().trouble.unwrap();
    for key in [&known_at_start, &made_since] {
        let name = format!("{:?} ({})", key.label, key.id);
        assert!(trouble.contains(&name), "{name} is not in: {trouble}");
        let unwrapped = unwrap(&token, &good(key), soon()).await;
        assert_eq!(unwrapped, Err(TokenError::Unavailable(trouble.clone())), "fails at once, and says why");
    }

    hidden.bring_back();
    until(&token, |state| matches!(state, State::Serving { .. })).await;
    for key in [&known_at_start, &made_since] {
        assert_eq!(unwrap(&token, &good(key), soon()).await, Ok(FILE_KEY));
    }
}

#[test]
fn no_worker_outlives_a_custodian_that_was_killed() {
    let bench = Bench::new();
    let mut custodian = Command::new(env::current_exe().unwrap())
        .args(["--exact", "token::tests::faults::custodian_process", "--nocapture"])
        .env(BE_CUSTODIAN, bench.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(custodian.stdout.take().unwrap());
    let line = output.lines().map(Result::unwrap).find(|line| line.contains(WORKER_PID)).unwrap();
    let worker = line.split(WORKER_PID).nth(1).unwrap().parse().unwrap();
    assert!(exists(worker));
    custodian.kill().unwrap();
    custodian.wait().unwrap();
    // The worker has inherited the other end of standard error: this returns when it, too, is gone.
    custodian.stderr.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
}

/// Not a test: a process that has a worker, to be killed.
#[tokio::test]
async fn custodian_process() {
    let Some(dir) = env::var_os(BE_CUSTODIAN) else { return };
    let dir = PathBuf::from(dir);
    // Inside the other's directory: a process that is killed cleans nothing up.
    let bench = Bench { dir: tempfile::tempdir_in(&dir).unwrap() };
    let conf = dir.join("softhsm2.conf").display().to_string();
    let mut environment = bench.environment();
    environment.insert("SOFTHSM2_CONF".to_owned(), conf);
    let config = TokenConfig {
        pin: PinSource::File(dir.join("pin")),
        environment,
        cage: CageConfig { write: vec![dir.join("tokens")], ..CageConfig::default() },
        ..bench.config()
    };
    let token = Supervisor::start(command(), config).await.unwrap();
    println!("{WORKER_PID}{}", token.worker_pid().unwrap());
    std::future::pending().await
}
