//! Timestamps (RFC 3161): openssl takes the custodian's, and we take openssl's, from a file and over HTTP; whatever is wrong with
//! one is said.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use custodian_proto::{
    tsp::{TimeStampReq, TimeStampResp},
    v1::{self, timestamp_service_client::TimestampServiceClient},
};
use der::{Decode, Encode, asn1::ObjectIdentifier};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::{ServerConfig, ServerConnection, pki_types::PrivateKeyDer};
use softhsm_tests::{Dev, Person, Ran, Wire, run};

/// id-kp-timeStamping and id-kp-emailProtection, each as a whole extKeyUsage.
const TIME_STAMPING: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08];
const EMAIL: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x04];

/// A custodian that issues timestamps, and a file.
fn start() -> (Dev, PathBuf) {
    let dev = Dev::start();
    dev.ctl(Person::Admin, ["key", "create", "timestamps", "--use", "timestamp"]).expect(0);
    let file = dev.scratch("files").join("contract.pdf");
    fs::write(&file, "what is agreed ".repeat(10_000)).unwrap();
    (dev, file)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn openssl(args: &[&str]) -> Ran {
    run(Command::new("openssl").args(args))
}

fn verify(dev: &Dev, file: &Path, timestamp: &Path, ca: &Path) -> Ran {
    let args = ["verify", "--json", "--timestamp", text(timestamp), "--tsa-ca", text(ca), text(file)];
    dev.envelope(Person::Auditor, args)
}

/// An authority of openssl's: a CA, and a certificate of it.
struct Tsa {
    folder: PathBuf,
    ca: PathBuf,
}

impl Tsa {
    /// Its certificate is valid until this year begins, and for this.
    fn new(folder: PathBuf, until: i32, purposes: &[u8]) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Throwaway CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = params.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Throwaway TSA");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 37], purposes.to_vec());
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
        let issuer = Issuer::from_ca_cert_der(ca_certificate.der(), &ca_key).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(folder.join("tsa.crt"), certificate.pem()).unwrap();
        fs::write(folder.join("tsa.key"), key.serialize_pem()).unwrap();
        let ca = folder.join("ca.crt");
        fs::write(&ca, ca_certificate.pem()).unwrap();
        fs::write(folder.join("serial"), "01\n").unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "[tsa]\nserial = {}\nsigner_cert = {}\nsigner_key = {}\nsigner_digest = sha256\ndefault_policy = 1.2.3.4.1\n\
             digests = sha256, sha384, sha512\naccuracy = secs:1\ness_cert_id_alg = sha256\n",
            path("serial"),
            path("tsa.crt"),
            path("tsa.key")
        );
        fs::write(folder.join("tsa.conf"), config).unwrap();
        Self { folder, ca }
    }

    /// Answers a query.
    fn answer(&self, query: &[u8]) -> Vec<u8> {
        let (asked, answered) = (self.folder.join("query.tsq"), self.folder.join("answer.tsr"));
        fs::write(&asked, query).unwrap();
        let config = self.folder.join("tsa.conf");
        openssl(&[
            "ts",
            "-reply",
            "-config",
            text(&config),
            "-section",
            "tsa",
            "-queryfile",
            text(&asked),
            "-out",
            text(&answered),
        ])
        .expect(0);
        fs::read(answered).unwrap()
    }

    /// A timestamp of this file, as openssl alone makes it.
    fn stamp(&self, file: &Path) -> PathBuf {
        let query = self.folder.join("own.tsq");
        openssl(&["ts", "-query", "-data", text(file), "-sha256", "-cert", "-out", text(&query)]).expect(0);
        let out = self.folder.join("own.tsr");
        fs::write(&out, self.answer(&fs::read(query).unwrap())).unwrap();
        out
    }

    /// Signs what another authority's token says with its own certificate, whatever that is for.
    fn sign_again(&self, answer: &Path) -> PathBuf {
        let path = |name: &str| self.folder.join(name);
        let (token, info, out) = (path("token.der"), path("info.der"), path("again.der"));
        openssl(&["ts", "-reply", "-in", text(answer), "-token_out", "-out", text(&token)]).expect(0);
        openssl(&[
            "cms",
            "-verify",
            "-noverify",
            "-binary",
            "-inform",
            "DER",
            "-in",
            text(&token),
            "-out",
            text(&info),
        ])
        .expect(0);
        openssl(&[
            "cms",
            "-sign",
            "-cades",
            "-binary",
            "-nodetach",
            "-md",
            "sha256",
            "-outform",
            "DER",
            "-econtent_type",
            "1.2.840.113549.1.9.16.1.4",
            "-signer",
            text(&path("tsa.crt")),
            "-inkey",
            text(&path("tsa.key")),
            "-in",
            text(&info),
            "-out",
            text(&out),
        ])
        .expect(0);
        out
    }

    /// Serves so many requests by HTTP POST; `change` sees each query before it is answered. The URL.
    fn serve(self, times: usize, change: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/tsr", listener.local_addr().unwrap());
        thread::spawn(move || {
            for _ in 0..times {
                let (mut stream, _) = listener.accept().unwrap();
                self.serve_one(&mut stream, &change);
            }
        });
        url
    }

    /// The same by https, as often as somebody trusts this certificate.
    fn serve_https(self, server: Arc<ServerConfig>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/tsr", listener.local_addr().unwrap());
        thread::spawn(move || {
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let mut tls = ServerConnection::new(Arc::clone(&server)).unwrap();
                // Whoever does not trust the certificate ends the handshake.
                while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
                if !tls.is_handshaking() {
                    self.serve_one(&mut rustls::Stream::new(&mut tls, &mut stream), |query| query);
                }
            }
        });
        url
    }

    fn serve_one(&self, stream: &mut (impl Read + Write), change: impl Fn(Vec<u8>) -> Vec<u8>) {
        let mut reader = BufReader::new(stream);
        let (mut head, mut len) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                len = value.trim().parse().unwrap();
            }
            head += &lower;
        }
        assert!(head.starts_with("post /tsr ") && head.contains("application/timestamp-query"), "{head}");
        let mut query = vec![0; len];
        reader.read_exact(&mut query).unwrap();
        let answer = self.answer(&change(query));
        let kind = "Content-Type: application/timestamp-reply";
        let head = format!("HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {}\r\n\r\n", answer.len());
        let stream = reader.into_inner();
        stream.write_all(&[head.as_bytes(), &answer].concat()).unwrap();
        stream.flush().unwrap();
    }
}

