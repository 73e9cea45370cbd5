//! The log is a Merkle tree that others can check: receipts, exports, and what is found when somebody meddles.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use custodian_proto::{
    tlog::{Receipt, VerifierKey},
    v1,
};
use prost::Message as _;
use rusqlite::Connection;
use softhsm_tests::{
    Act, Code, Control, Dev, Function, Load, Person, Ran, Start, When, Wire, bin, run, sealed_key,
    without_budgets,
};

/// Seals one small file, and extracts it with these arguments beside.
fn extract(dev: &Dev, name: &str, args: &[&str]) -> Ran {
    let file = dev.scratch("source").join(name);
    fs::write(&file, name).unwrap();
    let envelope = dev.scratch("sealed").join(format!("{name}.mtd"));
    dev.seal(&file, &envelope);
    let opened = dev.scratch("opened");
    let mut all = vec!["extract", envelope.to_str().unwrap(), "-C", opened.to_str().unwrap()];
    all.extend(args);
    dev.envelope(Person::Operator, all)
}

/// A program without any settings: what somebody offline has.
fn offline(program: &str, args: &[&str]) -> Ran {
    let mut command = Command::new(bin(program));
    command.env_clear().env("HOME", "/nonexistent").args(args);
    run(&mut command)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_receipt_proves_offline_that_one_attempt_was_recorded() {
    let dev = Dev::start();
    let key = text(&dev.dir().join("keys/log.pub"));
    let [first, second] = ["first", "second"].map(|name| {
        let receipt = text(&dev.scratch("receipts").join(format!("{name}.tlog-proof")));
        extract(&dev, name, &["--reason", "case 17", "--receipt", &receipt]).expect(0);
        receipt
    });
    let told = offline("envelope", &["verify-receipt", &first, "--log-key", &key, "--json"]).expect(0).json();
    assert_eq!(told["record"]["operation"], "Unwrap");
    assert_eq!(told["record"]["outcome"], "OK");
    assert_eq!(told["record"]["user"], "users/operator");
    assert_eq!(told["record"]["claims"]["reason"], "case 17");
    offline("envelope", &["verify-receipt", &second, "--log-key", &key]).expect(0);

    // The proof of one is none of another.
    let [one, other] = [&first, &second].map(|path| fs::read_to_string(path).unwrap());
    let entry = |receipt: &str| receipt.lines().nth(1).unwrap().to_owned();
    let exchanged = text(&dev.scratch("receipts").join("exchanged"));
    fs::write(&exchanged, one.replace(&entry(&one), &entry(&other))).unwrap();
    offline("envelope", &["verify-receipt", &exchanged, "--log-key", &key])
        .expect(5)
        .says("not the one that the log has");
    // Nor does another log vouch for it.
    let elsewhere = Dev::start();
    let other_key = text(&elsewhere.dir().join("keys/log.pub"));
    offline("envelope", &["verify-receipt", &first, "--log-key", &other_key]).expect(5).says("not signed");

    // A receipt is never overwritten, and without one nothing is extracted.
    extract(&dev, "third", &["--receipt", &first]).expect(1).says("the file exists");
    assert!(!dev.scratch("opened").join("third").exists());
}

#[tokio::test]
async fn an_answer_carries_its_receipt_if_it_is_asked_for() {
    let dev = Dev::start();
    let operator = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[7; 32]);
    let log_key = fs::read_to_string(dev.dir().join("keys/log.pub")).unwrap();
    let log_key: VerifierKey = log_key.trim().parse().unwrap();

    let (released, receipt) = operator.unwrap_with_receipt(&key, wrapped).await.unwrap();
    let receipt: Receipt = receipt.parse().unwrap();
    receipt.verify(&log_key).unwrap();
    assert_eq!(receipt.index + 1, released.sequence);
    let record = v1::Record::decode(receipt.entry.as_slice()).unwrap();
    assert_eq!((record.request_id, record.outcome.as_str()), (released.request_id, "OK"));
}

