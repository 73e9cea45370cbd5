//! The second factor: codes of an authenticator app, and recovery codes.

use custodian_proto::{
    refusal::Refusal,
    secret::Secret,
    v1::{self, factor_service_client::FactorServiceClient, session_service_client::SessionServiceClient},
};

use super::{Remote, status::Failure};
use crate::{error::Result, password::PasswordSource};

/// A person on a terminal may mistype so often.
const TRIES: u32 = 3;

impl Remote {
    /// Shows the second factor, so that this session has it.
    ///
    /// # Errors
    /// No code can be had; those of any call.
    pub fn step_up(&self) -> Result<()> {
        self.code("code of your authenticator app", |code| {
            self.call_once("cannot show the second factor", &async |service| {
                let request = v1::StepUpRequest { code: code.expose().to_owned() };
                SessionServiceClient::new(service).step_up(request).await
            })
            .map(drop)
        })
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
    fn code<T>(&self, name: &str, ask: impl Fn(&Secret) -> std::result::Result<T, Failure>) -> Result<T> {
        let mut name = name.to_owned();
        let mut left = if self.second_factor == PasswordSource::Terminal { TRIES } else { 1 };
        loop {
            left -= 1;
            match ask(&self.second_factor.read(&name)?) {
                Err(failure) if failure.refusal == Some(Refusal::FactorRefused) && left > 0 => {
                    name = format!("{}; another code", Refusal::FactorRefused.text());
                }
                answer => return Ok(answer?),
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
