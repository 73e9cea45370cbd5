//! An envelope on the network: only what is needed is fetched, and nothing that changed is believed.

mod huge;
mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use custodian_client::{
    Error, Kind,
    error::Result,
    extract::{ExtractReport, ExtractTo, Input, extract},
    inspect::inspect,
    progress::Silent,
    web::{Access, Location},
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    version::TLS13,
};
use tempfile::TempDir;

use self::{
    huge::{Huge, SMALL, ZEROS},
    server::{Fault, Server},
};
use crate::{
    common::{SoftKey, extract_job, seal_to, tree},
    pack::Maker,
};

fn at(url: &str) -> Input {
    with(url, Access::default())
}

fn with(url: &str, access: Access) -> Input {
    Input::Web(Location::parse(url).expect("a URL").expect("sound"), access)
}

fn extract_from(key: &SoftKey, input: Input, output: ExtractTo, only: &[&str]) -> Result<ExtractReport> {
    let mut job = extract_job(Path::new(""), Path::new(""));
    (job.envelope, job.output) = (input, output);
    job.only = only.iter().map(ToString::to_string).collect();
    extract(&job, key, &Silent)
}

/// A tree, its envelope, and where both are.
fn sealed(key: &SoftKey) -> (TempDir, PathBuf, Vec<u8>) {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("s");
    tree::write(&source.join("a/small"), b"small");
    tree::write(&source.join("noise"), &tree::noise(3_000_000));
    tree::write(&source.join("text"), &tree::text(200_000));
    let envelope = folder.path().join("e.sealed");
    seal_to(key, &source, &envelope);
    let bytes = fs::read(envelope).expect("read");
    (folder, source, bytes)
}

#[test]
fn a_list_and_one_file_out_of_ten_gigabytes_cost_less_than_a_megabyte() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let server = Server::start(Huge::new(&Maker::new(key)));
    let url = server.url("huge.sealed");
    assert!(inspect(&at(&url)).expect("inspected").envelope_bytes > ZEROS);
    let report = extract_from(key, at(&url), ExtractTo::List, &[]).expect("listed");
    let sizes: Vec<_> = report.listed.iter().map(|entry| (entry.path.as_str(), entry.size)).collect();
    assert_eq!(sizes, [("large", ZEROS), ("folder/small", SMALL.len() as u64)]);
    let (listing, out) = (server.served(), folder.path().join("out"));
    extract_from(key, at(&url), ExtractTo::Folder(out.clone()), &["folder/*"]).expect("extracted");
    assert_eq!(fs::read(out.join("folder/small")).expect("there"), SMALL);
    assert!(!out.join("large").exists());
    let one_file = server.served() - listing;
    println!(
        "{listing} bytes to inspect and list, {one_file} for one file, {} requests",
        server.requests().len()
    );
    assert!(listing < 1 << 20 && one_file < 1 << 20, "{listing}, {one_file}");
}

#[test]
fn everything_comes_back_whatever_goes_wrong_for_a_moment() {
    let key = SoftKey::shared();
    let (folder, source, bytes) = sealed(key);
    for (number, faults) in [
        vec![],
        vec![Fault::Status(503), Fault::Status(500), Fault::Status(429), Fault::Close],
        vec![Fault::Short, Fault::Elsewhere, Fault::Close, Fault::Short],
    ]
    .into_iter()
    .enumerate()
    {
        let server = Server::start(bytes.clone());
        server.fail(faults);
        let out = folder.path().join(number.to_string());
        extract_from(key, at(&server.url("e")), ExtractTo::Folder(out.clone()), &[]).expect("extracted");
        assert_eq!(tree::read(&source), tree::read(&out.join("s")));
        // All but the first say of which version they want parts.
        let asked = server.requests();
        let if_range = asked.iter().filter(|head| head.to_lowercase().contains("if-range: \"v1\"")).count();
        assert!(if_range > 3 && asked.iter().all(|head| head.to_lowercase().contains("range: bytes=")));
    }
}

