//! The supervisor over a real token.

mod bad_keys;
mod faults;
mod modules;
mod refusals;
mod wycheproof;

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::Arc,
    time::Duration,
};

use custodian_proto::key::{KeyWrapping, WrappedKey};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::{
    CageConfig, KeyKind, PinSource, StartError, Supervisor, Token, TokenConfig, TokenError, TokenKey,
    TokenSelect, WorkerCommand,
    contract::{self, FILE_KEY, RSA, encrypt, soon, template, unwrap, wrapped},
    supervisor::State,
    worker,
};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// Some modules take eight characters at least.
const PIN: &str = "correct horse";

/// Tells this test program to make bad keys with this module.
const MAKE_BAD_KEYS: &str = "CUSTODIAN_TEST_BAD_KEYS";

/// Tells it to copy the key of this id instead.
const COPY_KEY: &str = "CUSTODIAN_TEST_COPY_KEY";

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
        let bench = Self::empty();
        let path = bench.dir.path();
        fs::create_dir(path.join("tokens")).unwrap();
        let conf = format!("directories.tokendir = {}\nlog.level = ERROR\n", path.join("tokens").display());
        fs::write(path.join("softhsm2.conf"), conf).unwrap();
        bench.write_pin(PIN);
        bench.make_token("bench");
        bench
    }

    /// A folder without a token.
    fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_pin(&self, pin: &str) {
        let path = self.path("pin");
        fs::write(&path, format!("{pin}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Runs `bad_keys_process`: the module must not be loaded into this one.
    fn make_bad_keys(config: &TokenConfig) {
        Self::run_bad_keys(config, &BTreeMap::new());
    }

    /// Puts a second private key of the same public key into the token.
    fn copy_key(config: &TokenConfig, key: &TokenKey) {
        Self::run_bad_keys(config, &BTreeMap::from([(COPY_KEY, key.id.to_string())]));
    }

    fn run_bad_keys(config: &TokenConfig, how: &BTreeMap<&str, String>) {
        let args = ["--exact", "token::tests::bad_keys_process", "--nocapture"];
        let status = Command::new(env::current_exe().unwrap())
            .args(args)
            .envs(&config.environment)
            .env_remove(BE_WORKER)
            .env(MAKE_BAD_KEYS, &config.module)
            .envs(how)
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

    /// Takes the files of all keys away, not the token itself.
    fn hide_keys(&self) -> HiddenKeys {
        let mut moved = Vec::new();
        for token in fs::read_dir(self.path("tokens")).unwrap() {
            for entry in fs::read_dir(token.unwrap().path()).unwrap() {
                let here = entry.unwrap().path();
                let name = here.file_name().unwrap().to_str().unwrap();
                if name.ends_with(".object") && name != "token.object" {
                    let away = self.path(name);
                    fs::rename(&here, &away).unwrap();
                    moved.push((here, away));
                }
            }
        }
        assert!(!moved.is_empty());
        HiddenKeys(moved)
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
            cage: CageConfig { write: vec![self.path("tokens")], ..CageConfig::default() },
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

/// Files of keys: where they belong, and where they are.
struct HiddenKeys(Vec<(PathBuf, PathBuf)>);

impl HiddenKeys {
    fn bring_back(self) {
        for (here, away) in self.0 {
            fs::rename(away, here).unwrap();
        }
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

/// Waits for a state of the supervision.
async fn until(token: &Supervisor, reached: impl FnMut(&State) -> bool) {
    let mut state = token.state.clone();
    let reached = tokio::time::timeout(Duration::from_secs(20), state.wait_for(reached)).await;
    drop(reached.expect("the state within 20 s").unwrap());
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[tokio::test]
async fn the_supervisor_keeps_the_contract() {
    let bench = Bench::new();
    let token = bench.start().await;
    let pid = token.worker_pid();
    contract::holds(&token).await;
    assert_eq!(token.worker_pid(), pid, "no bad ciphertext may cost a worker");
    let health = token.health();
    assert_eq!((health.restarts, health.trouble), (0, None));
    token.shutdown().await;
}

#[tokio::test]
async fn law_7_keys_that_are_not_what_they_claim_are_not_served() {
    let bench = Bench::new();
    serves_no_bad_keys(bench.config()).await;
}

async fn serves_no_bad_keys(config: TokenConfig) {
    Bench::make_bad_keys(&config);
    let token = Supervisor::start(command(), config).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn bad_ciphertexts_at_any_rate_cost_neither_the_worker_nor_a_good_call() {
    let bench = Bench::new();
    let token = Arc::new(bench.start().await);
    let key = rsa_key(&token).await;
    let pid = token.worker_pid();
    let bad: Vec<_> =
        contract::bad_ciphertexts(&key).into_iter().map(|(_, bytes)| wrapped(&key, bytes)).collect();
    let bad = Arc::new(bad);
    let callers: Vec<_> = (0..8)
        .map(|number| {
            let (token, bad) = (Arc::clone(&token), Arc::clone(&bad));
            tokio::spawn(async move {
                for round in 0..400 {
                    let wrapped = &bad[(number + round) % bad.len()];
                    assert_eq!(unwrap(&*token, wrapped, soon()).await, Err(TokenError::Rejected));
                }
            })
        })
        .collect();
    let good = good(&key);
    for _ in 0..50 {
        assert_eq!(unwrap(&*token, &good, soon()).await, Ok(FILE_KEY));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!((token.worker_pid(), token.health().restarts), (pid, 0));
}

#[tokio::test]
async fn of_two_private_keys_with_one_public_key_none_is_served() {
    let bench = Bench::new();
    let token = bench.start().await;
    let (twin, other) = (rsa_key(&token).await, rsa_key(&token).await);
    Bench::copy_key(&bench.config(), &twin);
    // What is served already stays, and the double is named.
    let survey = token.survey(soon()).await.unwrap();
    assert_eq!(survey.keys.len(), 2);
    assert_eq!(unwrap(&token, &good(&twin), soon()).await, Ok(FILE_KEY));
    token.shutdown().await;

    let token = bench.start().await;
    let again = token.survey(soon()).await.unwrap();
    assert_eq!(again.keys, [other]);
    for survey in [survey, again] {
        let [why] = &survey.unserved[..] else { panic!("{:?}", survey.unserved) };
        let parts = [&twin.id.to_string(), "2 private keys", "\"twin\" with CKA_ID", "Delete all but one"];
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    }
}

/// Not a test: makes keys as other tools do, in a process of its own.
#[test]
fn bad_keys_process() {
    let Some(module) = env::var_os(MAKE_BAD_KEYS) else { return };
    match env::var(COPY_KEY) {
        Ok(id) => bad_keys::copy(Path::new(&module), &id),
        Err(_) => bad_keys::make(Path::new(&module)),
    }
}