/// A server's certificate for this address, and the file with the CA that issued it.
fn https_server(folder: &Path) -> (Arc<ServerConfig>, PathBuf) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let file = folder.join("https.crt");
    fs::write(&file, ca.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &Issuer::from_ca_cert_der(ca.der(), &ca_key).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    (Arc::new(server), file)
}

#[tokio::test]
async fn openssl_takes_the_custodians_timestamps_and_the_log_has_each() {
    let (dev, file) = start();
    dev.envelope(Person::Operator, ["timestamp", text(&file)]).expect(0).says("timestamped 20");
    let timestamp = dev.scratch("files").join("contract.pdf.tsr");
    let ca = dev.dir().join("ca.crt");
    openssl(&["ts", "-verify", "-data", text(&file), "-in", text(&timestamp), "-CAfile", text(&ca)])
        .expect(0);
    // Asked for by openssl, with and without the certificate, by another hash.
    let folder = dev.scratch("queries");
    let wire = Wire::login(&dev, Person::Operator).await;
    let ask = async |request: Vec<u8>| {
        let request = wire.request(v1::TimestampRequest { request });
        TimestampServiceClient::new(wire.channel()).timestamp(request).await.unwrap().into_inner()
    };
    let certificate = folder.join("tsa.crt");
    dev.ctl(Person::Admin, ["key", "cert", "timestamps", "-o", text(&certificate)]).expect(0);
    for args in [&["-sha512", "-cert"][..], &["-sha384"], &["-sha256", "-no_nonce"]] {
        let (query, answer) = (folder.join("query.tsq"), folder.join("answer.tsr"));
        openssl(&[&["ts", "-query", "-data", text(&file), "-out", text(&query)], args].concat()).expect(0);
        let answered = ask(fs::read(&query).unwrap()).await;
        assert!(answered.sequence > 0);
        fs::write(&answer, answered.response).unwrap();
        let mut check =
            vec!["ts", "-verify", "-queryfile", text(&query), "-in", text(&answer), "-CAfile", text(&ca)];
        if !args.contains(&"-cert") {
            check.extend(["-untrusted", text(&certificate)]);
        }
        openssl(&check).expect(0);
    }
    let stamped = verify(&dev, &file, &timestamp, &ca).expect(0).json();
    let records = Wire::records(&dev).await;
    let serial = stamped["serial"].as_str().unwrap();
    let named = |record: &&v1::Record| record.request_id.replace('-', "") == serial.trim_start_matches("00");
    let record = records.iter().find(named).unwrap();
    assert_eq!((record.operation.as_str(), record.outcome.as_str()), ("Timestamp", "OK"));
    use sha2::Digest;
    let digest = hex::encode(sha2::Sha256::digest(fs::read(&file).unwrap()));
    assert_eq!(record.digest, format!("sha256:{digest}"));
    assert_eq!(records.iter().filter(|record| record.operation == "Timestamp").count(), 4);

    // What is wrong with a request is said in the way of RFC 3161, and recorded.
    let query = folder.join("bad.tsq");
    openssl(&["ts", "-query", "-data", text(&file), "-sha1", "-out", text(&query)]).expect(0);
    let sha1 = fs::read(&query).unwrap();
    openssl(&["ts", "-query", "-data", text(&file), "-sha256", "-tspolicy", "1.2.3", "-out", text(&query)])
        .expect(0);
    let other_policy = fs::read(&query).unwrap();
    for (query, reason) in
        [(sha1, "badAlg"), (other_policy, "unacceptedPolicy"), (b"no request".to_vec(), "badDataFormat")]
    {
        let answered = ask(query).await;
        let said = TimeStampResp::from_der(&answered.response).unwrap().token().unwrap_err();
        assert!(said.contains(reason), "{said}");
        let records = Wire::records(&dev).await;
        let record = records.iter().find(|record| record.request_id == answered.request_id).unwrap();
        assert!(record.outcome == "INVALID_ARGUMENT" && record.detail.contains(reason), "{record:?}");
    }

    // The key does nothing else, and others do not do this.
    let args = ["sign", text(&file), "--with", "custodian:timestamps"];
    dev.envelope(Person::Operator, args).expect(3).says("WRONG_KEY_USE");
    dev.envelope(Person::Auditor, ["timestamp", text(&file), "-o", "-"]).expect(3).says("ROLE_MISSING");
    dev.ctl(Person::Admin, ["key", "suspend", "timestamps", "--reason", "x"]).expect(0);
    let late = dev.scratch("files").join("late.tsr");
    dev.envelope(Person::Operator, ["timestamp", text(&file), "-o", text(&late)])
        .expect(3)
        .says("KEY_SUSPENDED");
    assert!(!late.exists());
}

