//! What operations do, from the first invitation to the log.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use custodian_proto::v1;
use softhsm_tests::{Dev, Person, Ran, Start, Wire, bin, reason, run, run_with_input, sealed_key};
use tokio_stream::StreamExt;

#[tokio::test]
async fn a_workstation_enrols_with_a_one_time_code_and_works_once_activated() {
    let dev = Dev::start();
    let invited = dev.ctl(Person::Admin, ["device", "invite", "laptop-7", "--json"]).expect(0).json();
    let code = invited["code"].as_str().unwrap().to_owned();
    let home = dev.scratch("home");
    let out = dev.scratch("device");
    fs::remove_dir(&out).unwrap();
    let enroll = |code: &str, out: &std::path::Path| {
        let mut command = Command::new(bin("envelope"));
        command.env_clear().env("HOME", &home).env("CUSTODIAN_ADDR", dev.address());
        command.env("CUSTODIAN_CA", dev.dir().join("ca.crt"));
        command.args(["enroll", "--code-file", "-", "--out-dir"]).arg(out);
        run_with_input(&mut command, code.as_bytes())
    };
    enroll("a wrong code", &dev.scratch("device-wrong").join("d")).expect(3).says("ENROLLMENT_REFUSED");
    enroll(&code, &out).expect(0);
    // One time means one time.
    let again = enroll(&code, &dev.scratch("device-again").join("d")).expect(3);
    assert!(again.stderr.contains("ENROLLMENT_REFUSED") || again.stderr.contains("CERTIFICATE_REFUSED"));

    let login = || {
        let mut command = dev.command("envelope", Person::Operator);
        command.env("CUSTODIAN_CERT", out.join("device.crt")).env("CUSTODIAN_KEY", out.join("device.key"));
        run(command.env("CUSTODIAN_SESSION_DIR", dev.scratch("client").join("sessions")).arg("login"))
    };
    login().expect(3).says("DEVICE_NOT_ACTIVE");
    dev.ctl(Person::Admin, ["device", "activate", "laptop-7"]).expect(0);
    login().expect(0);

    let records = Wire::records(&dev).await;
    let enrolled: Vec<_> = records.iter().filter(|record| record.operation == "Enroll").collect();
    assert!(enrolled.iter().any(|record| record.outcome == "OK"));
    assert!(enrolled.iter().any(|record| record.outcome == "ENROLLMENT_REFUSED"));
}

#[test]
fn a_device_certificate_is_renewed_under_the_same_id() {
    let dev = Dev::start();
    dev.envelope(Person::Operator, ["login"]).expect(0);
    let invited = dev.ctl(Person::Admin, ["device", "invite", "operator-laptop", "--json"]).expect(0).json();
    let out = dev.scratch("renewed").join("device");
    let mut command = Command::new(bin("envelope"));
    command.env_clear().env("HOME", dev.scratch("home")).env("CUSTODIAN_ADDR", dev.address());
    command.env("CUSTODIAN_CA", dev.dir().join("ca.crt"));
    command.args(["enroll", "--code-file", "-", "--out-dir"]).arg(&out);
    run_with_input(&mut command, invited["code"].as_str().unwrap().as_bytes()).expect(0);

    let login = || {
        let mut command = dev.command("envelope", Person::Operator);
        command.env("CUSTODIAN_CERT", out.join("device.crt")).env("CUSTODIAN_KEY", out.join("device.key"));
        run(command.env("CUSTODIAN_SESSION_DIR", dev.scratch("client").join("sessions")).arg("login"))
    };
    // The old key is nobody's now; the new one waits for an administrator.
    dev.envelope(Person::Operator, ["login"]).expect(3).says("DEVICE_UNKNOWN");
    login().expect(3).says("DEVICE_NOT_ACTIVE");
    dev.ctl(Person::Admin, ["device", "activate", "operator-laptop"]).expect(0);
    login().expect(0);

    dev.ctl(Person::Admin, ["device", "revoke", "operator-laptop", "--reason", "lost"]).expect(0);
    dev.ctl(Person::Admin, ["device", "revoke", "operator-laptop", "--reason", "still lost"]).expect(0);
    dev.ctl(Person::Admin, ["device", "invite", "operator-laptop"]).expect(3).says("STATE_CONFLICT");
}

