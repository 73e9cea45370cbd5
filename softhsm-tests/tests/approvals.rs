//! Two persons: what the policy marks takes another administrator, once, for exactly what was asked.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use custodian_proto::v1;
use sha2::{Digest, Sha256};
use softhsm_tests::{Dev, Person, Ran, Wire, bin, run, run_with_input, sealed_key, unwrap_request};
use tonic_types::StatusExt;

/// What a new custodian has.
const USUAL: &str = r#"
@id("open") permit (principal, action in Action::"Open", resource) when { principal.roles.contains("operator") };
@id("audit") permit (principal, action in Action::"Audit", resource) when { principal.roles.contains("auditor") };
@id("administer") permit (principal, action in Action::"Administer", resource) when { principal.roles.contains("admin") };
"#;

const TWO_FOR_A_FILE: &str =
    r#"@id("two-for-a-file") @approvals("1") forbid (principal, action == Action::"Unwrap", resource);"#;

const NEVER_BUT: &str =
    r#"@id("never-but") @break_glass forbid (principal, action == Action::"Unwrap", resource);"#;

fn two_persons() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policies/two-persons.cedar")
}

/// A second administrator, `bob`, made as operations would: a user, and a workstation of their own.
struct Bob<'d> {
    dev: &'d Dev,
    folder: PathBuf,
}

impl<'d> Bob<'d> {
    /// As he was made before the custodian was started again.
    fn of(dev: &'d Dev) -> Self {
        Self { dev, folder: dev.scratch("bob") }
    }

    fn made_in(dev: &'d Dev) -> Self {
        let bob = Self::of(dev);
        fs::write(bob.folder.join("password"), "bob has a password").unwrap();
        let password = bob.folder.join("password");
        let add = ["user", "add", "bob", "--role", "admin", "--password-file", password.to_str().unwrap()];
        dev.ctl(Person::Admin, add).expect(0);
        let code = dev.ctl(Person::Admin, ["device", "invite", "bob-laptop", "--json"]).expect(0).json();
        let mut command = Command::new(bin("envelope"));
        command.env_clear().env("HOME", &bob.folder).env("CUSTODIAN_ADDR", dev.address());
        command.env("CUSTODIAN_CA", dev.dir().join("ca.crt"));
        command.args(["enroll", "--code-file", "-", "--out-dir"]).arg(bob.folder.join("device"));
        run_with_input(&mut command, code["code"].as_str().unwrap().as_bytes()).expect(0);
        dev.ctl(Person::Admin, ["device", "activate", "bob-laptop"]).expect(0);
        bob
    }

    fn ctl<const N: usize>(&self, args: [&str; N]) -> Ran {
        let mut command = self.dev.command("custodianctl", Person::Admin);
        command.env("HOME", &self.folder).env("CUSTODIAN_SESSION_DIR", self.folder.join("sessions"));
        command.env("CUSTODIAN_USER", "bob").env("CUSTODIAN_PASSWORD_FILE", self.folder.join("password"));
        command.env("CUSTODIAN_CERT", self.folder.join("device/device.crt"));
        command.env("CUSTODIAN_KEY", self.folder.join("device/device.key"));
        run(command.args(args))
    }

    fn approves(&self, id: &str) {
        self.ctl(["approval", "approve", id]).expect(0);
    }
}

fn apply(dev: &Dev, text: &str) -> Ran {
    let file = dev.scratch("policies").join("policy.cedar");
    fs::write(&file, text).unwrap();
    dev.ctl(Person::Admin, ["policy", "apply", file.to_str().unwrap(), "--reason", "decided on Monday"])
}

fn apply_file(dev: &Dev, file: &Path) -> Ran {
    dev.ctl(Person::Admin, ["policy", "apply", file.to_str().unwrap(), "--reason", "two persons"])
}

