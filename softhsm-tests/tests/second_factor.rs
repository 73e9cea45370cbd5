//! The second factor: enrolment, codes, recovery, lockout, and what a policy asks of it. The codes are computed by Python's
//! standard library, not by us.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use softhsm_tests::{Dev, Person, Ran, Wire, run};

/// Unwrapping wants a second factor of the last five minutes.
const FRESH: &str = r#"
@id("operators-unwrap") permit (principal, action in Action::"Open", resource) when { principal.roles.contains("operator") };
@id("audit") permit (principal, action in Action::"Audit", resource) when { principal.roles.contains("auditor") };
@id("administer") permit (principal, action in Action::"Administer", resource) when { principal.roles.contains("admin") };
@id("fresh-factor") forbid (principal, action == Action::"Unwrap", resource)
unless { context has mfa_age && context.mfa_age < 300 };
"#;

/// RFC 6238 by another hand: the code of the step that is `argv[2]` steps from now.
const PYTHON: &str = r#"
import base64, hmac, struct, sys, time
from urllib.parse import urlparse, parse_qs
query = parse_qs(urlparse(sys.argv[1]).query)
key = base64.b32decode(query["secret"][0] + "=" * (-len(query["secret"][0]) % 8))
step = int(time.time()) // int(query["period"][0]) + int(sys.argv[2])
mac = hmac.new(key, struct.pack(">Q", step), "sha1").digest()
offset = mac[-1] & 15
number = struct.unpack(">I", mac[offset:offset + 4])[0] & 0x7fffffff
print(str(number % 10 ** int(query["digits"][0])).zfill(int(query["digits"][0])), end="")
"#;

fn code(uri: &str, steps_from_now: i32) -> String {
    let mut python = Command::new("python3");
    run(python.args(["-c", PYTHON, uri, &steps_from_now.to_string()])).expect(0).stdout
}

/// A code that is none of those that are good now or soon.
fn wrong(uri: &str) -> String {
    let near: Vec<_> = (-2..=4).map(|steps| code(uri, steps)).collect();
    (0..).map(|number| format!("{number:06}")).find(|code| !near.contains(code)).unwrap()
}

/// What an enrolment gave.
struct Enrolled {
    uri: String,
    recovery: Vec<String>,
}