#[tokio::test]
async fn a_released_key_does_not_wait_for_a_log_key_that_is_in_trouble() {
    let (dev, faults) = Dev::start_with_faults(|_| ());
    let operator = Wire::login(&dev, Person::Operator).await;
    let (key, wrapped) = sealed_key(&dev.certificate(), &[7; 32]);
    let log_key = fs::read_to_string(dev.dir().join("keys/log.pub")).unwrap();
    let log_key: VerifierKey = log_key.trim().parse().unwrap();
    let late = Act::DelayMs(2_000);
    let broken = Act::Return(Code::CKR_FUNCTION_FAILED);
    for act in [late, broken] {
        faults.set(Control::default().fault(Function::Sign, When::Every, act));
        let (released, receipt) = operator.unwrap_with_receipt(&key, wrapped.clone()).await.unwrap();
        // It would be there if it had been waited for, or there had been no answer.
        assert_eq!((released.file_key, receipt.as_str()), (vec![7; 32], ""), "{act:?}");
        faults.clear();
        let receipt = loop {
            match operator.receipt(released.sequence).await {
                Ok(receipt) => break receipt,
                Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
            }
            tokio::task::yield_now().await;
        };
        let receipt: Receipt = receipt.parse().unwrap();
        receipt.verify(&log_key).unwrap();
        assert_eq!(receipt.index + 1, released.sequence);
    }
}

#[tokio::test]
async fn receipts_are_for_those_whom_the_record_concerns() {
    let dev = Dev::start();
    let receipt = text(&dev.scratch("receipts").join("mine"));
    extract(&dev, "mine", &["--receipt", &receipt]).expect(0);
    let records = Wire::records(&dev).await;
    let unwrap = records.iter().rfind(|record| record.operation == "Unwrap").unwrap().sequence.to_string();
    let login = records.iter().rfind(|record| record.operation == "Login").unwrap().sequence.to_string();
    for sequence in [&unwrap, &login] {
        let proven = dev.ctl(Person::Auditor, ["audit", "prove", sequence]).expect(0);
        assert!(proven.stdout.starts_with("c2sp.org/tlog-proof@v1\nextra "), "{}", proven.stdout);
    }
    dev.ctl(Person::Operator, ["audit", "prove", &unwrap]).expect(0);
    dev.ctl(Person::Operator, ["audit", "prove", &login]).expect(3).says("NOT_FOUND");
    dev.ctl(Person::Admin, ["audit", "prove", &unwrap]).expect(3).says("NOT_FOUND");
    dev.ctl(Person::Auditor, ["audit", "prove", "999999"]).expect(3).says("NOT_FOUND");
    for command in ["verify", "export"] {
        let folder = text(&dev.scratch("none"));
        let args = if command == "verify" { vec!["audit", command] } else { vec!["audit", command, &folder] };
        dev.ctl(Person::Operator, args).expect(3).says("ROLE_MISSING");
    }
}

#[test]
fn an_export_is_checked_offline_and_by_other_peoples_programs() {
    let dev = Dev::start();
    let key = text(&dev.dir().join("keys/log.pub"));
    let export = dev.scratch("export");
    let folder = text(&export);
    for name in ["one", "two"] {
        extract(&dev, name, &[]).expect(0);
        dev.ctl(Person::Auditor, ["audit", "export", &folder]).expect(0);
        let state = text(&dev.scratch("auditor").join("state"));
        let args = ["audit", "verify", &folder, "--log-key", &key, "--state", &state, "--json"];
        let told = offline("custodianctl", &args).expect(0).json();
        assert_eq!(told["records_checked"], told["size"]);
        assert_eq!(told["begins_with"].is_null(), name == "one");
    }

    // The checkpoint's signature, as docs/formats/log.md tells.
    let script = r#"
        cd "$1"
        sed '/^$/,$d' checkpoint > "$3/text"
        sed '1,/^$/d' checkpoint | head -n 1 | cut -d' ' -f3 | base64 -d | tail -c +5 > "$3/signature"
        (printf '\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00'; cut -d+ -f3- "$2" | base64 -d | tail -c +2) |
            openssl pkey -pubin -inform DER -out "$3/key.pem"
        openssl pkeyutl -verify -pubin -inkey "$3/key.pem" -rawin -in "$3/text" -sigfile "$3/signature"
    "#;
    let scratch = text(&dev.scratch("openssl"));
    let verified =
        run(Command::new("bash").args(["-euc", script, "bash", &folder, &key, &scratch])).expect(0);
    assert!(verified.stdout.contains("Signature Verified Successfully"), "{}", verified.stdout);

    // One bit of one record.
    let checkpoint = fs::read_to_string(export.join("checkpoint")).unwrap();
    let bundle = export.join("tile/entries/000.p").join(checkpoint.lines().nth(1).unwrap());
    let mut bytes = fs::read(&bundle).unwrap();
    bytes[2 + 7] ^= 1;
    fs::write(&bundle, bytes).unwrap();
    let state = text(&dev.scratch("auditor").join("other"));
    offline("custodianctl", &["audit", "verify", &folder, "--log-key", &key, "--state", &state])
        .expect(5)
        .says("these records are not the ones that were logged: 1");
}