/// The approval that a refused command says it waits for.
#[track_caller]
fn waits(ran: Ran) -> String {
    let ran = ran.expect(4).says("APPROVAL_REQUIRED").says("custodianctl approval approve ");
    let (_, rest) = ran.stderr.split_once("approval approve ").unwrap();
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().to_owned()
}

fn sealed(dev: &Dev) -> PathBuf {
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &envelope);
    envelope
}

fn extract<const N: usize>(dev: &Dev, envelope: &Path, more: [&str; N]) -> Ran {
    let args = ["extract", envelope.to_str().unwrap(), "--to-stdout", "--reason", "case 7"];
    dev.envelope(Person::Operator, args.into_iter().chain(more))
}

/// An `envelope extract --wait` that waits, and the approval that it waits for.
struct Waits {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    approval: String,
}

impl Waits {
    fn start(dev: &Dev, envelope: &Path) -> Self {
        let mut command = dev.command("envelope", Person::Operator);
        command.arg("extract").arg(envelope).args(["--to-stdout", "--reason", "case 7", "--wait"]);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.contains("waits for approval (1 needed)"), "{line}");
        let (_, rest) = line.split_once("approval approve ").unwrap();
        let approval = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().to_owned();
        Self { child, stderr, approval }
    }

    fn ends(mut self) -> Ran {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code();
        Ran { code, stdout, stderr }
    }
}

#[tokio::test]
async fn an_item_of_a_batch_is_approved_as_the_same_request_by_itself() {
    let dev = Dev::start();
    apply(&dev, &format!("{USUAL}{TWO_FOR_A_FILE}")).expect(0);
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    let unwrap = Some(unwrap_request(&key, wrapped.clone()));
    let item = v1::UnwrapBatchRequest { reference: 5, unwrap };
    let ask = async || {
        let (answers, end) =
            wire.unwrap_batch(tokio_stream::iter([item.clone()])).await.unwrap().rest().await;
        end.unwrap();
        let [(5, answer)] = <[_; 1]>::try_from(answers).unwrap() else { panic!() };
        answer.map_err(|status| status.get_error_details().error_info().cloned().unwrap())
    };
    let refused = ask().await.unwrap_err();
    assert_eq!((refused.reason.as_str(), refused.metadata["needed"].as_str()), ("APPROVAL_REQUIRED", "1"));
    let id = refused.metadata["approval"].strip_prefix("approvals/").unwrap();
    Bob::made_in(&dev).approves(id);
    // The approval is for what is asked for, whichever way, and for once.
    wire.unwrap(&key, wrapped).await.unwrap();
    let refused = ask().await.unwrap_err();
    assert_ne!(refused.metadata["approval"], format!("approvals/{id}"));
}

#[test]
fn whoever_waits_with_several_envelopes_gets_each_once_it_is_approved() {
    let dev = Dev::start();
    apply(&dev, &format!("{USUAL}{TWO_FOR_A_FILE}")).expect(0);
    let bob = Bob::made_in(&dev);
    let out = dev.scratch("out");
    let mut command = dev.command("envelope", Person::Operator);
    command.arg("extract").arg("--wait").arg("-C").arg(&out);
    for name in ["a", "b", "c"] {
        let (source, envelope) =
            (dev.scratch("source").join(name), dev.scratch("sealed").join(format!("{name}.mtd")));
        fs::write(&source, name).unwrap();
        dev.seal(&source, &envelope);
        command.arg(envelope);
    }
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut told, mut approved) = (String::new(), Vec::new());
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap) {
        if let Some((_, rest)) = line.split_once("approval approve ") {
            let id = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
            bob.approves(id);
            approved.push(id.to_owned());
        }
        told.push_str(&line);
    }
    assert!(child.wait().unwrap().success(), "{told}");
    assert_eq!(approved.len(), 3, "{told}");
    for name in ["a", "b", "c"] {
        assert_eq!(fs::read_to_string(out.join(name)).unwrap(), name);
    }
}

