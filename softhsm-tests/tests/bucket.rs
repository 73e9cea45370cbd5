//! The second place as a bucket: the same promises as of a folder, against somebody else's object store, which checks each
//! request's signature.

use std::{
    collections::HashSet,
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use custodian_proto::{tlog::tiles, v1};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::pki_types::PrivateKeyDer;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use softhsm_tests::{Dev, Load, Person, Ran, Start, Wire, bin, run, sealed_key, without_budgets};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use tonic_types::StatusExt as _;

const ACCESS_KEY: &str = "AKIDCUSTODIAN";
const SECRET_KEY: &str = "a secret for tests";

/// An object store with one bucket, `evidence`, whose objects are files.
struct Store {
    folder: TempDir,
    address: SocketAddr,
    /// The CA of its certificate, PEM.
    ca: String,
    serving: JoinHandle<()>,
}

impl Store {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("evidence")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();

        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, service) = (acceptor.clone(), service.clone());
                tokio::spawn(async move {
                    // A client that does not trust us, or is killed, is none of our business.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let connection = hyper::server::conn::http1::Builder::new();
                        connection.serve_connection(TokioIo::new(stream), service).await.ok();
                    }
                });
            }
        });
        Self { folder, address, ca: made.cert.pem(), serving }
    }

    /// Where the objects are.
    fn objects(&self) -> std::path::PathBuf {
        self.folder.path().join("evidence/one")
    }

    /// A custodian's folder, with this bucket as the second place.
    fn configured(&self, secret: &str) -> TempDir {
        Dev::configured(|config, folder| {
            credentials(folder, secret);
            fs::write(folder.join("store.pem"), &self.ca).unwrap();
            let text = format!(
                "on_failure = \"require\"\n[bucket]\nendpoint = \"https://localhost:{}\"\nname = \"evidence\"\n\
                 region = \"eu-central-1\"\nprefix = \"one\"\ncredentials = {:?}\nca = {:?}",
                self.address.port(),
                folder.join("s3.toml"),
                folder.join("store.pem"),
            );
            let log = config["log"].as_table_mut().unwrap();
            log.insert("copy".to_owned(), text.parse::<toml::Table>().unwrap().into());
            config["ledger"]["deadline"] = "2s".into();
            without_budgets(config);
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn credentials(folder: &Path, secret: &str) {
    let text = format!("access_key_id = {ACCESS_KEY:?}\nsecret_access_key = {secret:?}\n");
    fs::write(folder.join("s3.toml"), text).unwrap();
}

/// What an auditor finds who has the bucket's objects as files, the log's public key and nothing else.
fn audit(dev: &Dev, objects: &Path) -> Ran {
    let mut command = Command::new(bin("custodianctl"));
    command.env_clear().env("HOME", "/nonexistent").args(["audit", "verify"]).arg(objects);
    command.arg("--log-key").arg(dev.dir().join("keys/log.pub"));
    command.arg("--state").arg(dev.scratch("auditor").join("state"));
    run(&mut command)
}

/// Request ids of the unwraps that were allowed, of those records that are in the bucket, signed for or not.
fn released(objects: &Path) -> HashSet<String> {
    let mut found = HashSet::new();
    for index in 0.. {
        let bundle = objects.join(tiles::bundle_path(index, tiles::WIDTH));
        let widest = (1..tiles::WIDTH).rev().map(|width| objects.join(tiles::bundle_path(index, width)));
        let Some(path) = std::iter::once(bundle).chain(widest).find(|path| path.exists()) else { break };
        let bytes = fs::read(path).unwrap();
        for entry in tiles::unbundle(&bytes).unwrap() {
            let record = v1::Record::decode(entry).unwrap();
            if record.operation == "Unwrap" && record.outcome == "OK" {
                found.insert(record.request_id);
            }
        }
    }
    found
}

async fn unwrap(dev: &Dev) -> Result<String, tonic::Status> {
    let (key, wrapped) = sealed_key(&dev.certificate(), &[7; 32]);
    let released = Wire::login(dev, Person::Operator).await.unwrap(&key, wrapped).await;
    released.map(|released| released.request_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_has_the_record_of_every_key_that_left_even_after_kill_9() {
    let store = Store::start().await;
    let mut folder = store.configured(SECRET_KEY);
    let mut received = HashSet::new();
    for _ in 0..2 {
        let dev = Dev::start_in(folder);
        let mut load = Load::start(&dev, 8).await;
        // More than one bundle.
        load.received(160).await;
        folder = dev.kill();
        received.extend(load.stop().await.into_iter().map(|key| key.request_id));
    }
    let there = released(&store.objects());
    let missing: Vec<_> = received.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // The next run goes on where the last one was cut off, and signs for all of it.
    let dev = Dev::start_in(folder);
    unwrap(&dev).await.unwrap();
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let dev = Dev::start_in(folder);
    audit(&dev, &store.objects()).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_bucket_refuses_nothing_is_released_and_it_recovers_by_itself() {
    let store = Store::start().await;
    let dev = Dev::start_in(store.configured("not the secret"));
    let status = unwrap(&dev).await.unwrap_err();
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "LEDGER_UNAVAILABLE");
    let told = dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json();
    let trouble = told["log"]["copy"]["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("HTTP 403") && !trouble.contains("Signature="), "{trouble}");
    assert!(!trouble.contains("not the secret"), "{trouble}");

    credentials(dev.dir().parent().unwrap(), SECRET_KEY);
    // One session asks again and again: logins in a short time are refused after ten.
    let operator = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[7; 32]);
    let until = Instant::now() + Duration::from_secs(60);
    let request = loop {
        match operator.unwrap(&key, wrapped.clone()).await {
            Ok(released) => break released.request_id,
            Err(status) => assert!(Instant::now() < until, "it does not recover: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(released(&store.objects()).contains(&request));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_with_another_log_and_a_store_that_is_not_trusted_are_refused() {
    let store = Store::start().await;
    let elsewhere = Dev::start();
    elsewhere.ctl(Person::Auditor, ["audit", "export", store.objects().to_str().unwrap()]).expect(0);
    let folder = store.configured(SECRET_KEY);
    let Start::Ended(ran) = Dev::try_start_in(folder) else { panic!("it writes into another log's copy") };
    ran.expect(1).says("s3://evidence/one").says("is not one of this log").says("The second place");

    let (store, other) = (Store::start().await, Store::start().await);
    let folder = store.configured(SECRET_KEY);
    fs::write(folder.path().join("store.pem"), &other.ca).unwrap();
    let dev = Dev::start_in(folder);
    unwrap(&dev).await.unwrap_err();
    let told = dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json();
    let trouble = told["log"]["copy"]["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("certificate"), "{trouble}");
    assert!(!store.objects().exists());
}