#[test]
fn the_last_administrator_cannot_lock_everybody_out() {
    let dev = Dev::start();
    dev.ctl(Person::Admin, ["user", "disable", "admin", "--reason", "oops"]).expect(3).says("STATE_CONFLICT");
    dev.ctl(Person::Admin, ["user", "roles", "admin", "--role", "auditor"]).expect(3).says("STATE_CONFLICT");
    for device in ["operator-laptop", "auditor-laptop"] {
        dev.ctl(Person::Admin, ["device", "revoke", device, "--reason", "test"]).expect(0);
    }
    let revoke = ["device", "revoke", "admin-laptop", "--reason", "oops"];
    dev.ctl(Person::Admin, revoke).expect(3).says("STATE_CONFLICT");
    dev.ctl(Person::Admin, ["device", "ls"]).expect(0);
}

#[tokio::test]
async fn strangers_are_let_in_to_enrol_only_while_an_invitation_is_open() {
    let dev = Dev::start();
    let enroll = || {
        let folder = dev.scratch("enrol").join("d");
        let mut command = Command::new(bin("envelope"));
        command.env_clear().env("HOME", dev.scratch("home")).env("CUSTODIAN_ADDR", dev.address());
        command.env("CUSTODIAN_CA", dev.dir().join("ca.crt"));
        run_with_input(command.args(["enroll", "--code-file", "-", "--out-dir"]).arg(folder), b"guess")
    };
    enroll().expect(3).says("CERTIFICATE_REFUSED");
    dev.ctl(Person::Admin, ["device", "invite", "laptop-7"]).expect(0);
    let _ = fs::remove_dir_all(dev.scratch("enrol"));
    enroll().expect(3).says("ENROLLMENT_REFUSED");
}

#[tokio::test]
async fn users_come_get_roles_change_passwords_and_go() {
    let dev = Dev::start();
    let password = dev.scratch("secrets").join("password");
    fs::write(&password, "correct horse battery").unwrap();
    let file = password.to_str().unwrap();
    dev.ctl(Person::Admin, ["user", "add", "anna", "--role", "auditor", "--password-file", file]).expect(0);
    dev.ctl(Person::Admin, ["user", "add", "anna", "--role", "auditor", "--password-file", file])
        .expect(3)
        .says("ALREADY_EXISTS");
    let mut anna = Wire::connect(&dev, &softhsm_tests::Identity::of(&dev, Person::Operator)).await.unwrap();
    anna.sign_in("anna", "correct horse battery").await.unwrap();
    let (key, wrapped) = sealed_key(&dev.certificate(), &[5; 32]);
    assert_eq!(reason(&anna.unwrap(&key, wrapped.clone()).await.unwrap_err()), "ROLE_MISSING");
    dev.ctl(Person::Admin, ["user", "roles", "anna", "--role", "operator"]).expect(0);
    anna.unwrap(&key, wrapped.clone()).await.unwrap();

    fs::write(&password, "another horse battery").unwrap();
    dev.ctl(Person::Admin, ["user", "passwd", "anna", "--new-password-file", file]).expect(0);
    assert_eq!(reason(&anna.unwrap(&key, wrapped.clone()).await.unwrap_err()), "NOT_LOGGED_IN");
    assert_eq!(reason(&anna.sign_in("anna", "correct horse battery").await.unwrap_err()), "LOGIN_FAILED");
    anna.sign_in("anna", "another horse battery").await.unwrap();

    let until = ["user", "disable", "anna", "--until", "14d", "--reason", "a holiday", "--json"];
    let away = dev.ctl(Person::Admin, until).expect(0).json();
    assert!(away["disabled"] == true && away["disable_end_time"].is_string(), "{away}");
    assert_eq!(reason(&anna.unwrap(&key, wrapped.clone()).await.unwrap_err()), "NOT_LOGGED_IN");
    assert_eq!(reason(&anna.sign_in("anna", "another horse battery").await.unwrap_err()), "LOGIN_FAILED");
    let shorter = ["user", "disable", "anna", "--until", "1h", "--reason", "a holiday"];
    dev.ctl(Person::Admin, shorter).expect(3).says("STATE_CONFLICT");
    dev.ctl(Person::Admin, ["user", "enable", "anna"]).expect(0);
    anna.sign_in("anna", "another horse battery").await.unwrap();

    dev.ctl(Person::Admin, ["user", "disable", "anna", "--reason", "left"]).expect(0);
    assert_eq!(reason(&anna.unwrap(&key, wrapped).await.unwrap_err()), "USER_DISABLED");
    assert_eq!(reason(&anna.sign_in("anna", "another horse battery").await.unwrap_err()), "LOGIN_FAILED");
}

