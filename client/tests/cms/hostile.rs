//! Messages that nobody would write for a good purpose.

use std::{fs, path::Path};

use custodian_client::envelope::Format;
use custodian_client::{
    error::Result,
    extract::{ExtractReport, extract},
    progress::Silent,
    seal::{SealTo, seal},
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{
    common::{SoftKey, extract_job, seal_job, seal_to, tree},
    damage::Own,
};

fn open(folder: &Path, key: &SoftKey, bytes: &[u8]) -> Result<ExtractReport> {
    let (envelope, out) = (folder.join("e.p7m"), folder.join("out"));
    fs::write(&envelope, bytes).expect("written");
    let result = extract(&extract_job(&envelope, &out), &Own::of(key), &Silent);
    assert_eq!(result.is_ok(), out.exists());
    result
}

/// An element in DER.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len().to_be_bytes();
    let used = &len[content.len().leading_zeros() as usize / 8..];
    match content.len() {
        ..0x80 => [&[tag, content.len() as u8], content].concat(),
        _ => [&[tag, 0x80 | used.len() as u8], used, content].concat(),
    }
}

/// The content of an element, and what stands behind it.
fn split(der: &[u8]) -> (&[u8], &[u8]) {
    let (head, len) = match der[1] {
        len @ ..0x80 => (2, usize::from(len)),
        used => {
            let head = 2 + usize::from(used & 0x7f);
            (head, der[2..head].iter().fold(0, |len, byte| len << 8 | usize::from(*byte)))
        }
    };
    (&der[head..head + len], &der[head + len..])
}

/// The elements in a row.
fn row(mut der: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let rest = split(der).1;
        found.push(der[..der.len() - rest.len()].to_vec());
        der = rest;
    }
    found
}

/// A message that we sealed, taken apart: version, recipients, content and tag.
struct Parts {
    message_type: Vec<u8>,
    parts: Vec<Vec<u8>>,
}

impl Parts {
    fn of(der: &[u8]) -> Self {
        let info = row(split(der).0);
        let message = split(&info[1]).0;
        Self { message_type: info[0].clone(), parts: row(split(message).0) }
    }

    fn message(&self) -> Vec<u8> {
        let message = element(0xa0, &element(0x30, &self.parts.concat()));
        element(0x30, &[self.message_type.clone(), message].concat())
    }
}

fn sealed(folder: &Path, key: &SoftKey) -> Parts {
    let (file, envelope) = (folder.join("f"), folder.join("good.p7m"));
    fs::write(&file, b"hello").expect("written");
    seal_to(key, &file, &envelope);
    let bytes = fs::read(&envelope).expect("read");
    let parts = Parts::of(&bytes);
    assert_eq!(parts.message(), bytes, "taken apart and put together");
    parts
}

#[test]
fn too_many_recipients_are_refused_and_many_are_not() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let good = sealed(folder.path(), key);
    let recipients = |count: usize| {
        let mut parts = sealed(folder.path(), key);
        // Somebody that nobody knows.
        let others = element(0xa4, b"\x06\x01\x2a").repeat(count - 1);
        parts.parts[1] = element(0x31, &[others, split(&good.parts[1]).0.to_vec()].concat());
        parts.parts[2..].clone_from_slice(&good.parts[2..]);
        fs::remove_file(folder.path().join("good.p7m")).ok();
        parts.message()
    };
    fs::remove_file(folder.path().join("good.p7m")).expect("removed");
    open(folder.path(), key, &recipients(1_000)).expect("extracted");
    fs::remove_dir_all(folder.path().join("out")).expect("removed");
    let error = open(folder.path(), key, &recipients(1_001)).expect_err("refused");
    assert!(error.why.contains("more than 1000 recipients"), "{error}");
}

#[test]
fn a_huge_recipient_is_refused() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let mut parts = sealed(folder.path(), key);
    parts.parts[1] = element(0x31, &element(0x30, &element(0x04, &vec![0; 1 << 20])));
    open(folder.path(), key, &parts.message()).expect_err("refused");
}

#[test]
fn authenticated_attributes_are_authenticated_in_whatever_order_they_stand() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (file, envelope) = (folder.path().join("f"), folder.path().join("f.sealed"));
    fs::write(&file, b"hello").expect("written");
    let mut job = seal_job(key, &[&file], &envelope);
    // Its CIPHER.KEY is the message with authenticated attributes that we have.
    (job.format, job.output) = (Format::Sealed, SealTo::File(envelope.clone()));
    seal(&job, &Silent).expect("sealed");
    let bytes = fs::read(&envelope).expect("read");
    let name_len = usize::from(u16::from_le_bytes([bytes[26], bytes[27]]));
    let extra_len = usize::from(u16::from_le_bytes([bytes[28], bytes[29]]));
    let key_len = u32::from_le_bytes([bytes[18], bytes[19], bytes[20], bytes[21]]) as usize;
    let start = 30 + name_len + extra_len;
    let mut parts = Parts::of(&bytes[start..start + key_len]);
    assert_eq!(parts.parts[3][0], 0xa1, "attributes");

    let check = |parts: &Parts| {
        let opened = open(folder.path(), key, &parts.message());
        if opened.is_ok() {
            assert_eq!(fs::read(folder.path().join("out/e")).expect("there").len(), 32);
            fs::remove_dir_all(folder.path().join("out")).expect("removed");
        }
        opened
    };
    check(&parts).expect("as it was");
    let attributes = row(split(&parts.parts[3]).0);
    assert_eq!(attributes.len(), 2);
    let reversed: Vec<u8> = attributes.iter().rev().flatten().copied().collect();
    parts.parts[3] = element(0xa1, &reversed);
    check(&parts).expect("in another order");
    parts.parts[3] = [&[0xa1, 0x80][..], &reversed, &[0, 0]].concat();
    check(&parts).expect("in BER");
    parts.parts[3] = element(0xa1, &attributes[0]);
    check(&parts).expect_err("one is missing");
    parts.parts.remove(3);
    check(&parts).expect_err("they are missing");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn parts_of_a_message_in_any_order_never_panic(order in prop::collection::vec(0usize..4, 0..9), garbage: Vec<u8>) {
        let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
        let good = sealed(folder.path(), key);
        let mut parts: Vec<Vec<u8>> = order.iter().map(|index| good.parts[*index].clone()).collect();
        parts.push(garbage);
        if parts.concat() != good.parts.concat() {
            let message = Parts { message_type: good.message_type, parts }.message();
            prop_assert!(open(folder.path(), key, &message).is_err());
        }
    }
}

#[test]
fn an_octet_string_cut_into_single_bytes_is_read() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (file, envelope) = (folder.path().join("f"), folder.path().join("good.p7m"));
    let content = tree::noise(1_200_000);
    fs::write(&file, &content).expect("written");
    seal_to(key, &file, &envelope);
    let mut parts = Parts::of(&fs::read(&envelope).expect("read"));
    let mut content_info = row(split(&parts.parts[2]).0);
    let ciphertext = split(&content_info[2]).0.to_vec();
    let bytes: Vec<u8> = ciphertext.iter().flat_map(|byte| [0x04, 1, *byte]).collect();
    let (first, second) = bytes.split_at(bytes.len() / 6 * 3);
    // Half of them in another string, and empty ones between.
    let nested = [&[0x24, 0x80][..], first, &[0x04, 0, 0, 0], second].concat();
    content_info[2] = element(0xa0, &nested);
    parts.parts[2] = element(0x30, &content_info.concat());
    open(folder.path(), key, &parts.message()).expect("extracted");
    assert!(fs::read(folder.path().join("out/e")).expect("there") == content);
}
