//! `custodianctl user identity`.

use clap::Subcommand;
use custodian_proto::{email::Email, identity::IdentityLevel, v1};
use serde::Serialize;

use super::{
    connection::Connection,
    extract::reason,
    output::Style,
    view::user_name,
    when::{local, rfc3339},
};
use crate::{error::Result, interrupt::Interrupt};

#[derive(Debug, Subcommand)]
pub(super) enum IdentityCommand {
    /// Record who a user is: certificates say it. Those that are not true any more are revoked
    Set {
        /// anna or users/anna
        user: String,
        /// The address. No two users have the same
        #[arg(long, value_name = "ADDRESS")]
        email: Email,
        /// How well it was checked: V1 the address, V2 known to the organisation, V3 an identity document, V4 in person
        #[arg(long, value_name = "LEVEL")]
        level: IdentityLevel,
        /// What was looked at; recorded
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = reason)]
        evidence: String,
        #[command(flatten)]
        style: Style,
    },
    /// Show who a user is
    Show {
        /// anna or users/anna
        user: String,
        #[command(flatten)]
        style: Style,
    },
}

#[derive(Serialize)]
struct IdentityView {
    user: String,
    email: String,
    level: &'static str,
    evidence: String,
    update_time: Option<String>,
}

impl IdentityCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let remote = connection.connect(interrupt)?;
        match self {
            Self::Set { user, email, level, evidence, style } => {
                let set = remote.set_identity(&user_name(&user), &email, api_level(level), &evidence)?;
                tell(style, &set)
            }
            Self::Show { user, style } => tell(style, &remote.identity(&user_name(&user))?),
        }
    }
}

fn tell(style: Style, identity: &v1::Identity) -> Result<()> {
    let view = IdentityView {
        user: identity.user.clone(),
        email: identity.email.clone(),
        level: level_name(identity.level()),
        evidence: identity.evidence.clone(),
        update_time: rfc3339(identity.update_time.as_ref()),
    };
    let lines = [
        ("user", view.user.clone()),
        ("e-mail", view.email.clone()),
        ("level", view.level.to_owned()),
        ("evidence", view.evidence.clone()),
        ("recorded", local(identity.update_time.as_ref())),
    ];
    style.one(&view, &lines)
}

/// The level as the API has it.
fn api_level(level: IdentityLevel) -> v1::IdentityLevel {
    match level {
        IdentityLevel::V1 => v1::IdentityLevel::V1,
        IdentityLevel::V2 => v1::IdentityLevel::V2,
        IdentityLevel::V3 => v1::IdentityLevel::V3,
        IdentityLevel::V4 => v1::IdentityLevel::V4,
    }
}

/// `V2`
pub(super) fn level_name(level: v1::IdentityLevel) -> &'static str {
    match level {
        v1::IdentityLevel::V1 => "V1",
        v1::IdentityLevel::V2 => "V2",
        v1::IdentityLevel::V3 => "V3",
        v1::IdentityLevel::V4 => "V4",
        v1::IdentityLevel::Unspecified => "unknown",
    }
}
