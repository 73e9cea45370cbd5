//! The same promises from other modules: Kryoptic, and whichever the environment names (docs/new-hsm.md).

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use custodian_proto::key::{KeyWrapping, WrappedKey};
use tokio::task::JoinSet;

use super::{BE_WORKER, Bench, PIN, command, good, kill, rsa_key, serves_no_bad_keys, until};
use crate::token::{
    CageConfig, InitToken, KeyKind, Network, PinSource, StartError, Supervisor, Token, TokenConfig,
    TokenError, TokenKey, TokenSelect,
    contract::{self, FILE_KEY, encrypt_as, soon, template, unwrap},
    supervisor::State,
};

/// As `deploy/kryoptic` builds it.
const KRYOPTIC: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../target/kryoptic/release/libkryoptic_pkcs11.so");

/// The number of its token's slot.
const SLOT: u64 = 3;

/// Wrong PINs until Kryoptic locks.
const TRIES: usize = 10;

/// Tells this test program to initialise the token in this folder.
const INIT_TOKEN: &str = "CUSTODIAN_TEST_INIT_TOKEN";

/// Another module to be tried, its token, and a file with the PIN. What else it needs, it finds in the environment.
const MODULE: &str = "CUSTODIAN_TEST_MODULE";
const TOKEN: &str = "CUSTODIAN_TEST_TOKEN";
const PIN_FILE: &str = "CUSTODIAN_TEST_PIN_FILE";

/// A token in Kryoptic, of its own for each test.
pub(super) struct Kryoptic {
    bench: Bench,
}

