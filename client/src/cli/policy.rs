//! `custodianctl policy`.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use custodian_proto::{limits::MAX_POLICY_LEN, v1};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    connection::Connection,
    extract::reason,
    message::note,
    output::Style,
    view::{device_name, id_of, role_name, user_name},
    when::{parse_instant, rfc3339, to_proto},
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Print the policy in force, in Cedar
    Show {
        /// Print what policies can speak about instead: the schema
        #[arg(long)]
        schema: bool,
        #[command(flatten)]
        style: Style,
    },
    /// List the versions that were applied
    Ls {
        #[command(flatten)]
        style: Style,
    },
    /// Put a policy in force: once this returns, nothing leaves that it forbids
    Apply {
        /// In Cedar; - for standard input
        file: PathBuf,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        /// The version it was made from. [default: the one in force now]
        #[arg(long, value_name = "VERSION")]
        base: Option<u64>,
        #[command(flatten)]
        style: Style,
    },
    /// Tell what a policy would have decided otherwise in the last days; changes nothing
    Test {
        /// In Cedar; - for standard input
        file: PathBuf,
        /// How far back
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        days: u32,
        #[command(flatten)]
        style: Style,
    },
    /// Tell who would lose access if a user or a device went away; changes nothing
    Without {
        /// users/anna or devices/laptop-7
        name: String,
        /// How far back to look for what it used
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        days: u32,
        #[command(flatten)]
        style: Style,
    },
    /// Tell whether a policy allows something, and which rule of it made the difference; changes nothing
    Explain {
        /// anna or users/anna
        #[arg(long)]
        user: String,
        /// laptop-7 or devices/laptop-7
        #[arg(long)]
        device: String,
        /// As the log names it
        #[arg(long, default_value = "Unwrap")]
        operation: String,
        /// KEY_ID or keys/KEY_ID; needed for Unwrap
        #[arg(long, value_name = "KEY_ID")]
        key: Option<String>,
        /// When: RFC 3339, or how long ago: 7d, 12h. [default: now]
        #[arg(long, value_name = "TIME", value_parser = parse_instant)]
        at: Option<Timestamp>,
        /// From which address
        #[arg(long, value_name = "ADDRESS", default_value = "")]
        ip: String,
        /// The reason that would be given
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = reason)]
        reason: String,
        /// How many seconds ago the second factor was shown. [default: never]
        #[arg(long, value_name = "SECONDS")]
        mfa_age: Option<u32>,
        /// For --operation Approve: which operation is to be approved
        #[arg(long, value_name = "OPERATION", default_value = "", hide_default_value = true)]
        approves: String,
        /// Ask this policy instead of the one in force; - for standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        style: Style,
    },
}

impl PolicyCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        match self {
            Self::Show { schema, style } => {
                let v1::GetPolicyResponse { policy, schema: text } =
                    connection.connect(interrupt)?.policy()?;
                let policy = policy.unwrap_or_default();
                if schema {
                    return style.text(&SchemaView { schema: &text }, &text);
                }
                style.text(&PolicyView::from(&policy), &policy.text)
            }
            Self::Ls { style } => {
                let policies = connection.connect(interrupt)?.policies()?;
                let views: Vec<_> = policies.iter().map(PolicyView::from).collect();
                style.many(&views, &["VERSION", "APPLIED", "BY", "REASON"], |policy| {
                    let time = policy.apply_time.clone().unwrap_or_default();
                    vec![policy.version.clone(), time, policy.applied_by.clone(), policy.reason.clone()]
                })
            }
            Self::Apply { file, reason, base, style } => {
                let text = read(&file)?;
                let remote = connection.connect(interrupt)?;
                let base = match base {
                    Some(base) => base,
                    None => version(&remote.policy()?.policy.unwrap_or_default())?,
                };
                let view = PolicyView::from(&remote.apply_policy(&text, base, &reason)?);
                style.one(
                    &view,
                    &[("in force", format!("version {}", view.version)), ("reason", view.reason.clone())],
                )
            }
            Self::Test { file, days, style } => {
                let tested = connection.connect(interrupt)?.test_policy(&read(&file)?, days)?;
                let views: Vec<_> = differences(&tested).collect();
                if style.is_for_people() {
                    note(&format!(
                        "of {} attempts in {days} days, {} that were let through would be refused, and {} that the policy \
                         refused would be allowed",
                        tested.decided,
                        tested.newly_refused.len(),
                        tested.newly_allowed.len()
                    ));
                }
                style.many(&views, &["RECORD", "USER", "DEVICE", "OPERATION", "WOULD BE", "BY"], |one| {
                    vec![
                        one.sequence.to_string(),
                        id_of(&one.user).to_owned(),
                        id_of(&one.device).to_owned(),
                        one.operation.clone(),
                        one.would_be.to_owned(),
                        one.policies.join(", "),
                    ]
                })
            }
            Self::Without { name, days, style } => {
                let told = connection.connect(interrupt)?.explain_without(&name, days)?;
                tell_without(style, &name, days, &told)
            }
            Self::Explain {
                user,
                device,
                operation,
                key,
                at,
                ip,
                reason,
                mfa_age,
                approves,
                file,
                style,
            } => {
                let request = v1::ExplainPolicyRequest {
                    user: user_name(&user),
                    device: device_name(&device),
                    operation,
                    key: key.map(|key| format!("keys/{}", id_of(&key))).unwrap_or_default(),
                    time: at.map(to_proto),
                    ip,
                    reason,
                    approves,
                    text: file.map(|file| read(&file)).transpose()?.unwrap_or_default(),
                    mfa_age_seconds: mfa_age,
                };
                let answer = connection.connect(interrupt)?.explain_policy(&request)?;
                let view = ExplainView {
                    allowed: answer.allowed,
                    policies: answer.policies,
                    version: answer.version,
                    step_up_helps: answer.step_up_helps,
                    approvals: answer.approvals,
                };
                let because = match (view.allowed, view.policies.is_empty()) {
                    _ if view.approvals > 0 => format!("asked for by {}", view.policies.join(", ")),
                    (_, true) => "no policy permits it".to_owned(),
                    (true, _) => format!("permitted by {}", view.policies.join(", ")),
                    (false, _) => format!("forbidden by {}", view.policies.join(", ")),
                };
                let answer = match (view.allowed, view.approvals, view.step_up_helps) {
                    (true, ..) => "allowed".to_owned(),
                    (false, _, true) => "allowed once a second factor is shown".to_owned(),
                    (false, 0, false) => "refused".to_owned(),
                    (false, needed, false) => format!("allowed with approval ({needed} needed)"),
                };
                style.one(&view, &[("answer", answer), ("because", because)])
            }
        }
    }
}

