//! The supervisor over a real token.

mod bad_keys;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use custodian_proto::key::{KeyWrapping, WrappedKey};
use rustix::{
    fs::FlockOperation,
    process::{Pid, Signal, WaitId, WaitIdOptions},
};
use tempfile::TempDir;

use super::{
    Health, KeyKind, PinSource, StartError, Supervisor, Token, TokenConfig, TokenError, TokenKey,
    TokenSelect, WorkerCommand,
    contract::{self, FILE_KEY, RSA, encrypt, soon, template, unwrap, wrapped},
    supervisor::State,
    worker,
};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "1234";

/// Tells this test program to make bad keys.
const MAKE_BAD_KEYS: &str = "CUSTODIAN_TEST_BAD_KEYS";

/// Tells this test program to be a custodian, with the token in this directory.
const BE_CUSTODIAN: &str = "CUSTODIAN_TEST_CUSTODIAN";

/// What that custodian prints before the process id of its worker.
const WORKER_PID: &str = "the worker is ";

/// Tells this test program to be a worker.
const BE_WORKER: &str = "CUSTODIAN_TEST_WORKER";

/// Not a test: the program that the supervisor under test starts. A unit test has no other binary than itself.
#[test]
fn worker_process() {
    if env::var_os(BE_WORKER).is_some() {
        // The code is of no interest here; ending at once keeps the test harness out of it.
        let _ = worker::main();
        process::exit(0);
    }
}