impl Kryoptic {
    pub(super) fn new() -> Self {
        assert!(Path::new(KRYOPTIC).exists(), "{KRYOPTIC} is missing: run deploy/kryoptic, which builds it");
        let bench = Bench::empty();
        let database = bench.path("token.sql");
        let conf = format!("[[slots]]\nslot = {SLOT}\ndbtype = \"sqlite\"\ndbargs = {database:?}\n");
        fs::write(bench.path("kryoptic.conf"), conf).unwrap();
        bench.write_pin(PIN);
        let kryoptic = Self { bench };
        // In a process of its own: the module must not be loaded into this one.
        let status = Command::new(env::current_exe().unwrap())
            .args(["--exact", "token::tests::modules::init_token_process", "--nocapture"])
            .envs(kryoptic.environment())
            .env_remove(BE_WORKER)
            .env(INIT_TOKEN, kryoptic.bench.dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        kryoptic
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let conf = self.bench.path("kryoptic.conf").display().to_string();
        BTreeMap::from([("KRYOPTIC_CONF".to_owned(), conf), (BE_WORKER.to_owned(), "1".to_owned())])
    }

    /// Where its objects are.
    pub(super) fn database(&self) -> PathBuf {
        self.bench.path("token.sql")
    }

    pub(super) fn config(&self) -> TokenConfig {
        // SQLite makes files beside the database.
        let cage = CageConfig { write: vec![self.bench.path("")], ..CageConfig::default() };
        TokenConfig { module: KRYOPTIC.into(), environment: self.environment(), cage, ..self.bench.config() }
    }

    pub(super) async fn start(&self) -> Supervisor {
        Supervisor::start(command(), self.config()).await.unwrap()
    }

    /// Starts with a wrong PIN: what the refusal says.
    async fn start_with_wrong_pin(&self) -> String {
        self.bench.write_pin("battery staple");
        let error = self.bench.refusal(self.config()).await;
        self.bench.write_pin(PIN);
        assert!(matches!(error, StartError::Pin(_)), "{error:?}");
        error.to_string()
    }
}

/// Not a test: initialises a token of Kryoptic, in a process of its own.
#[test]
fn init_token_process() {
    let Some(folder) = env::var_os(INIT_TOKEN).map(PathBuf::from) else { return };
    let pin_file = folder.join("pin");
    let request = InitToken {
        module: KRYOPTIC.into(),
        label: "bench".to_owned(),
        so_pin_file: pin_file.clone(),
        pin_file,
    };
    request.run().unwrap();
    process::exit(0);
}

/// The token that the environment names, or else one of Kryoptic. The test that uses it is never empty.
fn named() -> (TokenConfig, Option<Kryoptic>) {
    let Some(module) = env::var_os(MODULE) else {
        let kryoptic = Kryoptic::new();
        return (kryoptic.config(), Some(kryoptic));
    };
    let need = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{MODULE} is set, and {name} is not"));
    let config = TokenConfig {
        module: module.into(),
        select: TokenSelect::Label(need(TOKEN)),
        pin: PinSource::File(need(PIN_FILE).into()),
        environment: BTreeMap::from([(BE_WORKER.to_owned(), "1".to_owned())]),
        threads: None,
        queue: 64,
        // What the module needs, nobody knows yet.
        cage: CageConfig { write: vec!["/".into()], network: Network::Any, ..CageConfig::default() },
    };
    (config, None)
}

#[tokio::test]
async fn the_module_named_by_the_environment_keeps_the_contract() {
    let (config, kept) = named();
    let token = match Supervisor::start(command(), config.clone()).await {
        Ok(token) => token,
        Err(error) => panic!("{error}"),
    };
    let survey = token.survey(soon()).await.unwrap();
    println!("token {:?} ({}), {}", survey.label, survey.model, survey.wrapping);
    survey.unserved.iter().for_each(|reason| println!("not served: {reason}"));
    contract::holds(&token).await;
    assert_eq!(token.health().restarts, 0, "no bad ciphertext may cost a worker");
    let key = rsa_key(&token).await;
    for threads in [1, 2, 4, 8] {
        let round = if kept.is_some() { Duration::from_millis(100) } else { Duration::from_secs(2) };
        let rate = rate(TokenConfig { threads: Some(threads), ..config.clone() }, &key, round).await;
        println!("{threads} threads: {rate:.0} unwraps a second, {:.1} ms each", threads as f64 / rate * 1e3);
    }
    token.destroy(key.id, soon()).await.unwrap();
}

/// Unwraps a second. There are always enough that wait.
async fn rate(config: TokenConfig, key: &TokenKey, round: Duration) -> f64 {
    let callers = 2 * config.threads.unwrap();
    let token = Arc::new(Supervisor::start(command(), config).await.unwrap());
    let start = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..callers {
        let (token, wrapped) = (Arc::clone(&token), good(key));
        calls.spawn(async move {
            let mut done = 0;
            while start.elapsed() < round {
                assert_eq!(unwrap(&*token, &wrapped, soon()).await, Ok(FILE_KEY));
                done += 1;
            }
            done
        });
    }
    let done: u32 = calls.join_all().await.into_iter().sum();
    f64::from(done) / start.elapsed().as_secs_f64()
}

#[tokio::test]
async fn kryoptic_is_found_to_do_oaep_with_every_hash() {
    let kryoptic = Kryoptic::new();
    let token = kryoptic.start().await;
    let pid = token.worker_pid();
    // Asked of a token without keys, of a new key, and of a token that has keys.
    assert_eq!(token.survey(soon()).await.unwrap().wrapping, KeyWrapping::OaepSha512);
    let key = rsa_key(&token).await;
    assert_eq!(key.wrapping, Some(KeyWrapping::OaepSha512));
    for wrapping in KeyWrapping::OAEP {
        let wrapped = WrappedKey::new(key.id, wrapping, encrypt_as(&key, wrapping, &FILE_KEY)).unwrap();
        assert_eq!(unwrap(&token, &wrapped, soon()).await, Ok(FILE_KEY), "{wrapping}");
        let lied = KeyWrapping::OAEP.into_iter().find(|other| *other != wrapping).unwrap();
        let lied = WrappedKey::new(key.id, lied, encrypt_as(&key, wrapping, &FILE_KEY)).unwrap();
        assert_eq!(unwrap(&token, &lied, soon()).await, Err(TokenError::Rejected), "{wrapping}");
    }
    assert_eq!(token.worker_pid(), pid, "no bad ciphertext may cost a worker");
    token.shutdown().await;

    let token = kryoptic.start().await;
    let survey = token.survey(soon()).await.unwrap();
    assert_eq!((survey.wrapping, &survey.keys[..]), (KeyWrapping::OaepSha512, &[key][..]));
    assert!(survey.unserved.is_empty(), "{:?}", survey.unserved);
    assert!(survey.model.contains("Kryoptic"), "{}", survey.model);
}

#[tokio::test]
async fn law_7_bad_keys_in_kryoptic_are_not_served() {
    let kryoptic = Kryoptic::new();
    serves_no_bad_keys(kryoptic.config()).await;
}

#[tokio::test]
async fn a_token_may_be_chosen_by_its_slot() {
    let kryoptic = Kryoptic::new();
    let by = |number| TokenConfig { select: TokenSelect::Slot(number), ..kryoptic.config() };
    let token = Supervisor::start(command(), by(SLOT)).await.unwrap();
    assert_eq!(token.survey(soon()).await.unwrap().label, "bench");
    let error = kryoptic.bench.refusal(by(SLOT + 1)).await.to_string();
    assert!(error.contains("no token with slot 4") && error.contains(") in slot 3"), "{error}");
}

#[tokio::test]
async fn keys_in_kryoptic_survive_workers_that_are_killed() {
    let kryoptic = Kryoptic::new();
    let token = kryoptic.start().await;
    let key =
        token.generate(template("large", KeyKind::RsaUnwrap { modulus_bits: 3072 }), soon()).await.unwrap();
    let signer = token.generate(template("sign", KeyKind::EcdsaP256Sign), soon()).await.unwrap();
    for _ in 0..2 {
        let killed = token.worker_pid().unwrap();
        kill(killed);
        until(&token, |state| matches!(state, State::Serving { pid, .. } if *pid != killed)).await;
        assert_eq!(unwrap(&token, &good(&key), soon()).await, Ok(FILE_KEY));
        token.sign(signer.id, b"message", soon()).await.unwrap();
    }
    assert_eq!(token.survey(soon()).await.unwrap().keys.len(), 2);
}

#[tokio::test]
async fn each_start_with_a_wrong_pin_costs_one_try_and_the_last_one_locks() {
    let kryoptic = Kryoptic::new();
    for tries in 1..=TRIES {
        let refusal = kryoptic.start_with_wrong_pin().await;
        // What Kryoptic's flags tell: low at three left, final at one. A second try in any start would come too early.
        let expected = match TRIES - tries {
            0 => "is locked after too many wrong tries",
            1 => "ONE try is left",
            2 | 3 => "Fewer tries are left",
            _ => "The token does not say how many tries are left",
        };
        assert!(refusal.contains(expected), "wrong PIN number {tries}: {refusal}");
    }
    for _ in 0..2 {
        let locked = kryoptic.bench.refusal(kryoptic.config()).await;
        assert!(matches!(&locked, StartError::Pin(why) if why.contains("is locked")), "{locked}");
    }
}

#[tokio::test]
async fn the_right_pin_gives_all_tries_back() {
    let kryoptic = Kryoptic::new();
    for _ in 1..TRIES {
        kryoptic.start_with_wrong_pin().await;
    }
    kryoptic.start().await.shutdown().await;
    let refusal = kryoptic.start_with_wrong_pin().await;
    assert!(refusal.contains("does not say how many tries are left"), "{refusal}");
}
