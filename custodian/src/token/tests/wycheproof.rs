//! Project Wycheproof's vectors for RSA decryption, on real tokens: first the module itself, then through the worker.
//!
//! The vectors come with private keys, and law 7 serves no key that was ever outside of a token. So the keys are imported,
//! and the token's own files are changed to claim otherwise.

use std::{
    collections::HashMap,
    env, fs,
    path::Path,
    process::{self, Command},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::{
    mechanism::MechanismType,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
};
use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    openpgp,
    secret::Secret,
};
use tokio::task::JoinSet;
use wycheproof::{
    HashFunction, RsaPrivate, TestResult,
    rsa_oaep::{self, TestName::*},
    rsa_pkcs1_decrypt,
};

use super::{
    BE_WORKER, Bench, FILE_KEY, PIN, Supervisor, Token, TokenConfig, TokenError, TokenKey, TokenSelect,
    modules::Kryoptic, soon, unwrap,
};
use crate::token::{
    contract::encrypt_as,
    pkcs11::{Hands, Module},
    public::PublicKey,
};

/// Tells this test program to import the keys of these vectors into this module's token: `oaep` or `pkcs1`.
const IMPORT: &str = "CUSTODIAN_TEST_WYCHEPROOF";
const MODULE: &str = "CUSTODIAN_TEST_WYCHEPROOF_MODULE";
const WRAPPINGS: &str = "CUSTODIAN_TEST_WYCHEPROOF_WRAPPINGS";

/// PKCS#11 v3.0 §4.9: CKA_LOCAL, CKA_NEVER_EXTRACTABLE, CKA_ALWAYS_SENSITIVE.
const PROVENANCE: [u64; 3] = [0x163, 0x164, 0x165];

/// A key and what was encrypted to it, well or badly.
struct Group {
    key: RsaPrivate,
    wrapping: KeyWrapping,
    vectors: Vec<Vector>,
}

struct Vector {
    name: String,
    ciphertext: Vec<u8>,
    /// `None`: it decrypts to nothing.
    plaintext: Option<Vec<u8>>,
}

impl Group {
    fn id(&self) -> KeyId {
        PublicKey::rsa(&self.key.n, &self.key.e).unwrap().id
    }

    /// With keys of the sizes that are served, and hashes that tokens are asked for.
    fn oaep(wrappings: &[KeyWrapping]) -> Vec<Self> {
        let sets = [
            Rsa2048Sha1Mgf1Sha1,
            Rsa2048Sha256Mgf1Sha256,
            Rsa2048Sha384Mgf1Sha384,
            Rsa2048Sha512Mgf1Sha512,
            Rsa3072Sha256Mgf1Sha256,
            Rsa3072Sha512Mgf1Sha512,
            Rsa4096Sha256Mgf1Sha256,
            Rsa4096Sha512Mgf1Sha512,
            RsaMisc,
        ];
        let mut groups = Vec::new();
        for set in sets {
            for group in rsa_oaep::TestSet::load(set).unwrap().test_groups {
                let wrapping = wrapping_of(group.hash, group.mgf_hash).filter(|one| wrappings.contains(one));
                let served = [2048, 3072, 4096].contains(&group.key_size);
                let Some(wrapping) = wrapping.filter(|_| served) else { continue };
                let vectors = group.tests.into_iter().map(|test| Vector {
                    name: format!("{set:?} {}: {} {:?}", test.tc_id, test.comment, test.flags),
                    // A label is never used: what was encrypted with one is no file key.
                    plaintext: plaintext(test.result, &test.pt).filter(|_| test.label.is_empty()),
                    ciphertext: test.ct.to_vec(),
                });
                groups.push(Self { wrapping, vectors: vectors.collect(), key: group.key });
            }
        }
        groups
    }

    fn pkcs1() -> Vec<Self> {
        let mut groups = Vec::new();
        for set in rsa_pkcs1_decrypt::TestName::all() {
            for group in rsa_pkcs1_decrypt::TestSet::load(set).unwrap().test_groups {
                let vectors = group.tests.into_iter().map(|test| Vector {
                    name: format!("{set:?} {}: {} {:?}", test.tc_id, test.comment, test.flags),
                    plaintext: plaintext(test.result, &test.pt),
                    ciphertext: test.ct.to_vec(),
                });
                let wrapping = KeyWrapping::OpenPgp;
                groups.push(Self { wrapping, vectors: vectors.collect(), key: group.key });
            }
        }
        groups
    }

    /// Those that the environment of the importing process names.
    fn named(which: &str, wrappings: &str) -> Vec<Self> {
        let wrappings: Vec<_> = wrappings.split(' ').filter_map(KeyWrapping::from_name).collect();
        if which == "pkcs1" { Self::pkcs1() } else { Self::oaep(&wrappings) }
    }
}