#[tokio::test]
async fn a_new_key_seals_and_opens_and_its_certificate_says_how() {
    let dev = Dev::start();
    let made =
        dev.ctl(Person::Admin, ["key", "create", "backups", "--bits", "2048", "--json"]).expect(0).json();
    assert_eq!(made["modulus_bits"], 2048);
    let certificate = dev.scratch("keys").join("backups.crt");
    dev.ctl(Person::Operator, ["key", "cert", "backups", "-o", certificate.to_str().unwrap()]).expect(0);
    let chain = run(Command::new("openssl")
        .args(["verify", "-CAfile"])
        .arg(dev.dir().join("ca.crt"))
        .arg(&certificate));
    chain.expect(0);
    let text =
        run(Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&certificate)).expect(0);
    for part in ["Key Encipherment", "Subject Key Identifier", "S/MIME Capabilities"] {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&certificate, &[8; 32]);
    assert_eq!(wire.unwrap(&key, wrapped.clone()).await.unwrap().file_key, [8; 32]);
    // Made for another key: the same answer as for any bad ciphertext.
    let (sample, _) = sealed_key(&dev.certificate(), &[8; 32]);
    let status = wire.unwrap(&sample, wrapped).await.unwrap_err();
    assert_eq!(reason(&status), "WRAPPED_KEY_REJECTED");
}

#[test]
fn a_taken_label_leaves_no_key_behind_in_the_token() {
    let dev = Dev::start();
    let held = || objects(&dev.dir().join("tokens"));
    let before = held();
    dev.ctl(Person::Admin, ["key", "create", "sample", "--bits", "2048"]).expect(3).says("ALREADY_EXISTS");
    assert_eq!(held(), before);
    dev.ctl(Person::Admin, ["key", "create", "other", "--bits", "2048"]).expect(0);
    assert!(held() > before);
}

/// How many objects SoftHSM keeps in this folder.
fn objects(tokens: &Path) -> usize {
    let inside = fs::read_dir(tokens).unwrap().flat_map(|token| fs::read_dir(token.unwrap().path()).unwrap());
    inside.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|it| it == "object")).count()
}

#[tokio::test]
async fn the_auditor_sees_records_as_they_come_and_filters_them() {
    let dev = Dev::start();
    let auditor = Wire::login(&dev, Person::Auditor).await;
    let request = v1::TailRecordsRequest {
        filter: Some(v1::RecordFilter { operation: "Unwrap".into(), ..Default::default() }),
        ..Default::default()
    };
    let mut tail = auditor.audit().tail_records(auditor.request(request)).await.unwrap().into_inner();
    let operator = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[5; 32]);
    let answer = operator.unwrap(&key, wrapped.clone()).await.unwrap();
    assert_eq!(tail.next().await.unwrap().unwrap().request_id, answer.request_id);
    operator.unwrap(&key, vec![0; wrapped.len()]).await.unwrap_err();
    assert_eq!(tail.next().await.unwrap().unwrap().outcome, "WRAPPED_KEY_REJECTED");

    let list = |args: &[&str]| {
        let args = [&["audit", "ls", "--json"], args].concat();
        dev.ctl(Person::Auditor, args).expect(0).json().as_array().unwrap().len()
    };
    assert_eq!(list(&["--operation", "Unwrap"]), 2);
    assert_eq!(list(&["--operation", "Unwrap", "--outcome", "!OK"]), 1);
    assert_eq!(list(&["--operation", "Unwrap", "--user", "operator", "--device", "operator-laptop"]), 2);
    assert_eq!(list(&["--operation", "Unwrap", "--user", "admin"]), 0);
    assert_eq!(list(&["--until", "2020-01-01T00:00:00Z"]), 0);

    // A revoked auditor's stream ends.
    dev.ctl(Person::Admin, ["device", "revoke", "auditor-laptop", "--reason", "test"]).expect(0);
    operator.unwrap(&key, vec![1; wrapped.len()]).await.unwrap_err();
    let end = loop {
        match tail.next().await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert_eq!(reason(&end.unwrap().unwrap_err()), "DEVICE_REVOKED");
}

