//! Archives that mean harm: each is refused by name, and nothing of it appears.

use std::fs;

use custodian_client::{
    Error, Kind,
    extract::{Limits, extract},
    progress::Silent,
};
use tempfile::TempDir;

use crate::common::{
    SoftKey, extract_job,
    hostile::{Entry, archive, archive_with_comment},
    tree,
};

/// When the refusal must come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// Before a key is asked for.
    Early,
    /// Only the decrypted content tells.
    Late,
}

fn key() -> &'static SoftKey {
    SoftKey::shared()
}

fn with_key(entries: Vec<Entry>) -> Vec<Entry> {
    [vec![Entry::cipher_key(&key().foreign_cipher_key("sha256"))], entries].concat()
}

fn try_extract(bytes: &[u8], limits: Limits) -> Result<TempDir, (Error, usize)> {
    let folder = TempDir::new().expect("folder");
    let envelope = folder.path().join("e.mtd");
    fs::write(&envelope, bytes).expect("written");
    let key = Counting(std::sync::atomic::AtomicUsize::new(0));
    let mut job = extract_job(&envelope, &folder.path().join("in/out"));
    job.limits = limits;
    let result = extract(&job, &key, &Silent);
    match result {
        Ok(_) => Ok(folder),
        Err(error) => {
            // Neither where it belongs nor anywhere near.
            let left: Vec<_> = tree::read(folder.path()).into_keys().collect();
            assert_eq!(left, [std::path::PathBuf::from("e.mtd")], "{error}");
            Err((error, key.0.into_inner()))
        }
    }
}

/// The shared key, counting for one test.
struct Counting(std::sync::atomic::AtomicUsize);

impl custodian_client::unwrapper::Unwrapper for Counting {
    fn unwrap(
        &self,
        wrapped: &custodian_proto::key::WrappedKey,
        claims: &custodian_proto::v1::Claims,
    ) -> Result<custodian_proto::key::FileKey, Error> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        key().unwrap(wrapped, claims)
    }

    fn choose(&self, wrapped: &[custodian_proto::key::WrappedKey]) -> Result<usize, Error> {
        key().choose(wrapped)
    }
}

fn refuses(entries: Vec<Entry>, kind: Kind, when: Refused, mentions: &[&str]) {
    let bytes = archive(&with_key(entries));
    let (error, asked) = try_extract(&bytes, Limits::default()).expect_err("refused");
    assert_eq!(error.kind, kind, "{error}");
    assert_eq!(asked, usize::from(when == Refused::Late), "{error}");
    for mention in mentions {
        assert!(error.to_string().contains(mention), "“{error}” does not mention {mention}");
    }
}

#[test]
fn an_honest_archive_of_this_writer_is_extracted() {
    let mut described = Entry::file("docs/described", b"with descriptor");
    described.descriptor = true;
    let entries = vec![
        Entry::folder("docs/"),
        Entry::file("docs/a", b"stored"),
        Entry::deflated("docs/b", &tree::text(100_000)),
        Entry::deflated("docs/large", &tree::text(30_000_000)),
        described,
        Entry::link("docs/link", "a"),
    ];
    let folder =
        try_extract(&archive(&with_key(entries)), Limits::default()).map_err(|(error, _)| error).expect("ok");
    let out = tree::read(&folder.path().join("in/out/docs"));
    let content = |name: &str| out[std::path::Path::new(name)].content.clone();
    assert_eq!(content("a"), b"stored");
    assert_eq!(content("b"), tree::text(100_000));
    assert_eq!(content("large"), tree::text(30_000_000));
    assert_eq!(content("described"), b"with descriptor");
    assert_eq!(content("link"), b"a");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for (name, why) in [
        ("../evil", "“..”"),
        ("a/../../evil", "“..”"),
        ("/tmp/evil", "absolute"),
        ("C:\\evil", "drive letter"),
        ("c:evil", "drive letter"),
        ("a\\..\\evil", "backslash"),
        ("a\0b", "control"),
        ("a\u{1b}[2Jb", "control"),
        ("a//b", "empty part"),
        ("", "empty"),
        ("con", "reserved"),
        (".envelope-1-0123456789abcdef/x", "reserved"),
    ] {
        refuses(vec![Entry::file(name, b"evil")], Kind::Integrity, Refused::Early, &[why]);
    }
}