fn wrapping_of(hash: HashFunction, mgf_hash: HashFunction) -> Option<KeyWrapping> {
    let wrapping = match hash {
        HashFunction::Sha1 => KeyWrapping::OaepSha1,
        HashFunction::Sha2_256 => KeyWrapping::OaepSha256,
        HashFunction::Sha2_384 => KeyWrapping::OaepSha384,
        HashFunction::Sha2_512 => KeyWrapping::OaepSha512,
        _ => return None,
    };
    (hash == mgf_hash).then_some(wrapping)
}

fn plaintext(result: TestResult, plaintext: &[u8]) -> Option<Vec<u8>> {
    (!result.must_fail()).then(|| plaintext.to_vec())
}

/// Imports the keys in a process of its own, which tries every vector on the module while it is there.
fn import(config: &TokenConfig, which: &str, wrappings: &[KeyWrapping]) {
    let names: Vec<_> = wrappings.iter().map(|wrapping| wrapping.name()).collect();
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "token::tests::wycheproof::import_process", "--nocapture"])
        .envs(&config.environment)
        .env_remove(BE_WORKER)
        .envs([(IMPORT, which), (WRAPPINGS, &names.join(" "))])
        .env(MODULE, &config.module)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Not a test: what [`import`] runs.
#[test]
fn import_process() {
    let Ok(which) = env::var(IMPORT) else { return };
    let groups = Group::named(&which, &env::var(WRAPPINGS).unwrap());
    let module = env::var_os(MODULE).unwrap();
    let module = Module::open(Path::new(&module), &TokenSelect::Label("bench".to_owned())).unwrap();
    let Ok(_login) = module.login(&Secret::new(PIN.to_owned())) else { panic!("logged in") };
    let (mut keys, mut decrypted, mut refused) = (HashMap::new(), 0, 0);
    for group in &groups {
        let hands = module.making_hands().unwrap();
        let key = *keys.entry(group.id()).or_insert_with(|| create(&hands, group));
        drop(hands);
        let len = significant(&group.key.n).len();
        // Others never get as far as the module.
        for vector in group.vectors.iter().filter(|vector| vector.ciphertext.len() == len) {
            // A failure may cost the session.
            let hands = module.hands().unwrap();
            let found = hands.decrypt(key, group.wrapping, &vector.ciphertext);
            match &vector.plaintext {
                Some(expected) => {
                    let found = found.unwrap_or_else(|failure| panic!("{}: {failure}", vector.name));
                    assert!(found[..] == expected[..], "{}", vector.name);
                    decrypted += 1;
                }
                None => {
                    assert!(found.is_err(), "{}", vector.name);
                    refused += 1;
                }
            }
        }
    }
    println!("{which}: {} keys, {decrypted} vectors decrypted, {refused} refused by the module", keys.len());
    assert!(decrypted > 10 && refused > 10);
    process::exit(0);
}

fn create(hands: &Hands, group: &Group) -> ObjectHandle {
    let number = |bytes: &[u8]| significant(bytes).to_vec();
    let mechanism = match group.wrapping {
        KeyWrapping::OpenPgp => MechanismType::RSA_PKCS,
        _ => MechanismType::RSA_PKCS_OAEP,
    };
    let key = &group.key;
    let template = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Decrypt(true),
        Attribute::Sign(false),
        Attribute::SignRecover(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::AllowedMechanisms(vec![mechanism]),
        Attribute::Label(b"wycheproof".to_vec()),
        Attribute::Id(digest(&SHA256, &key.n).as_ref()[..8].to_vec()),
        Attribute::Modulus(number(&key.n)),
        Attribute::PublicExponent(number(&key.e)),
        Attribute::PrivateExponent(number(&key.d)),
        Attribute::Prime1(number(&key.p)),
        Attribute::Prime2(number(&key.q)),
        Attribute::Exponent1(number(&key.d1)),
        Attribute::Exponent2(number(&key.d2)),
        Attribute::Coefficient(number(&key.c)),
    ];
    let handle = hands.session.create_object(&template).unwrap();
    let claims = hands.session.get_attributes(handle, &[AttributeType::Local]).unwrap();
    assert_eq!(claims, [Attribute::Local(false)], "a module that lets lie would need no change of its files");
    handle
}

fn significant(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

/// Has SoftHSM say of all its private keys that it made them. Its object files are a row of: attribute, kind of value,
/// value, each number with 8 bytes; 1 is the kind of booleans.
fn claim_local_in_softhsm(bench: &Bench) {
    let mut changed = 0;
    for token in fs::read_dir(bench.path("tokens")).unwrap() {
        for entry in fs::read_dir(token.unwrap().path()).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            for attribute in PROVENANCE {
                let start = [attribute.to_be_bytes(), 1u64.to_be_bytes()].concat();
                if let Some(at) = bytes.windows(start.len()).position(|window| window == start) {
                    bytes[at + start.len()] = 0xff;
                    changed += 1;
                }
            }
            fs::write(path, bytes).unwrap();
        }
    }
    assert!(changed > 0);
}

