//! `envelope extract` of many envelopes: asked for in batches, told one by one.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use softhsm_tests::{Dev, Person, Ran, Wire, bin, run};

/// An envelope of a small file `name`, to this certificate.
fn sealed_to(dev: &Dev, certificate: &Path, name: &str) -> PathBuf {
    let source = dev.scratch("source").join(name);
    fs::write(&source, format!("content of {name}")).unwrap();
    let envelope = dev.scratch("sealed").join(format!("{name}.mtd"));
    let mut command = Command::new(bin("envelope"));
    command.arg("seal").arg("--to").arg(certificate).arg("-o").arg(&envelope).arg(&source);
    run(&mut command).expect(0);
    envelope
}

fn sealed(dev: &Dev, count: usize) -> Vec<PathBuf> {
    (0..count).map(|number| sealed_to(dev, &dev.certificate(), &format!("file-{number:02}"))).collect()
}

fn command(dev: &Dev, envelopes: &[PathBuf], folder: &str) -> Command {
    let mut command = dev.command("envelope", Person::Operator);
    command.arg("extract").arg("-C").arg(dev.scratch(folder)).args(envelopes);
    command
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Makes the wrapped key of an MTD archive wrong, and leaves everything that can be checked without a key right.
fn spoil_wrapped_key(envelope: &Path) {
    let mut bytes = fs::read(envelope).unwrap();
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|here| here == what).unwrap();
    let number = |bytes: &[u8], at: usize, len: usize| {
        bytes[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    // CIPHER.KEY is the first entry; the wrapped key is the one OCTET STRING of 384 bytes in it.
    let start = 30 + number(&bytes, 26, 2) + number(&bytes, 28, 2);
    let end = start + number(&bytes, 18, 4);
    let wrapped = start + find(&bytes[start..end], &[0x04, 0x82, 0x01, 0x80]) + 4;
    bytes[wrapped + 100] ^= 1;
    let crc = crc32(&bytes[start..end]).to_le_bytes();
    let central = find(&bytes, b"PK\x01\x02");
    bytes[14..18].copy_from_slice(&crc);
    bytes[central + 16..central + 20].copy_from_slice(&crc);
    fs::write(envelope, bytes).unwrap();
}

fn crc32(bytes: &[u8]) -> u32 {
    let fold = |crc: u32, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), fold))
}

#[tokio::test]
async fn of_forty_envelopes_each_has_its_outcome_in_their_order() {
    let dev = Dev::without_budgets();
    let mut envelopes = sealed(&dev, 40);
    // Cut off; sealed to nobody's key here; and one that was given twice.
    let whole = fs::read(&envelopes[7]).unwrap();
    fs::write(&envelopes[7], &whole[..whole.len() / 2]).unwrap();
    let elsewhere = dev.scratch("elsewhere");
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", "9", "-subj", "/CN=x", "-keyout", "k",
        "-out", "c",
    ]);
    run(openssl.current_dir(&elsewhere)).expect(0);
    envelopes[20] = sealed_to(&dev, &elsewhere.join("c"), "foreign");
    envelopes.insert(30, envelopes[2].clone());

    let ran = run(&mut command(&dev, &envelopes, "out")).expect(5);
    let ran = ran
        .says("cannot extract 3 of 41 envelopes")
        .says("KEY_UNKNOWN")
        .says("something of this name is there already");
    let told: Vec<_> = ran
        .stderr
        .lines()
        .filter(|line| line.contains(".mtd: extracted") || line.starts_with("error: "))
        .collect();
    let numbers = (0..40).filter(|number| ![7, 20].contains(number));
    let expected: Vec<_> = numbers.map(|number| format!("file-{number:02}")).collect();
    let extracted: Vec<_> = told.iter().filter(|line| line.contains(": extracted")).collect();
    assert_eq!(extracted.len(), expected.len(), "{}", ran.stderr);
    for (line, name) in extracted.iter().zip(&expected) {
        assert!(line.contains(&format!("{name}.mtd: extracted 1 entry")), "{line}");
    }
    let place = |text: &str| {
        told.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {}", ran.stderr))
    };
    assert!(place("file-06.mtd") < place("file-07.mtd") && place("file-07.mtd") < place("file-08.mtd"));
    assert!(place("file-19.mtd") < place("foreign.mtd") && place("foreign.mtd") < place("file-21.mtd"));
    let out = dev.scratch("out");
    assert_eq!(names_in(&out), expected);
    for name in &expected {
        assert_eq!(fs::read_to_string(out.join(name)).unwrap(), format!("content of {name}"));
    }

    let records = Wire::records(&dev).await;
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.sequence, index as u64 + 1);
    }
    let unwraps: Vec<_> = records.iter().filter(|record| record.operation == "Unwrap").collect();
    assert!(unwraps.iter().all(|record| record.outcome == "OK"));
    let mut claimed: Vec<_> =
        unwraps.iter().map(|record| record.claims.as_ref().unwrap().file_name.clone()).collect();
    claimed.sort();
    let expected: Vec<_> = expected.iter().map(|name| format!("{name}.mtd")).collect();
    assert_eq!(claimed, expected, "one record of each that was opened, and no other");
    assert_eq!(
        records.iter().filter(|record| record.operation == "Login").count(),
        1 + 1,
        "and one login beside the auditor's"
    );
}