#[test]
fn redirections_are_followed_some_way() {
    let key = SoftKey::shared();
    let (_folder, _, bytes) = sealed(key);
    let (server, elsewhere) = (Server::start(bytes.clone()), Server::start(bytes));
    server.fail([Fault::Redirect("/other".to_owned()), Fault::Redirect(elsewhere.url("there"))]);
    extract_from(key, at(&server.url("e")), ExtractTo::List, &[]).expect("listed");
    assert_eq!(server.requests().len(), 2);
    assert!(elsewhere.requests().len() > 1 && elsewhere.requests()[0].starts_with("GET /there "));

    server.fail((0..9).map(|_| Fault::Redirect("/other".to_owned())));
    assert!(refused(&server).why.contains("more than 5 times"));
}

/// Why nothing is extracted; nothing is left, and no key was asked for after the refusal.
fn refused(server: &Server) -> Error {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let out = folder.path().join("out");
    let error = extract_from(key, at(&server.url("e?token=secret")), ExtractTo::Folder(out.clone()), &[])
        .expect_err("refused");
    assert_eq!(error.kind, Kind::Local, "{error}");
    assert!(tree::is_empty(folder.path()) || tree::is_empty(&out));
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    error
}

#[test]
fn what_the_server_cannot_or_will_not_do_is_told_with_the_cure() {
    let (_folder, _, bytes) = sealed(SoftKey::shared());
    for (fault, why, cure) in [
        (Fault::Whole, "whole objects only", "download it first"),
        (Fault::Unversioned, "could change unnoticed", "download it first"),
        (Fault::Compressed, "compresses", "download it first"),
        (Fault::Status(404), "no such object", "address"),
        (Fault::Status(403), "does not allow it", "expired"),
        (Fault::Status(418), "418", ""),
        (Fault::Redirect("file:///etc/passwd".to_owned()), "no https://", "where it really is"),
    ] {
        let server = Server::start(bytes.clone());
        server.fail([fault.clone()]);
        let error = refused(&server);
        assert!(error.why.contains(why) && error.hint.contains(cure), "{fault:?}: {error:?}");
        assert_eq!(server.requests().len(), 1, "{fault:?}");
    }
    let server = Server::start(bytes);
    server.fail((0..5).map(|_| Fault::Status(503)));
    assert!(refused(&server).why.contains("503"));
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn an_object_that_changes_is_not_believed() {
    let (_folder, _, bytes) = sealed(SoftKey::shared());
    // The first request learns the version; it changes at each of the others in turn.
    let all = {
        let server = Server::start(bytes.clone());
        let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
        let output = ExtractTo::Folder(folder.path().to_owned());
        extract_from(key, at(&server.url("e")), output, &[]).expect("extracted");
        server.requests().len()
    };
    assert!(all > 8, "{all}");
    for when in 1..all / 2 {
        let server = Server::start(bytes.clone());
        server.fail((0..when).map(|_| Fault::None).chain([Fault::Change]));
        assert!(refused(&server).why.contains("changed while it was read"), "at request {when}");
    }
}

fn tls(names: &[&str]) -> (ServerConfig, String) {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("key");
    (config, cert.pem())
}

#[test]
fn https_is_tls_1_3_from_a_server_that_somebody_vouches_for() {
    let key = SoftKey::shared();
    let (folder, _, bytes) = sealed(key);
    let (config, pem) = tls(&["localhost"]);
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, pem).expect("written");
    let trusting =
        |server: &Server| with(&server.url("e"), Access { ca: Some(ca.clone()), ..Access::default() });

    let server = Server::start_tls(bytes.clone(), config.clone());
    extract_from(key, trusting(&server), ExtractTo::List, &[]).expect("listed");
    // The system vouches for none of these.
    let error = extract_from(key, at(&server.url("e")), ExtractTo::List, &[]).expect_err("refused");
    assert!(error.why.contains("not trusted"), "{error}");

    server.fail([Fault::Redirect("http://localhost:1/e".to_owned())]);
    let error = extract_from(key, trusting(&server), ExtractTo::List, &[]).expect_err("refused");
    assert!(error.why.contains("not encrypted"), "{error}");

    let (other_name, pem) = tls(&["other.example"]);
    fs::write(&ca, pem).expect("written");
    let server = Server::start_tls(bytes, other_name);
    let error = extract_from(key, trusting(&server), ExtractTo::List, &[]).expect_err("refused");
    assert!(error.why.contains("not trusted"), "{error}");
}

