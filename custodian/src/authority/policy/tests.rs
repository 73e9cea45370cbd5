//! What a policy promises.

use std::net::{IpAddr, Ipv4Addr};

use custodian_proto::{DESCRIPTOR_SET, key::KeyId, v1};
use jiff::{SignedDuration, Timestamp};

use prost::Message;

use super::{
    operation::{ALWAYS_ALLOWED, Group, OPERATIONS},
    *,
};
use crate::authority::{Role, Roles};

fn question(operation: &str, roles: &[Role]) -> Question {
    // A Saturday, 10:31 UTC.
    let now: Timestamp = "2026-11-21T10:31:00Z".parse().unwrap();
    Question {
        user: "anna".parse().unwrap(),
        roles: roles.iter().copied().collect::<Roles>(),
        device: "laptop-7".parse().unwrap(),
        enrolled: now - SignedDuration::from_hours(24 * 30),
        operation: operation.to_owned(),
        key: Some((KeyId::of_public_key(b"key"), "clients".to_owned())),
        target: String::new(),
        reason: String::new(),
        ip: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
        now,
        signed_in: now - SignedDuration::from_mins(5),
        claims: v1::Claims {
            file_name: "a.mtd".into(),
            file_size: 1 << 40,
            format: "mtd".into(),
            ..Default::default()
        },
        cosigners: 1,
    }
}

#[test]
fn a_policy_can_ask_for_witnesses_of_the_log() {
    let text = r#"@id("witnesses") forbid (principal, action == Action::"Unwrap", resource) when { context.cosigners < 2 };"#;
    let one = question("Unwrap", &[Role::Operator]);
    assert_eq!(decides(text, &one).decision, Answer::Denied);
    assert_eq!(decides(text, &Question { cosigners: 2, ..one }).decision, Answer::Allowed);
    let revoke = question("RevokeDevice", &[Role::Admin]);
    assert_eq!(decides(text, &Question { cosigners: 0, ..revoke }).decision, Answer::Allowed);
}

fn decides(text: &str, question: &Question) -> Verdict {
    Policy::parse(1, &format!("{DEFAULT}\n{text}")).unwrap().decide(question).unwrap()
}

#[test]
fn the_default_policy_gives_each_role_what_it_is_for() {
    let policy = Policy::parse(0, DEFAULT).unwrap();
    for (operation, groups) in OPERATIONS {
        for role in Role::ALL {
            let verdict = policy.decide(&question(operation, &[role])).unwrap();
            let group = match role {
                Role::Operator => Group::Open,
                Role::Auditor => Group::Audit,
                Role::Admin => Group::Administer,
            };
            let its_own = groups.contains(&group);
            assert_eq!(verdict.decision == Answer::Allowed, its_own, "{operation} by {role:?}: {verdict}");
        }
    }
}

#[test]
fn a_policy_can_look_at_every_circumstance() {
    let unwrap = question("Unwrap", &[Role::Operator]);
    for condition in [
        r#"context.weekday >= 6"#,
        r#"context.hour == 10 && context.minute == 31"#,
        r#"context.ip.isInRange(ip("10.0.0.0/8"))"#,
        r#"context.reason == """#,
        r#"context.login_age == 300"#,
        r#"context.now - context.device.enrolled > 2000000"#,
        r#"context.device == Device::"laptop-7""#,
        r#"context.file_size > 1000000 && context.file_name like "*.mtd" && context.file_format == "mtd""#,
        r#"resource.label == "clients""#,
        r#"principal == User::"anna" && principal.roles.contains("operator")"#,
    ] {
        let forbid = |condition| {
            format!(
                r#"@id("test") forbid (principal, action == Action::"Unwrap", resource) when {{ {condition} }};"#
            )
        };
        let verdict = decides(&forbid(condition), &unwrap);
        assert_eq!(
            verdict,
            Verdict { decision: Answer::Denied, because: vec!["test".into()] },
            "{condition}"
        );
        let verdict = decides(&forbid(&format!("!({condition})")), &unwrap);
        assert_eq!(verdict.because, ["operators-unwrap"], "{condition}");
    }
}

