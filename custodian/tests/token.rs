//! The worker as the real program, started by the supervisor as `custodian worker`.
#![allow(clippy::unwrap_used, reason = "clippy's exception for tests does not reach their helpers")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use custodian::token::{
    CageConfig, InitToken, KeyKind, KeyTemplate, PinSource, StartError, Supervisor, Token, TokenConfig,
    TokenSelect, WorkerCommand, init_token,
};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_custodian");
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let tokens = bench.path("tokens");
        fs::create_dir(&tokens).unwrap();
        fs::write(bench.path("softhsm2.conf"), format!("directories.tokendir = {}\n", tokens.display()))
            .unwrap();
        bench.write("so-pin", "87654321\n");
        bench.write("pin", "123456\n");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let conf = self.path("softhsm2.conf").display().to_string();
        BTreeMap::from([("SOFTHSM2_CONF".to_owned(), conf)])
    }

    async fn init(&self, label: &str) -> Result<(), StartError> {
        let request = InitToken {
            module: MODULE.into(),
            label: label.to_owned(),
            so_pin_file: self.path("so-pin"),
            pin_file: self.path("pin"),
        };
        init_token(Path::new(PROGRAM), &request, &self.environment()).await
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test]
async fn a_token_made_by_init_token_serves() {
    let bench = Bench::new();
    bench.init("fresh").await.unwrap();
    let command = WorkerCommand { program: PROGRAM.into(), ..WorkerCommand::default() };
    let config = TokenConfig {
        module: MODULE.into(),
        select: TokenSelect::Label("fresh".to_owned()),
        pin: PinSource::File(bench.path("pin")),
        environment: bench.environment(),
        threads: None,
        queue: 16,
        cage: CageConfig { write: vec![bench.path("tokens")], ..CageConfig::default() },
    };
    let token = Supervisor::start(command, config).await.unwrap();
    let template = KeyTemplate { label: "ca".to_owned(), kind: KeyKind::EcdsaP256Sign };
    let key = token.generate(template, soon()).await.unwrap();
    assert!(!token.sign(key.id, b"message", soon()).await.unwrap().is_empty());
    assert_eq!(token.survey(soon()).await.unwrap().keys, [key]);
    token.shutdown().await;
}

#[tokio::test]
async fn init_token_never_touches_a_token_that_is_there() {
    let bench = Bench::new();
    bench.init("mine").await.unwrap();
    let error = bench.init("mine").await.unwrap_err().to_string();
    assert!(error.contains("there is a token \"mine\"") && error.contains("choose another label"), "{error}");
    bench.init("other").await.unwrap();
}

#[tokio::test]
async fn init_token_says_what_is_wrong() {
    let bench = Bench::new();
    let error = bench.init(&"x".repeat(33)).await.unwrap_err().to_string();
    assert!(error.contains("1 to 32 bytes"), "{error}");
    bench.write("pin", "1\n");
    let error = bench.init("short").await.unwrap_err().to_string();
    assert!(error.contains("is it too short?"), "{error}");
    fs::remove_file(bench.path("so-pin")).unwrap();
    let error = bench.init("none").await.unwrap_err().to_string();
    assert!(error.contains("cannot read the PIN file"), "{error}");
}