/// A token of its own for each test.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let path = bench.dir.path();
        fs::create_dir(path.join("tokens")).unwrap();
        let conf = format!("directories.tokendir = {}\nlog.level = ERROR\n", path.join("tokens").display());
        fs::write(path.join("softhsm2.conf"), conf).unwrap();
        bench.write_pin(PIN);
        bench.make_token("bench");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_pin(&self, pin: &str) {
        let path = self.path("pin");
        fs::write(&path, format!("{pin}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Runs `make_bad_keys` in a process of its own: the module must not be loaded into this one.
    fn make_bad_keys(&self) {
        let args = ["--exact", "token::tests::bad_keys_process", "--nocapture"];
        let status = Command::new(env::current_exe().unwrap())
            .args(args)
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env(MAKE_BAD_KEYS, "1")
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// The files of the private keys: whoever locks them makes every use of those keys hang.
    fn object_files(&self) -> Vec<fs::File> {
        let mut files = Vec::new();
        for token in fs::read_dir(self.path("tokens")).unwrap() {
            for entry in fs::read_dir(token.unwrap().path()).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "object") {
                    files.push(fs::File::options().read(true).write(true).open(path).unwrap());
                }
            }
        }
        assert!(!files.is_empty());
        files
    }

    fn make_token(&self, label: &str) {
        let output = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--so-pin", "87654321", "--pin", PIN])
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let conf = self.path("softhsm2.conf").display().to_string();
        BTreeMap::from([("SOFTHSM2_CONF".to_owned(), conf), (BE_WORKER.to_owned(), "1".to_owned())])
    }

    fn config(&self) -> TokenConfig {
        TokenConfig {
            module: Path::new(MODULE).to_owned(),
            select: TokenSelect::Label("bench".to_owned()),
            pin: PinSource::File(self.path("pin")),
            environment: self.environment(),
            threads: Some(2),
            queue: 64,
        }
    }

    /// A worker that leaves a line in `starts` each time it is started.
    fn counted(&self) -> WorkerCommand {
        let worker = command();
        let script = format!("echo >> {}; exec \"$0\" \"$@\"", self.path("starts").display());
        let mut args = vec!["-c".into(), script.into(), worker.program.into_os_string()];
        args.extend(worker.args);
        WorkerCommand { program: "/bin/sh".into(), args }
    }

    fn starts(&self) -> usize {
        fs::read_to_string(self.path("starts")).unwrap_or_default().lines().count()
    }

    /// Why it does not start.
    async fn refusal(&self, config: TokenConfig) -> StartError {
        let error = Supervisor::start(self.counted(), config).await.err().expect("a refusal to start");
        assert_eq!(self.starts(), 1, "tried once: {error}");
        fs::remove_file(self.path("starts")).unwrap();
        error
    }

    async fn start(&self) -> Supervisor {
        Supervisor::start(command(), self.config()).await.unwrap()
    }
}

fn command() -> WorkerCommand {
    let args = ["--exact", "token::tests::worker_process", "--nocapture"];
    WorkerCommand { program: env::current_exe().unwrap(), args: args.map(Into::into).to_vec() }
}

async fn rsa_key(token: &Supervisor) -> TokenKey {
    token.generate(template("wrapping", RSA), soon()).await.unwrap()
}

fn good(key: &TokenKey) -> WrappedKey {
    wrapped(key, encrypt(key, &FILE_KEY))
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

/// Whether a process exists. A worker may not be looked into, but its directory in /proc is there.
fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[tokio::test]
async fn the_supervisor_keeps_the_contract() {
    let bench = Bench::new();
    let token = bench.start().await;
    let pid = token.worker_pid();
    contract::holds(&token).await;
    assert_eq!(token.worker_pid(), pid, "no bad ciphertext may cost a worker");
    assert_eq!(token.health(), Health::default());
    token.shutdown().await;
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
        let mut state = token.state.clone();
        let new = state.wait_for(|state| matches!(state, State::Serving { pid: new, .. } if *new != pid));
        drop(new.await.unwrap());
        assert_eq!(token.health(), Health { restarts, trouble: None });
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
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(300);
    assert!(matches!(unwrap(&token, &good(&key), deadline).await, Err(TokenError::Unavailable(_))));
    assert!(begun.elapsed() < Duration::from_secs(2), "answered {:?} after the start", begun.elapsed());

    let mut state = token.state.clone();
    drop(
        state
            .wait_for(|state| !matches!(state, State::Serving { pid: same, .. } if *same == pid))
            .await
            .unwrap(),
    );
    drop(locks);
    assert_eq!(unwrap(&token, &good(&key), soon()).await, Ok(FILE_KEY));
    assert!(!exists(pid), "what hangs is killed");
    assert!(token.health().restarts >= 1);
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
    let deadline = Instant::now() + Duration::from_millis(100);
    assert!(matches!(unwrap(&token, &good(&key), deadline).await, Err(TokenError::Unavailable(_))));
    let mut state = token.state.clone();
    drop(
        state
            .wait_for(|state| matches!(state, State::Serving { pid: new, .. } if *new != pid))
            .await
            .unwrap(),
    );
    assert_eq!(unwrap(&token, &good(&key), soon()).await, Ok(FILE_KEY));
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
    let mut state = token.state.clone();
    drop(state.wait_for(|state| matches!(state, State::Down { .. })).await.unwrap());
    let trouble = token.health().trouble.unwrap();
    assert!(trouble.contains("no token with label \"bench\""), "{trouble}");
    let begun = Instant::now();
    assert!(unwrap(&token, &good(&key), soon()).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(5), "fails at once while it is down");

    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    drop(state.wait_for(|state| matches!(state, State::Serving { .. })).await.unwrap());
    assert_eq!(unwrap(&token, &good(&key), soon()).await, Ok(FILE_KEY));
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_never_again() {
    let bench = Bench::new();
    bench.write_pin("9999");
    let error = bench.refusal(bench.config()).await;
    assert!(matches!(error, StartError::Pin(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("refuses the PIN as wrong") && text.contains("Fewer tries are left"), "{text}");
    assert!(!text.contains("9999"), "{text}");
}

#[tokio::test]
async fn a_pin_that_becomes_wrong_stops_the_supervisor() {
    let bench = Bench::new();
    let token = Supervisor::start(bench.counted(), bench.config()).await.unwrap();
    let key = rsa_key(&token).await;
    bench.write_pin("9999");
    kill(token.worker_pid().unwrap());
    let mut state = token.state.clone();
    drop(state.wait_for(|state| matches!(state, State::Down { .. })).await.unwrap());
    for _ in 0..3 {
        let Err(TokenError::Unavailable(why)) = unwrap(&token, &good(&key), soon()).await else {
            panic!("a token without login")
        };
        assert!(why.contains("refuses the PIN"), "{why}");
    }
    assert!(token.health().trouble.unwrap().contains("refuses the PIN"));
    // Longer than the first pauses between starts.
    let more = tokio::time::timeout(Duration::from_secs(1), state.changed()).await;
    assert!(more.is_err(), "nothing may happen any more");
    assert_eq!(bench.starts(), 2);
    token.shutdown().await;
}

#[tokio::test]
async fn errors_of_configuration_say_what_to_do() {
    let bench = Bench::new();
    let config = || bench.config();
    let label = |label: &str| TokenSelect::Label(label.to_owned());
    let not_pkcs11 = bench.path("softhsm2.conf");
    let mut no_conf = bench.environment();
    no_conf.insert("SOFTHSM2_CONF".to_owned(), "/nonexistent/softhsm2.conf".to_owned());

    let cases = [
        (TokenConfig { module: "libsofthsm2.so".into(), ..config() }, "not an absolute path"),
        (
            TokenConfig { module: "/nonexistent/module.so".into(), ..config() },
            "cannot find the PKCS#11 module",
        ),
        (TokenConfig { module: not_pkcs11, ..config() }, "is no PKCS#11 module"),
        (TokenConfig { environment: no_conf, ..config() }, "does not initialise"),
        (TokenConfig { select: label("other"), ..config() }, "Tokens there: \"bench\" (serial "),
        (
            TokenConfig { select: TokenSelect::Serial("0".to_owned()), ..config() },
            "no token with serial \"0\"",
        ),
        (TokenConfig { pin: PinSource::File(bench.path("missing")), ..config() }, "cannot read the PIN file"),
        (TokenConfig { pin: PinSource::Credential("pin".to_owned()), ..config() }, "no systemd credential"),
        (TokenConfig { pin: PinSource::Credential("../pin".to_owned()), ..config() }, "no name of a systemd"),
    ];
    for (config, part) in cases {
        let error = bench.refusal(config).await;
        assert!(matches!(error, StartError::Token(_)), "{error:?}");
        assert!(error.to_string().contains(part), "{part:?} in {error}");
    }

    bench.write_pin("");
    assert!(bench.refusal(config()).await.to_string().contains("does not hold a PIN"));
    bench.write_pin(PIN);
    fs::set_permissions(bench.path("pin"), fs::Permissions::from_mode(0o604)).unwrap();
    assert!(bench.refusal(config()).await.to_string().contains("others can get at it"));
    bench.write_pin(PIN);

    bench.make_token("bench");
    let error = bench.refusal(config()).await.to_string();
    assert!(error.contains("more than one token has label") && error.contains("Choose by serial"), "{error}");
}

#[tokio::test]
async fn the_pin_may_be_a_systemd_credential_and_the_token_chosen_by_serial() {
    let bench = Bench::new();
    let config = TokenConfig { select: TokenSelect::Label("nobody".to_owned()), ..bench.config() };
    let error = bench.refusal(config).await.to_string();
    let serial = error.split("(serial ").nth(1).unwrap().split(')').next().unwrap().to_owned();
    let mut environment = bench.environment();
    environment.insert("CREDENTIALS_DIRECTORY".to_owned(), bench.dir.path().display().to_string());
    let config = TokenConfig {
        select: TokenSelect::Serial(serial),
        pin: PinSource::Credential("pin".to_owned()),
        environment,
        ..bench.config()
    };
    let token = Supervisor::start(command(), config).await.unwrap();
    assert_eq!(token.survey(soon()).await.unwrap().label, "bench");
}

#[tokio::test]
async fn a_worker_that_is_none_is_an_error_and_not_a_loop() {
    let bench = Bench::new();
    for program in ["/bin/true", "/nonexistent/custodian"] {
        let command = WorkerCommand { program: program.into(), args: Vec::new() };
        let error = Supervisor::start(command, bench.config()).await.err().unwrap();
        assert!(matches!(error, StartError::Worker(_)), "{error:?}");
    }
}

#[tokio::test]
async fn law_7_keys_that_are_not_what_they_claim_are_not_served() {
    let bench = Bench::new();
    bench.make_bad_keys();
    let token = bench.start().await;
    let key = rsa_key(&token).await;
    let survey = token.survey(soon()).await.unwrap();
    assert_eq!(survey.keys, [key]);
    let reasons = [
        ("extractable", "CKA_EXTRACTABLE is true"),
        ("imported", "CKA_ALWAYS_SENSITIVE is false"),
        ("two purposes", "CKA_SIGN is true"),
        ("unpinned", "CKA_ALLOWED_MECHANISMS"),
        ("too small", "of 2048, 3072 or 4096 bits"),
    ];
    assert_eq!(survey.unserved.len(), reasons.len(), "{:#?}", survey.unserved);
    for (label, reason) in reasons {
        let found =
            survey.unserved.iter().any(|one| one.contains(&format!("{label:?}")) && one.contains(reason));
        assert!(found, "{label:?} with {reason:?} in {:#?}", survey.unserved);
    }
}

#[tokio::test]
async fn keys_survive_the_worker_and_keep_their_ids() {
    let bench = Bench::new();
    let token = bench.start().await;
    let mut made = Vec::new();
    for modulus_bits in [2048, 3072] {
        made.push(
            token.generate(template("rsa", KeyKind::RsaUnwrap { modulus_bits }), soon()).await.unwrap(),
        );
    }
    made.push(token.generate(template("sign", KeyKind::EcdsaP256Sign), soon()).await.unwrap());
    token.shutdown().await;
    let token = bench.start().await;
    let survey = token.survey(soon()).await.unwrap();
    assert_eq!(survey.keys.len(), made.len());
    assert!(made.iter().all(|key| survey.keys.contains(key)));
    assert!(survey.unserved.is_empty(), "{:?}", survey.unserved);
    // SoftHSM 2.6 knows OAEP with SHA-1 only; later ones know all.
    assert!([KeyWrapping::OaepSha1, KeyWrapping::OaepSha512].contains(&survey.wrapping));
    assert!(survey.model.contains("SoftHSM"), "{}", survey.model);
}

/// Not a test: makes keys that must not be served, in a process of its own.
#[test]
fn bad_keys_process() {
    if env::var_os(MAKE_BAD_KEYS).is_some() {
        bad_keys::make();
    }
}

#[test]
fn no_worker_outlives_a_custodian_that_was_killed() {
    let bench = Bench::new();
    let mut custodian = Command::new(env::current_exe().unwrap())
        .args(["--exact", "token::tests::custodian_process", "--nocapture"])
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
    let config = TokenConfig { pin: PinSource::File(dir.join("pin")), environment, ..bench.config() };
    let token = Supervisor::start(command(), config).await.unwrap();
    println!("{WORKER_PID}{}", token.worker_pid().unwrap());
    std::future::pending().await
}
