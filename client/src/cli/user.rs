//! `custodianctl user`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use custodian_proto::v1;
use jiff::Timestamp;

use super::{
    connection::Connection,
    extract::reason,
    identity::IdentityCommand,
    output::Style,
    view::{UserView, id_of, user_name},
    when::{local, parse_future},
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    password::PasswordSource,
    remote::{Given, Needed},
};

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add a user
    Add {
        /// Their id: a–z, 0–9, -, . and _
        id: String,
        /// What they may do. May be repeated
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<Role>,
        /// File with their password, - for standard input. [default: asked for on the terminal]
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// They must change it before anything else
        #[arg(long)]
        must_change: bool,
        #[command(flatten)]
        style: Style,
    },
    /// List them
    Ls {
        #[command(flatten)]
        style: Style,
    },
    /// Stop a user, for good or until a time: once this returns, no key leaves for them
    Disable {
        /// anna or users/anna
        id: String,
        /// When it ends by itself: RFC 3339, a local date or time, or how long from now: 12h, 14d. [default: never]
        #[arg(long, value_name = "TIME", value_parser = parse_future)]
        until: Option<Timestamp>,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// Let a disabled user sign in again
    Enable {
        /// anna or users/anna
        id: String,
        #[command(flatten)]
        style: Style,
    },
    /// Set a password: your own, or as an admin anybody's
    Passwd {
        /// anna or users/anna
        id: String,
        /// File with the new password, - for standard input. [default: asked for on the terminal]
        #[arg(long, visible_alias = "new-password-file", value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// File with your present password, if it is your own that you set. [default: asked for on the terminal]
        #[arg(long, value_name = "FILE")]
        old_password_file: Option<PathBuf>,
        /// They must change it before anything else
        #[arg(long)]
        must_change: bool,
        #[command(flatten)]
        style: Style,
    },
    /// Take another user's second factor away, and end their sessions: they enrol anew
    ResetFactor {
        /// anna or users/anna
        id: String,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// Ask a user for the second factor in every session
    RequireFactor {
        /// anna or users/anna
        id: String,
        /// Only where the policy says so, again
        #[arg(long)]
        off: bool,
        #[command(flatten)]
        style: Style,
    },
    /// Replace the groups that a user is in, for policies to ask for
    Groups {
        /// anna or users/anna
        id: String,
        /// A group: a–z, 0–9 and -. None: in no group
        groups: Vec<String>,
        #[command(flatten)]
        style: Style,
    },
    /// Who a user is, as certificates say it
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Replace a user's roles
    Roles {
        /// anna or users/anna
        id: String,
        /// What they may do. May be repeated
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<Role>,
        #[command(flatten)]
        style: Style,
    },
}

/// What a user may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Role {
    /// Unwrap file keys
    Operator,
    /// Read the log
    Auditor,
    /// Manage devices, users and keys
    Admin,
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Operator => Self::Operator,
            Role::Auditor => Self::Auditor,
            Role::Admin => Self::Admin,
        }
    }
}

