//! Archives inside an envelope that mean harm: each is refused by name, and nothing of it appears.
//!
//! Whoever has a recipient's certificate can seal such a thing properly, so encryption is no protection.

use std::{fs, path::PathBuf, sync::OnceLock};

use custodian_client::{
    Error, Kind,
    extract::{Limits, extract},
    progress::Silent,
};
use tempfile::TempDir;

use crate::{
    common::{
        SoftKey, extract_job,
        hostile::{Entry, archive, archive_with_comment},
        tree,
    },
    pack::Maker,
};

fn maker() -> &'static Maker {
    static MAKER: OnceLock<Maker> = OnceLock::new();
    MAKER.get_or_init(|| Maker::new(SoftKey::shared()))
}

fn file(name: &str, content: &[u8]) -> Entry {
    Entry::file(name, content).in_the_clear(content)
}

fn deflated(name: &str, content: &[u8]) -> Entry {
    Entry::deflated(name, content).in_the_clear(content)
}

fn link(name: &str, target: &str) -> Entry {
    Entry::link(name, target).in_the_clear(target.as_bytes())
}

fn folder(name: &str) -> Entry {
    Entry::folder(name).in_the_clear(b"")
}

fn try_extract(inside: &[u8], limits: Limits) -> Result<TempDir, Error> {
    let folder = TempDir::new().expect("folder");
    let envelope = folder.path().join("e.sealed");
    fs::write(&envelope, maker().seal(inside)).expect("written");
    let mut job = extract_job(&envelope, &folder.path().join("in/out"));
    job.limits = limits;
    match extract(&job, SoftKey::shared(), &Silent) {
        Ok(_) => Ok(folder),
        Err(error) => {
            // Neither where it belongs nor anywhere near.
            let left: Vec<_> = tree::read(folder.path()).into_keys().collect();
            assert_eq!(left, [PathBuf::from("e.sealed")], "{error}");
            Err(error)
        }
    }
}

#[track_caller]
fn refuses(entries: Vec<Entry>, kind: Kind, mentions: &[&str]) {
    let error = try_extract(&archive(&entries), Limits::default()).expect_err("refused");
    assert_eq!(error.kind, kind, "{error}");
    for mention in mentions {
        assert!(error.to_string().contains(mention), "“{error}” does not mention {mention}");
    }
}

#[test]
fn an_honest_archive_of_this_writer_is_extracted() {
    let mut described = file("docs/described", b"with descriptor");
    described.descriptor = true;
    let large = tree::noise(40_000_000);
    let entries = vec![
        folder("docs/"),
        file("docs/a", b"stored"),
        deflated("docs/b", &tree::text(100_000)),
        deflated("docs/large", &tree::text(30_000_000)),
        file("docs/huge", &large),
        described,
        link("docs/link", "a"),
    ];
    let extracted = try_extract(&archive_with_comment(&entries, b"hello"), Limits::default()).expect("ok");
    let out = tree::read(&extracted.path().join("in/out/docs"));
    let content = |name: &str| out[std::path::Path::new(name)].content.clone();
    assert_eq!(content("a"), b"stored");
    assert_eq!(content("b"), tree::text(100_000));
    assert_eq!(content("large"), tree::text(30_000_000));
    assert!(content("huge") == large);
    assert_eq!(content("described"), b"with descriptor");
    assert_eq!(content("link"), b"a");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for (name, why) in [
        ("../evil", "“..”"),
        ("/tmp/evil", "absolute"),
        ("C:\\evil", "drive letter"),
        ("a\\..\\evil", "backslash"),
        ("a\0b", "control"),
        ("a//b", "empty part"),
        ("", "empty"),
        ("con", "reserved"),
        (".envelope-1-0123456789abcdef/x", "reserved"),
    ] {
        refuses(vec![file(name, b"evil")], Kind::Integrity, &[why]);
    }
}

#[test]
fn names_that_collide_are_refused_with_both() {
    for (entries, mentions) in [
        (vec![file("a", b"x"), file("a", b"x")], &["“a”", "twice"][..]),
        (vec![file("a", b"x"), file("a/b", b"x")], &["“a/b”", "“a”"]),
        (vec![link("a", "b"), file("a/b", b"x")], &["“a/b”", "“a”"]),
        (vec![folder("a/"), file("a", b"x")], &["“a”"]),
    ] {
        refuses(entries, Kind::Integrity, mentions);
    }
}

