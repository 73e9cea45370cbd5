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
        groups: "board,night".parse().unwrap(),
        device: "laptop-7".parse().unwrap(),
        device_groups: "office".parse().unwrap(),
        enrolled: now - SignedDuration::from_hours(24 * 30),
        operation: operation.to_owned(),
        key: Some((KeyId::of_public_key(b"key"), "clients".to_owned())),
        target: String::new(),
        approves: String::new(),
        reason: String::new(),
        ip: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
        now,
        signed_in: now - SignedDuration::from_mins(5),
        factor: None,
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

#[test]
fn what_people_do_for_themselves_is_permitted_until_a_rule_forbids_it() {
    let request = question("RequestCertificate", &[]);
    let narrow = r#"@id("in-the-office") forbid (principal, action == Action::"RequestCertificate", resource)
        unless { context.device in DeviceGroup::"office" };"#;
    // Also beside a policy that was written before there was such an operation.
    let old = r#"@id("old") permit (principal, action in Action::"Open", resource);"#;
    let decide = |text: &str, question: &Question| Policy::parse(1, text).unwrap().decide(question).unwrap();
    for text in [DEFAULT, old, "", narrow] {
        assert_eq!(decide(text, &request).decision, Answer::Allowed, "{text}");
    }
    let elsewhere = Question { device_groups: "board".parse().unwrap(), ..request.clone() };
    assert_eq!(decide(narrow, &elsewhere).because, ["in-the-office"]);
    // That gives nobody anything else.
    assert_eq!(decide("", &question("Unwrap", &[Role::Operator])).decision, Answer::Denied);
    let taken = r#"@id("everybody-for-oneself") forbid (principal, action, resource);"#;
    assert!(Policy::parse(1, taken).unwrap_err().0.contains("always there"));
    // It was applied when the name was free: it holds on, and so does what is always there.
    let kept = Policy::in_force(1, taken).unwrap().decide(&request).unwrap();
    assert_eq!((kept.decision, kept.because), (Answer::Denied, vec!["everybody-for-oneself".to_owned()]));
    let kept = taken.replace("forbid", "permit").replace("action,", r#"action == Action::"Unwrap","#);
    let kept = Policy::in_force(1, &kept).unwrap().decide(&request).unwrap();
    assert_eq!(kept.because, ["everybody-for-oneself (always there)"]);
    assert_eq!(Policy::in_force(1, "nonsense").unwrap_err(), Policy::parse(1, "nonsense").unwrap_err());
    let approved = r#"@id("two") @approvals("1") forbid (principal, action in Action::"Own", resource);"#;
    assert!(matches!(decide(approved, &request).decision, Answer::Approvals(_)));
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
            let its_own = groups.contains(&group) || groups.contains(&Group::Own);
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
        r#"context.device == Device::"laptop-7" && context.approves == """#,
        r#"context.device in DeviceGroup::"office" && !(context.device in DeviceGroup::"board")"#,
        r#"principal in Group::"board" && principal in Group::"night" && !(principal in Group::"office")"#,
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
fn a_policy_can_ask_for_a_fresh_second_factor() {
    let fresh = r#"@id("fresh") forbid (principal, action == Action::"Unwrap", resource)
                   unless { context has mfa_age && context.mfa_age < 300 };"#;
    let unwrap = question("Unwrap", &[Role::Operator]);
    let shown = |seconds: Option<i64>| {
        let factor = seconds.map(|seconds| unwrap.now - SignedDuration::from_secs(seconds));
        decides(fresh, &Question { factor, ..unwrap.clone() }).decision
    };
    assert_eq!(shown(None), Answer::Denied);
    for (seconds, answer) in [(0, Answer::Allowed), (299, Answer::Allowed), (300, Answer::Denied)] {
        assert_eq!(shown(Some(seconds)), answer, "{seconds}");
    }
    // A clock that was set back makes nothing older than new.
    assert_eq!(shown(Some(-3_600)), Answer::Allowed);
    // Who forgets to ask whether it is there is told so when the policy is applied.
    let careless = fresh.replace("context has mfa_age && ", "");
    let error = Policy::parse(1, &careless).unwrap_err();
    assert!(error.0.contains("mfa_age"), "{error}");
}

#[test]
fn a_text_that_is_no_policy_says_why() {
    let when = |condition: &str| {
        format!(
            r#"@id("x") permit (principal, action == Action::"Unwrap", resource) when {{ {condition} }};"#
        )
    };
    let forbid = |with: &str| format!(r#"@id("x") {with} forbid (principal, action, resource);"#);
    for (text, why) in [
        ("permit (principal, action, resource);".to_owned(), "no @id"),
        (format!("{DEFAULT}{DEFAULT}"), "two policies have the @id"),
        (when("context.colour == 1"), "colour"),
        (when("context.hour == \"ten\""), "x: the types Long and String are not compatible"),
        (r#"@id("x") permit (principal, action == Action::"Fly", resource);"#.to_owned(), "Fly"),
        (r#"@id("x") permit (principal == ?principal, action, resource);"#.to_owned(), "template"),
        (forbid(r#"@approvals("0")"#), "x: @approvals(\"0\") is no number from 1"),
        (forbid(r#"@approvals("-1")"#), "is no number"),
        (forbid(r#"@approvals("two")"#), "is no number"),
        (forbid("@approvals"), "is no number"),
        (forbid(r#"@approvals("4294967297")"#), "is no number"),
        (forbid(r#"@break_glass("2")"#), "@break_glass has no value"),
        (
            r#"@id("x") @approvals("2") permit (principal, action, resource);"#.to_owned(),
            "stands on a permit",
        ),
        (r#"@id("x") @break_glass permit (principal, action, resource);"#.to_owned(), "stands on a permit"),
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
    for operation in operation::ALWAYS_ALLOWED {
        let verdict = nothing.decide(&question(operation, &[Role::Admin])).unwrap();
        assert_eq!(verdict.decision, Answer::Allowed, "{operation}");
    }
    assert_eq!(nothing.decide(&question("ActivateDevice", &[Role::Admin])).unwrap().decision, Answer::Denied);
}

fn approvals(number: u32) -> Answer {
    Answer::Approvals(NonZeroU32::new(number).unwrap())
}

#[test]
fn rules_that_can_be_approved_ask_for_the_most_of_them_and_others_still_forbid() {
    let two = r#"@id("two") @approvals("2") forbid (principal, action == Action::"Unwrap", resource);"#;
    let three =
        r#"@id("three") @approvals("3") forbid (principal, action, resource) when { context.hour == 10 };"#;
    let never = r#"@id("never") forbid (principal, action, resource) when { context.file_size > 5 };"#;
    let unwrap = question("Unwrap", &[Role::Operator]);
    let verdict = decides(two, &unwrap);
    assert_eq!((verdict.decision, verdict.because.as_slice()), (approvals(2), &["two".to_owned()][..]));
    let verdict = decides(&format!("{two}{three}"), &unwrap);
    assert_eq!((verdict.decision, verdict.because.len()), (approvals(3), 2));
    // Nobody is asked for what stays forbidden.
    let verdict = decides(&format!("{two}{never}"), &unwrap);
    assert_eq!((verdict.decision, verdict.because.as_slice()), (Answer::Denied, &["never".to_owned()][..]));
    let auditor = question("Unwrap", &[Role::Auditor]);
    assert_eq!(decides(two, &auditor), Verdict { decision: Answer::Denied, because: vec![] });
    assert_eq!(decides(two, &question("ListRecords", &[Role::Auditor])).decision, Answer::Allowed);
}

#[test]
fn a_rule_that_fails_hides_none_that_asks_for_more() {
    let failing = r#"@id("failing") @approvals("1") forbid (principal, action, resource)
                     when { context.file_size * 9223372036854775807 > 0 };"#;
    let three = r#"@id("three") @approvals("3") forbid (principal, action, resource);"#;
    let unwrap = question("Unwrap", &[Role::Operator]);
    assert_eq!(decides(&format!("{failing}{three}"), &unwrap).decision, approvals(3));
}

#[test]
fn approving_and_stopping_need_no_approval() {
    let all = r#"@id("all") @approvals("1") forbid (principal, action, resource);"#;
    for operation in ["Deny", "RevokeDevice", "DisableUser"] {
        assert_eq!(
            decides(all, &question(operation, &[Role::Admin])).decision,
            Answer::Allowed,
            "{operation}"
        );
    }
    assert_eq!(decides(all, &question("ApplyPolicy", &[Role::Admin])).decision, approvals(1));
    // It would have no end: what forbids approving forbids it.
    for operation in ["Approve", "ListApprovals", "GetApproval"] {
        assert_eq!(
            decides(all, &question(operation, &[Role::Admin])).decision,
            Answer::Denied,
            "{operation}"
        );
    }
}

#[test]
fn a_policy_can_say_who_approves_what() {
    let rule = r#"@id("not-this") forbid (principal, action == Action::"Approve", resource)
                  when { context.approves == "ApplyPolicy" };"#;
    let approving =
        |approves: &str| Question { approves: approves.to_owned(), ..question("Approve", &[Role::Admin]) };
    assert_eq!(decides(rule, &approving("ApplyPolicy")).decision, Answer::Denied);
    assert_eq!(decides(rule, &approving("SetRoles")).decision, Answer::Allowed);
}

#[test]
fn the_glass_breaks_only_where_the_policy_says_so() {
    let policy = |text: &str| Policy::parse(1, &format!("{DEFAULT}\n{text}")).unwrap();
    let nights =
        r#"@id("nights") @break_glass forbid (principal, action, resource) when { context.hour == 10 };"#;
    let four = r#"@id("four") @approvals("4") forbid (principal, action, resource);"#;
    let never = r#"@id("never") forbid (principal, action, resource) when { context.file_size > 5 };"#;
    let unwrap = question("Unwrap", &[Role::Operator]);
    let breaking =
        |text: &str| policy(text).decide_on_breaking(&unwrap, NonZeroU32::new(2).unwrap()).unwrap();
    assert_eq!(policy(nights).decide(&unwrap).unwrap().decision, Answer::Denied);
    assert_eq!(breaking(nights).decision, approvals(2));
    assert_eq!(breaking(&format!("{nights}{four}")).decision, approvals(4));
    assert_eq!(breaking(&format!("{nights}{never}")).because, ["never"]);
    assert_eq!(breaking(never).decision, Answer::Denied);
    // Roles stay: what no rule permits cannot be broken into.
    let auditor = question("Unwrap", &[Role::Auditor]);
    let verdict = policy(nights).decide_on_breaking(&auditor, NonZeroU32::new(2).unwrap()).unwrap();
    assert_eq!(verdict, Verdict { decision: Answer::Denied, because: vec![] });
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
const NEED_NO_ROLE: &[&str] = &[
    "Enroll",
    "RenewDevice",
    "Login",
    "StepUp",
    "EnrollFactor",
    "ConfirmFactor",
    "Logout",
    "WhoAmI",
    "CheckBudget",
    "ListKeys",
    "GetKey",
    "GetStatus",
    "GetReceipt",
    "Withdraw",
    "FindCertificates",
    "GetPeopleRevocationList",
];

/// Calls that are made of others: a policy is asked about each of those.
const MADE_OF_OTHERS: &[&str] = &["UnwrapBatch"];

#[test]
fn every_call_of_the_api_is_either_asked_about_or_named_as_one_that_is_not() {
    let files = prost_types::FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap().file;
    let ours = files.iter().filter(|file| file.package() == "custodian.v1");
    let methods = ours.flat_map(|file| &file.service).flat_map(|service| &service.method);
    let asked: Vec<_> = OPERATIONS.iter().map(|(name, _)| *name).collect();
    for method in methods {
        let places = [&asked[..], ALWAYS_ALLOWED, NEED_NO_ROLE, MADE_OF_OTHERS];
        let count = places.iter().filter(|place| place.contains(&method.name())).count();
        assert_eq!(
            count,
            1,
            "{} is in {count} of OPERATIONS, ALWAYS_ALLOWED, NEED_NO_ROLE and MADE_OF_OTHERS",
            method.name()
        );
    }
}
