//! `custodianctl approval`.

use clap::Subcommand;
use custodian_proto::v1::{self, ApprovalState};
use serde::Serialize;

use super::{
    connection::Connection,
    extract::reason,
    message::note,
    output::Style,
    view::{ClaimsView, id_of},
    when::{local, rfc3339},
};
use crate::{approval::fields, error::Result, interrupt::Interrupt, remote::Ended};

#[derive(Debug, Subcommand)]
pub(super) enum ApprovalCommand {
    /// List what waits for approval: all of it for an administrator, else your own requests
    Ls {
        /// Those that are over, too: used, denied, withdrawn, expired
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        style: Style,
    },
    /// Show who asks for what, exactly
    Show {
        /// 17 or approvals/17
        id: String,
        #[command(flatten)]
        style: Style,
    },
    /// Approve a request: shows it, and approves exactly that. Nobody approves their own
    Approve {
        /// 17 or approvals/17
        id: String,
        /// Only if it is the request of this SHA-256, as show told
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        #[command(flatten)]
        style: Style,
    },
    /// Take your own request back: the approval is of no use any more
    Withdraw {
        /// 17 or approvals/17
        id: String,
        #[command(flatten)]
        style: Style,
    },
    /// Deny a request: it cannot be made until it would have expired
    Deny {
        /// 17 or approvals/17
        id: String,
        /// Why; recorded, and told to who asked
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
}

impl ApprovalCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let remote = connection.connect(interrupt)?;
        match self {
            Self::Ls { all, style } => {
                let ended = if all { Ended::Included } else { Ended::LeftOut };
                let approvals = remote.approvals(ended)?;
                let listed: Vec<_> = approvals
                    .iter()
                    .map(|approval| Listed { view: ApprovalView::of(approval, vec![]), approval })
                    .collect();
                let header = ["ID", "STATE", "BY", "DEVICE", "WHAT", "APPROVED", "EXPIRES"];
                style.many(&listed, &header, |listed| row(listed.approval))
            }
            Self::Show { id, style } => {
                let approval = remote.approval(&name_of(&id))?;
                let request = fields(&approval)?;
                tell(style, &approval, request)
            }
            Self::Approve { id, sha256, style } => {
                let approval = remote.approval(&name_of(&id))?;
                // What cannot be shown is not approved.
                let request = fields(&approval)?;
                if style.is_for_people() && sha256.is_none() {
                    note(&format!("approving what {} asks for on {}:", approval.user, approval.device));
                }
                let digest = sha256.unwrap_or(approval.request_sha256).to_ascii_lowercase();
                tell(style, &remote.approve(&approval.name, &digest)?, request)
            }
            Self::Withdraw { id, style } => {
                let approval = remote.withdraw(&name_of(&id))?;
                let request = fields(&approval)?;
                tell(style, &approval, request)
            }
            Self::Deny { id, reason, style } => {
                let approval = remote.deny(&name_of(&id), &reason)?;
                let request = fields(&approval)?;
                tell(style, &approval, request)
            }
        }
    }
}

/// `17` or `approvals/17` → `approvals/17`.
fn name_of(id: &str) -> String {
    format!("approvals/{}", id.strip_prefix("approvals/").unwrap_or(id))
}

/// A request that waits for others, and what became of it.
#[derive(Serialize)]
struct ApprovalView {
    name: String,
    state: &'static str,
    user: String,
    device: String,
    peer_ip: String,
    operation: String,
    target: String,
    key: String,
    reason: String,
    /// Not verified: what the client said.
    claims: Option<ClaimsView>,
    request: Vec<FieldView>,
    request_sha256: String,
    break_glass: bool,
    needed: u32,
    votes: Vec<VoteView>,
    create_time: Option<String>,
    expire_time: Option<String>,
    denied_by: String,
    deny_reason: String,
    used_sequence: u64,
}

/// A field of the request.
#[derive(Serialize)]
struct FieldView {
    name: String,
    value: String,
}

/// One person's approval.
#[derive(Serialize)]
struct VoteView {
    user: String,
    device: String,
    time: Option<String>,
    counts: bool,
}

/// An approval with its JSON beside it.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    view: ApprovalView,
    #[serde(skip)]
    approval: &'a v1::Approval,
}