fn envelope(folder: &Path, environment: &[(&str, &str)], args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_envelope"))
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .envs(environment.iter().copied())
        .output()
        .expect("ran")
}

#[test]
fn the_command_line_takes_urls() {
    let (folder, _, bytes) = sealed(SoftKey::shared());
    let server = Server::start(bytes);
    let told = envelope(folder.path(), &[], &["inspect", "--json", &server.url("e.sealed?token=secret")]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!(told["format"], "sealed");
}

#[test]
fn other_formats_are_to_be_downloaded_first() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let file = folder.path().join("f");
    fs::write(&file, b"content").expect("written");
    for format in ["mtd", "cms"] {
        let sealed = folder.path().join(format);
        let args = ["seal", "--format", format, "--to", "cert.pem", "-o"];
        let sealed_to = Command::new(env!("CARGO_BIN_EXE_envelope"))
            .args(args)
            .args([&sealed, &file])
            .current_dir(&key.folder)
            .output()
            .expect("ran");
        assert!(sealed_to.status.success());
        let server = Server::start(fs::read(&sealed).expect("read"));
        let error = inspect(&at(&server.url("e"))).expect_err("refused");
        assert!(error.hint.contains("download it first"), "{error:?}");
        let error = extract_from(key, at(&server.url("e")), ExtractTo::List, &[]).expect_err("refused");
        assert!(error.hint.contains("download it first"), "{error:?}");
    }
}

#[test]
fn s3_is_signed_with_credentials_of_the_environment_or_of_a_file() {
    let (folder, _, bytes) = sealed(SoftKey::shared());
    let server = Server::start(bytes);
    let endpoint = server.url("");
    fs::create_dir(folder.path().join(".aws")).expect("folder");
    let file = "[work]\naws_access_key_id = AKFILE\naws_secret_access_key = verysecret\n";
    fs::write(folder.path().join(".aws/credentials"), file).expect("written");
    let from_file =
        [("AWS_PROFILE", "work"), ("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_REGION", "eu-west-3")];
    let from_environment = [
        ("AWS_ACCESS_KEY_ID", "AKENV"),
        ("AWS_SECRET_ACCESS_KEY", "verysecret"),
        ("AWS_SESSION_TOKEN", "session"),
        ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
    ];
    for (environment, id, region) in
        [(&from_file[..], "AKFILE", "eu-west-3"), (&from_environment, "AKENV", "us-east-1")]
    {
        let told = envelope(folder.path(), environment, &["inspect", "s3://bucket/folder/e%20x.sealed"]);
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let head = server.requests().pop().expect("asked");
        assert!(head.starts_with("GET /bucket/folder/"), "{head}");
        for part in [id, region, "X-Amz-Signature=", "X-Amz-Expires=300"] {
            assert!(head.contains(part), "{part} is not in {head}");
        }
        server.fail([Fault::Status(403)]);
        let told = envelope(folder.path(), environment, &["inspect", "s3://bucket/e"]);
        let said = String::from_utf8(told.stderr).expect("text");
        assert_eq!(told.status.code(), Some(1));
        assert!(said.contains("s3://bucket/e") && said.contains("credentials"), "{said}");
        assert!(!said.contains("secret") && !said.contains("X-Amz"), "{said}");
    }
    let told = envelope(folder.path(), &[], &["inspect", "s3://bucket/e"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("AWS_ACCESS_KEY_ID"));
}