#[test]
fn names_that_collide_are_refused_with_both() {
    let file = |name| Entry::file(name, b"x");
    for (entries, mentions) in [
        (vec![file("a"), file("a")], &["“a”", "twice"][..]),
        (vec![file("Readme"), file("README")], &["“README”", "“Readme”"]),
        (vec![file("a/x"), file("A/y")], &["“A/y”", "“a”"]),
        (vec![file("a"), file("a/b")], &["“a/b”", "“a”"]),
        (vec![Entry::link("a", "b"), file("a/b")], &["“a/b”", "“a”"]),
        (vec![Entry::folder("a/"), file("a")], &["“a”"]),
    ] {
        refuses(entries, Kind::Integrity, Refused::Early, mentions);
    }
}

#[test]
fn links_that_lead_out_are_refused() {
    for target in ["/etc/passwd", "../evil", "x/../../evil", "sub/../sub/../../evil"] {
        refuses(vec![Entry::link("link", target)], Kind::Integrity, Refused::Late, &["“link”", "points out"]);
    }
    refuses(vec![Entry::link("link", "")], Kind::Integrity, Refused::Late, &["“link”"]);
    // A chain: the first link is innocent, the second would climb through it.
    let chain = vec![Entry::folder("d/"), Entry::link("d/up", ".."), Entry::link("out", "d/up/../evil")];
    refuses(chain, Kind::Integrity, Refused::Late, &["“out”", "points out"]);
}

#[test]
fn what_is_neither_file_nor_folder_nor_link_is_refused() {
    for mode in [0o020_666, 0o060_666, 0o010_666, 0o140_666] {
        let mut device = Entry::file("device", b"");
        device.mode = mode;
        refuses(vec![device], Kind::Integrity, Refused::Early, &["device", "neither"]);
    }
    let mut folder = Entry::folder("folder/");
    folder.mode = 0o120_777;
    refuses(vec![folder], Kind::Integrity, Refused::Early, &["folder"]);
}

#[test]
fn headers_that_differ_are_refused() {
    let entry = || Entry::file("invoice", b"content");
    let mut name = entry();
    name.local_name = Some(b"1nvoice".to_vec());
    let mut longer = entry();
    longer.local_name = Some(b"invoice2".to_vec());
    let mut size = entry();
    size.local_size = Some(8);
    for spoiled in [name, longer, size] {
        refuses(vec![spoiled], Kind::Integrity, Refused::Early, &["invoice", "differ"]);
    }
}

#[test]
fn entries_that_overlap_are_refused() {
    let cipher_key = Entry::cipher_key(&key().foreign_cipher_key("sha256"));
    let first_at = 30 + 10 + cipher_key.body.len() as u32;
    // Both directory entries show the same local entry.
    let mut again = Entry::file("a", b"content");
    again.offset = Some(first_at);
    refuses(vec![Entry::file("a", b"content"), again], Kind::Integrity, Refused::Early, &[]);
    // One entry inside another: a bomb without compression.
    let inner_archive = archive(&[Entry::file("inner", b"content")]);
    let outer = Entry::file("outer", &inner_archive);
    let mut inner = Entry::file("inner", b"content");
    inner.offset = Some(first_at + 30 + 5 + 11 + 18);
    refuses(vec![outer, inner], Kind::Integrity, Refused::Early, &[]);
}

#[test]
fn bytes_that_belong_to_nothing_are_refused() {
    let good = archive(&with_key(vec![Entry::file("a", b"content")]));
    let mut in_front = b"#!/bin/sh\n".to_vec();
    in_front.extend(&good);
    let mut behind = good.clone();
    behind.extend(b"behind");
    let mut gap = with_key(vec![Entry::file("a", b"content"), Entry::file("b", b"content")]);
    gap[1].body.extend(b"gap");
    for bytes in [in_front, behind] {
        try_extract(&bytes, Limits::default()).expect_err("refused");
    }
    let with_comment = archive_with_comment(&with_key(vec![Entry::file("a", b"x")]), b"a harmless comment");
    try_extract(&with_comment, Limits::default()).map_err(|(error, _)| error).expect("a comment is no harm");
    refuses(gap.split_off(1), Kind::Integrity, Refused::Early, &["a", "sizes"]);
}

#[test]
fn plaintext_entries_are_refused() {
    let mut plain = Entry::file("plain", b"");
    (plain.flags, plain.method, plain.body, plain.size) = (0, 0, b"nobody vouches for this".to_vec(), 23);
    refuses(vec![plain], Kind::Integrity, Refused::Early, &["plain", "not encrypted"]);
    let mut folder = Entry::folder("folder/");
    (folder.body, folder.size) = (b"hidden".to_vec(), 6);
    refuses(vec![folder], Kind::Integrity, Refused::Early, &["folder/"]);
}