impl ApprovalView {
    fn of(approval: &v1::Approval, request: Vec<(String, String)>) -> Self {
        let votes = approval.votes.iter().map(|vote| VoteView {
            user: vote.user.clone(),
            device: vote.device.clone(),
            time: rfc3339(vote.time.as_ref()),
            counts: vote.counts,
        });
        Self {
            state: state(approval.state()),
            votes: votes.collect(),
            request: request.into_iter().map(|(name, value)| FieldView { name, value }).collect(),
            create_time: rfc3339(approval.create_time.as_ref()),
            expire_time: rfc3339(approval.expire_time.as_ref()),
            claims: approval.claims.clone().map(ClaimsView::from),
            name: approval.name.clone(),
            user: approval.user.clone(),
            device: approval.device.clone(),
            peer_ip: approval.peer_ip.clone(),
            operation: approval.operation.clone(),
            target: approval.target.clone(),
            key: approval.key.clone(),
            reason: approval.reason.clone(),
            request_sha256: approval.request_sha256.clone(),
            break_glass: approval.break_glass,
            needed: approval.needed,
            denied_by: approval.denied_by.clone(),
            deny_reason: approval.deny_reason.clone(),
            used_sequence: approval.used_sequence,
        }
    }
}

fn state(state: ApprovalState) -> &'static str {
    match state {
        ApprovalState::Pending => "pending",
        ApprovalState::Approved => "approved",
        ApprovalState::Denied => "denied",
        ApprovalState::Used => "used",
        ApprovalState::Expired => "expired",
        ApprovalState::Withdrawn => "withdrawn",
        ApprovalState::Unspecified => "unknown",
    }
}

/// How many have approved, of how many.
fn given(approval: &v1::Approval) -> String {
    let given = approval.votes.iter().filter(|vote| vote.counts).count();
    format!("{given} of {}", approval.needed)
}

fn row(approval: &v1::Approval) -> Vec<String> {
    let glass = if approval.break_glass { "BREAK GLASS " } else { "" };
    let about = if approval.target.is_empty() { &approval.key } else { &approval.target };
    vec![
        id_of(&approval.name).to_owned(),
        state(approval.state()).to_owned(),
        id_of(&approval.user).to_owned(),
        id_of(&approval.device).to_owned(),
        format!("{glass}{} {about}", approval.operation).trim_end().to_owned(),
        given(approval),
        local(approval.expire_time.as_ref()),
    ]
}

fn tell(style: Style, approval: &v1::Approval, request: Vec<(String, String)>) -> Result<()> {
    let votes = approval.votes.iter().map(|vote| {
        let void = if vote.counts { "" } else { " (does not count any more)" };
        format!("{} on {}{void}", id_of(&vote.user), id_of(&vote.device))
    });
    let denied = match approval.denied_by.as_str() {
        "" => String::new(),
        by => format!("{}: {}", id_of(by), approval.deny_reason),
    };
    let mut lines = vec![
        ("approval", approval.name.clone()),
        ("state", state(approval.state()).to_owned()),
        ("who", format!("{} on {} from {}", approval.user, approval.device, approval.peer_ip)),
        ("wants", approval.operation.clone()),
        ("about", if approval.target.is_empty() { approval.key.clone() } else { approval.target.clone() }),
        ("reason", approval.reason.clone()),
        ("asked at", local(approval.create_time.as_ref())),
        ("expires", local(approval.expire_time.as_ref())),
        ("approved by", given(approval) + ": " + &votes.collect::<Vec<_>>().join(", ")),
        ("denied by", denied),
        ("sha256", approval.request_sha256.clone()),
    ];
    if approval.break_glass {
        lines.insert(
            2,
            ("BREAK GLASS", "it would get past rules of the policy that are marked so".to_owned()),
        );
    }
    if approval.used_sequence > 0 {
        lines.push(("used by", format!("record {}", approval.used_sequence)));
    }
    let view = ApprovalView::of(approval, request.clone());
    if !style.is_for_people() {
        return style.one(&view, &[]);
    }
    style.one(&view, &lines)?;
    // The request itself last, as it may be long: a policy has many lines.
    let mut text =
        String::from("\nThe request, exactly (without passwords; what it says of a file is not verified):\n");
    for (name, value) in &request {
        match value.lines().count() {
            0 | 1 => text.push_str(&format!("  {name}: {value}\n")),
            _ => {
                text.push_str(&format!("  {name}:\n"));
                value.lines().for_each(|line| text.push_str(&format!("    {line}\n")));
            }
        }
    }
    style.text(&view, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_wants_what_and_how_far_it_is() {
        let vote = |counts| v1::Vote { counts, ..v1::Vote::default() };
        let approval = v1::Approval {
            name: "approvals/17".into(),
            state: ApprovalState::Pending.into(),
            user: "users/anna".into(),
            device: "devices/laptop-7".into(),
            operation: "SetRoles".into(),
            target: "users/bob".into(),
            break_glass: true,
            needed: 2,
            votes: vec![vote(true), vote(false)],
            ..v1::Approval::default()
        };
        let row = row(&approval);
        assert_eq!(
            row[..6],
            ["17", "pending", "anna", "laptop-7", "BREAK GLASS SetRoles users/bob", "1 of 2"]
        );
        assert_eq!(name_of("17"), name_of("approvals/17"));
    }
}
