//! Policy: what is asked for beyond device, login and role; who changed it; and that it cannot lock everybody out.

use std::{fs, path::Path};

use softhsm_tests::{Dev, Person, Ran, Wire};

/// What a new custodian has, and that an envelope is opened for a case only.
const FOR_A_CASE: &str = r#"
@id("operators-for-a-case")
permit (principal, action == Action::"Unwrap", resource)
when { principal.roles.contains("operator") && context.reason like "case *" };
@id("audit") permit (principal, action in Action::"Audit", resource) when { principal.roles.contains("auditor") };
@id("administer") permit (principal, action in Action::"Administer", resource) when { principal.roles.contains("admin") };
"#;

fn apply(dev: &Dev, text: &str) -> Ran {
    let file = dev.scratch("policies").join("policy.cedar");
    fs::write(&file, text).unwrap();
    dev.ctl(Person::Admin, ["policy", "apply", file.to_str().unwrap(), "--reason", "decided on Monday"])
}

fn extract(dev: &Dev, envelope: &Path, reason: &str) -> Ran {
    dev.envelope(Person::Operator, ["extract", envelope.to_str().unwrap(), "--to-stdout", "--reason", reason])
}

fn sealed(dev: &Dev) -> std::path::PathBuf {
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &envelope);
    envelope
}

#[tokio::test]
async fn a_policy_holds_once_it_is_applied_and_the_log_names_what_refused() {
    let dev = Dev::start();
    let envelope = sealed(&dev);
    extract(&dev, &envelope, "curious").expect(0);

    let file = dev.scratch("policies").join("new.cedar");
    fs::write(&file, FOR_A_CASE).unwrap();
    let tested = dev.ctl(Person::Admin, ["policy", "test", file.to_str().unwrap()]).expect(0);
    assert!(tested.stderr.contains("1 that were let through would be refused"), "{tested:?}");

    apply(&dev, FOR_A_CASE).expect(0);
    extract(&dev, &envelope, "curious").expect(3).says("POLICY_DENIED");
    assert_eq!(extract(&dev, &envelope, "case 7").expect(0).stdout, "content");
    let records = Wire::records(&dev).await;
    let refused = records.iter().find(|record| record.outcome == "POLICY_DENIED").unwrap();
    assert!(refused.detail.contains("no policy permits it (policy version 1)"), "{}", refused.detail);
    assert_eq!(refused.claims.as_ref().unwrap().reason, "curious");
    let applied = records.iter().find(|record| record.operation == "ApplyPolicy").unwrap();
    assert_eq!((applied.user.as_str(), applied.target.as_str()), ("users/admin", "policies/1"));
    assert!(applied.detail.contains("decided on Monday"), "{}", applied.detail);

    // It holds after a restart, too.
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let dev = Dev::start_in(folder);
    extract(&dev, &envelope, "curious").expect(3).says("POLICY_DENIED");
    assert!(dev.ctl(Person::Admin, ["policy", "show"]).expect(0).stdout.contains("operators-for-a-case"));
    assert!(dev.ctl(Person::Admin, ["policy", "ls"]).expect(0).stdout.contains("decided on Monday"));
}

#[test]
fn a_refusal_is_explained() {
    let dev = Dev::start();
    let night = format!(
        "{FOR_A_CASE}\n@id(\"no-nights\") forbid (principal, action == Action::\"Unwrap\", resource) \
         when {{ context.hour < 6 }};"
    );
    apply(&dev, &night).expect(0);
    let keys = dev.ctl(Person::Admin, ["key", "ls", "--json"]).expect(0).json();
    let key = keys[0]["name"].as_str().unwrap().to_owned();
    let explain = |at: &str, reason: &str| {
        let who = ["policy", "explain", "--user", "operator", "--device", "operator-laptop", "--key", &key];
        dev.ctl(Person::Admin, [&who[..], &["--at", at, "--reason", reason, "--json"]].concat())
            .expect(0)
            .json()
    };
    let by_day = explain("2026-11-20T12:00:00Z", "case 1");
    assert_eq!(
        (by_day["allowed"].as_bool(), &by_day["policies"][0]),
        (Some(true), &"operators-for-a-case".into())
    );
    let by_night = explain("2026-11-20T03:00:00Z", "case 1");
    assert_eq!((by_night["allowed"].as_bool(), &by_night["policies"][0]), (Some(false), &"no-nights".into()));
    let without = explain("2026-11-20T12:00:00Z", "");
    assert_eq!(
        (without["allowed"].as_bool(), without["policies"].as_array().unwrap().len()),
        (Some(false), 0)
    );
}

