//! Passwords: which are taken, and what becomes of those that somebody else set.

use std::fs;

use softhsm_tests::{Dev, Person, Ran, Wire, run};

/// A file with this password.
fn file(dev: &Dev, name: &str, password: &str) -> String {
    let path = dev.scratch("secrets").join(name);
    fs::write(&path, password).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Runs `envelope` as this user, on the operator's workstation.
fn envelope(dev: &Dev, user: &str, password_file: &str, args: &[&str]) -> Ran {
    let mut command = dev.command("envelope", Person::Operator);
    command.env("CUSTODIAN_USER", user).env("CUSTODIAN_PASSWORD_FILE", password_file);
    run(command.args(args))
}

#[tokio::test]
async fn a_given_password_is_changed_before_anything_else() {
    let dev = Dev::start();
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let sealed = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &sealed);
    let (given, own) = (file(&dev, "given", "tangible osprey 41"), file(&dev, "own", "moraine ukulele 7"));
    let add = ["user", "add", "bob", "--role", "operator", "--must-change", "--password-file", &given];
    dev.ctl(Person::Admin, add).expect(0);

    let extract = |password: &str| {
        envelope(&dev, "bob", password, &["extract", sealed.to_str().unwrap(), "--to-stdout"])
    };
    envelope(&dev, "bob", &given, &["login"]).expect(0).says("envelope passwd");
    extract(&given).expect(3).says("PASSWORD_MUST_CHANGE");
    assert!(
        envelope(&dev, "bob", &given, &["whoami", "--json"])
            .expect(0)
            .stdout
            .contains("\"must_change_password\": true")
    );
    // The given one is no password of their own.
    let change = |to: &str| envelope(&dev, "bob", &given, &["passwd", "--new-password-file", to]);
    change(&given).expect(3).says("is the present one");
    extract(&given).expect(3).says("PASSWORD_MUST_CHANGE");
    change(&own).expect(0);
    assert_eq!(extract(&own).expect(0).stdout, "content");

    let records = Wire::records(&dev).await;
    let refused = records.iter().find(|record| record.outcome == "PASSWORD_MUST_CHANGE").unwrap();
    assert_eq!((refused.operation.as_str(), refused.user.as_str()), ("GetKey", "users/bob"));
    let created = records.iter().rfind(|record| record.operation == "CreateUser").unwrap();
    assert!(created.detail.contains("the password must be changed"), "{}", created.detail);
}

#[test]
fn a_password_that_is_easy_to_guess_is_refused_with_what_would_help() {
    let dev = Dev::start();
    for (easy, help) in [
        ("Password1234", "similar to a commonly used password"),
        ("bob.bob.bob.bob", "easy to guess"),
        ("qwertyuiop1234", "easy to guess"),
    ] {
        let easy = file(&dev, "easy", easy);
        dev.ctl(Person::Admin, ["user", "add", "bob", "--role", "auditor", "--password-file", &easy])
            .expect(3)
            .says("INVALID_ARGUMENT")
            .says(help);
    }
    let good = file(&dev, "good", "tangible osprey 41");
    dev.ctl(Person::Admin, ["user", "add", "bob", "--role", "auditor", "--password-file", &good]).expect(0);
    let easy = file(&dev, "easy", "Password1234");
    envelope(&dev, "bob", &good, &["passwd", "--new-password-file", &easy]).expect(3).says("easy to guess");
    envelope(&dev, "bob", &good, &["login"]).expect(0);
}

#[test]
fn the_custodian_can_ask_for_that_of_all_passwords_that_administrators_set() {
    let folder = Dev::configured(|config, _| {
        let passwords: toml::Table = "change_given = true".parse().unwrap();
        config.insert("passwords".to_owned(), passwords.into());
    });
    let dev = Dev::start_in(folder);
    let (one, other) = (file(&dev, "one", "tangible osprey 41"), file(&dev, "other", "moraine ukulele 7"));
    dev.ctl(Person::Admin, ["user", "add", "bob", "--role", "auditor", "--password-file", &one]).expect(0);
    envelope(&dev, "bob", &one, &["passwd", "--new-password-file", &other]).expect(0);
    dev.ctl(Person::Admin, ["user", "passwd", "bob", "--password-file", &one]).expect(0);
    let status = envelope(&dev, "bob", &one, &["whoami", "--json"]).expect(0).json();
    assert_eq!(status["must_change_password"], true);
    // Those of the set-up are nobody else's.
    dev.ctl(Person::Admin, ["user", "ls"]).expect(0);
}