#[test]
fn other_encryption_and_compression_is_named() {
    let entry = || Entry::file("entry", b"content");
    let mut ae1 = entry();
    (ae1.ae_version, ae1.crc) = (1, 7);
    let mut with_crc = entry();
    with_crc.crc = 7;
    let mut weak = entry();
    weak.strength = 1;
    let mut bzip2 = entry();
    bzip2.actual_method = 12;
    let mut zip_crypto = entry();
    zip_crypto.method = 0;
    let mut strong = entry();
    strong.flags |= 1 << 6;
    for spoiled in [ae1, with_crc, weak, bzip2, zip_crypto, strong] {
        refuses(vec![spoiled], Kind::Local, Refused::Early, &["entry"]);
    }
    let mut short = entry();
    (short.body, short.size) = (vec![0; 27], 0);
    refuses(vec![short], Kind::Integrity, Refused::Early, &["entry"]);
}

#[test]
fn every_limit_is_kept_and_named() {
    let zeros = Entry::deflated("zeros", &vec![0; 10_000_000]);
    let files = |n: usize| (0..n).map(|n| Entry::file(&n.to_string(), b"0123456789")).collect::<Vec<_>>();
    let limits = Limits::default();
    for (entries, limits, mentions) in [
        (files(4), Limits { entries: 3, ..limits }, &["4 entries", "limit is 3"][..]),
        (files(4), Limits { content_bytes: 39, ..limits }, &["“3”", "limit is 39"]),
        (vec![zeros], Limits { ratio: 100, ..limits }, &["“zeros”", "limit is 100"]),
    ] {
        let bytes = archive(&with_key(entries.clone()));
        let (error, asked) = try_extract(&bytes, limits).expect_err("too much");
        assert_eq!((error.kind, asked), (Kind::Local, 0));
        mentions.iter().for_each(|mention| assert!(error.to_string().contains(mention), "{error}"));
        try_extract(&bytes, Limits::default()).map_err(|(error, _)| error).expect("within the usual limits");
    }
    let exactly = Limits { entries: 4, content_bytes: 40, ratio: 1 };
    try_extract(&archive(&with_key(files(4))), exactly)
        .map_err(|(error, _)| error)
        .expect("exactly at the limits");
}

#[test]
fn sizes_that_lie_are_refused() {
    // Far too much is refused before a key is asked for, whatever is really inside.
    let mut huge = Entry::deflated("huge", &tree::text(1_000));
    huge.size = 1 << 50;
    refuses(vec![huge], Kind::Local, Refused::Early, &["“huge”"]);
    let mut stored = Entry::file("stored", b"content");
    stored.size = 8;
    refuses(vec![stored], Kind::Integrity, Refused::Early, &["stored"]);
    // A little too much or too little is found while inflating; small and large entries take different ways.
    for len in [10_000, 40_000_000] {
        for difference in [-1i64, 1] {
            let mut lying = Entry::deflated("lying", &tree::text(len));
            lying.size = lying.size.checked_add_signed(difference).expect("positive");
            refuses(vec![lying], Kind::Integrity, Refused::Late, &["“lying”"]);
        }
    }
    // A bomb that claims to be small.
    let mut bomb = Entry::deflated("bomb", &vec![0; 20_000_000]);
    bomb.size = 1_000;
    refuses(vec![bomb], Kind::Integrity, Refused::Late, &["“bomb”"]);
}

#[test]
fn the_wrong_password_opens_nothing() {
    let honest = || Entry::file("a", b"content");
    let mut other_salt = honest();
    other_salt.body[0] ^= 1;
    refuses(vec![other_salt], Kind::Integrity, Refused::Late, &["“a”"]);
    let mut other_code = honest();
    *other_code.body.last_mut().expect("code") ^= 1;
    refuses(vec![other_code], Kind::Integrity, Refused::Late, &["“a”"]);
}

#[test]
fn a_cipher_key_that_is_none_is_refused() {
    for (content, kind) in
        [(&b""[..], Kind::Integrity), (b"password", Kind::Integrity), (&[0x30, 0x80], Kind::Integrity)]
    {
        let bytes = archive(&[Entry::cipher_key(content), Entry::file("a", b"x")]);
        let (error, asked) = try_extract(&bytes, Limits::default()).expect_err("refused");
        assert_eq!((error.kind, asked), (kind, 0), "{error}");
    }
    let mut encrypted = Entry::file("CIPHER.KEY", b"x");
    encrypted.mode = 0o100_644;
    for bytes in [
        archive(&[encrypted]),
        archive(&[Entry::file("a", b"x")]),
        archive(&[]),
        b"no zip".to_vec(),
        Vec::new(),
    ] {
        let (_, asked) = try_extract(&bytes, Limits::default()).expect_err("refused");
        assert_eq!(asked, 0);
    }
}
