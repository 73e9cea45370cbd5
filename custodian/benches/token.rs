//! Unwraps through the supervisor and its worker process, against bare `C_Decrypt` of the same key in SoftHSM with the same
//! number of sessions.
//!
//!     cargo bench -p custodian --bench token
//!
//! No network, no records, and the permits are there before the clock starts: this is what the worker process costs. The
//! callers' work is on the same cores. Rounds alternate; medians and their ratio are printed. Then workers are killed in a
//! row: how long the next call takes. With `-- signatures`, only what the log's key can be is compared.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first error")]

#[path = "common/mod.rs"]
mod common;

use std::{
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use bench_rows::{Rows, Spread, Target};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, KeyType, ObjectClass},
    session::UserType,
    types::AuthPin,
};
use custodian::{
    authority::{
        Authority, Caller, Device, DeviceState, FactorState, Groups, Need, PasswordHash, PasswordState, Peer,
        PeerCertificate, PeerKind, Permit, Role, Session, SessionId, SpkiHash, User, UserId,
    },
    ledger::{Change, Intent, LedgerOptions, Missing, SqliteLedger},
    token::{
        CageConfig, InitToken, KeyKind, KeyTemplate, PinSource, Supervisor, Token, TokenConfig, TokenKey,
        TokenSelect, WorkerCommand, init_token,
    },
};
use custodian_proto::key::{KeyWrapping, WrappedKey};
use jiff::{SignedDuration, Timestamp};
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PROGRAM: &str = env!("CARGO_BIN_EXE_custodian");
const LABEL: &str = "bench";
const PIN: &str = "123456";
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

/// Permits for a round.
const PERMITS: usize = 10_000;

/// Callers for each session: there is always one waiting.
const CALLERS: usize = 8;

/// Workers that are killed, one as soon as the one before is replaced.
const KILLS: usize = 100;

/// Tells this program to measure the bare module: `SESSIONS CIPHERTEXT`.
const BARE: &str = "CUSTODIAN_BENCH_BARE";

fn main() {
    // The module reads its configuration from the environment, so it runs in a process of its own.
    if let Ok(order) = env::var(BARE) {
        let (sessions, wrapped) = order.split_once(' ').unwrap();
        println!("{}", bare(sessions.parse().unwrap(), &hex::decode(wrapped).unwrap()));
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    if env::args().any(|argument| argument == "signatures") {
        return runtime.block_on(signatures(folder.path()));
    }
    runtime.block_on(compare(folder.path()));
}

/// Signatures of a text as long as a checkpoint's, one after the other.
async fn signatures(folder: &Path) {
    let environment = make_token(folder).await;
    let token = start(folder, &environment, 1).await;
    let deadline = || Instant::now() + Duration::from_secs(60);
    let mut kinds = Vec::new();
    for kind in [KeyKind::EcdsaP256Sign, KeyKind::Ed25519Sign] {
        let key = token.generate(KeyTemplate { label: "log".to_owned(), kind }, deadline()).await.unwrap();
        kinds.push((kind, key.id, Vec::new()));
    }
    for _ in 0..ROUNDS {
        for (_, id, rates) in &mut kinds {
            let (began, mut made) = (Instant::now(), 0_u32);
            while began.elapsed() < ROUND {
                token.sign(*id, &[b'x'; 120], deadline()).await.unwrap();
                made += 1;
            }
            rates.push(f64::from(made) / began.elapsed().as_secs_f64());
        }
    }
    let mut rows = Rows::new("signatures");
    for (kind, _, rates) in &kinds {
        rows.add(format!("{kind:?} in the token"), Spread::of(rates.iter().copied()), "1/s", Target::None);
    }
    rows.finish();
    token.shutdown().await;
}

async fn compare(folder: &Path) {
    let mut rows = Rows::new("token");
    for bits in [2048, 3072] {
        let folder = folder.join(bits.to_string());
        fs::create_dir(&folder).unwrap();
        let bench = Bench::new(&folder, bits).await;
        for sessions in [1, 2, 4] {
            bench.compare(sessions, &mut rows).await;
        }
        if bits == 2048 {
            bench.kill(&mut rows).await;
        }
    }
    rows.finish();
}

/// A token with one key, and who gives permits for it.
struct Bench<'a> {
    folder: &'a Path,
    environment: BTreeMap<String, String>,
    authority: Authority,
    bits: u32,
    wrapped: Arc<WrappedKey>,
}

impl<'a> Bench<'a> {
    async fn new(folder: &'a Path, bits: u32) -> Self {
        let environment = make_token(folder).await;
        let (authority, ledger) = authority(folder);
        let token = start(folder, &environment, 1).await;
        let key = generate(&token, bits).await;
        token.shutdown().await;
        known(&ledger, &key, bits).await;
        Self { folder, environment, authority, bits, wrapped: Arc::new(wrap(&key)) }
    }

