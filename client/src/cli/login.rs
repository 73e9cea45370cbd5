//! `login`, `logout` and `whoami`, of both tools.

use std::path::PathBuf;

use custodian_proto::refusal::Refusal;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::{
    connection::Connection,
    message::note,
    output::Style,
    renew::remind,
    view::role_name,
    when::{local, local_text, rfc3339},
};
use crate::{
    error::Result,
    interrupt::Interrupt,
    remote::{Remote, Unfinished},
};

// What both tools' `login` take.
#[derive(Debug, clap::Args)]
pub(super) struct LoginArgs {
    #[command(flatten)]
    style: Style,
}

/// End the session
#[derive(Debug, clap::Args)]
pub(super) struct LogoutArgs {}

/// Show who the custodian believes you to be
#[derive(Debug, clap::Args)]
pub(super) struct WhoamiArgs {
    #[command(flatten)]
    style: Style,
}

#[derive(Serialize)]
struct LoginView {
    user: String,
    session_expire_time: String,
    idle_seconds: u32,
    must_change_password: bool,
}

#[derive(Serialize)]
struct WhoamiView {
    user: String,
    device: String,
    roles: Vec<&'static str>,
    session_expire_time: Option<String>,
    must_change_password: bool,
    second_factor: &'static str,
    second_factor_time: Option<String>,
}

impl LoginArgs {
    /// Signs in.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let login = connection.connect(interrupt)?.login()?;
        let view = LoginView {
            user: format!("users/{}", login.user),
            session_expire_time: login.expires.to_string(),
            idle_seconds: login.idle_seconds,
            must_change_password: login.unfinished == Some(Unfinished::Password),
        };
        self.style.one(
            &view,
            &[
                ("user", login.user),
                ("session ends", local_text(login.expires, &TimeZone::system())),
                ("or unused for", format!("{} s", login.idle_seconds)),
            ],
        )?;
        remind(&connection.settings()?)?;
        let refusal = match login.unfinished {
            None => return Ok(()),
            Some(Unfinished::Password) => Refusal::PasswordMustChange,
            Some(Unfinished::Enrolment) => Refusal::FactorMissing,
            Some(Unfinished::SecondFactor) => Refusal::StepUpRequired,
        };
        note(&format!("{}: {}", refusal.text(), refusal.hint()));
        Ok(())
    }
}

impl LogoutArgs {
    /// Signs out.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let settings = connection.settings()?;
        let remote = Remote::connect(&settings, interrupt).or_else(|error| {
            // The session is no longer on this machine, whether or not the custodian hears of it.
            Remote::forget_session(&settings)?;
            Err(error.hint("the session is forgotten here; at the custodian it ends by itself"))
        })?;
        let had_session = remote.logout()?;
        note(if had_session { "logged out" } else { "there was no session" });
        Ok(())
    }
}

impl WhoamiArgs {
    /// Asks.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let answer = connection.connect(interrupt)?.who_am_i()?;
        let view = WhoamiView {
            user: answer.user.clone(),
            device: answer.device.clone(),
            roles: answer.roles().map(role_name).collect(),
            session_expire_time: rfc3339(answer.session_expire_time.as_ref()),
            must_change_password: answer.must_change_password,
            second_factor: match (answer.second_factor_required, answer.second_factor_enrolled) {
                (false, false) => "none",
                (false, true) => "enrolled",
                (true, true) => "required",
                (true, false) => "required, but none is enrolled",
            },
            second_factor_time: rfc3339(answer.second_factor_time.as_ref()),
        };
        self.style.one(
            &view,
            &[
                ("user", answer.user),
                ("device", answer.device),
                ("roles", view.roles.join(", ")),
                ("second factor", view.second_factor.to_owned()),
                ("last shown", local(answer.second_factor_time.as_ref())),
                ("session ends", local(answer.session_expire_time.as_ref())),
                (
                    "password",
                    if answer.must_change_password { "must be changed".into() } else { String::new() },
                ),
            ],
        )
    }
}

// Where the connection flags stand before the noun, `login` has a password file of its own.
#[derive(Debug, clap::Args)]
pub(super) struct LoginHereArgs {
    /// File with the password, - for standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    login: LoginArgs,
}

impl LoginHereArgs {
    /// Signs in.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        self.login.run(&connection.with_password_file(self.password_file.clone()), interrupt)
    }
}