/// `envelope totp enroll` on pipes: reads the URI, answers with the present code. The next one is good already, whatever the
/// time is by then: the tests use that.
fn enroll(dev: &Dev, person: Person) -> Enrolled {
    let mut child = dev
        .command("envelope", person)
        .args(["totp", "enroll", "--totp-file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut uri = String::new();
    stdout.read_line(&mut uri).unwrap();
    let uri = uri.trim().to_owned();
    if uri.starts_with("otpauth://totp/Custodian:") {
        writeln!(child.stdin.take().unwrap(), "{}", code(&uri, 0)).unwrap();
    }
    let recovery = stdout.lines().map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{uri}: {}", String::from_utf8_lossy(&output.stderr));
    Enrolled { uri, recovery }
}

/// Runs `envelope` with this code in a file.
fn with_code(dev: &Dev, person: Person, code: &str, args: &[&str]) -> Ran {
    let file = dev.scratch("secrets").join("code");
    fs::write(&file, code).unwrap();
    run(dev.command("envelope", person).env("CUSTODIAN_TOTP_FILE", file).args(args))
}

fn sealed(dev: &Dev) -> PathBuf {
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &envelope);
    envelope
}

fn apply(dev: &Dev, text: &str) {
    let file = dev.scratch("policies").join("policy.cedar");
    fs::write(&file, text).unwrap();
    dev.ctl(Person::Admin, ["policy", "apply", file.to_str().unwrap(), "--reason", "test"]).expect(0);
}

#[tokio::test]
async fn a_policy_asks_for_a_fresh_code_and_the_client_gives_it() {
    let dev = Dev::start();
    let envelope = sealed(&dev);
    let extract = ["extract", envelope.to_str().unwrap(), "--to-stdout"];
    apply(&dev, FRESH);
    dev.envelope(Person::Operator, extract).expect(3).says("FACTOR_MISSING").says("envelope totp enroll");

    let Enrolled { uri, recovery } = enroll(&dev, Person::Operator);
    assert_eq!(recovery.len(), 10);
    // Confirming it was showing it.
    assert_eq!(dev.envelope(Person::Operator, extract).expect(0).stdout, "content");

    // A new session has not shown it.
    dev.envelope(Person::Operator, ["logout"]).expect(0);
    dev.envelope(Person::Operator, extract).expect(3).says("STEP_UP_REQUIRED").says("--totp-file");
    let wrong = wrong(&uri);
    with_code(&dev, Person::Operator, &wrong, &extract).expect(3).says("FACTOR_REFUSED");
    let used = code(&uri, 1);
    assert_eq!(with_code(&dev, Person::Operator, &used, &extract).expect(0).stdout, "content");
    // The same code again, seen over a shoulder.
    dev.envelope(Person::Operator, ["logout"]).expect(0);
    with_code(&dev, Person::Operator, &used, &extract).expect(3).says("FACTOR_REFUSED");
    // A recovery code, once; typed with or without its groups.
    let typed = recovery[3].to_uppercase().replace('-', " ");
    assert_eq!(with_code(&dev, Person::Operator, &typed, &extract).expect(0).stdout, "content");
    dev.envelope(Person::Operator, ["logout"]).expect(0);
    with_code(&dev, Person::Operator, &typed, &extract).expect(3).says("FACTOR_REFUSED");

    let records = Wire::records(&dev).await;
    let stepped: Vec<_> = records
        .iter()
        .filter(|record| record.operation == "StepUp")
        .map(|record| record.outcome.as_str())
        .collect();
    assert_eq!(stepped, ["FACTOR_REFUSED", "OK", "FACTOR_REFUSED", "OK", "FACTOR_REFUSED"]);
    let asked = records.iter().find(|record| record.outcome == "STEP_UP_REQUIRED").unwrap();
    assert!(asked.detail.contains("forbidden by fresh-factor"), "{}", asked.detail);
    let opened =
        records.iter().rfind(|record| record.operation == "Unwrap" && record.outcome == "OK").unwrap();
    assert!(opened.second_factor_time.is_some());
    let auditor = enroll(&dev, Person::Auditor);
    // Nothing secret is in the log, and nothing of the app's in the ledger's files.
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let secret = uri.split("secret=").nth(1).unwrap().split('&').next().unwrap();
    let decode = "import base64, sys; sys.stdout.write(base64.b32decode(sys.argv[1] + '=' * (-len(sys.argv[1]) % 8)).hex())";
    let bytes = run(Command::new("python3").args(["-c", decode, secret])).expect(0).stdout;
    for name in ["ledger.db", "ledger.db-wal"] {
        let held = fs::read(folder.path().join("dev").join(name)).unwrap_or_default();
        let text = held.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert!(!text.contains(&bytes), "the secret is in {name}");
        assert!(!String::from_utf8_lossy(&held).contains(secret));
    }

    // It is good after a restart, and is not served without the key it is sealed under.
    let dev = Dev::start_in(folder);
    dev.envelope(Person::Auditor, ["logout"]).expect(0);
    with_code(&dev, Person::Auditor, &code(&auditor.uri, 1), &["totp", "verify"]).expect(0);
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let key = folder.path().join("dev/second-factor.key");
    fs::rename(&key, folder.path().join("elsewhere")).unwrap();
    let softhsm_tests::Start::Ended(ran) = Dev::try_start_in(folder) else {
        panic!("serves without the key")
    };
    ran.expect(1).says("second-factor.key").says("restore it");
}

#[tokio::test]
async fn one_code_is_enough_for_several_envelopes() {
    let dev = Dev::start();
    let first = sealed(&dev);
    let (source, second) = (dev.scratch("source").join("b"), dev.scratch("sealed").join("b.mtd"));
    fs::write(&source, b"more").unwrap();
    dev.seal(&source, &second);
    apply(&dev, FRESH);
    let Enrolled { uri, .. } = enroll(&dev, Person::Operator);
    dev.envelope(Person::Operator, ["logout"]).expect(0);
    let out = dev.scratch("out");
    let paths = [&first, &second, &out].map(|path| path.to_str().unwrap());
    let extract = ["extract", paths[0], paths[1], "-C", paths[2]];
    with_code(&dev, Person::Operator, &code(&uri, 1), &extract).expect(0);
    assert_eq!(fs::read_to_string(out.join("b")).unwrap(), "more");
    let records = Wire::records(&dev).await;
    let of = |operation: &str, outcome: &str| {
        records.iter().filter(|record| record.operation == operation && record.outcome == outcome).count()
    };
    assert_eq!((of("Unwrap", "OK"), of("StepUp", "OK")), (2, 1));
}

#[test]
fn five_wrong_codes_lock_the_factor_and_an_administrator_resets_it() {
    let dev = Dev::start();
    let Enrolled { uri, recovery } = enroll(&dev, Person::Operator);
    let wrong = wrong(&uri);
    for _ in 0..5 {
        with_code(&dev, Person::Operator, &wrong, &["totp", "verify"]).expect(3).says("FACTOR_REFUSED");
    }
    for good in [&code(&uri, 1), &recovery[0]] {
        with_code(&dev, Person::Operator, good, &["totp", "verify"]).expect(3).says("FACTOR_LOCKED");
    }
    // Restarting forgives nothing.
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let dev = Dev::start_in(folder);
    with_code(&dev, Person::Operator, &recovery[0], &["totp", "verify"]).expect(3).says("FACTOR_LOCKED");

    let reset = |person, user| dev.ctl(person, ["user", "reset-factor", user, "--reason", "a new phone"]);
    reset(Person::Auditor, "operator").expect(3).says("ROLE_MISSING");
    reset(Person::Admin, "admin").expect(3).says("STATE_CONFLICT");
    reset(Person::Admin, "operator").expect(0);
    with_code(&dev, Person::Operator, &recovery[0], &["totp", "verify"]).expect(3).says("FACTOR_MISSING");
    let again = enroll(&dev, Person::Operator);
    assert_ne!(again.uri, uri);
    with_code(&dev, Person::Operator, &code(&again.uri, 1), &["totp", "verify"]).expect(0);
}

#[test]
fn a_user_who_must_have_one_can_do_nothing_before_it_is_shown() {
    let dev = Dev::start();
    let envelope = sealed(&dev);
    let extract = ["extract", envelope.to_str().unwrap(), "--to-stdout"];
    dev.envelope(Person::Operator, extract).expect(0);
    dev.ctl(Person::Admin, ["user", "require-factor", "operator"]).expect(0);
    // At once, in the session that is open.
    dev.envelope(Person::Operator, extract).expect(3).says("FACTOR_MISSING");
    dev.envelope(Person::Operator, ["login"]).expect(0).says("envelope totp enroll");
    let Enrolled { uri, .. } = enroll(&dev, Person::Operator);
    dev.envelope(Person::Operator, extract).expect(0);

    dev.envelope(Person::Operator, ["logout"]).expect(0);
    dev.envelope(Person::Operator, ["login"]).expect(0).says("envelope totp verify");
    dev.envelope(Person::Operator, extract).expect(3).says("STEP_UP_REQUIRED");
    // A thief of the password cannot put another in its place.
    dev.envelope(Person::Operator, ["totp", "enroll"]).expect(3).says("STEP_UP_REQUIRED");
    dev.envelope(Person::Operator, ["logout"]).expect(0);
    // Signing in with a code is one step.
    with_code(&dev, Person::Operator, &code(&uri, 1), &["login"]).expect(0);
    dev.envelope(Person::Operator, extract).expect(0);
    let who = dev.envelope(Person::Operator, ["whoami", "--json"]).expect(0).json();
    assert_eq!(who["second_factor"], "required");
    assert!(who["second_factor_time"].is_string());
    dev.ctl(Person::Admin, ["user", "require-factor", "operator", "--off"]).expect(0);
    dev.envelope(Person::Operator, ["logout"]).expect(0);
    dev.envelope(Person::Operator, extract).expect(0);
}

#[tokio::test]
async fn the_only_administrator_who_lost_app_and_recovery_codes_is_helped_on_the_machine() {
    let dev = Dev::start();
    enroll(&dev, Person::Admin);
    let always = FRESH.replace("action == Action::\"Unwrap\"", "action");
    apply(&dev, &always);
    dev.ctl(Person::Admin, ["logout"]).expect(0);
    dev.ctl(Person::Admin, ["user", "ls"]).expect(3).says("STEP_UP_REQUIRED");
    let config = dev.dir().join("custodian.toml");
    let reset = |user: &str, reason: &str| {
        let args = ["reset-factor", "--user", user, "--reason", reason, "--config"];
        run(Command::new(softhsm_tests::bin("custodian")).args(args).arg(&config))
    };
    reset("admin", "phone lost").expect(1).says("in use by another process");
    let (folder, ran) = dev.stop();
    ran.expect(0);
    reset("admin", " ").expect(1).says("there is no reason");
    reset("nobody", "phone lost").expect(1).says("no such user");
    reset("auditor", "phone lost").expect(1).says("the user has none");
    let said = reset("users/admin", "phone lost").expect(0).says("WARN");
    assert!(said.stdout.contains("envelope totp enroll"), "{}", said.stdout);

    let dev = Dev::start_in(folder);
    dev.ctl(Person::Admin, ["user", "ls"]).expect(3).says("FACTOR_MISSING");
    enroll(&dev, Person::Admin);
    dev.ctl(Person::Admin, ["user", "ls"]).expect(0);
    // Auditors would need a code, too.
    apply(&dev, FRESH);
    let records = Wire::records(&dev).await;
    let reset: Vec<_> = records.iter().filter(|record| record.operation == "ResetFactor").collect();
    let [reset] = reset[..] else { panic!("{reset:?}") };
    assert_eq!(
        (reset.outcome.as_str(), reset.target.as_str(), reset.user.as_str()),
        ("OK", "users/admin", "")
    );
    assert_eq!(reset.detail, "reset on the custodian's machine: phone lost");
}

#[test]
fn a_policy_that_asks_administrators_for_it_leaves_them_a_way_to_the_next_one() {
    let dev = Dev::start();
    let always = FRESH.replace("action == Action::\"Unwrap\"", "action");
    let file = dev.scratch("policies").join("always.cedar");
    fs::write(&file, &always).unwrap();
    let apply = ["policy", "apply", file.to_str().unwrap(), "--reason", "test"];
    // Who has none would lock themselves out.
    dev.ctl(Person::Admin, apply).expect(3).says("you could not apply the next one");
    let Enrolled { uri, .. } = enroll(&dev, Person::Admin);
    dev.ctl(Person::Admin, apply).expect(0);
    dev.ctl(Person::Admin, ["logout"]).expect(0);
    dev.ctl(Person::Admin, ["user", "ls"]).expect(3).says("STEP_UP_REQUIRED");
    // Stopping somebody needs no code.
    dev.ctl(Person::Admin, ["device", "suspend", "operator-laptop", "--reason", "test"]).expect(0);
    let explain = |age: &[&str]| {
        let who = [
            "policy",
            "explain",
            "--user",
            "admin",
            "--device",
            "admin-laptop",
            "--operation",
            "ListUsers",
            "--json",
        ];
        dev.ctl(Person::Admin, [&who, age].concat())
    };
    explain(&[]).expect(3);
    let file = dev.scratch("secrets").join("code");
    fs::write(&file, code(&uri, 1)).unwrap();
    let verify = ["--totp-file", file.to_str().unwrap(), "totp", "verify"];
    dev.ctl(Person::Admin, verify).expect(0);
    assert_eq!(explain(&[]).expect(0).json()["step_up_helps"], true);
    assert_eq!(explain(&["--mfa-age", "299"]).expect(0).json()["allowed"], true);
    assert_eq!(explain(&["--mfa-age", "300"]).expect(0).json()["allowed"], false);
    dev.ctl(Person::Admin, ["user", "ls"]).expect(0);
}
