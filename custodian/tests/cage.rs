//! The worker's cage, tried from inside by a hostile module, and seen from outside at a real worker.
#![allow(clippy::unwrap_used, reason = "clippy's exception for tests does not reach their helpers")]

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use custodian::token::{
    CageConfig, InitToken, KeyKind, KeyTemplate, Network, PinSource, Programs, StartError, Supervisor, Token,
    TokenConfig, TokenSelect, WorkerCommand, init_token,
};
use rustix::process::geteuid;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_custodian");
const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const HOSTILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cage/hostile.c");

/// What anybody may do, and the hostile module too when it is not caged.
const FREE: [&str; 13] = [
    "connect",
    "connect elsewhere",
    "udp",
    "netlink",
    "execve",
    "execveat",
    "write outside",
    "empty outside",
    "truncate outside",
    "chmod outside",
    "make a file outside",
    "rename outside",
    "signal",
];

/// What no cage allows.
const NEVER: [&str; 14] = [
    "vsock",
    "truncate outside",
    "chmod outside",
    "fchmod outside",
    "make a file outside",
    "rename outside",
    "unlink outside",
    "signal",
    "read memory of another",
    "trace another",
    "io_uring",
    "bpf",
    "keyring",
    "user namespace",
];

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(bench.path("inside")).unwrap();
        fs::create_dir(bench.path("outside")).unwrap();
        bench.write("pin", "correct horse", 0o400);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn config(&self, module: PathBuf, cage: CageConfig) -> TokenConfig {
        TokenConfig {
            module,
            select: TokenSelect::Label("bench".to_owned()),
            pin: PinSource::File(self.path("pin")),
            environment: BTreeMap::new(),
            threads: Some(2),
            queue: 16,
            cage: CageConfig { write: vec![self.path("inside")], ..cage },
        }
    }

    /// A SoftHSM token in `inside`.
    async fn softhsm(&self, cage: CageConfig) -> TokenConfig {
        let conf = format!("directories.tokendir = {}\n", self.path("inside").display());
        self.write("softhsm2.conf", &conf, 0o644);
        let request = InitToken {
            module: SOFTHSM.into(),
            label: "bench".to_owned(),
            so_pin_file: self.path("pin"),
            pin_file: self.path("pin"),
        };
        let mut config = self.config(SOFTHSM.into(), cage);
        let conf = self.path("softhsm2.conf").display().to_string();
        config.environment.insert("SOFTHSM2_CONF".to_owned(), conf);
        init_token(Path::new(PROGRAM), &request, &config.environment).await.unwrap();
        config
    }
}

/// The hostile module and all that it tries to reach.
struct Hostile {
    bench: Bench,
    listener: TcpListener,
    other: TcpListener,
}