#[tokio::test]
async fn with_the_shipped_policy_no_administrator_changes_anything_alone() {
    let dev = Dev::start();
    // One administrator could never apply another one.
    apply_file(&dev, &two_persons()).expect(3).says("0 could give it").says("role admin");
    let bob = Bob::made_in(&dev);
    apply_file(&dev, &two_persons()).expect(0);

    let invite = ["device", "invite", "laptop-9", "--ttl", "2h"];
    let id = waits(dev.ctl(Person::Admin, invite));
    assert_eq!(waits(dev.ctl(Person::Admin, invite)), id, "the same request waits for the same approval");
    assert_ne!(waits(dev.ctl(Person::Admin, ["device", "invite", "laptop-9", "--ttl", "30d"])), id);
    dev.ctl(Person::Admin, ["approval", "approve", &id]).expect(3).says("OWN_REQUEST");
    dev.ctl(Person::Operator, ["approval", "approve", &id]).expect(3).says("ROLE_MISSING");
    dev.ctl(Person::Operator, ["approval", "show", &id]).expect(3).says("ROLE_MISSING");

    let shown = bob.ctl(["approval", "show", &id]).expect(0).stdout;
    for part in
        ["InviteDevice", "users/admin on devices/admin-laptop", "device_id: laptop-9", "ttl_seconds: 7200"]
    {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    bob.ctl(["approval", "approve", &id, "--sha256", &"0".repeat(64)]).expect(3).says("STATE_CONFLICT");
    waits(dev.ctl(Person::Admin, invite));
    bob.approves(&id);
    bob.approves(&id);
    assert!(dev.ctl(Person::Admin, invite).expect(0).stdout.contains("code"));
    assert_ne!(waits(dev.ctl(Person::Admin, invite)), id, "once");
    bob.ctl(["approval", "approve", &id]).expect(3).says("APPROVAL_USED");

    // Every marked operation asks; stopping is done alone; reading, too.
    let key = dev.ctl(Person::Admin, ["key", "ls", "--json"]).expect(0).json()[0]["label"]
        .as_str()
        .unwrap()
        .to_owned();
    for args in [
        &["device", "activate", "operator-laptop"][..],
        &["user", "roles", "operator", "--role", "admin"],
        &["user", "enable", "operator"],
        &["key", "create", "other"],
        &["key", "rotate", &key],
        &["token", "drain", "main", "--reason", "test", "--even-if-last"],
    ] {
        waits(dev.ctl(Person::Admin, args));
    }
    waits(apply(&dev, USUAL));
    dev.ctl(Person::Admin, ["device", "uninvite", "laptop-9"]).expect(0);
    dev.ctl(Person::Admin, ["device", "uninvite", "laptop-9"]).expect(3).says("NOT_FOUND");
    dev.ctl(Person::Admin, ["device", "suspend", "operator-laptop", "--reason", "test"]).expect(0);
    dev.ctl(Person::Admin, ["user", "disable", "operator", "--reason", "test"]).expect(0);

    let records = Wire::records(&dev).await;
    let of =
        |operation: &str| records.iter().filter(|record| record.operation == operation).collect::<Vec<_>>();
    let name = format!("approvals/{id}");
    let used = of("InviteDevice")
        .into_iter()
        .find(|record| record.outcome == "OK" && record.approval == name)
        .unwrap();
    assert!(used.detail.contains("approved by users/bob"), "{}", used.detail);
    assert!(of("Approve").iter().any(|record| record.outcome == "OWN_REQUEST"));
    let listed = bob.ctl(["approval", "ls", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 9);

    // With the other's word the policy goes again.
    let id = waits(apply(&dev, USUAL));
    let shown = bob.ctl(["approval", "show", &id]).expect(0).stdout;
    assert!(shown.contains("@id(\"administer\") permit") && shown.contains("decided on Monday"), "{shown}");
    bob.approves(&id);
    apply(&dev, USUAL).expect(0);
    dev.ctl(Person::Admin, ["device", "invite", "laptop-10"]).expect(0);
}

#[test]
fn every_operation_that_the_shipped_policy_marks_asks_first() {
    let dev = Dev::start();
    Bob::made_in(&dev);
    let keys = dev.ctl(Person::Admin, ["key", "ls", "--json"]).expect(0).json();
    let label = keys[0]["label"].as_str().unwrap();
    apply_file(&dev, &two_persons()).expect(0);
    let folder = dev.scratch("asked");
    let [password, text] = ["password", "policy"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    fs::write(&password, "bob has a password").unwrap();
    fs::write(&text, USUAL).unwrap();
    let (password, text, unused) = (password.as_str(), text.as_str(), "0".repeat(40));
    let asks: [(&str, &[&str]); 22] = [
        ("ApplyPolicy", &["policy", "apply", text, "--reason", "case 7"]),
        ("InviteDevice", &["device", "invite", "laptop-9"]),
        ("ActivateDevice", &["device", "activate", "operator-laptop"]),
        ("SetDeviceGroups", &["device", "groups", "operator-laptop", "office"]),
        ("CreateUser", &["user", "add", "eve", "--role", "operator", "--password-file", password]),
        ("EnableUser", &["user", "enable", "operator"]),
        ("SetRoles", &["user", "roles", "operator", "--role", "admin"]),
        ("SetUserGroups", &["user", "groups", "operator", "board"]),
        (
            "SetIdentity",
            &["user", "identity", "set", "operator", "--email", "operator@example.org", "--level", "V2"],
        ),
        ("SetPassword", &["user", "passwd", "operator", "--password-file", password]),
        ("ResetFactor", &["user", "reset-factor", "operator", "--reason", "case 7"]),
        ("RequireFactor", &["user", "require-factor", "operator", "--off"]),
        ("CreateKey", &["key", "create", "other"]),
        ("RotateKey", &["key", "rotate", label]),
        ("ImportKey", &["key", "import", "other", "--id", &unused]),
        ("ActivateKey", &["key", "activate", label]),
        ("LimitKey", &["key", "limit", label, "--unwrap-until", "never", "--reason", "case 7"]),
        ("DestroyKey", &["key", "destroy", label, "--confirm", label, "--reason", "case 7"]),
        ("LiftBudget", &["budget", "lift", "users/operator", "--more", "0", "--reason", "case 7"]),
        (
            "UnlockUnwrap",
            &["budget", "unlock", "--user", "operator", "--device", "operator-laptop", "--reason", "case 7"],
        ),
        ("DrainToken", &["token", "drain", "main", "--reason", "case 7", "--even-if-last"]),
        ("ResumeToken", &["token", "resume", "main"]),
    ];
    let policy = fs::read_to_string(two_persons()).unwrap();
    let marked = policy.split("Action::\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let mut marked: Vec<_> =
        marked.filter(|name| !["Open", "Audit", "Administer", "Unwrap"].contains(name)).collect();
    let mut tried: Vec<_> = asks.iter().map(|(operation, _)| *operation).collect();
    marked.sort_unstable();
    tried.sort_unstable();
    assert_eq!(marked, tried);
    for (operation, args) in asks {
        let id = waits(dev.ctl(Person::Admin, args));
        let shown = dev.ctl(Person::Admin, ["approval", "withdraw", &id, "--json"]).expect(0).json();
        assert_eq!(shown["operation"], operation);
    }
}

#[test]
fn a_password_is_no_part_of_what_is_approved_or_kept() {
    let dev = Dev::start();
    let bob = Bob::made_in(&dev);
    apply_file(&dev, &two_persons()).expect(0);
    let file = dev.scratch("passwords").join("password");
    let add = |password: &str| {
        fs::write(&file, password).unwrap();
        let add = ["user", "add", "eve", "--role", "auditor", "--password-file", file.to_str().unwrap()];
        dev.ctl(Person::Admin, add)
    };
    let id = waits(add("the first password of eve"));
    assert!(bob.ctl(["approval", "show", &id]).expect(0).stdout.contains("roles: ROLE_AUDITOR"));
    bob.approves(&id);
    add("the second password of eve").expect(0);
    let (folder, _) = dev.stop();
    let mut ledger = fs::read(folder.path().join("dev/ledger.db")).unwrap();
    ledger.extend(fs::read(folder.path().join("dev/ledger.db-wal")).unwrap_or_default());
    for password in ["the first password of eve", "the second password of eve"] {
        for secret in [password.as_bytes(), &Sha256::digest(password)] {
            assert!(!ledger.windows(secret.len()).any(|window| window == secret), "{password}");
        }
    }
}

#[test]
fn an_extraction_waits_for_the_approval_and_goes_on() {
    let dev = Dev::start();
    let bob = Bob::made_in(&dev);
    let envelope = sealed(&dev);
    apply(&dev, &format!("{USUAL}{TWO_FOR_A_FILE}")).expect(0);

    let waiting = Waits::start(&dev, &envelope);
    let shown = dev.ctl(Person::Admin, ["approval", "show", &waiting.approval]).expect(0).stdout;
    assert!(shown.contains("claims.file_name: a.mtd") && shown.contains("claims.reason: case 7"), "{shown}");
    bob.approves(&waiting.approval);
    assert_eq!(waiting.ends().expect(0).stdout, "content");

    // Ctrl-C leaves the request; the next run goes on with it, even after a restart of the custodian.
    let waiting = Waits::start(&dev, &envelope);
    let id = waiting.approval.clone();
    Dev::signal(waiting.child.id(), "INT");
    waiting.ends().expect(130).says(&format!("approval approve {id}"));
    assert_eq!(waits(extract(&dev, &envelope, [])), id);
    let (folder, _) = dev.stop();
    let dev = Dev::start_in(folder);
    let bob = Bob::of(&dev);
    bob.approves(&id);
    assert_eq!(extract(&dev, &envelope, ["--wait=1h"]).expect(0).stdout, "content");

    // Patience has an end; and so has what is denied.
    let id = waits(extract(&dev, &envelope, ["--wait=1s"]));
    let waiting = Waits::start(&dev, &envelope);
    assert_eq!(waiting.approval, id);
    bob.ctl(["approval", "deny", &id, "--reason", "ask Monday"]).expect(0);
    waiting.ends().expect(3).says("users/bob denied it: ask Monday").says("APPROVAL_DENIED");
    extract(&dev, &envelope, []).expect(3).says("APPROVAL_DENIED");
    let own = dev.ctl(Person::Operator, ["approval", "ls", "--all", "--json"]).expect(0).json();
    assert_eq!(own.as_array().unwrap().len(), 3);
    assert_eq!((&own[0]["state"], &own[0]["deny_reason"]), (&"denied".into(), &"ask Monday".into()));
}

#[tokio::test]
async fn whoever_was_stopped_since_does_not_count() {
    let dev = Dev::start();
    let bob = Bob::made_in(&dev);
    let envelope = sealed(&dev);
    apply(&dev, &format!("{USUAL}{TWO_FOR_A_FILE}")).expect(0);
    let id = waits(extract(&dev, &envelope, []));
    bob.approves(&id);
    dev.ctl(Person::Admin, ["device", "revoke", "bob-laptop", "--reason", "lost"]).expect(0);
    assert_eq!(waits(extract(&dev, &envelope, [])), id);
    dev.ctl(Person::Admin, ["approval", "approve", &id]).expect(0);
    assert_eq!(extract(&dev, &envelope, []).expect(0).stdout, "content");
}

#[tokio::test]
async fn who_asked_can_withdraw_and_nobody_else() {
    let dev = Dev::start();
    let bob = Bob::made_in(&dev);
    let envelope = sealed(&dev);
    apply(&dev, &format!("{USUAL}{TWO_FOR_A_FILE}")).expect(0);
    let waiting = Waits::start(&dev, &envelope);
    let id = waiting.approval.clone();
    bob.ctl(["approval", "withdraw", &id]).expect(3).says("NOT_OWN_REQUEST");
    let shown = dev.ctl(Person::Operator, ["approval", "withdraw", &id, "--json"]).expect(0).json();
    assert_eq!(shown["state"], "withdrawn");
    waiting.ends().expect(3).says("APPROVAL_WITHDRAWN");
    bob.ctl(["approval", "approve", &id]).expect(3).says("APPROVAL_WITHDRAWN");
    assert_ne!(waits(extract(&dev, &envelope, [])), id);
    let records = Wire::records(&dev).await;
    let withdrawn: Vec<_> = records
        .iter()
        .filter(|record| record.operation == "Withdraw")
        .map(|record| (record.user.as_str(), record.outcome.as_str(), record.target.clone()))
        .collect();
    let name = format!("approvals/{id}");
    assert_eq!(withdrawn, [("users/bob", "NOT_OWN_REQUEST", name.clone()), ("users/operator", "OK", name)]);
}

#[test]
fn a_policy_that_nobody_is_left_to_replace_is_reset_on_the_machine() {
    let dev = Dev::start();
    Bob::made_in(&dev);
    apply_file(&dev, &two_persons()).expect(0);
    // Stopping somebody is always possible, even the last one who could approve.
    dev.ctl(Person::Admin, ["user", "disable", "bob", "--reason", "left"]).expect(0);
    waits(apply(&dev, USUAL));
    let config = dev.dir().join("custodian.toml");
    let reset = |reason: &str| {
        run(Command::new(bin("custodian"))
            .args(["reset-policy", "--reason", reason, "--config"])
            .arg(&config))
    };
    reset("bob left").expect(1).says("in use by another process");
    let (folder, _) = dev.stop();
    reset(" ").expect(1).says("there is no reason");
    reset("bob left").expect(0);
    let dev = Dev::start_in(folder);
    apply(&dev, USUAL).expect(0);
    let versions = dev.ctl(Person::Admin, ["policy", "ls"]).expect(0).stdout;
    assert!(versions.contains("reset on the custodian's machine: bob left"), "{versions}");
}

#[tokio::test]
async fn the_glass_is_broken_by_two_others_and_loudly() {
    let dev = Dev::start();
    let bob = Bob::made_in(&dev);
    let envelope = sealed(&dev);
    apply(&dev, &format!("{USUAL}{NEVER_BUT}")).expect(0);
    extract(&dev, &envelope, []).expect(3).says("POLICY_DENIED");
    let id = waits(extract(&dev, &envelope, ["--break-glass"]));
    extract(&dev, &envelope, []).expect(3).says("POLICY_DENIED");
    let shown = bob.ctl(["approval", "show", &id]).expect(0).stdout;
    assert!(shown.contains("BREAK GLASS") && shown.contains("0 of 2"), "{shown}");
    bob.approves(&id);
    assert_eq!(waits(extract(&dev, &envelope, ["--break-glass"])), id);
    dev.ctl(Person::Admin, ["approval", "approve", &id]).expect(0);
    assert_eq!(extract(&dev, &envelope, ["--break-glass"]).expect(0).stdout, "content");
    extract(&dev, &envelope, []).expect(3).says("POLICY_DENIED");
    assert_ne!(waits(extract(&dev, &envelope, ["--break-glass"])), id, "once");

    let loud = dev.ctl(Person::Auditor, ["audit", "ls", "--break-glass", "--json"]).expect(0).json();
    let of = |field: &str| -> Vec<String> {
        loud.as_array().unwrap().iter().map(|record| record[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("operation"), ["Unwrap", "Approve", "Unwrap", "Approve", "Unwrap", "Unwrap"]);
    assert_eq!(
        of("outcome"),
        ["APPROVAL_REQUIRED", "OK", "APPROVAL_REQUIRED", "OK", "OK", "APPROVAL_REQUIRED"]
    );
    // It is no way around anything but the policy.
    dev.ctl(Person::Admin, ["device", "suspend", "operator-laptop", "--reason", "test"]).expect(0);
    extract(&dev, &envelope, ["--break-glass"]).expect(3).says("DEVICE_SUSPENDED");
    let (_, ran) = dev.stop();
    assert!(
        ran.stderr.contains("asks to break the glass") && ran.stderr.contains("the glass is broken"),
        "{ran:?}"
    );
}

#[test]
fn a_policy_says_before_whom_it_asks() {
    let dev = Dev::start();
    let bob = Bob::made_in(&dev);
    let envelope = sealed(&dev);
    extract(&dev, &envelope, []).expect(0);
    for (number, why) in [("0", "is no number"), ("two", "is no number")] {
        let rule = TWO_FOR_A_FILE.replace("\"1\"", &format!("{number:?}"));
        apply(&dev, &format!("{USUAL}{rule}")).expect(3).says(why).says("INVALID_ARGUMENT");
    }
    let on_permit = r#"@id("x") @approvals("2") permit (principal, action, resource);"#;
    apply(&dev, &format!("{USUAL}{on_permit}")).expect(3).says("stands on a permit");
    // Three others would have to approve the next one, and there is one.
    let three = r#"@id("x") @approvals("3") forbid (principal, action == Action::"ApplyPolicy", resource);"#;
    apply(&dev, &format!("{USUAL}{three}")).expect(3).says("1 could give it");
    let not_bob = r#"@id("y") forbid (principal == User::"bob", action == Action::"Approve", resource)
                     when { context.approves == "ApplyPolicy" };"#;
    apply(&dev, &format!("{USUAL}{}{not_bob}", three.replace('3', "1"))).expect(3).says("0 could give it");

    let file = dev.scratch("policies").join("new.cedar");
    fs::write(&file, format!("{USUAL}{TWO_FOR_A_FILE}")).unwrap();
    let tested =
        dev.ctl(Person::Admin, ["policy", "test", file.to_str().unwrap(), "--json"]).expect(0).json();
    assert_eq!(
        (&tested[0]["would_be"], tested[0]["approvals"].as_u64()),
        (&"approved first".into(), Some(1))
    );
    apply_file(&dev, &file).expect(0);
    let keys = dev.ctl(Person::Admin, ["key", "ls", "--json"]).expect(0).json();
    let key = keys[0]["name"].as_str().unwrap();
    let explained = bob
        .ctl(["policy", "explain", "--user", "operator", "--device", "operator-laptop", "--key", key])
        .expect(0);
    assert!(explained.stdout.contains("allowed with approval (1 needed)"), "{}", explained.stdout);
    assert!(explained.stdout.contains("asked for by two-for-a-file"), "{}", explained.stdout);
}

#[test]
fn a_budget_is_lifted_by_two() {
    let dev = Dev::start();
    let bob = Bob::made_in(&dev);
    apply_file(&dev, &two_persons()).expect(0);
    // A time, not a span from now: the same request twice.
    let until = run(Command::new("date").args(["-u", "-d", "+1 hour", "+%FT%TZ"])).expect(0).stdout;
    let lift = || {
        let more = ["--more", "5", "--until", until.trim(), "--reason", "case 17", "--json"];
        dev.ctl(Person::Admin, ["budget", "lift", "users/operator"].into_iter().chain(more))
    };
    let id = waits(lift());
    let shown = dev.ctl(Person::Admin, ["budget", "show", "users/operator", "--json"]).expect(0).json();
    assert!(shown["lift"].is_null(), "{shown}");
    bob.approves(&id);
    assert_eq!(lift().expect(0).json()["lift"]["left"], 5);
    waits(lift());
}