/// The same for Kryoptic, whose objects are rows of a table. CKA_CLASS is 0, CKO_PRIVATE_KEY is 3.
fn claim_local_in_kryoptic(database: &Path) {
    let connection = rusqlite::Connection::open(database).unwrap();
    for attribute in PROVENANCE {
        let sql = "INSERT OR REPLACE INTO objects (id, attr, val) \
                   SELECT id, ?1, 1 FROM objects WHERE attr = 0 AND val = 3";
        assert!(connection.execute(sql, [attribute.cast_signed()]).unwrap() > 0);
    }
}

/// What the vectors came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    keys: usize,
    file_keys: usize,
    rejected: usize,
}

/// Laws 4 and 5: of all that decrypts, file keys come back; everything else has one answer, at no cost for the worker.
async fn holds(token: Supervisor, groups: Vec<Group>) -> Count {
    let survey = token.survey(soon()).await.unwrap();
    assert!(survey.unserved.is_empty(), "{:?}", survey.unserved);
    let keys: HashMap<_, _> = survey.keys.into_iter().map(|key| (key.id, key)).collect();
    let mut count = Count { keys: keys.len(), ..Count::default() };
    let (pid, token) = (token.worker_pid(), Arc::new(token));
    let mut groups = groups.into_iter();
    let mut calls = JoinSet::new();
    loop {
        // Fewer at once than the token lets wait.
        for group in groups.by_ref().take(16 - calls.len()) {
            let (token, key) = (Arc::clone(&token), keys[&group.id()].clone());
            calls.spawn(async move { holds_for(&*token, &key, group).await });
        }
        let Some(group) = calls.join_next().await else { break };
        let group = group.unwrap();
        count.file_keys += group.file_keys;
        count.rejected += group.rejected;
    }
    assert_eq!((token.worker_pid(), token.health().restarts), (pid, 0));
    count
}

async fn holds_for(token: &dyn Token, key: &TokenKey, group: Group) -> Count {
    let wrapping = group.wrapping;
    let mut count = Count::default();
    for Vector { name, ciphertext, plaintext } in group.vectors {
        // Nothing, and more than any modulus, are no wrapped keys to begin with.
        let Some(wrapped) = WrappedKey::new(key.id, wrapping, ciphertext) else { continue };
        let file_key = plaintext.and_then(|mut plaintext| match wrapping {
            KeyWrapping::OpenPgp => openpgp::take_file_key(&mut plaintext),
            _ => FileKey::take(&mut plaintext),
        });
        let found = unwrap(token, &wrapped, soon()).await;
        match file_key {
            Some(expected) => {
                assert_eq!(found, Ok(*expected.expose()), "{name}");
                count.file_keys += 1;
            }
            None => {
                assert_eq!(found, Err(TokenError::Rejected), "{name}");
                count.rejected += 1;
            }
        }
    }
    // The key itself is not why they are rejected.
    let ours = match wrapping {
        KeyWrapping::OpenPgp => openpgp::wrapped_by_v3(&FileKey::new(FILE_KEY)).to_vec(),
        _ => FILE_KEY.to_vec(),
    };
    let wrapped = WrappedKey::new(key.id, wrapping, encrypt_as(key, wrapping, &ours)).unwrap();
    assert_eq!(unwrap(token, &wrapped, soon()).await, Ok(FILE_KEY));
    count
}

#[tokio::test]
async fn wycheproof_oaep_with_sha1_holds_in_softhsm() {
    let bench = Bench::new();
    let wrappings = [KeyWrapping::OaepSha1];
    import(&bench.config(), "oaep", &wrappings);
    claim_local_in_softhsm(&bench);
    let count = holds(bench.start().await, Group::oaep(&wrappings)).await;
    assert!(count.file_keys >= 1 && count.rejected >= 35, "{count:?}");
    println!("{count:?}");
}

#[tokio::test]
async fn wycheproof_oaep_holds_in_kryoptic_with_every_hash() {
    let kryoptic = Kryoptic::new();
    import(&kryoptic.config(), "oaep", &KeyWrapping::OAEP);
    claim_local_in_kryoptic(&kryoptic.database());
    let count = holds(kryoptic.start().await, Group::oaep(&KeyWrapping::OAEP)).await;
    assert!(count.keys >= 8 && count.file_keys >= 8 && count.rejected >= 250, "{count:?}");
    println!("{count:?}");
}

/// None of them is what OpenPGP wraps, so whether a padding is right must not show.
#[tokio::test]
async fn wycheproof_pkcs1_holds_in_softhsm() {
    let bench = Bench::new();
    import(&bench.config(), "pkcs1", &[]);
    claim_local_in_softhsm(&bench);
    let count = holds(bench.start().await, Group::pkcs1()).await;
    assert!(count.keys >= 90 && count.file_keys == 0 && count.rejected >= 190, "{count:?}");
    println!("{count:?}");
}