impl Hostile {
    fn new() -> Self {
        let bench = Bench::new();
        bench.write("outside/ledger", "records", 0o600);
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-pthread", "-Wall", "-o"])
            .arg(bench.path("hostile.so"))
            .arg(HOSTILE)
            .status();
        assert!(compiled.unwrap().success());
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        Self { bench, listener: listen(), other: listen() }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let path = |name: &str| self.bench.path(name).display().to_string();
        [
            ("HOSTILE_REPORT", path("inside/report")),
            ("HOSTILE_OUTSIDE", path("outside/ledger")),
            ("HOSTILE_FOLDER", path("outside")),
            ("HOSTILE_PORT", self.port().to_string()),
            ("HOSTILE_OTHER_PORT", self.other.local_addr().unwrap().port().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// What came of its tries in a worker with this cage.
    async fn caged(&self, cage: CageConfig) -> BTreeMap<String, String> {
        let mut config = self.bench.config(self.bench.path("hostile.so"), cage);
        config.environment = self.environment();
        let error = Supervisor::start(command(), config).await.err().unwrap();
        assert!(matches!(&error, StartError::Token(why) if why.contains("The module's cage: ")), "{error}");
        let report = self.report();
        let ledger = self.bench.path("outside/ledger");
        assert_eq!(fs::read_to_string(&ledger).unwrap(), "records");
        assert_eq!(fs::metadata(&ledger).unwrap().permissions().mode() & 0o777, 0o600);
        for never in NEVER {
            assert!(["EPERM", "EACCES"].contains(&&*report[never]), "{never}: {}", report[never]);
        }
        assert!(["EPERM", "EACCES"].contains(&&*report["write outside"]), "{report:?}");
        // Namespaces by the call whose arguments nobody sees, and by the one whose arguments are seen.
        assert_eq!(report["clone3"], "ENOSYS");
        assert_eq!(report["user namespace by clone"], "EPERM");
        for allowed in ["write inside", "unix", "thread", "read outside"] {
            assert_eq!(report[allowed], "done", "{allowed}");
        }
        report
    }

    fn report(&self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.bench.path("inside/report")).unwrap();
        text.lines()
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(what, how)| (what.to_owned(), how.to_owned()))
            .collect()
    }
}

fn command() -> WorkerCommand {
    WorkerCommand { program: PROGRAM.into(), ..WorkerCommand::default() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn the_hostile_module_does_get_out_where_there_is_no_cage() {
    let hostile = Hostile::new();
    // What it does to its parent, it does to this shell.
    let load = format!("python3 -c 'import ctypes; ctypes.CDLL({:?})'; :", hostile.bench.path("hostile.so"));
    assert!(Command::new("sh").args(["-c", &load]).envs(hostile.environment()).status().unwrap().success());
    let report = hostile.report();
    for free in FREE {
        assert_eq!(report[free], "done", "{free}");
    }
}

#[tokio::test]
async fn a_hostile_module_gets_nowhere() {
    let hostile = Hostile::new();
    let report = hostile.caged(CageConfig::default()).await;
    for refused in [
        "connect",
        "connect elsewhere",
        "udp",
        "udp6",
        "mptcp",
        "netlink",
        "socket of a thread",
        "execve",
        "execveat",
    ] {
        assert_eq!(report[refused], "EPERM", "{refused}");
    }
    if cfg!(target_arch = "x86_64") {
        assert_eq!(report["execve by x32"], "EPERM");
    }
}

#[tokio::test]
async fn a_network_hsm_is_reached_at_its_port_and_nothing_else_is() {
    let hostile = Hostile::new();
    let network = Network::Ports(vec![hostile.port()]);
    let report = hostile.caged(CageConfig { network, ..CageConfig::default() }).await;
    assert_eq!(report["connect"], "done");
    assert_eq!(report["connect elsewhere"], "EACCES");
    for refused in ["udp", "udp6", "mptcp", "netlink", "execve"] {
        assert_eq!(report[refused], "EPERM", "{refused}");
    }
}

#[tokio::test]
async fn network_and_programs_are_allowed_where_they_are_configured() {
    let hostile = Hostile::new();
    let cage = CageConfig { network: Network::Any, programs: Programs::Allowed, ..CageConfig::default() };
    let report = hostile.caged(cage).await;
    for allowed in ["connect", "connect elsewhere", "udp", "netlink", "execve", "execveat"] {
        assert_eq!(report[allowed], "done", "{allowed}");
    }
}

#[tokio::test]
async fn every_thread_of_a_worker_is_caged_and_its_memory_locked() {
    let bench = Bench::new();
    let config = bench.softhsm(CageConfig::default()).await;
    let token = Supervisor::start(command(), config).await.unwrap();
    let template = KeyTemplate { label: "k".to_owned(), kind: KeyKind::RsaUnwrap { modulus_bits: 2048 } };
    token.generate(template, soon()).await.unwrap();

    let tasks = format!("/proc/{}/task", token.worker_pid().unwrap());
    let mut threads = 0;
    for task in fs::read_dir(tasks).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let status: BTreeMap<_, _> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
        assert_eq!((status["Seccomp"], status["NoNewPrivs"]), ("2", "1"));
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(u64::from_str_radix(status[set], 16), Ok(0), "{set}");
        }
        threads += 1;
    }
    assert!(threads >= 3, "the main thread and two sessions");
    let cage = token.survey(soon()).await.unwrap().cage;
    for held in
        ["no programs", "no network", &format!("writes beneath {} only", bench.path("inside").display())]
    {
        assert!(cage.holds.iter().any(|hold| hold == held), "{held} in {cage}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", token.worker_pid().unwrap())).unwrap();
    let locked: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmLck:")?.trim().strip_suffix(" kB"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // Said one way or the other.
    assert_eq!(locked > 1_000, cage.holds.iter().any(|hold| hold == "memory locked"), "{locked} kB, {cage}");
    assert_eq!(
        locked == 0,
        cage.gaps.iter().any(|gap| gap.contains("RLIMIT_MEMLOCK")),
        "{locked} kB, {cage}"
    );
}

#[tokio::test]
async fn started_as_root_the_worker_becomes_another_user() {
    let bench = Bench::new();
    let cage = CageConfig { user: Some("nobody".to_owned()), ..CageConfig::default() };
    let config = bench.softhsm(cage).await;
    if !geteuid().is_root() {
        let error = Supervisor::start(command(), config).await.err().unwrap().to_string();
        assert!(error.contains("only root can run the token worker as \"nobody\""), "{error}");
        return;
    }
    // The token is nobody's; the PIN, which the worker reads before, stays root's.
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (uid, gid) = (65_534, 65_534);
    give(&bench.path("inside"), uid, gid);
    let token = Supervisor::start(command(), config).await.unwrap();
    let key = KeyTemplate { label: "k".to_owned(), kind: KeyKind::EcdsaP256Sign };
    let key = token.generate(key, soon()).await.unwrap();
    token.sign(key.id, b"message", soon()).await.unwrap();
    let pid = token.worker_pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("\nUid:\t65534\t65534\t65534\t65534\n"), "{status}");
    assert!(status.contains("\nGid:\t65534\t65534\t65534\t65534\n"), "{status}");
    // Still not dumpable: its files in /proc are root's.
    let memory = fs::metadata(format!("/proc/{pid}/mem")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&memory), 0);
    let cage = token.survey(soon()).await.unwrap().cage;
    assert!(cage.holds[0] == "user nobody (uid 65534)", "{cage}");
}