#[test]
fn a_text_that_is_no_policy_says_why() {
    let when = |condition: &str| {
        format!(
            r#"@id("x") permit (principal, action == Action::"Unwrap", resource) when {{ {condition} }};"#
        )
    };
    for (text, why) in [
        ("permit (principal, action, resource);".to_owned(), "no @id"),
        (format!("{DEFAULT}{DEFAULT}"), "two policies have the @id"),
        (when("context.colour == 1"), "colour"),
        (when("context.hour == \"ten\""), "x: the types Long and String are not compatible"),
        (r#"@id("x") permit (principal, action == Action::"Fly", resource);"#.to_owned(), "Fly"),
        (r#"@id("x") permit (principal == ?principal, action, resource);"#.to_owned(), "template"),
        ("let it be".to_owned(), "unexpected token"),
        (" ".repeat(MAX_POLICY_LEN + 1), "longer"),
    ] {
        let error = Policy::parse(1, &text).unwrap_err();
        assert!(error.0.contains(why), "{why:?} is not in: {error}");
    }
}

#[test]
fn a_policy_that_cannot_be_evaluated_forbids() {
    let overflow = r#"@id("overflow") forbid (principal, action, resource)
                      when { context.file_size * 9223372036854775807 > 0 && context.hour == 99 };"#;
    let verdict = decides(overflow, &question("Unwrap", &[Role::Operator]));
    assert_eq!(verdict, Verdict { decision: Answer::Denied, because: vec!["overflow".into()] });
}

#[test]
fn stopping_somebody_is_never_forbidden() {
    let nothing = Policy::parse(1, r#"@id("nothing") forbid (principal, action, resource);"#).unwrap();
    for operation in
        ["RevokeDevice", "SuspendDevice", "DisableUser", "SuspendKey", "DeactivateKey", "CompromiseKey"]
    {
        let verdict = nothing.decide(&question(operation, &[Role::Admin])).unwrap();
        assert_eq!(verdict.decision, Answer::Allowed, "{operation}");
    }
    assert_eq!(nothing.decide(&question("ActivateDevice", &[Role::Admin])).unwrap().decision, Answer::Denied);
}

#[test]
fn what_callers_choose_is_data_and_never_syntax() {
    let mut question = question("Unwrap", &[Role::Operator]);
    question.claims.reason = r#"" || true || ""#.to_owned();
    question.claims.file_name = "\"; permit (principal, action, resource); \u{0}".to_owned();
    let verdict = decides(
        r#"@id("reason") forbid (principal, action, resource) unless { context.reason like "case *" };"#,
        &question,
    );
    assert_eq!(verdict.because, ["reason"]);
}

/// Calls that need a device or a session only: no policy is asked.
const NEED_NO_ROLE: &[&str] =
    &["Enroll", "Login", "Logout", "WhoAmI", "ListKeys", "GetKey", "GetStatus", "GetReceipt"];

#[test]
fn every_call_of_the_api_is_either_asked_about_or_named_as_one_that_is_not() {
    let files = prost_types::FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap().file;
    let ours = files.iter().filter(|file| file.package() == "custodian.v1");
    let methods = ours.flat_map(|file| &file.service).flat_map(|service| &service.method);
    let asked: Vec<_> = OPERATIONS.iter().map(|(name, _)| *name).collect();
    for method in methods {
        let places = [&asked[..], ALWAYS_ALLOWED, NEED_NO_ROLE];
        let count = places.iter().filter(|place| place.contains(&method.name())).count();
        assert_eq!(
            count,
            1,
            "{} is in {count} of OPERATIONS, ALWAYS_ALLOWED and NEED_NO_ROLE",
            method.name()
        );
    }
}