    async fn compare(&self, sessions: usize, rows: &mut Rows) {
        let token = Arc::new(start(self.folder, &self.environment, sessions).await);
        let (mut supervised, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let permits = permits(&self.authority, &self.wrapped).await;
            supervised.push(serve(&token, permits, &self.wrapped, sessions * CALLERS).await);
            alone.push(run_bare(&self.environment, sessions, self.wrapped.ciphertext()));
        }
        let ratios = Spread::of(supervised.iter().zip(&alone).map(|(supervised, alone)| supervised / alone));
        let name = format!("worker / bare C_Decrypt, RSA-{}, {sessions} sessions", self.bits);
        rows.add(name, ratios, "ratio", Target::AtLeast(0.95));
        token.shutdown().await;
    }

    async fn kill(&self, rows: &mut Rows) {
        let token = start(self.folder, &self.environment, 2).await;
        let mut times = recoveries(&token, &self.authority, &self.wrapped).await;
        times.sort();
        assert!(token.health().restarts as usize >= KILLS);
        for (share, what) in [(50, "median"), (99, "p99"), (100, "longest")] {
            let time = times[(times.len() - 1) * share / 100].as_secs_f64() * 1_000.0;
            rows.add(format!("{what} pause over {KILLS} workers killed in a row"), time, "ms", Target::None);
        }
        token.shutdown().await;
    }
}

/// More permits than a round can use.
async fn permits(authority: &Authority, wrapped: &WrappedKey) -> Vec<Permit> {
    let caller = caller();
    let intent = Intent::new(Uuid::now_v7(), Instant::now(), "Unwrap", &caller);
    let mut permits = Vec::with_capacity(PERMITS);
    for _ in 0..PERMITS {
        let Ok(permit) = authority.permit(&caller, Need::Unwrap(wrapped), &intent).await else {
            unreachable!("nothing is missing")
        };
        permits.push(permit);
    }
    permits
}

/// Kills the worker, again and again: how long the next unwrap takes each time. None may fail.
async fn recoveries(token: &Supervisor, authority: &Authority, wrapped: &WrappedKey) -> Vec<Duration> {
    let caller = caller();
    let intent = Intent::new(Uuid::now_v7(), Instant::now(), "Unwrap", &caller);
    let mut times = Vec::new();
    let mut last = None;
    while times.len() < KILLS {
        // The worker just killed may not have been missed yet.
        let pid = token.worker_pid().filter(|pid| Some(*pid) != last);
        let Some(pid) = pid else {
            tokio::task::yield_now().await;
            continue;
        };
        last = Some(pid);
        let process = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        kill_process(process, Signal::KILL).unwrap();
        let begun = Instant::now();
        let Ok(permit) = authority.permit(&caller, Need::Unwrap(wrapped), &intent).await else {
            unreachable!("nothing is missing")
        };
        token.unwrap(permit, wrapped, begun + Duration::from_secs(10)).await.map(drop).unwrap();
        times.push(begun.elapsed());
    }
    times
}