impl UserCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        match self {
            Self::Add { id, roles, password_file, must_change, style } => {
                let name = user_name(&id);
                let source = PasswordSource::of(password_file.as_deref());
                let password = source.read_new(&format!("password of {name}"))?;
                let roles: Vec<_> = roles.into_iter().map(v1::Role::from).collect();
                let remote = connection.connect(interrupt)?;
                tell(style, &remote.create_user(id_of(&name), &password, given(must_change), &roles)?)
            }
            Self::Ls { style } => {
                let users = connection.connect(interrupt)?.users()?;
                let views: Vec<_> = users.iter().map(UserView::from).collect();
                style.many(&views, &["ID", "ROLES", "STATE"], |user| {
                    vec![id_of(&user.name).to_owned(), user.roles.join(", "), state(user).to_owned()]
                })
            }
            Self::Disable { id, until, reason, style } => {
                tell(style, &connection.connect(interrupt)?.disable_user(&user_name(&id), &reason, until)?)
            }
            Self::Enable { id, style } => {
                tell(style, &connection.connect(interrupt)?.enable_user(&user_name(&id))?)
            }
            Self::Passwd { id, password_file, old_password_file, must_change, style } => {
                let name = user_name(&id);
                let new = PasswordSource::of(password_file.as_deref());
                if user_name(connection.settings()?.user()?) == name {
                    let old = PasswordSource::of(old_password_file.as_deref());
                    return change_own(connection, interrupt, &old, &new, style);
                }
                let new = new.read_new(&format!("new password of {name}"))?;
                let remote = connection.connect(interrupt)?;
                tell(style, &remote.set_password(&name, None, &new, given(must_change))?)
            }
            Self::ResetFactor { id, reason, style } => {
                tell(style, &connection.connect(interrupt)?.reset_factor(&user_name(&id), &reason)?)
            }
            Self::RequireFactor { id, off, style } => {
                let needed = if off { Needed::AsPolicySays } else { Needed::Always };
                tell(style, &connection.connect(interrupt)?.require_factor(&user_name(&id), needed)?)
            }
            Self::Groups { id, groups, style } => {
                tell(style, &connection.connect(interrupt)?.set_user_groups(&user_name(&id), &groups)?)
            }
            Self::Identity(command) => command.run(connection, interrupt),
            Self::Roles { id, roles, style } => {
                let roles: Vec<_> = roles.into_iter().map(v1::Role::from).collect();
                tell(style, &connection.connect(interrupt)?.set_roles(&user_name(&id), &roles)?)
            }
        }
    }
}

/// Change your own password
#[derive(Debug, clap::Args)]
pub(super) struct PasswdArgs {
    /// File with the new password, - for standard input. [default: asked for on the terminal]
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    #[command(flatten)]
    style: Style,
}

impl PasswdArgs {
    /// Changes it.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let old = connection.settings()?.password();
        let new = PasswordSource::of(self.new_password_file.as_deref());
        change_own(connection, interrupt, &old, &new, self.style)
    }
}

fn change_own(
    connection: &Connection,
    interrupt: &Interrupt,
    old: &PasswordSource,
    new: &PasswordSource,
    style: Style,
) -> Result<()> {
    let name = user_name(connection.settings()?.user()?);
    if (old, new) == (&PasswordSource::Stdin, &PasswordSource::Stdin) {
        let why = "standard input cannot be both passwords";
        return Err(Error::new(Kind::Usage, format!("cannot set the password of {name}"), why)
            .hint("give one of them in a file"));
    }
    let old = old.read(&format!("present password of {name}"))?;
    let new = new.read_new(&format!("new password of {name}"))?;
    let remote = connection.connect(interrupt)?;
    tell(style, &remote.set_password(&name, Some(&old), &new, Given::AsConfigured)?)
}

fn given(must_change: bool) -> Given {
    if must_change { Given::MustChange } else { Given::AsConfigured }
}

fn tell(style: Style, user: &v1::User) -> Result<()> {
    let view = UserView::from(user);
    let roles = view.roles.join(", ");
    let factor = match (user.second_factor_required, user.second_factor_enrolled) {
        (false, false) => "",
        (false, true) => "enrolled",
        (true, true) => "enrolled, and needed for everything",
        (true, false) => "needed for everything, not enrolled yet",
    };
    style.one(
        &view,
        &[
            ("user", user.name.clone()),
            ("roles", roles),
            ("groups", user.groups.join(", ")),
            ("state", state(&view).to_owned()),
            ("until", local(user.disable_end_time.as_ref())),
            ("second factor", factor.to_owned()),
        ],
    )
}

fn state(user: &UserView) -> &'static str {
    match (user.disabled, user.must_change_password) {
        (true, _) => "disabled",
        (false, true) => "must change the password",
        (false, false) => "enabled",
    }
}