#[tokio::test]
async fn a_file_that_is_in_the_way_is_found_before_its_key_is_asked_for() {
    let dev = Dev::without_budgets();
    let envelopes = sealed(&dev, 5);
    let out = dev.scratch("out");
    fs::write(out.join("file-03"), "mine").unwrap();
    run(&mut command(&dev, &envelopes, "out")).expect(1).says("cannot extract 1 of 5 envelopes");
    assert_eq!(fs::read_to_string(out.join("file-03")).unwrap(), "mine");
    assert_eq!(names_in(&out).len(), 5);
    let records = Wire::records(&dev).await;
    assert_eq!(records.iter().filter(|record| record.operation == "Unwrap").count(), 4);
}

#[tokio::test]
async fn a_wrapped_key_that_is_rejected_is_charged_once_and_stops_no_other() {
    let dev = Dev::without_budgets();
    let envelopes = sealed(&dev, 5);
    spoil_wrapped_key(&envelopes[2]);
    let ran = run(&mut command(&dev, &envelopes, "out")).expect(5);
    ran.says("WRAPPED_KEY_REJECTED").says("file-02.mtd").says("cannot extract 1 of 5 envelopes");
    assert_eq!(names_in(&dev.scratch("out")), ["file-00", "file-01", "file-03", "file-04"]);
    let records = Wire::records(&dev).await;
    let outcomes: Vec<_> = records
        .iter()
        .filter(|record| record.operation == "Unwrap")
        .map(|record| record.outcome.as_str())
        .collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "WRAPPED_KEY_REJECTED").count(), 1);
    assert_eq!(outcomes.len(), 5);
}

#[test]
fn a_refusal_of_all_is_told_of_each() {
    let dev = Dev::without_budgets();
    let envelopes = sealed(&dev, 4);
    run(&mut command(&dev, &envelopes[..1], "first")).expect(0);
    dev.ctl(Person::Admin, ["key", "suspend", "sample", "--reason", "inventory"]).expect(0);
    let ran = run(&mut command(&dev, &envelopes, "out")).expect(3);
    ran.says("KEY_SUSPENDED").says("file-03.mtd").says("cannot extract 4 of 4 envelopes");
    assert_eq!(names_in(&dev.scratch("out")), [""; 0]);
}

#[test]
fn ctrl_c_in_the_middle_leaves_what_is_complete_and_nothing_else() {
    let dev = Dev::without_budgets();
    let envelopes = sealed(&dev, 60);
    let mut child = command(&dev, &envelopes, "out")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("file-00.mtd: extracted"), "{line}");
    Dev::signal(child.id(), "INT");
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    let ran = Ran { code: child.wait().unwrap().code(), stdout: String::new(), stderr: rest };
    let ran = ran.expect(130);
    let out = dev.scratch("out");
    let complete = 1 + ran.stderr.lines().filter(|line| line.contains(": extracted")).count();
    let names = names_in(&out);
    assert!(names.len() == complete || names.len() == complete + 1, "{names:?}: {}", ran.stderr);
    for name in names {
        assert_eq!(fs::read_to_string(out.join(&name)).unwrap(), format!("content of {name}"));
    }
}