#[test]
fn nobody_is_locked_out_by_a_policy() {
    let dev = Dev::start();
    let nothing = r#"@id("nothing") forbid (principal, action, resource);"#;
    apply(&dev, nothing).expect(3).says("could not apply the next one");

    // Only policies may still be changed: whoever must be stopped is stopped all the same.
    let strict = r#"@id("policies") permit (principal, action == Action::"ApplyPolicy", resource);
                    @id("read") permit (principal, action == Action::"GetPolicy", resource);"#;
    apply(&dev, strict).expect(0);
    dev.ctl(Person::Admin, ["device", "ls"]).expect(3).says("POLICY_DENIED");
    dev.ctl(Person::Admin, ["device", "revoke", "operator-laptop", "--reason", "lost"]).expect(0);
    dev.ctl(Person::Admin, ["user", "disable", "operator", "--reason", "left"]).expect(0);
    apply(&dev, FOR_A_CASE).expect(0);
    dev.ctl(Person::Admin, ["device", "ls"]).expect(0);
}

#[test]
fn a_bad_policy_is_refused_and_says_why() {
    let dev = Dev::start();
    for (text, why) in [
        ("permit (principal, action, resource);", "no @id"),
        (r#"@id("x") permit (principal, action, resource) when { context.colour == 1 };"#, "colour"),
        ("let it be", "unexpected"),
    ] {
        apply(&dev, text).expect(3).says(why).says("INVALID_ARGUMENT");
    }
    apply(&dev, "  ").expect(1).says("it is empty");
    let file = dev.scratch("policies").join("policy.cedar");
    fs::write(&file, FOR_A_CASE).unwrap();
    let old = ["policy", "apply", file.to_str().unwrap(), "--reason", "r", "--base", "7"];
    dev.ctl(Person::Admin, old).expect(3).says("STATE_CONFLICT");
    dev.ctl(Person::Operator, ["policy", "show"]).expect(3).says("ROLE_MISSING");
    assert!(dev.ctl(Person::Admin, ["policy", "show"]).expect(0).stdout.contains("operators-unwrap"));
    assert!(
        dev.ctl(Person::Admin, ["policy", "show", "--schema"]).expect(0).stdout.contains("entity Device")
    );
}

#[test]
fn groups_open_what_the_policy_gives_them_and_the_last_one_who_could_is_named() {
    let dev = Dev::start();
    let envelope = sealed(&dev);
    let board = FOR_A_CASE.replace(
        "context.reason like \"case *\"",
        "principal in Group::\"board\" && context.device in DeviceGroup::\"office\"",
    );
    apply(&dev, &board).expect(0);
    let opens = || extract(&dev, &envelope, "");
    opens().expect(3).says("POLICY_DENIED");
    dev.ctl(Person::Admin, ["user", "groups", "operator", "night", "board"]).expect(0);
    opens().expect(3).says("POLICY_DENIED");
    dev.ctl(Person::Admin, ["device", "groups", "operator-laptop", "office"]).expect(0);
    opens().expect(0);
    let shown = dev.ctl(Person::Admin, ["user", "ls", "--json"]).expect(0).json();
    let operator = shown.as_array().unwrap().iter().find(|user| user["name"] == "users/operator").unwrap();
    assert_eq!(operator["groups"], serde_json::json!(["board", "night"]));
    dev.ctl(Person::Admin, ["user", "groups", "operator", "Board"]).expect(3).says("INVALID_ARGUMENT");

    let without = |name: &str| dev.ctl(Person::Admin, ["policy", "without", name, "--json"]).expect(0).json();
    let lone = without("users/operator");
    assert_eq!((&lone["attempts"], &lone["keys"][0]["label"]), (&1.into(), &"sample".into()));
    assert_eq!(
        (&lone["keys"][0]["others"], &lone["roles"]),
        (&serde_json::json!([]), &serde_json::json!(["operator"]))
    );
    assert_eq!(without("devices/operator-laptop")["keys"][0]["others"], serde_json::json!([]));
    // Another operator of the board, on the same device or on another of the office.
    let password = dev.scratch("secrets").join("password");
    fs::write(&password, "tangible osprey 41").unwrap();
    let add = ["user", "add", "bob", "--role", "operator", "--password-file", password.to_str().unwrap()];
    dev.ctl(Person::Admin, add).expect(0);
    dev.ctl(Person::Admin, ["user", "groups", "bob", "board"]).expect(0);
    let shared = without("users/operator");
    assert_eq!(shared["keys"][0]["others"], serde_json::json!(["users/bob on devices/operator-laptop"]));
    assert_eq!(shared["roles"], serde_json::json!([]));
    assert_eq!(without("devices/operator-laptop")["keys"][0]["others"], serde_json::json!([]));
    dev.ctl(Person::Admin, ["device", "groups", "auditor-laptop", "office"]).expect(0);
    let others = without("devices/operator-laptop")["keys"][0]["others"].clone();
    let both = ["users/bob on devices/auditor-laptop", "users/operator on devices/auditor-laptop"];
    assert_eq!(others, serde_json::json!(both));
    let said = dev.ctl(Person::Admin, ["policy", "without", "users/operator"]).expect(0);
    assert!(said.stdout.contains("users/bob on devices/auditor-laptop"), "{}", said.stdout);

    // Out of the group, out of the door.
    dev.ctl(Person::Admin, ["user", "groups", "operator"]).expect(0);
    opens().expect(3).says("POLICY_DENIED");
}