#[test]
fn the_token_worker_gives_way_to_the_network_process() {
    let dev = Dev::start();
    // proc_pid_stat(5): behind the name in parentheses the third field; the 19th of all is `nice`.
    let nice = |pid: u32| -> i32 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(16).unwrap().parse().unwrap()
    };
    assert!(nice(dev.worker().unwrap()) > nice(dev.pid()));
}

#[test]
fn sighup_reads_certificates_and_rules_again() {
    let dev = Dev::start();
    let config = dev.dir().join("custodian.toml");
    let text = fs::read_to_string(&config).unwrap();
    let budget = "unwraps_per_hour = 1000\n";
    assert!(text.contains(budget), "{text}");
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &envelope);
    let extract =
        || dev.envelope(Person::Operator, ["extract".as_ref(), envelope.as_os_str(), "--to-stdout".as_ref()]);
    extract().expect(0);

    // A configuration that does not read changes nothing.
    fs::write(&config, "nonsense").unwrap();
    Dev::signal(dev.pid(), "HUP");
    extract().expect(0);

    fs::write(&config, text.replace(budget, "unwraps_per_hour = 1\n")).unwrap();
    Dev::signal(dev.pid(), "HUP");
    // The signal is handled beside the calls: it may take a few of them.
    let refused =
        (0..200).map(|_| extract()).find(|ran| ran.code != Some(0)).expect("the budget is in force");
    refused.expect(3).says("BUDGET_EXHAUSTED");
}

#[test]
fn sighup_serves_a_new_server_certificate() {
    let dev = Dev::start();
    let (key, certificate) = (dev.dir().join("server.key"), dev.dir().join("server.crt"));
    for file in [&key, &certificate] {
        fs::remove_file(file).unwrap();
    }
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]).arg(&key);
    run(openssl.arg("-out").arg(&certificate)).expect(0);
    Dev::signal(dev.pid(), "HUP");
    let login = || {
        let mut command = dev.command("envelope", Person::Operator);
        run(command.env("CUSTODIAN_CA", &certificate).arg("login"))
    };
    // The signal is handled beside the connections: it may take a few of them.
    assert!((0..200).any(|_| login().code == Some(0)), "{:?}", login());
}

#[test]
fn dev_serves_a_given_token() {
    let (donor, ran) = Dev::start().stop();
    ran.expect(0);
    let tokens = donor.path().join("dev");
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(bin("custodian"));
    command.env("SOFTHSM2_CONF", tokens.join("softhsm2.conf"));
    command.args(["dev", "--module", "/usr/lib/softhsm/libsofthsm2.so", "--token-label", "custodian-dev"]);
    command.arg("--pin-file").arg(tokens.join("token.pin")).arg("--dir").arg(folder.path().join("dev"));
    let dev = Dev::start_as(folder, command);
    dev.envelope(Person::Operator, ["login"]).expect(0);
}

/// The token of a stopped `dev`: it stands for one that operations initialised.
struct Donor {
    folder: tempfile::TempDir,
}

impl Donor {
    fn new() -> Self {
        let (folder, ran) = Dev::start().stop();
        ran.expect(0);
        Self { folder }
    }

    fn dev(&self) -> PathBuf {
        self.folder.path().join("dev")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("etc/custodian.toml")
    }

    fn init(&self, password: &str, name: &str, organisation: &str) -> Ran {
        let file = self.folder.path().join("password");
        fs::write(&file, format!("{password}\n")).unwrap();
        let mut command = Command::new(bin("custodian"));
        command.env("SOFTHSM2_CONF", self.dev().join("softhsm2.conf"));
        command.args([
            "init",
            "--module",
            "/usr/lib/softhsm/libsofthsm2.so",
            "--token-label",
            "custodian-dev",
        ]);
        command.arg("--pin-file").arg(self.dev().join("token.pin")).arg("--config").arg(self.config());
        command.arg("--token-write").arg(self.dev().join("tokens"));
        command.args(["--listen", "127.0.0.1:7443", "--name", name, "--organisation", organisation]);
        run(command.args(["--admin", "anna", "--admin-password-file"]).arg(&file))
    }

    fn check(&self) -> Ran {
        let mut command = Command::new(bin("custodian"));
        command.env("SOFTHSM2_CONF", self.dev().join("softhsm2.conf"));
        run(command.args(["check", "--config"]).arg(self.config()))
    }
}