#[test]
fn links_that_lead_out_are_refused() {
    for target in ["/etc/passwd", "../../x", "a/../../x", "..", ""] {
        refuses(vec![link("a", target)], Kind::Integrity, &["link"]);
    }
    refuses(vec![link("a", &"x".repeat(5_000))], Kind::Integrity, &["points nowhere"]);
}

#[test]
fn entries_that_overlap_leave_gaps_or_lie_elsewhere_are_refused() {
    let two = || vec![file("a", b"content of a"), file("b", b"content of b")];
    let mut same = two();
    same[1].offset = Some(0);
    refuses(same, Kind::Integrity, &[]);
    let mut outside = two();
    outside[1].offset = Some(1 << 30);
    refuses(outside, Kind::Integrity, &[]);
    let mut into_the_first = two();
    into_the_first[1].offset = Some(10);
    refuses(into_the_first, Kind::Integrity, &[]);
    let sound = archive(&two());
    let in_front = [b"gap".as_slice(), &sound].concat();
    assert_eq!(try_extract(&in_front, Limits::default()).expect_err("gap").kind, Kind::Integrity);
    let behind = [&sound, b"gap".as_slice()].concat();
    assert_eq!(try_extract(&behind, Limits::default()).expect_err("gap").kind, Kind::Integrity);
}

#[test]
fn headers_that_differ_are_refused() {
    let mut name = file("a", b"x");
    name.local_name = Some(b"b".to_vec());
    let mut size = file("a", b"x");
    size.local_size = Some(7);
    for entry in [name, size] {
        refuses(vec![entry], Kind::Integrity, &["“a”".trim_matches(['“', '”']), "differ"]);
    }
}

#[test]
fn what_is_not_stored_or_deflated_in_the_clear_is_refused() {
    let mut encrypted = file("a", b"x");
    encrypted.flags |= 1;
    let mut bzip2 = file("a", b"x");
    (bzip2.method, bzip2.actual_method) = (12, 12);
    let mut strong = file("a", b"x");
    strong.flags |= 1 << 6;
    for entry in [encrypted, bzip2, strong, Entry::file("a", b"AE-2")] {
        refuses(vec![entry], Kind::Local, &["entry"]);
    }
    let mut device = file("a", b"");
    device.mode = 0o020_666;
    refuses(vec![device], Kind::Integrity, &["neither a file"]);
}

#[test]
fn every_limit_is_kept_and_named() {
    let files = |n: usize| (0..n).map(|n| file(&n.to_string(), b"0123456789")).collect::<Vec<_>>();
    let limits = Limits::default();
    for (entries, limits, mentions) in [
        (files(4), Limits { entries: 3, ..limits }, &["4 entries", "limit is 3"][..]),
        (files(4), Limits { content_bytes: 39, ..limits }, &["“3”", "limit is 39"]),
        (
            vec![deflated("zeros", &vec![0; 10_000_000])],
            Limits { ratio: 100, ..limits },
            &["“zeros”", "limit is 100"],
        ),
    ] {
        let error = try_extract(&archive(&entries), limits).expect_err("too much");
        assert_eq!(error.kind, Kind::Local);
        mentions.iter().for_each(|mention| assert!(error.to_string().contains(mention), "{error}"));
    }
    let exactly = Limits { entries: 4, content_bytes: 40, ratio: 1 };
    try_extract(&archive(&files(4)), exactly).expect("exactly at the limits");
}

#[test]
fn sizes_and_checksums_that_lie_are_refused() {
    for len in [10_000, 40_000_000] {
        for difference in [-1i64, 1] {
            let mut lying = deflated("lying", &tree::text(len));
            lying.size = lying.size.checked_add_signed(difference).expect("positive");
            refuses(vec![lying], Kind::Integrity, &["“lying”"]);
        }
        // Large ones go another way than small ones.
        let mut lying = file("lying", &tree::noise(len));
        lying.crc ^= 1;
        refuses(vec![lying], Kind::Integrity, &["“lying”", "checksum"]);
    }
    let mut bomb = deflated("bomb", &vec![0; 20_000_000]);
    bomb.size = 1_000;
    refuses(vec![bomb], Kind::Integrity, &["“bomb”"]);
    let mut stored = file("stored", b"content");
    stored.size = 8;
    refuses(vec![stored], Kind::Integrity, &["stored"]);
}