/// A version of the policy.
#[derive(Serialize)]
struct PolicyView {
    version: String,
    text: String,
    applied_by: String,
    apply_time: Option<String>,
    reason: String,
}

impl From<&v1::Policy> for PolicyView {
    fn from(policy: &v1::Policy) -> Self {
        Self {
            version: id_of(&policy.name).to_owned(),
            text: policy.text.clone(),
            applied_by: policy.applied_by.clone(),
            apply_time: rfc3339(policy.apply_time.as_ref()),
            reason: policy.reason.clone(),
        }
    }
}

/// What policies can speak about.
#[derive(Serialize)]
struct SchemaView<'a> {
    schema: &'a str,
}

/// An attempt that a policy decides otherwise.
#[derive(Serialize)]
struct DifferenceView {
    sequence: u64,
    request_id: String,
    user: String,
    device: String,
    operation: String,
    would_be: &'static str,
    policies: Vec<String>,
    approvals: u32,
}

/// What would be missing.
#[derive(Serialize)]
struct WithoutView<'a> {
    attempts: u64,
    keys: Vec<KeyWithoutView<'a>>,
    roles: Vec<&'static str>,
    last_device: bool,
}

/// A key, without somebody who used it.
#[derive(Serialize)]
struct KeyWithoutView<'a> {
    key: &'a str,
    label: &'a str,
    attempts: u64,
    others: &'a [String],
}

fn tell_without(style: Style, name: &str, days: u32, told: &v1::ExplainWithoutResponse) -> Result<()> {
    let keys = told.keys.iter().map(|key| KeyWithoutView {
        key: &key.key,
        label: &key.label,
        attempts: key.attempts,
        others: &key.others,
    });
    let roles: Vec<_> = told.roles().map(role_name).collect();
    let view =
        WithoutView { attempts: told.attempts, keys: keys.collect(), last_device: told.last_device, roles };
    if !style.is_for_people() {
        return style.one(&view, &[]);
    }
    note(&format!("{name} opened {} envelopes in {days} days", told.attempts));
    if told.last_device {
        note("it is the last active device: nobody could do anything");
    }
    if !view.roles.is_empty() {
        note(&format!("nobody else has the role {}", view.roles.join(", ")));
    }
    style.many(&view.keys, &["KEY", "LABEL", "OPENED", "WHO ELSE COULD"], |key| {
        let others = if key.others.is_empty() { "nobody".to_owned() } else { key.others.join(", ") };
        vec![id_of(key.key).to_owned(), key.label.to_owned(), key.attempts.to_string(), others]
    })
}

/// The answer to one question.
#[derive(Serialize)]
struct ExplainView {
    allowed: bool,
    policies: Vec<String>,
    version: u64,
    step_up_helps: bool,
    /// So many others must approve; 0: none helps, or none is needed.
    approvals: u32,
}

fn differences(tested: &v1::TestPolicyResponse) -> impl Iterator<Item = DifferenceView> + '_ {
    let view = |one: &v1::Difference, would_be| DifferenceView {
        sequence: one.sequence,
        request_id: one.request_id.clone(),
        user: one.user.clone(),
        device: one.device.clone(),
        operation: one.operation.clone(),
        // What others could approve is not refused for good.
        would_be: if one.approvals > 0 { "approved first" } else { would_be },
        policies: one.policies.clone(),
        approvals: one.approvals,
    };
    let refused = tested.newly_refused.iter().map(move |one| view(one, "refused"));
    refused.chain(tested.newly_allowed.iter().map(move |one| view(one, "allowed")))
}

fn version(policy: &v1::Policy) -> Result<u64> {
    id_of(&policy.name).parse().map_err(|_| {
        Error::new(Kind::Unreachable, "cannot apply the policy", "the custodian's answer makes no sense")
    })
}

fn read(file: &Path) -> Result<String> {
    let shown = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let cannot = |why: String| Error::new(Kind::Local, format!("cannot read the policy in {shown}"), why);
    let mut text = String::new();
    let limit = MAX_POLICY_LEN as u64 + 1;
    let read = if file == Path::new("-") {
        io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| cannot(error.to_string()))?;
    if text.len() > MAX_POLICY_LEN {
        return Err(cannot(format!("it is longer than {MAX_POLICY_LEN} bytes")));
    }
    if text.trim().is_empty() {
        return Err(
            cannot("it is empty".to_owned()).hint("start from the one in force: custodianctl policy show")
        );
    }
    Ok(text)
}