#[test]
fn init_sets_up_for_production_and_never_overwrites() {
    let donor = Donor::new();
    let init = || donor.init("correct horse battery", "localhost", "Test");
    init().expect(0);
    let written = fs::read(donor.config()).unwrap();
    init().expect(1).says("exists");
    assert_eq!(fs::read(donor.config()).unwrap(), written);
    let checked = donor.check().expect(0);
    assert!(checked.stdout.contains("first@1 RSA-3072, active"), "{}", checked.stdout);
}

#[test]
fn init_finds_what_cannot_work_before_it_makes_anything() {
    let donor = Donor::new();
    let before = objects(&donor.dev().join("tokens"));
    let good = ["correct horse battery", "localhost", "Test"];
    let bad = [
        (["short", good[1], good[2]], "12 to 1024 bytes"),
        ([good[0], "no name", good[2]], "no DNS name"),
        ([good[0], good[1], "Te\nst"], "organisation"),
    ];
    for ([password, name, organisation], why) in bad {
        donor.init(password, name, organisation).expect(1).says(why);
        assert!(!donor.config().parent().unwrap().exists(), "files are left behind");
        assert_eq!(objects(&donor.dev().join("tokens")), before, "keys are left behind");
    }
    donor.init(good[0], good[1], good[2]).expect(0);
    donor.check().expect(0);
}

#[test]
fn init_that_fails_half_way_leaves_no_keys_in_the_token() {
    let donor = Donor::new();
    let before = objects(&donor.dev().join("tokens"));
    // A file where the administrator's folder is to be: found out last.
    let etc = donor.config().parent().unwrap().to_owned();
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("admin"), "in the way").unwrap();
    donor.init("correct horse battery", "localhost", "Test").expect(1).says("admin");
    assert_eq!(objects(&donor.dev().join("tokens")), before, "keys are left behind");
    fs::remove_dir_all(&etc).unwrap();
    donor.init("correct horse battery", "localhost", "Test").expect(0);
    donor.check().expect(0);
}

#[test]
fn check_and_serve_do_not_replace_a_lost_ledger() {
    let (folder, ran) = Dev::start().stop();
    ran.expect(0);
    let ledger = folder.path().join("dev/ledger.db");
    fs::remove_file(&ledger).unwrap();
    let Start::Ended(ran) = Dev::try_start_in(folder) else { panic!("serves without its ledger") };
    ran.expect(1).says("is missing");

    let donor = Donor::new();
    donor.init("correct horse battery", "localhost", "Test").expect(0);
    let etc = donor.config().parent().unwrap().to_owned();
    fs::rename(etc.join("ledger.db"), etc.join("elsewhere.db")).unwrap();
    donor.check().expect(1).says("is missing").says("not replaced by an empty one");
    assert!(!etc.join("ledger.db").exists());
    fs::rename(etc.join("elsewhere.db"), etc.join("ledger.db")).unwrap();
    donor.check().expect(0);
}

#[test]
fn check_finds_certificates_that_are_not_valid_now() {
    let donor = Donor::new();
    donor.init("correct horse battery", "localhost", "Test").expect(0);
    for (file, years, why) in [
        ("server.crt", [2020, 2021], "expired"),
        ("server.crt", [2090, 2091], "valid from"),
        ("ca.crt", [2020, 2021], "expired"),
    ] {
        let path = donor.config().parent().unwrap().join(file);
        let good = fs::read(&path).unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        [params.not_before, params.not_after] = years.map(|year| rcgen::date_time_ymd(year, 1, 1));
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let pem =
            der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, certificate.der()).unwrap();
        fs::write(&path, pem).unwrap();
        donor.check().expect(1).says(file).says(why);
        fs::write(&path, good).unwrap();
    }
    donor.check().expect(0);
}

#[tokio::test]
async fn the_last_page_says_that_it_is_the_last_even_if_it_is_full() {
    let dev = Dev::start();
    let admin = Wire::login(&dev, Person::Admin).await;
    let list = async |page_size, page_token: &str| {
        let request = v1::ListDevicesRequest { page_size, page_token: page_token.to_owned() };
        admin.devices().list_devices(admin.request(request)).await.unwrap().into_inner()
    };
    let all = list(3, "").await;
    assert_eq!((all.devices.len(), all.next_page_token.as_str()), (3, ""));
    let first = list(2, "").await;
    assert_eq!((first.devices.len(), first.next_page_token.as_str()), (2, "auditor-laptop"));
    let second = list(2, &first.next_page_token).await;
    assert_eq!((&second.devices[..], second.next_page_token.as_str()), (&all.devices[2..], ""));
}
