//! The supervisor over a real token.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Command},
};

use tempfile::TempDir;

use super::{PinSource, Supervisor, TokenConfig, TokenSelect, WorkerCommand, contract, worker};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "1234";

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

    async fn start(&self) -> Supervisor {
        Supervisor::start(command(), self.config()).await.unwrap()
    }
}

fn command() -> WorkerCommand {
    let args = ["--exact", "token::tests::worker_process", "--nocapture"];
    WorkerCommand { program: env::current_exe().unwrap(), args: args.map(Into::into).to_vec() }
}

#[tokio::test]
async fn the_supervisor_keeps_the_contract() {
    let bench = Bench::new();
    let token = bench.start().await;
    let pid = token.worker_pid();
    contract::holds(&token).await;
    assert_eq!(token.worker_pid(), pid, "no bad ciphertext may cost a worker");
    token.shutdown().await;
}
