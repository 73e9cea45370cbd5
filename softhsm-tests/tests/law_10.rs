//! Law 10: no private RSA operation in our own processes' software.

use std::{fs, path::Path};

/// What private RSA operations are done with.
const PRIVATE: [&str; 3] = ["PrivateDecryptingKey", "RsaKeyPair", "RsaPrivateKey"];

/// A person's own keys, on that person's workstation: nobody else can ask them anything, and aws-lc's operations take the
/// same time whatever the key.
const OWN: [&str; 3] = [
    "client/src/envelope/own_key.rs",
    "client/src/envelope/openpgp/secret_key.rs",
    "client/src/signed/local.rs",
];

/// A token in memory, for tests; the compiler leaves it out of the program.
const DOUBLE: &str = "custodian/src/token/memory.rs";

#[test]
fn law_10_neither_the_rsa_crate_nor_a_private_rsa_key_is_in_our_programs() {
    let house = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let lock: toml::Table = fs::read_to_string(house.join("Cargo.lock")).unwrap().parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let has = |name: &str| packages.iter().any(|package| package["name"].as_str() == Some(name));
    assert!(has("aws-lc-rs") && !has("rsa"));

    let mut sources = Vec::new();
    ["proto/src", "custodian/src", "client/src"]
        .iter()
        .for_each(|room| collect(&house.join(room), &mut sources));
    assert!(sources.iter().any(|path| path.ends_with(DOUBLE)));
    let is_named = |path: &Path| path.ends_with(DOUBLE) || OWN.iter().any(|own| path.ends_with(own));
    for path in sources.iter().filter(|path| !is_named(path)) {
        let text = fs::read_to_string(path).unwrap();
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let is_of_tests =
            path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
        let found = PRIVATE.iter().find(|name| !is_of_tests && program.contains(*name));
        assert_eq!(found, None, "{}", path.display());
    }
}

fn collect(folder: &Path, sources: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}