#[test]
fn openssls_timestamps_are_taken_from_a_file_and_over_http_and_bad_ones_are_refused_by_name() {
    let (dev, file) = start();
    let tsa = Tsa::new(dev.scratch("tsa"), 2090, &TIME_STAMPING);
    let (ca, folder) = (tsa.ca.clone(), dev.scratch("stamps"));
    let timestamp = tsa.stamp(&file);
    let stamped = verify(&dev, &file, &timestamp, &ca).expect(0).json();
    assert_eq!((&stamped["policy"], &stamped["accuracy_ms"]), (&"1.2.3.4.1".into(), &1000.into()));
    // Nobody said that this authority counts; another file; another kind of certificate; one that had ended.
    verify(&dev, &file, &timestamp, &dev.dir().join("ca.crt")).expect(5).says("none of the accepted CAs");
    let other = folder.join("other");
    fs::write(&other, "something else").unwrap();
    verify(&dev, &other, &timestamp, &ca).expect(5).says("another digest");
    let mail = Tsa::new(dev.scratch("mail"), 2090, &EMAIL);
    verify(&dev, &file, &mail.sign_again(&timestamp), &mail.ca).expect(5).says("lacks id-kp-timeStamping");
    let ended = Tsa::new(dev.scratch("ended"), 2021, &TIME_STAMPING);
    verify(&dev, &file, &ended.sign_again(&timestamp), &ended.ca).expect(5).says("not valid at that time");
    // Every part of it is protected: changed anywhere, or cut off anywhere, it is refused.
    let good = fs::read(&timestamp).unwrap();
    let bad = folder.join("bad.tsr");
    for at in (0..good.len()).step_by(97) {
        let mut changed = good.clone();
        changed[at] ^= 1;
        for bytes in [&changed[..], &good[..at]] {
            fs::write(&bad, bytes).unwrap();
            let ran = verify(&dev, &file, &bad, &ca);
            // What says nothing of the timestamp may differ: the words beside the status.
            assert!(matches!(ran.code, Some(1 | 3 | 5)), "byte {at}: {ran:?}");
        }
    }

    let url = tsa.serve(1, |query| query);
    let out = folder.join("web.tsr");
    let web = |url: &str, out: &Path| {
        let args = ["timestamp", text(&file), "--tsa", url, "--tsa-ca", text(&ca), "-o", text(out)];
        dev.envelope(Person::Operator, args)
    };
    web(&url, &out).expect(0).says("by CN=Throwaway TSA");
    verify(&dev, &file, &out, &ca).expect(0);
    // An answer to another request, and one about something else.
    let tsa = Tsa::new(dev.scratch("again"), 2090, &TIME_STAMPING);
    let url = tsa.serve(1, |query| {
        let mut request = TimeStampReq::from_der(&query).unwrap();
        request.nonce = None;
        request.to_der().unwrap()
    });
    let replayed = folder.join("replayed.tsr");
    web(&url, &replayed).expect(5).says("another nonce");
    assert!(!replayed.exists());
    let policy = ObjectIdentifier::new_unwrap("1.2.3.4.2");
    let tsa = Tsa::new(dev.scratch("policy"), 2090, &TIME_STAMPING);
    let url = tsa.serve(1, move |query| {
        let mut request = TimeStampReq::from_der(&query).unwrap();
        request.req_policy = Some(policy);
        request.to_der().unwrap()
    });
    web(&url, &replayed).expect(3).says("unacceptedPolicy");
    web("ftp://127.0.0.1/", &replayed).expect(2).says("neither http nor https");
}