/// The ledger of a custodian that is stopped, opened by another program that knows how to get past its triggers.
fn meddle(folder: &Path, sql: &str) {
    let ledger = Connection::open(folder.join("dev/ledger.db")).unwrap();
    let triggers = "DROP TRIGGER records_are_not_changed; DROP TRIGGER records_are_not_deleted;
                    DROP TRIGGER records_have_no_gap;";
    ledger.execute_batch(triggers).unwrap();
    ledger.execute_batch(sql).unwrap();
}

#[test]
fn records_that_root_changes_or_exchanges_in_the_ledger_are_named_by_audit_verify() {
    for (sql, told) in [
        (
            "UPDATE records SET entry = x'0802' WHERE seq = 2",
            "not the ones that were logged: 2",
        ),
        (
            "CREATE TEMP TABLE two AS SELECT seq, entry FROM records WHERE seq IN (4, 5);
             UPDATE records SET entry = (SELECT entry FROM two WHERE two.seq = 9 - records.seq) WHERE seq IN (4, 5)",
            "not the ones that were logged: 4, 5",
        ),
        ("DELETE FROM records WHERE seq = 6", "record 6 is missing"),
    ] {
        let dev = Dev::start();
        extract(&dev, "file", &[]).expect(0);
        dev.ctl(Person::Auditor, ["audit", "verify"]).expect(0);
        let (folder, ran) = dev.stop();
        ran.expect(0);
        meddle(folder.path(), sql);
        let dev = Dev::start_in(folder);
        dev.ctl(Person::Auditor, ["audit", "verify"]).expect(5).says(told);
        // What was right goes on being provable.
        dev.ctl(Person::Auditor, ["audit", "prove", "1"]).expect(0);
    }
}

fn sequences(ran: Ran) -> Vec<u64> {
    let records = ran.expect(0).json();
    records.as_array().unwrap().iter().map(|record| record["sequence"].as_u64().unwrap()).collect()
}

#[test]
fn an_index_that_root_changed_hides_records_from_a_quick_search_and_not_from_a_proven_one() {
    let dev = Dev::start();
    for name in ["one", "two"] {
        extract(&dev, name, &[]).expect(0);
    }
    let search = ["audit", "ls", "--user", "operator", "--operation", "Unwrap", "--json"];
    let proven = [search.as_slice(), &["--proven"]].concat();
    let found = sequences(dev.ctl(Person::Auditor, search));
    assert_eq!(found.len(), 2);
    assert_eq!(sequences(dev.ctl(Person::Auditor, &proven)), found);
    let opened =
        dev.ctl(Person::Auditor, ["audit", "opened", "--device", "operator-laptop", "--json"]).expect(0);
    assert_eq!(opened.json().as_array().unwrap().len(), 2, "{}", opened.stdout);

    let (folder, ran) = dev.stop();
    ran.expect(0);
    meddle(folder.path(), "UPDATE records SET user = 'users/nobody' WHERE operation = 'Unwrap'");
    let dev = Dev::start_in(folder);
    assert!(sequences(dev.ctl(Person::Auditor, search)).is_empty());
    assert_eq!(sequences(dev.ctl(Person::Auditor, &proven)), found);
    dev.ctl(Person::Auditor, ["audit", "ls", "--user", "nobody"])
        .expect(5)
        .says("somebody changed the ledger's file");
    // Offline, in an export, the same.
    let export = text(&dev.scratch("export"));
    dev.ctl(Person::Auditor, ["audit", "export", &export]).expect(0);
    let key = text(&dev.dir().join("keys/log.pub"));
    let offline_search = [proven.as_slice(), &["--folder", &export, "--log-key", &key]].concat();
    assert_eq!(sequences(offline("custodianctl", &offline_search)), found);
    let csv = dev
        .ctl(Person::Auditor, ["audit", "ls", "--proven", "--operation", "Unwrap", "--format", "csv"])
        .expect(0);
    assert_eq!(csv.stdout.split("\r\n").count(), 1 + 2 + 1, "{}", csv.stdout);
    // Two auditors compare what they have.
    let other = text(&dev.scratch("other"));
    extract(&dev, "three", &[]).expect(0);
    dev.ctl(Person::Auditor, ["audit", "export", &other]).expect(0);
    let args = ["audit", "compare", &export, &other, "--log-key", &key, "--json"];
    let told = offline("custodianctl", &args).expect(0).json();
    assert!(told["longer"].as_u64() > told["shorter"].as_u64(), "{told}");
}