/// Unwraps for a round, with this many callers.
async fn serve(
    token: &Arc<Supervisor>,
    permits: Vec<Permit>,
    wrapped: &Arc<WrappedKey>,
    callers: usize,
) -> f64 {
    let permits = Arc::new(Mutex::new(permits));
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (token, permits, wrapped) = (Arc::clone(token), Arc::clone(&permits), Arc::clone(wrapped));
            tokio::spawn(async move {
                let mut done = 0;
                while start.elapsed() < ROUND {
                    let permit = permits.lock().unwrap().pop().unwrap();
                    token.unwrap(permit, &wrapped, Instant::now() + ROUND).await.map(drop).unwrap();
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

fn run_bare(environment: &BTreeMap<String, String>, sessions: usize, wrapped: &[u8]) -> f64 {
    let output = Command::new(env::current_exe().unwrap())
        .envs(environment)
        .env(BARE, format!("{sessions} {}", hex::encode(wrapped)))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// `C_Decrypt`s for a round, each session on a thread of its own. Through cryptoki, as the worker does it.
fn bare(sessions: usize, wrapped: &[u8]) -> f64 {
    let module = Pkcs11::new(MODULE).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slots = module.get_slots_with_token().unwrap();
    let ours = |slot: &_| module.get_token_info(*slot).is_ok_and(|info| info.label() == LABEL);
    let slot = slots.into_iter().find(ours).unwrap();
    let keeper = module.open_ro_session(slot).unwrap();
    keeper.login(UserType::User, Some(&AuthPin::new(PIN.into()))).unwrap();
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::RSA)];
    let key = keeper.find_objects(&template).unwrap()[0];
    let done = AtomicU64::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..sessions {
            let (session, done) = (module.open_ro_session(slot).unwrap(), &done);
            scope.spawn(move || {
                let source = PkcsOaepSource::empty();
                let oaep = PkcsOaepParams::new(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1, source);
                let mechanism = Mechanism::RsaPkcsOaep(oaep);
                while start.elapsed() < ROUND {
                    assert_eq!(session.decrypt(&mechanism, key, wrapped).unwrap().len(), 32);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.into_inner() as f64 / start.elapsed().as_secs_f64()
}

/// Makes a token, and says in which environment it is found.
async fn make_token(folder: &Path) -> BTreeMap<String, String> {
    let tokens = folder.join("tokens");
    fs::create_dir(&tokens).unwrap();
    let conf = folder.join("softhsm2.conf");
    fs::write(&conf, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    for name in ["so-pin", "pin"] {
        fs::write(folder.join(name), PIN).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let environment = BTreeMap::from([("SOFTHSM2_CONF".to_owned(), conf.display().to_string())]);
    let request = InitToken {
        module: MODULE.into(),
        label: LABEL.to_owned(),
        so_pin_file: folder.join("so-pin"),
        pin_file: folder.join("pin"),
    };
    init_token(Path::new(PROGRAM), &request, &environment).await.unwrap();
    environment
}

async fn start(folder: &Path, environment: &BTreeMap<String, String>, sessions: usize) -> Supervisor {
    let config = TokenConfig {
        module: MODULE.into(),
        select: TokenSelect::Label(LABEL.to_owned()),
        pin: PinSource::File(folder.join("pin")),
        environment: environment.clone(),
        threads: Some(sessions),
        queue: 256,
        cage: CageConfig { write: vec![folder.join("tokens")], ..CageConfig::default() },
    };
    let command = WorkerCommand { program: PROGRAM.into(), ..WorkerCommand::default() };
    Supervisor::start(command, config).await.unwrap()
}

async fn generate(token: &Supervisor, modulus_bits: u32) -> TokenKey {
    let template = KeyTemplate { label: "k".to_owned(), kind: KeyKind::RsaUnwrap { modulus_bits } };
    token.generate(template, Instant::now() + Duration::from_secs(60)).await.unwrap()
}

fn wrap(key: &TokenKey) -> WrappedKey {
    let public = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&key.spki).unwrap()).unwrap();
    let mut ciphertext = vec![0; public.ciphertext_size()];
    // SHA-1 is all that SoftHSM 2.6 can do, and every token can.
    public.encrypt(&OAEP_SHA1_MGF1SHA1, &[1; 32], &mut ciphertext, None).unwrap();
    WrappedKey::new(key.id, KeyWrapping::OaepSha1, ciphertext).unwrap()
}

/// Who gives the permits (law 3), and the ledger that it asks for the key.
fn authority(folder: &Path) -> (Authority, Arc<SqliteLedger>) {
    let options = LedgerOptions { missing: Missing::Create, ..LedgerOptions::default() };
    let ledger = Arc::new(SqliteLedger::open(&folder.join("ledger.db"), options).unwrap());
    (common::authority(&ledger), ledger)
}

/// Puts the key's metadata into the ledger.
async fn known(ledger: &SqliteLedger, key: &TokenKey, modulus_bits: u32) {
    let key = common::wrapping_key(key.id, KeyWrapping::OaepSha1, modulus_bits, Vec::new());
    common::set_up(ledger, Some(Change::AddKey(key))).await;
}

fn caller() -> Caller {
    let now = Timestamp::now();
    let (spki, later) = (SpkiHash([1; 32]), now + SignedDuration::from_hours(1));
    let device = Device {
        id: "bench".parse().unwrap(),
        spki,
        state: DeviceState::Active,
        certificate: Vec::new(),
        expires: later,
        enrolled: now,
        updated: now,
        reason: String::new(),
        suspended_until: None,
        groups: Groups::default(),
    };
    let kind = PeerKind::Device;
    let certificate = PeerCertificate { spki, sha256: [1; 32], not_before: now, not_after: later, kind };
    let peer = Peer { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), certificate };
    let id: UserId = "bench".parse().unwrap();
    let session = Session {
        id: SessionId([1; 32]),
        user: id.clone(),
        device: spki,
        created: now,
        used: now,
        factor: None,
        expires: later,
    };
    let user = User {
        id,
        roles: [Role::Operator].into_iter().collect(),
        disabled: false,
        disabled_until: None,
        password: PasswordHash::from_phc(String::new()),
        password_state: PasswordState::Settled,
        factor: FactorState::default(),
        groups: Groups::default(),
        created: now,
        updated: now,
    };
    Caller { peer, device: Some(device), session: Some(session), user: Some(user), policy: 0 }
}