#[test]
fn an_authority_with_https_is_asked_only_if_its_servers_ca_is_trusted() {
    let (dev, file) = start();
    let folder = dev.scratch("https");
    let (server, tls_ca) = https_server(&folder);
    let tsa = Tsa::new(dev.scratch("tsa"), 2090, &TIME_STAMPING);
    let tsa_ca = tsa.ca.clone();
    let url = tsa.serve_https(server);
    let ask = |out: &str, tls_ca: &Path| {
        let out = folder.join(out);
        let args = ["timestamp", text(&file), "--tsa", &url, "--tsa-ca", text(&tsa_ca), "-o", text(&out)];
        (dev.envelope(Person::Operator, args.iter().chain(&["--tls-ca", text(tls_ca)])), out)
    };
    let (ran, out) = ask("none.tsr", &tsa_ca);
    ran.expect(6).says("no timestamp from https://");
    assert!(!out.exists());
    let (ran, out) = ask("good.tsr", &tls_ca);
    ran.expect(0).says("by CN=Throwaway TSA");
    verify(&dev, &file, &out, &tsa_ca).expect(0);
    // Of a signature that is made on the way, too: of an envelope.
    let (key, certificate) = (folder.join("anna.key"), folder.join("anna.crt"));
    let req = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Anna"];
    openssl(&[&req[..], &["-keyout", text(&key), "-out", text(&certificate)]].concat()).expect(0);
    let sample = dev.certificate();
    let signing = ["--sign-with", text(&key), "--sign-cert", text(&certificate), "--tsa", &url];
    let seal = |out: &Path, tls_ca: &Path| {
        let args = ["seal", "--to", text(&sample), "-o", text(out), text(&file), "--tls-ca", text(tls_ca)];
        dev.envelope(Person::Operator, args.iter().chain(&signing))
    };
    let envelope = folder.join("contract.mtd");
    seal(&envelope, &tsa_ca).expect(6);
    assert!(!envelope.exists());
    seal(&envelope, &tls_ca).expect(0);
    let args = ["verify", "--json", text(&envelope), "--tsa-ca", text(&tsa_ca)];
    let found = dev.envelope(Person::Operator, args).expect(0).json();
    assert_eq!(found["timestamp"]["authority"], "CN=Throwaway TSA");
}

