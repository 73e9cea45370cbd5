//! The second factor: codes of an authenticator app, and recovery codes.

use custodian_proto::{
    refusal::Refusal,
    secret::Secret,
    v1::{self, factor_service_client::FactorServiceClient, session_service_client::SessionServiceClient},
};

use super::{Remote, Turn, session::Session, status::Failure};
use crate::{error::Result, password::PasswordSource};

/// A person on a terminal may mistype so often.
const TRIES: u32 = 3;

/// What fails if it cannot be shown.
const SHOWING: &str = "cannot show the second factor";

impl Remote {
    /// Shows the second factor, so that this session has it.
    ///
    /// # Errors
    /// No code can be had; those of any call.
    pub fn step_up(&self) -> Result<()> {
        let before = self.turn().shown;
        let mut session = self.session_for(SHOWING)?;
        let mut turn = self.turn();
        // That was a login which showed it.
        if turn.shown != before {
            return Ok(());
        }
        let shown = self.with_code(&mut turn, |code, turn| match self.show(&session, code) {
            Err(failure) if failure.refusal == Some(Refusal::NotLoggedIn) => {
                let Some(newer) = self.session_after(SHOWING, &session, turn)? else { return Err(failure) };
                session = newer;
                if turn.shown == before { self.show(&session, code) } else { Ok(()) }
            }
            answer => answer,
        });
        Ok(shown?)
    }

    /// Shows a code in this session.
    pub(super) fn show(&self, session: &Session, code: &Secret) -> std::result::Result<(), Failure> {
        let shown = self.wire.ask(SHOWING, async |channel| {
            let request = v1::StepUpRequest { code: code.expose().to_owned() };
            SessionServiceClient::new(session.sign(channel, self.glass)).step_up(request).await
        });
        shown.map(drop)
    }

    /// Shows a code, unless one was refused that will be the same the next time: wrong ones are counted, and lock the factor.
    pub(super) fn with_code(
        &self,
        turn: &mut Turn,
        mut show: impl FnMut(&Secret, &mut Turn) -> std::result::Result<(), Failure>,
    ) -> std::result::Result<(), Failure> {
        if let Some(error) = &turn.code {
            return Err(error.clone().into());
        }
        let shown = self.code("code of your authenticator app", |code| show(code, turn));
        match &shown {
            Ok(()) => turn.shown += 1,
            Err(failure) if self.is_last_code(failure.refusal) => turn.code = Some(failure.error.clone()),
            Err(_) => {}
        }
        shown
    }

    /// Whether no other code can be had after this was said of one.
    fn is_last_code(&self, said: Option<Refusal>) -> bool {
        matches!(
            (&self.second_factor, said),
            // Of standard input, the line is read.
            (PasswordSource::Stdin, _)
                | (PasswordSource::File(_), Some(Refusal::FactorRefused))
                | (_, Some(Refusal::FactorLocked))
        )
    }

    /// Begins to enrol a second factor. Returns the URI for the authenticator app: a secret.
    ///
    /// # Errors
    /// Those of any call.
    pub fn enroll_factor(&self) -> Result<Secret> {
        let answer = self.call("cannot enrol a second factor", async |service| {
            FactorServiceClient::new(service).enroll_factor(v1::EnrollFactorRequest {}).await
        })?;
        Ok(Secret::new(answer.uri))
    }

    /// Puts it in force with a first code. Returns the recovery codes: secrets.
    ///
    /// # Errors
    /// No code can be had; those of any call.
    pub fn confirm_factor(&self) -> Result<Vec<Secret>> {
        let answer = self.code("first code that your authenticator app shows", |code| {
            self.call("cannot confirm the second factor", async |service| {
                let request = v1::ConfirmFactorRequest { code: code.expose().to_owned() };
                FactorServiceClient::new(service).confirm_factor(request).await
            })
        })?;
        Ok(answer.recovery_codes.into_iter().map(Secret::new).collect())
    }

    /// Takes another user's second factor away, and ends that user's sessions.
    ///
    /// # Errors
    /// Those of any call.
    pub fn reset_factor(&self, name: &str, reason: &str) -> Result<v1::User> {
        let request = v1::ResetFactorRequest { name: name.to_owned(), reason: reason.to_owned() };
        let what = format!("cannot reset the second factor of {name}");
        Ok(self.call(&what, async |service| {
            FactorServiceClient::new(service).reset_factor(request.clone()).await
        })?)
    }

    /// Sets whether a user's sessions need the second factor for everything.
    ///
    /// # Errors
    /// Those of any call.
    pub fn require_factor(&self, name: &str, needed: Needed) -> Result<v1::User> {
        let request = v1::RequireFactorRequest { name: name.to_owned(), required: needed == Needed::Always };
        let what = format!("cannot set when {name} needs a second factor");
        Ok(self.call(&what, async |service| {
            FactorServiceClient::new(service).require_factor(request.clone()).await
        })?)
    }

    /// Asks with a code; on a terminal again, if it was mistyped.
    fn code<T>(
        &self,
        name: &str,
        mut ask: impl FnMut(&Secret) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        let mut name = name.to_owned();
        let mut left = if self.second_factor == PasswordSource::Terminal { TRIES } else { 1 };
        loop {
            left -= 1;
            match ask(&self.second_factor.read(&name)?) {
                Err(failure) if failure.refusal == Some(Refusal::FactorRefused) && left > 0 => {
                    name = format!("{}; another code", Refusal::FactorRefused.text());
                }
                answer => return answer,
            }
        }
    }
}

/// When a user's sessions need the second factor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needed {
    /// For everything.
    Always,
    /// Where the policy says so.
    AsPolicySays,
}