#[test]
fn a_log_that_was_cut_or_whose_tree_was_rewritten_does_not_start() {
    for (sql, told) in [
        ("DELETE FROM records WHERE seq = (SELECT max(seq) FROM records)", "an old copy is in its place"),
        ("UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE level = 0", "somebody changed it"),
    ] {
        let dev = Dev::start();
        extract(&dev, "file", &[]).expect(0);
        let (folder, ran) = dev.stop();
        ran.expect(0);
        meddle(folder.path(), sql);
        let Start::Ended(ran) = Dev::try_start_in(folder) else { panic!("it serves a log that was changed") };
        ran.expect(1).says(told);
    }
}

/// Copies the ledger of a stopped custodian.
fn copy_of(folder: &Path, to: &Path) {
    for end in ["", "-wal", "-shm"] {
        let name = format!("ledger.db{end}");
        fs::remove_file(to.join(&name)).ok();
        if folder.join(&name).exists() {
            fs::copy(folder.join(&name), to.join(&name)).unwrap();
        }
    }
}

#[test]
fn a_restored_old_ledger_is_refused_and_auditors_see_what_was_accepted() {
    let (folder, ran) = Dev::start().stop();
    ran.expect(0);
    let backup = folder.path().join("backup");
    fs::create_dir(&backup).unwrap();
    copy_of(&folder.path().join("dev"), &backup);

    let dev = Dev::start_in(folder);
    dev.ctl(Person::Admin, ["device", "revoke", "operator-laptop", "--reason", "stolen"]).expect(0);
    let listed = dev.ctl(Person::Auditor, ["audit", "ls", "--operation", "RevokeDevice", "--json"]);
    let sequence = listed.expect(0).json()[0]["sequence"].to_string();
    // A receipt waits for the checkpoint that covers its record.
    dev.ctl(Person::Auditor, ["audit", "prove", &sequence]).expect(0);
    dev.ctl(Person::Auditor, ["audit", "verify"]).expect(0);
    // Killed, so that nothing is tidied up; what was signed for is remembered all the same.
    let folder = dev.kill();
    copy_of(&backup, &folder.path().join("dev"));
    let custodian = |args: &[&str]| {
        let mut command = Command::new(bin("custodian"));
        run(command.args(args).arg("--config").arg(folder.path().join("dev/custodian.toml")))
    };
    custodian(&["check"]).expect(1).says("an old copy is in its place").says("accept-ledger");
    custodian(&["accept-ledger", "--reason", ""]).expect(1).says("no reason");
    custodian(&["accept-ledger", "--reason", "the disk is gone"]).expect(0);
    custodian(&["check"]).expect(0);
    let dev = Dev::start_in(folder);
    let listed = dev.ctl(Person::Auditor, ["audit", "ls", "--operation", "AcceptLedger"]).expect(0);
    assert!(listed.stdout.contains("the disk is gone"), "{}", listed.stdout);
    // The auditor remembers more than this log has, or another beginning.
    dev.ctl(Person::Auditor, ["audit", "verify"]).expect(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_under_load_every_record_is_in_the_tree_and_every_signed_one_is_still_there() {
    let mut folder = Dev::configured(|config, _| without_budgets(config));
    for _ in 0..3 {
        let dev = Dev::start_in(folder);
        let mut load = Load::start(&dev, 8).await;
        load.received(30).await;
        dev.ctl(Person::Auditor, ["audit", "verify"]).expect(0);
        load.received(80).await;
        folder = dev.kill();
        load.stop().await;
    }
    let dev = Dev::start_in(folder);
    let told = dev.ctl(Person::Auditor, ["audit", "verify", "--json"]).expect(0).json();
    let records = Wire::records(&dev).await.len() as u64;
    assert!(told["size"].as_u64().unwrap() > 240 && records >= told["size"].as_u64().unwrap());
    // Records since the last checkpoint are signed for when somebody asks for a receipt.
    let (key, wrapped) = sealed_key(&dev.certificate(), &[7; 32]);
    let operator = Wire::login(&dev, Person::Operator).await;
    operator.unwrap(&key, wrapped).await.unwrap();
    let last = Wire::records(&dev).await.last().unwrap().sequence.to_string();
    let receipt: PathBuf = dev.scratch("receipts").join("last");
    dev.ctl(Person::Auditor, ["audit", "prove", &last, "-o", receipt.to_str().unwrap()]).expect(0);
    dev.envelope(Person::Operator, ["verify-receipt", receipt.to_str().unwrap()]).expect(0);
}