#[test]
fn a_signature_of_the_custodian_has_its_time_and_outlives_its_certificate() {
    let (dev, file) = start();
    dev.ctl(Person::Admin, ["key", "create", "contracts", "--use", "sign", "--bits", "2048"]).expect(0);
    let args = ["sign", text(&file), "--with", "custodian:contracts", "--timestamp"];
    dev.envelope(Person::Operator, args).expect(0);
    let signature = dev.scratch("files").join("contract.pdf.p7s");
    let ca = dev.dir().join("ca.crt");
    let certificate = dev.scratch("files").join("contracts.crt");
    dev.ctl(Person::Admin, ["key", "cert", "contracts", "-o", text(&certificate)]).expect(0);
    let verified = |with_ca: &Path| {
        let args =
            ["verify", "--json", text(&file), "--accept-from", text(&certificate), "--tsa-ca", text(with_ca)];
        dev.envelope(Person::Operator, args)
    };
    let found = verified(&ca).expect(0).json();
    assert_eq!(found["signer"]["standing"], "pinned");
    assert!(found["timestamp"]["time"].as_str().unwrap().starts_with("20"), "{found}");
    // For openssl it is a signature as any other.
    openssl(&[
        "cms",
        "-verify",
        "-binary",
        "-inform",
        "DER",
        "-in",
        text(&signature),
        "-content",
        text(&file),
        "-CAfile",
        text(&ca),
        "-purpose",
        "any",
        "-out",
        "/dev/null",
    ])
    .expect(0);
    // Whose timestamps count is said by who verifies.
    let tsa = Tsa::new(dev.scratch("tsa"), 2090, &TIME_STAMPING);
    verified(&tsa.ca).expect(5).says("the timestamp is not good");

    // Signed while its certificate was valid, as the timestamp says; today it is not.
    let (own, [stamped, plain], end) = signed_in_time(&dev, &file);
    while SystemTime::now() <= end + Duration::from_secs(2) {
        thread::sleep(Duration::from_millis(100));
    }
    let verified = |signature: &Path| {
        let args = ["verify", text(&file), "--signature", text(signature), "--accept-from", text(&own)];
        dev.envelope(Person::Operator, args)
    };
    verified(&stamped).expect(0);
    verified(&plain).expect(5).says("it ended at");
}

/// A certificate, two signatures of the file by it, of which the first has a timestamp, and when the certificate ends: after both,
/// and soon. A slow machine gets more time.
fn signed_in_time(dev: &Dev, file: &Path) -> (PathBuf, [PathBuf; 2], SystemTime) {
    let life = (0..7).map(|power| Duration::from_secs(3 << power));
    let signed = life.map(|life| signed_within(dev, file, life)).find(|(.., end)| SystemTime::now() < *end);
    signed.expect("five minutes are not enough for two signatures")
}

fn signed_within(dev: &Dev, file: &Path, life: Duration) -> (PathBuf, [PathBuf; 2], SystemTime) {
    let folder = dev.scratch(&format!("anna-{}", life.as_secs()));
    let (key, own) = (folder.join("anna.key"), folder.join("anna.crt"));
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Anna");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let end = SystemTime::now() + life;
    // It is kept in whole seconds: not before `end`, and not later than a second after it.
    params.not_after = (end + Duration::from_secs(1)).into();
    fs::write(&own, params.self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    run(Command::new("chmod").arg("600").arg(&key)).expect(0);
    let sign = |out: &str, more: &[&str]| {
        let out = folder.join(out);
        let args = ["sign", text(file), "--with", text(&key), "--sign-cert", text(&own), "-o", text(&out)];
        let ran = dev.envelope(Person::Operator, args.iter().chain(more));
        // With a certificate that has ended nothing is signed.
        assert!(ran.code == Some(0) || SystemTime::now() >= end, "{ran:?}");
        out
    };
    let signatures = [sign("stamped.p7s", &["--timestamp"]), sign("plain.p7s", &[])];
    (own, signatures, end)
}