fn give(path: &Path, uid: u32, gid: u32) {
    chown(path, Some(uid), Some(gid)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), uid, gid);
        }
    }
}

#[tokio::test]
async fn what_the_cage_needs_and_does_not_find_is_named() {
    let bench = Bench::new();
    let config = bench.softhsm(CageConfig::default()).await;
    let refusal = async |cage: CageConfig| {
        let config = TokenConfig { cage, ..config.clone() };
        Supervisor::start(command(), config).await.err().unwrap().to_string()
    };
    let missing = bench.path("missing");
    let error = refusal(CageConfig { write: vec![missing.clone()], ..CageConfig::default() }).await;
    assert!(error.contains("cage.write") && error.contains(missing.to_str().unwrap()), "{error}");
    let error = refusal(CageConfig { user: Some("no such user".to_owned()), ..CageConfig::default() }).await;
    assert!(error.contains("cage.user") && error.contains("no such user"), "{error}");
}

#[tokio::test]
async fn a_key_that_cannot_be_stored_is_blamed_on_the_cage() {
    let bench = Bench::new();
    let mut config = bench.softhsm(CageConfig::default()).await;
    config.cage.write.clear();
    let token = Supervisor::start(command(), config).await.unwrap();
    let key = KeyTemplate { label: "k".to_owned(), kind: KeyKind::EcdsaP256Sign };
    let error = token.generate(key, soon()).await.unwrap_err().to_string();
    assert!(error.contains("writes no files") && error.contains("docs/operations.md"), "{error}");
}
